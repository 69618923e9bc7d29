"""What runs a Flower app for an agent: its owner's rules, its state, and what it does when the
app fails, hangs or is asked twice.
"""

import os
import subprocess
import sys
from contextlib import ExitStack, closing
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedlearn.apps import device, private
from fedlearn.apps.copies import Copies
from fedlearn.apps.device import AppDesk
from fedlearn.apps.messages import Part, packed, unpacked
from fedlearn.apps.orders import AppBrief, EchoedAnswer, plan_of
from fedlearn.apps.states import state_path
from fedlearn.apps.work import (
    CRASHED,
    LATE,
    RAISED,
    UNAVAILABLE,
    Limit,
    NodeAnswer,
    Work,
)
from fedlearn.clients.agent.attached import Declined, lock
from fedlearn.clients.agent.modules import check_app
from fedlearn.clients.agent.pipe import AppRules, Limits, WorkSetup
from fedlearn.errors import ClientError, ConfigError, FormatError
from fedlearn.exchange.exchange_pb2 import Task
from tests.apps.plain import SAMPLES


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """Return what opens a desk of a sample app, as if it were installed."""
    log = open(tmp_path / "log", "wb")  # noqa: SIM115

    def open_desk(name, clientapp, run_config=(), **rules):
        monkeypatch.setenv("PYTHONPATH", f"{os.getcwd()}{os.pathsep}{SAMPLES / name}")
        brief = AppBrief(name, "", clientapp, dict(run_config), 4, 0)
        owners = AppRules(**{"apps": (clientapp,), **rules})
        folder = tmp_path / "run-1"
        setup = WorkSetup(str(folder), 2, brief.to_json(), "auto", Limits(), owners)
        file = lock(folder, ())
        stack.callback(file.close)
        opened = AppDesk(setup, folder, file, log)
        stack.callback(opened.close)
        return opened

    with ExitStack() as stack:
        stack.enter_context(log)
        yield open_desk


def work(number, content=None, state=0, **fields):
    content = RecordDict() if content is None else content
    payload = packed(content, {}, "", 0).payload
    return replace(
        Work(number, 1002, 2, number, "query", "", "id", 60.0, payload, {}, {}),
        state=state,
        **fields,
    )


def answered(desk, request, records=()):
    """Return a desk's answer to a message: the answer, and its bytes."""
    payloads = [request.payload, *records]
    data = desk.answer(Task(plan=plan_of(request)), payloads)
    return EchoedAnswer.of(data).answer, data


def test_a_message_that_comes_again_begins_from_the_same_state(desk, tmp_path):
    open_desk = desk("fragile", "fragile.client_app:app", {"marker": ""})
    states = tmp_path / "run-1" / "states"
    first, first_bytes = answered(open_desk, work(1))
    assert first.changed
    assert answered(open_desk, work(1))[1] == first_bytes
    second, second_bytes = answered(open_desk, work(2, state=1))
    # Killed before its answer was on disk, or asked anew: it counts once all the same.
    again, again_bytes = answered(open_desk, work(2, state=1))
    assert (second.changed, again.changed) == (True, True)
    assert again_bytes == second_bytes
    content = private.of_bytes(state_path(states, 2, 2).read_bytes())
    assert content.config_records["count"]["n"] == 2
    # The coordinator went on from turn 2: what was before is not needed any more.
    answered(open_desk, work(3, state=2))
    assert sorted(path.name for path in (states / "0").iterdir()) == ["2-2", "2-3"]


def test_a_state_that_is_gone_is_that_clients_failure(desk):
    open_desk = desk("fragile", "fragile.client_app:app", {"marker": ""})
    with pytest.raises(ClientError, match="what its app kept at message 7 of this run"):
        answered(open_desk, work(8, state=7))


def test_an_app_that_hangs_is_ended_and_the_next_message_is_answered(desk):
    open_desk = desk("slow", "slow.client_app:app", {"seconds": 600}, seconds=1.0)
    answer, _ = answered(open_desk, work(1))
    assert answer.code == CRASHED
    assert answer.reason == (
        "the ClientApp took longer than the 1 s that the owner of this device allows"
    )
    assert open_desk._workers is None


@pytest.mark.parametrize("code", [UNAVAILABLE, LATE])
def test_the_coordinators_limit_of_time_is_kept_here(desk, code):
    """As in a run of one machine: the same answer, and the next message finds an app."""
    open_desk = desk("slow", "slow.client_app:app", {"seconds": 600})
    limit = Limit(1.0, code, "engine.client_timeout_s")
    for number in (1, 2):
        answer, _ = answered(open_desk, work(number, limit=limit))
        assert answer == NodeAnswer(
            number, code=code, reason="no answer within engine.client_timeout_s = 1"
        )


def test_a_first_record_by_a_codec_arrives_and_is_kept(desk, tmp_path):
    open_desk = desk("fragile", "fragile.client_app:app", {"marker": ""})
    content = RecordDict({"arrays": record_of(2.0).arrays})
    payload = packed(content, {}, "q8", 0, "q8").payload
    arrived = unpacked(payload, {}).array_records["arrays"]
    part = Part("arrays", private.to_bytes(RecordDict({"arrays": arrived})), True)
    request = replace(work(1), payload=payload, keep=(part.digest,))
    answer, _ = answered(open_desk, request)
    assert answer.code == 0
    assert (tmp_path / "run-1" / "copies" / part.digest).is_file()


@pytest.mark.parametrize(
    ("client", "code", "reason"),
    [
        (1, RAISED, "KeyError: 'no such column'"),
        (2, RAISED, "SystemExit: enough"),
        (3, CRASHED, "the ClientApp's process ended with code 7, twice"),
        (4, RAISED, "the app's function for 'train' returned str"),
    ],
)
def test_what_an_app_does_to_its_process_is_an_answer(desk, client, code, reason):
    open_desk = desk("faults", "fau.client_app:app")
    open_desk._client = client
    request = work(1, kind="train", partition=client)
    answer, _ = answered(open_desk, request)
    assert answer.code == code
    assert answer.reason.startswith(reason)


def test_what_the_owner_says_is_in_node_config(desk, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from flwr.app import ConfigRecord, Message, RecordDict\n"
        "from flwr.clientapp import ClientApp\n"
        "app = ClientApp()\n"
        "@app.query()\n"
        "def query(msg, context):\n"
        "    record = ConfigRecord(dict(context.node_config))\n"
        "    return Message(RecordDict({'node': record}), reply_to=msg)\n"
    )
    open_desk = desk("../../../..", "mine:app", node_config={"path": "/srv"})
    os.environ["PYTHONPATH"] += f"{os.pathsep}{tmp_path}"
    answer, _ = answered(open_desk, work(1))
    record = unpacked(answer.payload, {}).config_records["node"]
    assert dict(record) == {"partition-id": 2, "num-partitions": 4, "path": "/srv"}


def record_of(value):
    record = ArrayRecord({"w": Array(np.full(4, value, np.float32))})
    return Part("arrays", private.to_bytes(RecordDict({"arrays": record})), True)


def test_a_record_that_is_not_here_is_asked_for_and_then_kept(desk, tmp_path):
    open_desk = desk("fragile", "fragile.client_app:app", {"marker": ""})
    base = record_of(1.0)
    content = RecordDict({"arrays": record_of(2.0).arrays})
    draft = packed(content, {"arrays": base.arrays}, "q8", 0)
    request = replace(
        work(1), payload=draft.payload, bases={"arrays": base.digest}, keep=()
    )
    with pytest.raises(device._Lacking) as raised:
        answered(open_desk, request)
    assert device.failure(raised.value).result == "lacking"
    copies = Copies(tmp_path / "coordinator")
    copies.put(base)
    answer, _ = answered(open_desk, request, [copies.data(base.digest)])
    assert answer.code == 0
    folder = tmp_path / "run-1" / "copies"
    assert [path.name for path in folder.iterdir()] == [base.digest]
    # Damaged on the disk, it is asked for anew.
    (folder / base.digest).write_bytes(b"arrays\0no record")
    with pytest.raises(device._Lacking):
        answered(open_desk, request)


def test_records_that_later_messages_stand_on_are_kept_and_others_removed(
    desk, tmp_path
):
    open_desk = desk("fragile", "fragile.client_app:app", {"marker": ""})
    first, second = record_of(1.0), record_of(2.0)
    folder = tmp_path / "run-1" / "copies"
    for part, turn in ((first, 1), (second, 2)):
        content = RecordDict({"arrays": part.arrays, "c": ConfigRecord({"a": 1})})
        answered(open_desk, work(turn, content, keep=(part.digest,)))
        assert part.digest in {path.name for path in folder.iterdir()}
    assert first.digest not in {path.name for path in folder.iterdir()}


def test_a_message_to_another_node_is_refused(desk):
    open_desk = desk("fragile", "fragile.client_app:app")
    with pytest.raises(ClientError, match="the message is for node 1"):
        answered(open_desk, work(1, partition=1))
    with pytest.raises(FormatError, match="the coordinator's message is no JSON"):
        open_desk.answer(Task(plan="{"), [b""])
    with pytest.raises(ClientError, match="has no payload"):
        open_desk.answer(Task(plan=plan_of(work(1))), [])


@pytest.mark.parametrize(
    ("clientapp", "apps", "reason"),
    [
        ("demo.client_app:app", (), "to allow it: --apps demo, or apps = demo in"),
        ("demo.client_app:app", ("dem", "demo.other"), "to allow it: --apps demo"),
        ("fedlearn.app:client", ("fedlearn",), "to allow it: --apps fedlearn"),
        ("demo.__main__:app", ("demo",), "which no module defines"),
        ("demo.client_app:_app", ("demo",), "which no module defines"),
        ("demo.client_app:os.system", ("demo",), "which no module defines"),
        ("demo client:app", ("demo",), "which no module defines"),
        ("demo", ("demo",), "which no module defines"),
        ("", ("demo",), "which no module defines"),
    ],
)
def test_an_app_that_its_owner_does_not_name_is_refused_by_name(
    clientapp, apps, reason
):
    with pytest.raises(ConfigError) as raised:
        check_app(clientapp, apps)
    assert f"the ClientApp '{clientapp}' of this device" in str(raised.value)
    assert reason in str(raised.value)


@pytest.mark.parametrize(
    ("clientapp", "apps"),
    [
        ("demo.client_app:app", ("demo",)),
        ("demo:app", ("other", "demo")),
        ("demo.client_app:app", ("demo.client_app",)),
        ("demo.client_app:wrapper.app", ("demo.client_app:wrapper.app",)),
    ],
)
def test_an_app_that_its_owner_names_may_run(clientapp, apps):
    check_app(clientapp, apps)


def test_an_app_that_is_not_allowed_is_declined_before_anything_is_imported(desk):
    with pytest.raises(Declined, match="to allow it: --apps fragile"):
        desk("fragile", "fragile.client_app:app", apps=("other",))


def test_a_board_without_flower_declines_by_name(desk, monkeypatch):
    monkeypatch.setattr(device, "find_spec", lambda name: None)
    with pytest.raises(Declined) as raised:
        desk("fragile", "fragile.client_app:app")
    assert str(raised.value) == (
        "the ClientApp 'fragile.client_app:app' needs Flower, which this device does not "
        "have: pip install 'fedlearn[flower]' (Python 3.11 or newer)"
    )
    assert device.failure(raised.value).result == "declined"


def test_a_python_that_flower_does_not_run_on_declines_by_name(monkeypatch):
    monkeypatch.setattr(device, "_LEAST_PYTHON", (99, 0))
    with pytest.raises(Declined, match="needs Flower"):
        device.check_flower("demo:app")


def test_an_app_that_is_not_installed_is_declined_by_name(desk):
    open_desk = desk("fragile", "nowhere.client_app:app")
    with pytest.raises(Declined, match=r"importing 'nowhere.client_app' raised"):
        answered(open_desk, work(1))


def test_what_attends_for_apps_imports_no_flower():
    code = "import fedlearn.apps.device, sys; print({'flwr', 'torch', 'numpy'} & set(sys.modules))"
    printed = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert printed.strip() == "set()"


def test_a_folder_is_one_process_at_a_time(tmp_path):
    with closing(lock(tmp_path / "run", ())):
        code = (
            "import sys; from pathlib import Path; from fedlearn.clients.agent import attached;"
            "attached.lock(Path(sys.argv[1]), ()); print('locked')"
        )
        waiting = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE
        )
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(2)
    assert waiting.communicate()[0] == b"locked\n"
