"""``fedlearn doctor``: everything that can be wrong has a line that names it."""

import asyncio
import contextlib
import errno
import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from fedlearn.clients.agent import identity as own
from fedlearn.clients.device import checks, kernel, link, reach, torch_check
from fedlearn.clients.device.findings import FAILS, NOTE, SKIPPED, WELL
from fedlearn.commands import doctor
from fedlearn.exchange.link import LARGEST_BYTES, measure
from fedlearn.exchange.link_pb2 import Echo, Probe
from fedlearn.server import identity, tokens
from fedlearn.server.gate import CertificateGate
from fedlearn.server.link import LinkService
from fedlearn.server.observe import Log

YEAR_S = 365 * 86400.0
WAIT_S = 20.0


def at(moment, monkeypatch):
    """Have the authority believe that it is another time."""
    monkeypatch.setattr(
        identity, "time", SimpleNamespace(time=lambda: moment, sleep=time.sleep)
    )


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    folder = tmp_path_factory.mktemp("doctor") / "pki"
    identity.make(folder)
    return folder


def enrolled(pki, state, client=7):
    """Return an agent's identity, kept in a folder."""
    certificate = identity.sign(pki, client, own.make_key_and_csr(state))
    return own.store(
        state,
        client,
        certificate,
        (pki / "ca.pem").read_bytes(),
        identity.expiry(certificate),
    )


@contextlib.contextmanager
def coordinator(pki, answers=True, host="127.0.0.1"):
    """Give the port of a server with the coordinator's TLS, and its link.

    pki: None for one without TLS.
    """
    loop, started = asyncio.new_event_loop(), threading.Event()
    server: Any = None
    port = 0

    async def begin():
        nonlocal server, port
        server = grpc.aio.server()
        if answers:
            gate = CertificateGate(pki, Counter(), Log(None, "nothing"))
            server.add_generic_rpc_handlers((LinkService(gate).handler(),))
        if pki is None:
            port = server.add_insecure_port(f"{host}:0")
        else:
            keys = identity.server_credentials(pki)
            pair = [(keys.key, keys.certificate)]
            port = server.add_secure_port(
                f"{host}:0",
                grpc.ssl_server_credentials(pair, keys.ca, require_client_auth=True),
            )
        await server.start()
        started.set()

    def live():
        loop.run_until_complete(begin())
        loop.run_forever()

    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    assert started.wait(WAIT_S)
    try:
        yield port
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(0), loop).result(WAIT_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(WAIT_S)
        loop.close()


def states(found):
    return {one.name: one.state for one in found}


def named(found, name):
    return next(one for one in found if one.name == name)


def test_all_is_well(pki, tmp_path):
    with coordinator(pki) as port:
        found = reach.reach(f"127.0.0.1:{port}", enrolled(pki, tmp_path))
    assert states(found) == dict.fromkeys(
        ("name", "port", "tls", "clock", "link"), WELL
    )
    figures = named(found, "link").figures
    assert (
        min(figures["up_mbit_s"], figures["down_mbit_s"], figures["round_trip_ms"]) > 0
    )
    assert (
        abs(named(found, "clock").figures["coordinator_ahead_s"]) < 5
    )  # one machine, one clock


def test_without_tls(tmp_path):
    with coordinator(None) as port:
        found = reach.reach(f"127.0.0.1:{port}", None, insecure=True)
    assert states(found) == dict.fromkeys(("name", "port", "clock", "link"), WELL)


def test_a_coordinator_that_does_not_measure(pki, tmp_path):
    with coordinator(pki, answers=False) as port:
        found = reach.reach(f"127.0.0.1:{port}", enrolled(pki, tmp_path))
    assert (states(found)["tls"], states(found)["link"]) == (WELL, SKIPPED)


def test_before_enrollment_nobody_is_believed(pki):
    with coordinator(pki) as port:
        found = reach.reach(f"127.0.0.1:{port}", None)
    assert states(found)["tls"] == NOTE
    assert "link" not in states(found)


@pytest.mark.parametrize(
    ("passed_s", "words"),
    [
        (YEAR_S, "behind by 365 days or more"),
        (-3 * YEAR_S, "the coordinator's certificate ended on"),
    ],
    ids=["behind", "ahead"],
)
def test_a_clock_that_is_wrong_by_years_is_named(
    passed_s, words, tmp_path, monkeypatch
):
    at(time.time() + passed_s, monkeypatch)
    pki = tmp_path / "pki"
    identity.make(pki)
    me = enrolled(pki, tmp_path / "state")
    if (
        passed_s < 0
    ):  # a coordinator refuses to begin with such a certificate: it began before it ended
        monkeypatch.setattr(
            identity, "expiry", lambda certificate: time.time() + YEAR_S
        )
    with coordinator(pki) as port:
        found = reach.reach(f"127.0.0.1:{port}", me)
    clock = named(found, "clock")
    assert clock.state == FAILS
    assert words in clock.text
    assert "timedatectl" in clock.fix
    assert "link" not in states(found)


def fails_tls(found, words):
    one = named(found, "tls")
    assert one.state == FAILS
    assert words in one.text
    assert one.fix
    assert "link" not in states(found)
    return one


def test_a_coordinator_of_another_authority(pki, tmp_path):
    identity.make(tmp_path / "other")
    with coordinator(pki) as port:
        found = reach.reach(
            f"127.0.0.1:{port}", enrolled(tmp_path / "other", tmp_path / "state")
        )
    fails_tls(
        found, "does not have a certificate of the authority that this device trusts"
    )


def test_a_device_of_another_authority(pki, tmp_path):
    identity.make(tmp_path / "other")
    stranger = enrolled(tmp_path / "other", tmp_path / "state")
    mixed = own.Identity(
        7, stranger.key, stranger.certificate, (pki / "ca.pem").read_bytes(), 0.0, 0.0
    )
    with coordinator(pki) as port:
        found = reach.reach(f"127.0.0.1:{port}", mixed)
    assert (
        "enrol"
        in fails_tls(
            found, "ended the connection when it saw this device's certificate"
        ).fix
    )


def test_a_device_whose_certificate_has_expired(pki, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        at(time.time() - YEAR_S, patch)
        old = tmp_path / "pki"
        identity.make(old)
        me = enrolled(old, tmp_path / "state")
    with coordinator(old) as port:
        found = reach.reach(f"127.0.0.1:{port}", me)
    fails_tls(found, "ended the connection when it saw this device's certificate")


def test_a_name_that_the_certificate_does_not_have(pki, tmp_path):
    with coordinator(pki, host="127.0.0.9") as port:
        found = reach.reach(f"127.0.0.9:{port}", enrolled(pki, tmp_path))
    assert fails_tls(found, "is not for 127.0.0.9").fix.endswith(
        "fedlearn pki server --name 127.0.0.9"
    )


def test_a_port_without_tls(pki, tmp_path):
    with coordinator(None) as port:
        found = reach.reach(f"127.0.0.1:{port}", enrolled(pki, tmp_path))
    fails_tls(found, "speaks no TLS")


def test_a_port_that_closes_at_once(pki, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def close():
            while True:
                try:
                    listener.accept()[0].close()
                except OSError:
                    return

        thread = threading.Thread(target=close, daemon=True)
        thread.start()
        found = reach.reach(
            f"127.0.0.1:{listener.getsockname()[1]}", enrolled(pki, tmp_path)
        )
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(WAIT_S)
    assert states(found)["tls"] == FAILS


def test_a_revoked_device(pki, tmp_path):
    me = enrolled(pki, tmp_path, client=13)
    tokens.revoke(pki, 13)
    with coordinator(pki) as port:
        found = reach.reach(f"127.0.0.1:{port}", me)
    link = named(found, "link")
    assert (link.state, link.text) == (
        FAILS,
        "the coordinator refuses this device: the certificate is revoked",
    )


def test_nothing_listens(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    found = reach.reach(f"127.0.0.1:{port}", None)
    assert [one.name for one in found] == ["name", "port"]
    assert "refuses" in found[1].text


def test_a_name_that_does_not_exist():
    found = reach.reach("no-such-host.invalid:7400", None)
    assert [(one.name, one.state) for one in found] == [("name", FAILS)]
    assert "no-such-host.invalid is not found" in found[0].text


def test_more_than_the_limit_is_refused():
    with (
        coordinator(None) as port,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        with pytest.raises(grpc.RpcError) as refused:
            measure(channel)(Probe(want=LARGEST_BYTES + 1), timeout=WAIT_S)
        assert (
            len(measure(channel)(Probe(want=LARGEST_BYTES), timeout=WAIT_S).data)
            == LARGEST_BYTES
        )
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_measurement_by_hand():
    """A link of 0.25 s there and back, 64 KiB/s up and 2 MiB/s down, to a clock 90 s ahead."""
    moved = []
    passed = 0.0

    def call(probe, timeout):
        nonlocal passed
        moved.append((len(probe.data), probe.want))
        there = 1000.0 + passed + 0.125 + 90
        passed += 0.25 + len(probe.data) / 65536 + probe.want / (2 << 20)
        return Echo(time_us=round(1e6 * there))

    found = link.ask(call, lambda: passed, lambda: 1000.0 + passed)
    assert (found.round_trip_s, found.up, found.down) == (0.25, 65536, 2 << 20)
    assert found.ahead_s == pytest.approx(90)
    assert moved[4:6] == [(32768, 0), (65536, 0)]  # the second took long enough
    assert moved[-1] == (0, LARGEST_BYTES)
    assert link.skew(found.ahead_s, 0.25).state == NOTE


@pytest.mark.parametrize(
    ("ahead_s", "state", "words"),
    [
        (5.0, WELL, "within 5.0 s"),
        (-5.0, WELL, "within"),
        (120.0, NOTE, "2 minutes behind"),
        (-YEAR_S, FAILS, "365 days ahead of"),
    ],
)
def test_two_clocks(ahead_s, state, words):
    found = link.skew(ahead_s, 0.1)
    assert found.state == state
    assert words in found.text


# The device itself


def told(*lines, then="", timeout_s=WAIT_S, jetson=False):
    """Return the finding for a process that prints lines of JSON and then does something."""
    program = (
        "import os, time\n"
        + "".join(f"print({json.dumps(line)!r}, flush=True)\n" for line in lines)
        + then
    )
    return torch_check.torch(jetson, [sys.executable, "-c", program], timeout_s)


IMPORTED = {"version": "2.5.0a0+872d972e41.nv24.08", "cuda": "12.6"}
ORIN = {"gpu": "Orin", "capability": "sm_87", "built_for": ["sm_80", "sm_90"]}
RIGHT = {"cpu_wrong": None}


def test_torch_that_works():
    assert told(IMPORTED, RIGHT, {"no_gpu": "no"}).state == WELL
    found = told(IMPORTED, RIGHT, ORIN, {"gpu_wrong": None, "gpu_s": 1.0})
    assert (found.state, found.figures["capability"]) == (WELL, "sm_87")


def test_torch_that_is_missing():
    assert "pip install" in told({"missing": "torch"}).fix
    assert "NVIDIA's own wheel" in told({"missing": "torch"}, jetson=True).fix


@pytest.mark.parametrize(
    ("lines", "then", "words"),
    [
        (
            ({"broken": "libcudart.so.12: cannot open shared object file"},),
            "",
            "libcudart.so.12",
        ),
        ((), "os.kill(os.getpid(), 11)", "importing torch: it ends by signal 11"),
        ((IMPORTED,), "os.kill(os.getpid(), 4)", "on the CPU it ends by signal 4"),
        (
            (IMPORTED, {"cpu_wrong": "a convolution of ones"}),
            "",
            "computes wrongly on the CPU: a convolution of ones",
        ),
        (
            (IMPORTED, RIGHT),
            "os.kill(os.getpid(), 11)",
            "looking for a GPU it ends by signal 11",
        ),
        (
            (
                IMPORTED,
                RIGHT,
                ORIN,
                {"gpu_error": "CUDA error: no kernel image is available"},
            ),
            "",
            "built for sm_80 sm_90",
        ),
        (
            (IMPORTED, RIGHT, ORIN),
            "os.kill(os.getpid(), 6)",
            "does not run on the Orin (sm_87): it ends by signal 6",
        ),
        ((IMPORTED, RIGHT, ORIN), "raise SystemError('odd')", "SystemError: odd"),
        (
            (IMPORTED, RIGHT, ORIN, {"gpu_wrong": "the gradient"}),
            "",
            "computes wrongly on the Orin (sm_87): the gradient",
        ),
    ],
)
def test_torch_that_does_not_work(lines, then, words):
    found = told(*lines, then=then, jetson=True)
    assert found.state == FAILS
    assert words in found.text
    assert found.fix


def test_torch_that_hangs_is_a_line_and_not_the_end():
    found = told(IMPORTED, RIGHT, ORIN, then="time.sleep(600)", timeout_s=3)
    assert found.state == FAILS
    assert "does not come back within 3 s" in found.text


def test_a_jetson_that_trains_on_its_cpu_is_told():
    found = told(
        IMPORTED, RIGHT, {"no_gpu": "Torch not compiled with CUDA enabled"}, jetson=True
    )
    assert (found.state, "video and render" in found.fix) == (NOTE, True)


def test_the_torch_that_is_here():
    found = torch_check.torch(jetson=False)
    assert found.state == WELL
    assert found.figures["cpu_wrong"] is None


def test_wrong_numbers_are_seen(monkeypatch):
    import torch

    assert kernel._mistake("cpu") is None
    right = torch.Tensor.__matmul__
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "__matmul__", lambda a, b: right(a, b) + 1)
        assert "a matrix product sums to" in str(kernel._mistake("cpu"))
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "__matmul__", lambda a, b: right(a.detach(), b))
        assert kernel._mistake("cpu") == "the gradient of a matrix product"
    monkeypatch.setattr(
        torch.nn.functional, "conv2d", lambda x, w: torch.zeros(1, 1, 6, 6)
    )
    assert kernel._mistake("cpu") == "a convolution of ones"


@pytest.mark.parametrize(
    ("available", "state"), [(300e6, FAILS), (500e6, NOTE), (4e9, WELL)]
)
def test_memory(available, state):
    assert checks.memory(int(available), 7620).state == state


def test_memory_that_is_not_told():
    assert checks.memory(None, 0).state == SKIPPED


def test_a_disk(tmp_path, monkeypatch):
    found = checks.disk(tmp_path / "not" / "yet")
    assert (found.state in (WELL, NOTE), found.figures["folder"]) == (
        True,
        str(tmp_path),
    )
    assert list(tmp_path.iterdir()) == []

    def fails(number):
        def fsync(descriptor):
            raise OSError(number, "said the disk")

        monkeypatch.setattr("fedlearn.clients.device.checks.os.fsync", fsync)
        return checks.disk(tmp_path)

    found = fails(errno.EROFS)
    assert (found.state, "said the disk" in found.text, "dmesg" in found.fix) == (
        FAILS,
        True,
        True,
    )
    assert "sudo -u fedlearn" in fails(errno.EACCES).fix
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("free", "state"), [(50e6, FAILS), (500e6, NOTE), (50e9, WELL)]
)
def test_room_on_a_disk(free, state, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "fedlearn.clients.device.checks.shutil.disk_usage",
        lambda folder: SimpleNamespace(free=free),
    )
    monkeypatch.setattr(checks, "SLOW_SYNC_S", float("inf"))
    assert checks.disk(tmp_path).state == state


def test_a_certificate(pki, tmp_path):
    now = time.time()
    assert "fedlearn enroll" in checks.certificate(tmp_path, now)[0].fix
    me = enrolled(pki, tmp_path)
    assert checks.certificate(tmp_path, now)[0].state == WELL
    assert checks.certificate(tmp_path, me.not_after - 86400)[0].state == NOTE
    late = checks.certificate(tmp_path, me.not_after + 1)[0]
    assert (late.state, "expired on" in late.text) == (FAILS, True)
    (tmp_path / "identity.json").chmod(0o640)
    open_to_others = checks.certificate(tmp_path, now)[0]
    assert (open_to_others.state, "mode 640" in open_to_others.text) == (FAILS, True)
    (tmp_path / "identity.json").write_text("{")
    assert checks.certificate(tmp_path, now)[0].state == FAILS


def test_a_clock_before_what_has_been():
    assert checks.clock(2 * YEAR_S, YEAR_S) is None
    found = checks.clock(YEAR_S, 2 * YEAR_S)
    assert found is not None
    assert (found.state, "behind by 365 days" in found.text) == (FAILS, True)


def test_packages_that_are_old_or_missing(monkeypatch):
    def version(name):
        if name == "grpcio":
            raise metadata.PackageNotFoundError
        return "3.20.3"

    monkeypatch.setattr(metadata, "version", version)
    found = checks.python()
    assert found.state == FAILS
    assert "grpcio is missing, protobuf 3.20.3 is older than 6.31.1" in found.text
    assert "numpy" not in found.text


# The command


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Be in an empty folder, on a machine without settings."""
    from fedlearn.clients.device import settings

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(settings, "PLACE", tmp_path / "none.ini")
    return tmp_path


def test_the_command_for_programs(pki, here, capsys):
    enrolled(pki, here / "agent")
    with coordinator(pki) as port:
        code = doctor.main(
            ["--json", "--no-torch", "--coordinator", f"127.0.0.1:{port}"]
        )
    found = json.loads(capsys.readouterr().out)
    assert (code, found["ok"]) == (0, True)
    names = [one["name"] for one in found["checks"]]
    assert names == [
        "board",
        "python",
        "memory",
        "disk",
        "certificate",
        "name",
        "port",
        "tls",
        "clock",
        "link",
    ]


def test_the_command_for_people(here, capsys):
    assert doctor.main(["--no-torch"]) == doctor.FAILED
    lines = capsys.readouterr().out.splitlines()
    assert any(
        line.startswith("FAILS certificate   there is none in 'agent'")
        for line in lines
    )
    assert any(
        line.startswith("                 -> on the coordinator: fedlearn token")
        for line in lines
    )
    assert lines[-1] == "1 of 6 checks fail"
    assert max(map(len, lines)) <= doctor.WIDTH


def test_what_is_not_given_is_taken_from_the_settings(here, capsys):
    (here / "agent.ini").write_text(
        "[agent]\ninsecure = yes\ncoordinator = 127.0.0.1:1\n[rules]\nbattery_percent = 0\n"
    )
    assert (
        doctor.main(["--no-torch", "--json", "--settings", "agent.ini"])
        == doctor.FAILED
    )
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)["checks"]}
    assert "127.0.0.1:1 refuses" in found["port"]["text"]
    assert "certificate" not in found


def test_settings_that_are_wrong_are_a_line(here, capsys):
    (here / "agent.ini").write_text("[rules]\nhot = 80\n")
    assert (
        doctor.main(["--no-torch", "--json", "--settings", "agent.ini"])
        == doctor.FAILED
    )
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)["checks"]}
    assert "has no key 'hot'" in found["settings"]["text"]


def test_every_line_that_fails_says_what_to_do(here, capsys):
    doctor.main(["--no-torch", "--json", "--coordinator", "no-such-host.invalid:1"])
    failing = [
        one
        for one in json.loads(capsys.readouterr().out)["checks"]
        if one["state"] == FAILS
    ]
    assert {one["name"] for one in failing} == {"certificate", "name"}
    assert all(one["fix"] for one in failing)


@pytest.mark.parametrize("wrong", [["--coordinator", "here"], ["--tsate", "x"]])
def test_wrong_arguments_are_one_line(wrong, capsys):
    with pytest.raises(SystemExit) as ended:
        sys.exit(doctor.main(wrong))
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_doctor_loads_no_torch_itself():
    program = (
        "import sys, fedlearn.commands.doctor, fedlearn.clients.device.reach; "
        "print(sorted({'torch', 'numpy', 'rich'} & set(sys.modules)))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )
