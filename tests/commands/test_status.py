"""``fedlearn status``: a run's state from its folder or its figures; mistakes are a line."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedlearn.commands import serve, status
from fedlearn.errors import UserError
from fedlearn.records.names import LOG_FILE
from fedlearn.records.writing import RunFolder
from fedlearn.runs.status import of_coordinator, of_folder
from fedlearn.server.figures import ExchangeFigures, Lines
from fedlearn.server.observe import Log
from fedlearn.server.pages import Pages

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    """A run of 9 rounds that has done 2, of which the last was not scored."""
    path = tmp_path / "run"
    path.mkdir()
    (path / "config.toml").write_text("[experiment]\nrounds = 9\n")
    (path / "address.json").write_text('{"host": "127.0.0.1", "port": 1, "enrol": 2}')
    lines = (
        {
            "round": 0,
            "accuracy": 0.1,
            "loss": 2.5,
            "bytes_up": 0,
            "bytes_down": 0,
            "seconds": 0.1,
        },
        {
            "round": 1,
            "accuracy": 0.8123,
            "loss": 0.5,
            "bytes_up": 1000,
            "bytes_down": 3000,
            "seconds": 1.5,
        },
        {
            "round": 2,
            "accuracy": None,
            "loss": None,
            "bytes_up": 1000,
            "bytes_down": 3000,
            "seconds": 2.5,
        },
    )
    (path / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines) + '{"round": 3, "acc'
    )
    return path


def write(folder, *events):
    log = Log(folder / LOG_FILE, "nothing")
    for event, client, key, text, figures in events:
        log(event, client, key, text, **figures)
    log.close()


def test_a_run_that_goes_on(folder):
    write(
        folder,
        ("attended", 1, None, "", {"attending": 4}),
        ("left", 2, None, "", {"attending": 3}),
    )
    owner = RunFolder(folder)
    found = of_folder(folder)
    owner.close()
    assert (found.state, found.round, found.rounds, found.attending, found.next) == (
        "running",
        2,
        9,
        3,
        None,
    )
    assert (found.accuracy, found.loss, found.seconds) == (
        0.8123,
        0.5,
        2.5,
    )  # the newest score, the newest round
    assert (found.bytes_up, found.bytes_down) == (2000, 6000)
    assert status.text(found).splitlines() == [
        "state     running",
        "round     2 of 9 done, the last in 2.5 s",
        "accuracy  81.23 %, loss 0.500",
        "bytes     2.00 kB up, 6.00 kB down",
        "agents    3 attend",
    ]


def test_to_look_does_not_keep_the_owner_out(folder):
    of_folder(folder)
    RunFolder(folder).close()


def test_a_run_before_its_first_round_waits_for_agents(folder):
    (folder / "config.toml").unlink()
    (folder / "metrics.jsonl").unlink()
    owner = RunFolder(folder)
    found = of_folder(folder)
    owner.close()
    assert (found.state, found.round, found.rounds) == ("waits for agents", 0, None)
    assert "round     0 done" in status.text(found)


def test_a_run_that_was_stopped_tells_how_to_go_on(folder):
    write(
        folder, ("attended", 1, None, "", {"attending": 4})
    )  # killed: nobody has left
    found = of_folder(folder)
    assert (found.state, found.attending) == ("stopped", 0)
    assert (
        found.next
        == f"fedlearn serve --resume --out {folder} and the options that it had"
    )
    (folder / "address.json").unlink()
    assert of_folder(folder).next == f"fedlearn simulate --resume --out {folder}"


def test_a_run_that_is_over(folder):
    (folder / "config.toml").write_text("[experiment]\nrounds = 2\n")
    (folder / "summary.json").write_text('{"rounds": 2}')
    assert (of_folder(folder).state, of_folder(folder).next) == (
        "finished",
        None,
    )
    (folder / "config.toml").write_text(
        "[experiment]\nrounds = 3\n"
    )  # it was resumed for one round more, and stopped
    assert of_folder(folder).state == "stopped"


def test_what_went_wrong_lately_is_the_newest_of_each_client(folder):
    key = (2, "train", 0)
    write(
        folder,
        ("failed", 7, (1, "train", 0), "RuntimeError: boom", {}),
        ("asked", 7, key, "", {"bytes": 5}),
        ("late", 7, key, "late: no answer in time", {}),
        ("declined", 3, key, "declined: \x1b[31mtoo hot", {}),
        ("turned away", None, None, "the certificate is revoked", {}),
    )
    found = of_folder(folder)
    assert [(t.event, t.client, t.round) for t in found.lately] == [
        ("turned away", None, None),
        ("declined", 3, 2),
        ("late", 7, 2),
    ]
    assert found.counts == {"failed": 1, "late": 1, "declined": 1, "turned away": 1}
    lines = [
        " ".join(line.split()[2:])
        for line in status.text(found).splitlines()
        if " ago " in line
    ]  # without the time
    assert [line.partition("ago ")[2] for line in lines] == [
        "- turned away the certificate is revoked",
        "client 3 declined round 2 declined: \\x1b[31mtoo hot",
        "client 7 late round 2 late: no answer in time",
    ]


def test_of_many_clients_the_newest_are_shown(folder):
    write(
        folder,
        *(
            ("late", client, (2, "train", 0), "late: no answer in time", {})
            for client in range(25)
        ),
    )
    lines = status.text(of_folder(folder)).splitlines()
    assert [
        line.split("client ")[1].split()[0] for line in lines if " ago " in line
    ] == [str(client) for client in range(24, 14, -1)]
    assert lines[-1] == "  and 15 clients more"


def test_damaged_files_are_as_good_as_none(folder):
    (folder / LOG_FILE).write_bytes(
        b'\xff\n{"event": 3}\n[1]\n{"event": "late", "key": null}\n'
    )
    (folder / "summary.json").write_text("[" * 100_000)
    (folder / "config.toml").write_text("[experiment")
    found = of_folder(folder)
    assert (found.rounds, found.state, len(found.lately)) == (None, "stopped", 1)
    assert status.text(found)


def test_what_a_coordinator_tells_over_http(folder):
    figures = ExchangeFigures(
        3, 2, {"late": 5, "attended": 7, "left": 0}, 10, 2_000, 30
    )
    pages = Pages(0, lambda: figures, Lines(folder / "metrics.jsonl"), 9)
    with contextlib.closing(pages):
        for url in (
            f"http://127.0.0.1:{pages.port}",
            f"127.0.0.1:{pages.port}/",
            f"http://127.0.0.1:{pages.port}/metrics",
        ):
            found = of_coordinator(url)
            assert (
                found.state,
                found.round,
                found.rounds,
                found.attending,
                found.accuracy,
            ) == ("running", 2, 9, 3, 0.8123)
            assert (found.bytes_up, found.bytes_down, found.counts) == (
                10,
                2000,
                {"late": 5, "attended": 7},
            )


@pytest.fixture
def here(folder, monkeypatch, tmp_path):
    """A place to make mistakes in; what `serve` sets of its process is set back."""
    monkeypatch.chdir(tmp_path)
    for name in ("GRPC_ENABLE_FORK_SUPPORT", "GRPC_VERBOSITY"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "folders").mkdir()
    for name in ("config.toml", "metrics.jsonl"):
        (tmp_path / "folders" / name).mkdir()
    (tmp_path / "nopki").mkdir()
    return tmp_path


MISTAKES = [
    (status.main, [], 2, "no run in runs/"),
    (status.main, ["none"], 2, "there is no run folder 'none'"),
    (status.main, ["file"], 2, "'file' is a file"),
    (status.main, ["empty"], 2, "'empty' is not a run folder"),
    (
        status.main,
        ["folders"],
        3,
        "cannot read 'folders/metrics.jsonl': Is a directory",
    ),
    (status.main, ["run", "--url", "http://127.0.0.1:1"], 2, "not both"),
    (status.main, ["--url", "ftp://127.0.0.1"], 2, "write http://HOST:PORT"),
    (status.main, ["--url", "http://127.0.0.1:1"], 3, "fedlearn serve --metrics-port"),
    (
        status.main,
        ["--url", "http://127.0.0.1:99999"],
        3,
        "http://127.0.0.1:99999/metrics: ",
    ),
    (
        serve.main,
        ["--pki", "nopki"],
        2,
        "no authority in 'nopki'; make one: fedlearn pki init --pki nopki",
    ),
    (serve.main, ["--pki", "none"], 2, "no authority in 'none'"),
    (serve.main, [], 2, "fedlearn pki init"),
    (serve.main, ["--pki", "nopki", "--insecure"], 2, "exclude each other"),
    (
        serve.main,
        ["--local-agents", "1", "--metrics-port", "70000"],
        2,
        "--metrics-port 70000: from 0 to 65535",
    ),
    (
        serve.main,
        ["--local-agents", "1", "--resume", "--out", "none"],
        2,
        "none holds no run",
    ),
    (serve.main, ["--local-agents", "1", "--out", "file"], 2, "file is a file"),
    (serve.main, ["none.toml", "--local-agents", "1"], 2, "none.toml"),
]


@pytest.mark.parametrize(
    ("main", "arguments", "code", "reason"),
    MISTAKES,
    ids=[
        " ".join(["serve" if m is serve.main else "status", *a])
        for m, a, _, _ in MISTAKES
    ],
)
def test_a_mistake_is_one_line(main, arguments, code, reason, here, capsys):
    assert main(arguments) == code
    out, error = capsys.readouterr()
    assert (
        out == ""
        and error.startswith("fedlearn: ")
        and error.count("\n") == 1
        and reason in error
    )


def test_figures_of_another_are_refused(tmp_path):
    class Other(Pages):
        def _metrics(self):
            return 200, "node_cpu_seconds_total 3\nfedlearn_rounds_done NaN\n"

    pages = Other(
        0, lambda: ExchangeFigures(0, 0, {}, 0, 0, 0), Lines(tmp_path / "m"), 1
    )
    with (
        contextlib.closing(pages),
        pytest.raises(Exception, match="not the figures of fedlearn serve"),
    ):
        of_coordinator(f"http://127.0.0.1:{pages.port}")


def test_the_newest_run_is_meant(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for age, name in ((200, "old"), (100, "new")):
        path = tmp_path / "runs" / name
        path.mkdir(parents=True)
        (path / "config.toml").write_text(f"[experiment]\nrounds = {age}\n")
        os.utime(path, (1e9 - age, 1e9 - age))
    assert status.main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rounds"] == 100


def test_a_port_that_is_taken_is_one_line(folder, tmp_path):
    """In a process of its own, where gRPC's log would stand on standard error too."""
    pages = Pages(
        0, lambda: ExchangeFigures(0, 0, {}, 0, 0, 0), Lines(tmp_path / "m"), 1
    )
    config = (
        '[data]\nname = "digits"\n[data.partition]\nkind = "iid"\nclients = 1\n'
        '[model]\nname = "logistic"\n[engine]\nkind = "serial"\n'
    )
    (tmp_path / "c.toml").write_text(config)
    command = [
        sys.executable,
        "-m",
        "fedlearn.commands.serve",
        "c.toml",
        "--local-agents",
        "1",
        "--out",
        "taken",
        "--port",
        str(pages.port),
    ]
    environment = {k: v for k, v in os.environ.items() if k != "GRPC_VERBOSITY"} | {
        "PYTHONPATH": str(ROOT)
    }  # flwr sets it here
    with contextlib.closing(pages):
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environment
        )
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(
        f"fedlearn: cannot listen on 127.0.0.1:{pages.port}: "
    ) and done.stderr.endswith("another --port\n")
    assert done.stderr.count("\n") == 1


def test_a_folder_that_is_none_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match="no run folder"):
        of_folder(tmp_path / "none")


def test_status_loads_nothing_heavy(folder):
    code = (
        f"import sys\nfrom fedlearn.commands.status import main\nmain([{str(folder)!r}])\n"
        "print({'torch', 'flwr', 'numpy', 'pydantic'} & set(sys.modules))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    ).stdout
    assert out.splitlines()[-1] == "set()"


def test_the_command_that_goes_on_has_the_options_that_the_folder_does_not_know():
    given = [
        "c.toml",
        "--pki",
        "a b",
        "--host",
        "0.0.0.0",
        "--port",
        "7",
        "--log",
        "json",
        "--metrics-port",
        "0",
        "--out",
        "x",
    ]
    assert (
        serve._again(serve.parser().parse_args(given))
        == "serve --host 0.0.0.0 --pki 'a b' --log json --metrics-port 0"
    )
    assert (
        serve._again(serve.parser().parse_args(["--insecure", "--local-agents", "2"]))
        == "serve --local-agents 2 --insecure"
    )
