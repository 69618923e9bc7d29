"""What an agent does not do, whatever its coordinator asks; and an agent's own bad days. Rows
10, 12, 17 and 18 of the threat list.
"""

import asyncio
import contextlib
import json
import pickle
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fedlearn import data, models
from fedlearn.arrays import State
from fedlearn.clients.agent import identity, pipe, store
from fedlearn.clients.agent.actions import Begin, Certificate, Connect, Discard, Leave
from fedlearn.clients.agent.agent import Agent
from fedlearn.clients.agent.attached import Declined
from fedlearn.clients.agent.options import AgentSettings
from fedlearn.clients.agent.pipe import Limits, WorkReply, WorkRequest, WorkSetup
from fedlearn.clients.agent.work import Desk
from fedlearn.clients.held import MissingModel
from fedlearn.errors import ConfigError, DataError, FedlearnError, PayloadError
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.transfer import Pace
from fedlearn.plan import Plan
from fedlearn.wire import decode, digest, encode_model, payload_pb2
from tests.system.test_bad_updates import Canary
from tests.wire.mutate import sealed

ROOT = Path(__file__).parents[2]
SHARES = {"kind": "iid", "clients": 10}
POPULATION = data.population("digits", {}, SHARES, 1)
SAMPLES = len(POPULATION.clients[3])
BATCHES = -(-SAMPLES // 10)


def experiment(**changed) -> str:
    """Return what a welcome says of a small experiment; changed: its values."""
    module = models.build(
        "logistic", {}, input_shape=POPULATION.input_shape, classes=10, seed=1
    )
    told = {
        "seed": 1,
        "data": {"name": "digits", "options": {}, "partition": SHARES},
        "model": {"name": "logistic", "options": {}},
        "task": POPULATION.modality,
        "classes": 10,
        "input_shape": list(POPULATION.input_shape),
        "holdout": 0.0,
        "schema": models.layout(module).schema.hex(),
    }
    return json.dumps(told | changed)


def work(desk_or_text, **asked) -> tuple[pb.Task, list[bytes]]:
    """Return a task and its payload; asked: of the plan."""
    module = models.build(
        "logistic", {}, input_shape=POPULATION.input_shape, classes=10, seed=1
    )
    layout = models.layout(module)
    state = models.read_state(module, layout)
    payload, _, _ = encode_model(
        layout, State(state.floats, np.zeros(layout.integers, np.int64)), 0, "raw32", 0
    )
    plan = Plan(**({"round": 1, "seed": 1} | asked))
    name = int.from_bytes(digest(state.floats), "little")
    task = pb.Task(
        key=pb.Key(round=1, kind="train"),
        plan=plan.to_json(),
        sizes=[len(payload)],
        initial=name,
    )
    return task, [payload]


def desk(
    folder: Path, limits: Limits | None = None, source: str = "auto", **changed
) -> Desk:
    return Desk(folder, 3, experiment(**changed), source, limits or Limits())


# 18: a coordinator that asks too much


@pytest.mark.parametrize(
    ("limits", "asked", "told"),
    [
        (
            Limits(epochs=2),
            {"epochs": 3},
            "the plan asks for 3 epochs; the owner of this device allows 2",
        ),
        (Limits(epochs=2), {"steps": 10**9}, "epochs"),
        (Limits(epochs=2), {"steps": 1, "accumulate": 10**9}, "epochs"),
        (Limits(epochs=2), {"steps": 3, "batch_size": 0}, "asks for 3 epochs"),
        (Limits(epochs=2), {"answer": "gradient", "accumulate": 10**9}, "epochs"),
        (
            Limits(steps=BATCHES),
            {"steps": BATCHES + 1},
            f"asks for {BATCHES + 1} steps; the owner of this device allows {BATCHES}",
        ),
        (Limits(steps=BATCHES), {"epochs": 2}, f"asks for {2 * BATCHES} steps"),
        (Limits(steps=5), {"steps": 1, "accumulate": 6}, "asks for 6 steps"),
        (Limits(steps=5), {"answer": "gradient", "accumulate": 6}, "asks for 6 steps"),
        (Limits(steps=5, epochs=10**6), {"epochs": 10**6}, "steps"),
    ],
)
def test_more_work_than_the_owner_allows_is_declined(limits, asked, told, tmp_path):
    with pytest.raises(Declined) as caught:
        desk(tmp_path, limits).do(*work(None, **asked))
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("os:system", "the coordinator asks for the optimizer 'os:system'"),
        ("fedlearn.models:build", "to allow it: --allow fedlearn.models"),
        (f"{__name__}:work", f"to allow it: --allow {__name__}"),
    ],
)
def test_an_optimiser_that_the_owner_does_not_allow_is_declined(name, told, tmp_path):
    with pytest.raises(Declined, match=told):
        desk(tmp_path).do(*work(None, optimizer=name))


class Optimizer(torch.optim.SGD):
    """One of the owner's own."""


@pytest.mark.parametrize("name", ["adam", f"{__name__}:Optimizer"])
def test_an_optimiser_that_the_owner_allows_trains(name, tmp_path):
    limits = Limits(allow=(__name__,))
    assert desk(tmp_path, limits).do(*work(None, optimizer=name, lr=0.01))


@pytest.mark.parametrize(
    "asked",
    [
        {"epochs": 2},
        {"steps": 2 * BATCHES},
        {"steps": BATCHES, "accumulate": 2},
        {"answer": "gradient"},
    ],
)
def test_what_the_owner_allows_is_done(asked, tmp_path):
    made = desk(tmp_path, Limits(epochs=2, steps=2 * BATCHES))
    header, change = decode(
        made.layout,
        made.do(*work(None, **asked)),
        (payload_pb2.Payload.UPDATE, payload_pb2.Payload.GRADIENT),
    )
    assert header.examples == SAMPLES and np.any(change.dense().floats)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of this device that tells when it is imported."""
    told = tmp_path / "imported"
    (tmp_path / "canary_of_mine.py").write_text(
        f"open({str(told)!r}, 'w').close()\ndef given(**options): raise RuntimeError('called')\n"
    )
    (tmp_path / "canary_of_mine_too.py").write_text(
        f"open({str(told)!r}, 'w').close()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield told
    for name in ("canary_of_mine", "canary_of_mine_too"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "name",
    [
        "canary_of_mine:given",
        "canary_of_mine_too:given",
        "canary_of_mine.x:given",
        " canary_of_mine:given",
    ],
)
@pytest.mark.parametrize("what", ["model", "data", "partition"])
def test_no_module_is_imported_that_the_owner_does_not_allow(
    what, name, module, tmp_path
):
    changed: dict[str, Any] = {
        "model": {"model": {"name": name, "options": {}}},
        "data": {"data": {"name": name, "options": {}, "partition": {}}},
        "partition": {
            "data": {
                "name": "digits",
                "options": {},
                "partition": {"kind": name, "clients": 10},
            }
        },
    }[what]
    for allow in ((), ("canary",), ("canary_of_mine.x.y", "os")):
        with pytest.raises(
            ConfigError,
            match=(
                f"the coordinator asks for the {what} '{name}' of this device.*; .*to "
                f"allow it: --allow"
            ),
        ):
            desk(tmp_path / "state", Limits(allow=allow), **changed)
        assert not module.exists()
    if name == "canary_of_mine:given":
        with pytest.raises(FedlearnError, match="called"):
            desk(tmp_path / "state", Limits(allow=("canary_of_mine",)), **changed)
        assert module.exists()


def test_no_folder_of_this_device_is_read_that_the_owner_does_not_allow(tmp_path):
    changed: dict[str, Any] = {
        "data": {
            "name": "dir",
            "options": {"path": str(tmp_path)},
            "partition": {"kind": "iid", "clients": 10},
        }
    }
    with pytest.raises(
        ConfigError, match="data is a folder of this device; to allow it: --allow dir"
    ):
        desk(tmp_path / "state", Limits(allow=("directory",)), **changed)
    with pytest.raises(DataError, match="holds neither"):
        desk(tmp_path / "state", Limits(allow=("dir",)), **changed)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        "[" * 99,
        '{"seed": 1, "model": []}',
        experiment(model=1),
        experiment(schema="00" * 8),
    ],
)
def test_an_experiment_that_is_none_fails_and_builds_nothing(text, tmp_path):
    with pytest.raises(
        (FedlearnError, ValueError, TypeError, KeyError, AttributeError)
    ):  # `work.main` tells any of them
        Desk(tmp_path / "state", 3, text, "auto", Limits())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        '{"round": 1}',
        '{"round": 1, "seed": 1, "lr": "much"}',
        '{"round": 1, "seed": 1, "x": 1}',
    ],
)
def test_a_plan_that_is_none_is_refused(text, tmp_path):
    task, payloads = work(None)
    task.plan = text
    with pytest.raises(PayloadError, match="not a plan"):
        desk(tmp_path).do(task, payloads)


def test_payloads_that_are_none_are_refused(tmp_path):
    made = desk(tmp_path)
    task, (payload,) = work(None)
    message = payload_pb2.Payload.FromString(payload)
    message.body = np.float32(np.nan).tobytes() + message.body[4:]
    message.ClearField("checksum")
    poisoned = sealed(message.SerializeToString(deterministic=True))
    for bad in (
        b"",
        payload[:-1],
        poisoned,
        pickle.dumps(Canary(str(tmp_path / "canary"))),
    ):
        with pytest.raises(PayloadError):
            made.do(task, [bad])
    with pytest.raises(PayloadError, match="without a payload"):
        made.do(task, [])
    assert not (tmp_path / "canary").exists()
    task.base = 1
    with pytest.raises(MissingModel):
        made.do(task, [payload])
    task.base = 0
    assert made.do(task, [payload])


def test_the_coordinators_words_do_not_lead_out_of_the_agents_folder(tmp_path):
    for kind in ("../../../up", "/etc/passwd", "a/b", "..", "\0", "train"):
        path = tmp_path / "answers" / store.answer_name((1, kind, 0))
        assert path.resolve().parent == tmp_path / "answers"
        store.write_answer(path, b"task", b"answer")
    assert len(list(store.answers(tmp_path / "answers"))) == 6


# 10 and 12: the agent's bad days


class Working:
    """The process that works for an agent."""

    def __init__(
        self,
        folder: Path,
        text: str,
        room: int | None = None,
        allow: tuple[str, ...] = (),
    ) -> None:
        def limit():
            if room is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

        command = [sys.executable, "-m", "fedlearn.clients.agent.work"]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=limit,
        )
        limits = Limits(allow=allow)
        setup = WorkSetup(str(folder), 3, text, "auto", limits)
        self.say(pipe.pack(setup.to_dict()))

    def ask(self, task: pb.Task, payloads: list[bytes]) -> None:
        blobs = [task.SerializeToString(), *payloads]
        self.say(pipe.pack(WorkRequest("1").to_dict(), blobs))

    def say(self, parts: list[bytes]) -> None:
        assert self.process.stdin
        self.process.stdin.writelines(parts)
        self.process.stdin.flush()

    def hear(self) -> WorkReply:
        assert self.process.stdout
        message = pipe.read(self.process.stdout)
        assert message
        return WorkReply.from_dict(message[0])


def test_a_full_disk_of_an_agent_is_a_failure_of_its_own(tmp_path):
    with contextlib.closing(Ending(Working(tmp_path, experiment(), room=1000))) as made:
        made.working.ask(*work(None))
        expected = WorkReply("failed", "this device's disk: File too large")
        assert made.working.hear() == expected
    assert not list(store.answers(tmp_path / "answers"))


def test_a_folder_that_an_agent_cannot_use_is_its_disks_failure(tmp_path, capfd):
    """Before any work: the lock of the run's folder is the first file of all."""
    (tmp_path / "card").write_text("a file, where the mount point should be")
    folder = tmp_path / "card" / "run-7"
    with contextlib.closing(Ending(Working(folder, experiment()))) as made:
        for _ in range(2):  # it lives on: the disk may be back for the next round
            made.working.ask(*work(None))
            reply = made.working.hear()
            assert reply.result == "failed"
            assert reply.text.startswith("this device's disk: ")
    # Another test's gRPC may tell of a fork there.
    output = capfd.readouterr().err
    assert "Traceback" not in output and "Fatal" not in output


def test_what_a_killed_process_half_wrote_is_removed_by_the_next_one(tmp_path):
    for kind in ("copies", "residuals", "answers"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / ".0123.part").write_bytes(b"half")
    with contextlib.closing(Ending(Working(tmp_path, experiment()))) as made:
        made.working.ask(*work(None))
        assert made.working.hear().result == "answer"
    assert not list(tmp_path.rglob("*.part"))


class Ending:
    """Ends a working process."""

    def __init__(self, working: Working) -> None:
        self.working = working

    def close(self) -> None:
        for stream in (self.working.process.stdin, self.working.process.stdout):
            assert stream
            stream.close()
        self.working.process.kill()
        self.working.process.wait()


def test_with_its_agent_the_working_process_ends_in_the_middle_of_its_work(tmp_path):
    """And a second one for the same folder waits for that: two would write the same files."""
    slow = experiment(
        model={"name": "tests.faults:Slow", "options": {"seconds": 0.3}},
        schema=_schema_of_slow(),
    )
    task, payloads = work(None, epochs=1000)
    task.initial = 0  # lacking is an answer too
    first = Working(tmp_path, slow, allow=("tests.faults",))
    first.ask(task, payloads)
    assert first.hear().result == "lacking"
    second = Working(tmp_path, slow, allow=("tests.faults",))
    second.ask(task, payloads)
    task.repair, task.sizes[:] = True, [*task.sizes] * 2
    first.ask(task, [_slow_model(), _slow_model()])
    assert first.process.stdin
    assert first.process.poll() is None
    first.process.stdin.close()
    assert first.process.wait(20) == 0
    assert second.hear().result == "lacking"
    assert not list(store.answers(tmp_path / "answers"))
    for one in (first, second):
        for stream in (one.process.stdin, one.process.stdout):
            with contextlib.suppress(BrokenPipeError):
                assert stream
                stream.close()
        one.process.wait(20)


def _slow():
    module = models.build(
        "tests.faults:Slow",
        {"seconds": 0.0},
        input_shape=POPULATION.input_shape,
        classes=10,
        seed=1,
    )
    return module, models.layout(module)


def _schema_of_slow() -> str:
    return str(_slow()[1].schema.hex())


def _slow_model() -> bytes:
    module, layout = _slow()
    return encode_model(layout, models.read_state(module, layout), 0, "raw32", 0)[0]


@pytest.mark.parametrize(("deaths", "result"), [(2, "answered"), (3, "failed")])
def test_work_whose_process_dies_is_done_once_more(deaths, result, tmp_path):
    made: Any = Agent(
        AgentSettings("127.0.0.1:1", 3, tmp_path, insecure=True), say=lambda text: None
    )
    key, done = (1, "train", 0), []

    class State:
        connected, pace = False, Pace()

        def answered(self, key, data, now):
            done.append(("answered", data))
            return []

        def failed(self, key, reason, text):
            done.append(("failed", text))
            return []

    async def dies(job):
        if job.deaths < deaths:
            raise asyncio.IncompleteReadError(b"", 4)
        return WorkReply("answer"), [b"sound"]

    async def live():
        made._state = State()
        made._workshop._do = dies
        made._perform([Begin(key, pb.Task(), ())])
        assert made._workshop._running
        await made._workshop._running

    asyncio.run(live())
    assert [what for what, _ in done] == [result]


def test_a_process_whose_work_is_not_wanted_is_given_no_other(tmp_path):
    """It may have answered already when it is killed; the next task would be lost with it."""
    made: Any = Agent(
        AgentSettings("127.0.0.1:1", 3, tmp_path, insecure=True), say=lambda text: None
    )
    killed = []

    class Process:
        def kill(self):
            killed.append(self)

    async def live():
        made._workshop._start = lambda: None
        made._workshop.process = Process()
        made._perform(
            [
                Begin((1, "train", 0), pb.Task(), ()),
                Discard((1, "train", 0)),
            ]
        )

    asyncio.run(live())
    assert (
        len(killed) == 1 and made._workshop.process is None and not made._workshop.jobs
    )


def test_after_a_renewal_the_next_connection_has_the_new_certificate(
    tmp_path, monkeypatch
):
    made: Any = Agent(
        AgentSettings("127.0.0.1:1", 3, tmp_path, insecure=True), say=lambda text: None
    )
    made._identity = SimpleNamespace(ca=b"")
    channels, used = [], []

    class Channel:
        async def close(self):
            pass

    def channel():
        channels.append(Channel())
        return channels[-1]

    async def attend(channel):
        used.append(channel)
        renewed = [Certificate(b"", 0)] if len(used) == 1 else []
        made._perform(
            [*renewed, Connect(0.0)]
            if len(used) < 3
            else [Leave("the run is over", True)]
        )

    monkeypatch.setattr(identity, "store", lambda *told: made._identity)
    made._channel, made._attend = channel, attend
    assert asyncio.run(made.run()) == "the run is over"
    assert used == [channels[0], channels[1], channels[1]]
