"""Twenty clients over real gRPC, one of them bad: the aggregate is that of the other
nineteen, bit for bit.

Rows 1, 2, 4, 5, 6, 12 and 17 of the threat list. The clients are scripted; what the honest ones
answer is made as agents make it.
"""

import contextlib
import os
import pickle
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlearn import config, models
from fedlearn.arrays import Layout, State
from fedlearn.clients.local import Local, StartModel
from fedlearn.engine.fleet import Fleet
from fedlearn.engine.protocol import Layer
from fedlearn.engine.task import Outcome
from fedlearn.errors import RecordError
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.keys import Key, of
from fedlearn.plan import Plan
from fedlearn.records.writing import RunFolder
from fedlearn.reporting.progress import Progress
from fedlearn.runs.fleets import with_fleet
from fedlearn.runs.serving import LEAST_ROOM
from fedlearn.runs.simulation import simulate
from fedlearn.server import segments
from fedlearn.server.journal import Journal
from fedlearn.server.listening import Address
from fedlearn.server.rounds import Rounds
from fedlearn.server.service import Service
from fedlearn.system.failpoints import Failpoints
from fedlearn.wire import UPDATE, Header, decode_model, encode, payload_pb2
from tests.system.peers import Crowd, chunks, failure, keys
from tests.wire.mutate import bomb_streams, sealed

CLIENTS, BAD, ROUNDS = 20, 7, 2
CONFIG = f"""\
[experiment]
name = "twenty"
rounds = {ROUNDS}
[data]
name = "digits"
[data.partition]
kind = "iid"
clients = {CLIENTS}
[model]
name = "logistic"
[train]
lr = 0.5
[strategy]
name = "fedavg"
fraction_train = 1.0
[engine]
kind = "serial"
"""


@dataclass(frozen=True)
class Job:
    """What the bad client was asked, and what an honest one would answer."""

    key: Key
    layout: Layout
    start: Header
    state: State
    payload: bytes
    folder: Path

    def changed(self, **fields: Any) -> bytes:
        """Return the honest payload with other fields, sealed as if it were sound."""
        message = payload_pb2.Payload.FromString(self.payload)
        for name, value in fields.items():
            setattr(
                message,
                name,
                value(getattr(message, name)) if callable(value) else value,
            )
        message.ClearField("checksum")
        return sealed(message.SerializeToString(deterministic=True))


Attack = Callable[[Job], list[pb.AgentFrame]]


def sends(made: Callable[[Job], bytes]) -> Attack:
    """Return an attack whose answer is nothing but these bytes."""
    return lambda job: chunks(job.key, made(job))


def first(value: float) -> Attack:
    """Return an attack whose first float is another; the codec is raw32."""
    return sends(
        lambda job: job.changed(
            body=lambda body: np.float32(value).tobytes() + body[4:]
        )
    )


def other_codec(job: Job) -> bytes:
    zero = State(
        np.zeros(job.layout.floats, np.float32), np.zeros(job.layout.integers, np.int64)
    )
    return encode(
        job.layout,
        Header(UPDATE, job.start.round, job.start.digest, "q8", 1, 60),
        zero,
    )


def with_metric(payload: bytes, name: str, value: float) -> bytes:
    """Return a payload with one more metric, sealed as if it were sound."""
    message = payload_pb2.Payload.FromString(payload)
    message.metrics.add(name=name, values=[value])
    message.ClearField("checksum")
    return sealed(message.SerializeToString(deterministic=True))


def all_zeros(job: Job) -> bytes:
    """Return a body of the right form whose stream inflates to far more than the model."""
    stream = max((data for data, sort in bomb_streams() if sort == "deflate"), key=len)
    return job.changed(body=lambda body: body[:1] + stream)


def canary(job: Job) -> bytes:
    return pickle.dumps(Canary(str(job.folder / "canary")))


@dataclass
class Canary:
    """Makes a file of itself where somebody unpickles it."""

    path: str

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


ATTACKS: dict[str, tuple[str, Attack, str, str]] = {
    "NaN": ("raw32", first(np.nan), "refused", "NaN or infinite"),
    "infinite": ("raw32", first(-np.inf), "refused", "NaN or infinite"),
    "largest float": ("raw32", first(3.4e38), "refused", ""),
    "another schema": (
        "raw32",
        sends(lambda job: job.changed(schema=lambda old: old ^ 1)),
        "refused",
        "another model",
    ),
    "more parameters": (
        "raw32",
        sends(lambda job: job.changed(parameters=2**62)),
        "refused",
        "another model",
    ),
    "one float less": (
        "raw32",
        sends(lambda job: job.changed(body=lambda body: body[4:])),
        "refused",
        "",
    ),
    "most examples": (
        "raw32",
        sends(lambda job: job.changed(examples=2**64 - 1)),
        "malformed",
        "claims 18446744073709551615 examples",
    ),
    "a metric too large": (
        "raw32",
        sends(lambda job: with_metric(job.payload, "score", 1e300)),
        "malformed",
        "the metric 'score' is 1e+300",
    ),
    "no examples": (
        "raw32",
        sends(lambda job: job.changed(examples=0)),
        "malformed",
        "0 examples",
    ),
    "round before": (
        "raw32",
        sends(lambda job: job.changed(version=99)),
        "malformed",
        "another model than the one sent",
    ),
    "another start": (
        "raw32",
        sends(lambda job: job.changed(digest=lambda old: old ^ 1)),
        "malformed",
        "another model than the one sent",
    ),
    "another codec": (
        "raw32",
        sends(other_codec),
        "malformed",
        "encoded by q8, not by raw32",
    ),
    "unknown codec": (
        "raw32",
        sends(lambda job: job.changed(codec="os:system")),
        "malformed",
        "",
    ),
    "newer format": (
        "raw32",
        sends(lambda job: job.changed(format=2)),
        "malformed",
        "format",
    ),
    "a whole model": (
        "raw32",
        sends(lambda job: job.changed(kind=1)),
        "malformed",
        "kind",
    ),
    "cut": ("raw32", sends(lambda job: job.payload[:-9]), "malformed", "checksum"),
    "a flipped bit": (
        "raw32",
        sends(lambda job: job.payload[:-9] + b"?" + job.payload[-8:]),
        "malformed",
        "checksum",
    ),
    "noise": ("raw32", sends(lambda job: bytes(range(256)) * 9), "malformed", ""),
    "nothing": ("raw32", sends(lambda job: b""), "malformed", ""),
    "pickle": ("raw32", sends(canary), "malformed", ""),
    "bomb": ("q8+deflate", sends(all_zeros), "refused", ""),
    "too long": (
        "raw32",
        lambda job: chunks(job.key, job.payload, total=2**60),
        "oversized",
        "at most",
    ),
    "longer than said": (
        "raw32",
        lambda job: chunks(job.key, job.payload, total=9),
        "oversized",
        "at most",
    ),
    "failure": (
        "raw32",
        lambda job: failure(job.key, "\x1b[2J\n" + "no power " * 1000),
        "failed",
        "no power",
    ),
}
"""What the bad client does: the codec of the run, its frames, the counter, and words of the
reason that is recorded.
"""


class Without(Layer):
    """An engine without one client: what the aggregate must be."""

    def __init__(self, inner: Any, client: int) -> None:
        super().__init__(inner)
        self.client = client

    def run(self, tasks, payload):
        yield from (
            Outcome(task.client, error="not there")
            for task in tasks
            if task.client == self.client
        )
        yield from self.inner.run(
            [task for task in tasks if task.client != self.client], payload
        )


def run(folder: Path, up: str, maker: Any, resume: bool = False) -> tuple[dict, list]:
    """Return summary and lines of an experiment whose clients are asked by what ``maker`` makes."""
    folder.mkdir(exist_ok=True)
    (folder / "config.toml").write_text(CONFIG)
    experiment = config.read(
        str(folder / "config.toml"), [f"codec.up={up}", "codec.down=raw32"]
    )
    with (
        contextlib.closing(RunFolder(folder / "run")) as made,
        Progress(True) as display,
    ):
        return simulate(experiment, made, display, resume, maker), made.lines()


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    return keys(tmp_path_factory.mktemp("authority") / "pki")


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Give a function: codec, who is not there → the hash of the model that the others make."""

    @cache
    def find(up: str, absent: int = BAD) -> str:
        folder = tmp_path_factory.mktemp("expected") / "run"
        summary, _ = run(
            folder,
            up,
            lambda stack, site: replace(stack, engine=Without(stack.engine, absent)),
        )
        return str(summary["model_sha256"])

    return find


def fleet(
    folder: Path, pki: Any, up: str, attack: Attack, resume: bool = False
) -> tuple[dict, list, dict]:
    """Return summary, lines and counters of a run over gRPC in which one client attacks."""
    ends = contextlib.ExitStack()
    lock = threading.Lock()

    def maker(stack, site):
        experiment, population = site.settled.experiment, site.parts.population
        local = Local(
            _module(experiment, population),
            site.parts.layout,
            population,
            experiment.experiment.seed,
        )

        def answer(client, task, payloads):
            with lock:
                start, state = decode_model(local.layout, payloads[0])
                plan = Plan.from_json(task.plan)
                with local.alone("train", plan, client):
                    made = local.train(client, plan, StartModel(start, state)).payload
            job = Job(of(task.key), local.layout, start, state, made, folder)
            return attack(job) if client == BAD else chunks(job.key, made)

        log = Journal(folder / "journal")
        ends.callback(log.close)
        told = Rounds(
            b"r" * 16,
            site.settled.brief.to_json(),
            CLIENTS,
            2 * site.parts.layout.raw_bytes + LEAST_ROOM,
        )
        service = Service(told, log, Address(pki=pki.pki))
        service.start()
        crowd = Crowd(service.port, pki, range(CLIENTS), answer)
        ends.callback(crowd.close)
        ends.callback(service.stop, True)
        made = Fleet(site.runner, stack.engine, service, log, site.memory.downlink)
        ends.callback(lambda: counters.update(told.counters))
        return with_fleet(stack, site, made)

    counters: dict[str, int] = {}
    with ends:
        summary, lines = run(folder, up, maker, resume)
    return summary, lines, counters


def _module(experiment, population):
    return models.build(
        experiment.model.name,
        experiment.model.options,
        input_shape=population.input_shape,
        classes=population.classes,
        seed=experiment.experiment.seed,
        modality=population.modality,
    )


@pytest.mark.parametrize("name", ATTACKS)
def test_one_bad_update_costs_nothing_but_itself(name, pki, expected, tmp_path):
    up, attack, counter, words = ATTACKS[name]
    summary, lines, counters = fleet(tmp_path / "run", pki, up, attack)
    assert [list(line["failures"]) for line in lines] == [[], *[[str(BAD)]] * ROUNDS]
    assert all(words in line["failures"][str(BAD)] for line in lines[1:]), lines[1][
        "failures"
    ]
    assert counters[counter] == ROUNDS, counters
    assert summary["model_sha256"] == expected(up)
    assert not (tmp_path / "run" / "canary").exists()


def in_disorder(job: Job) -> list[pb.AgentFrame]:
    """Return an answer's chunks backwards, then each twice, between stale and unknown ones; and
    at last another answer.
    """
    parts = chunks(job.key, job.payload, size=400)
    stale = [
        *chunks((0, "train", 0), job.payload),
        *chunks((job.key[0], "train", 5), b"x"),
        *failure((0, "evaluate", 1), "late"),
    ]
    return [
        *stale,
        *reversed(parts),
        *stale,
        *(part for part in parts for _ in range(2)),
        *chunks(job.key, job.payload[::-1]),
    ]


def test_frames_twice_and_in_disorder_change_nothing(pki, expected, tmp_path):
    summary, lines, counters = fleet(tmp_path / "run", pki, "raw32", in_disorder)
    assert summary["model_sha256"] == expected("raw32", absent=-1) != expected("raw32")
    assert not any(line["failed"] for line in lines)
    assert counters["late"] >= 4 * ROUNDS and counters["chunks_again"] > 5 * ROUNDS


@pytest.mark.parametrize("action", ["full", "error"])
@pytest.mark.parametrize("time", [1, 2, 3, 4])
def test_a_disk_that_fails_ends_the_run_and_it_goes_on(
    time, action, pki, expected, tmp_path, monkeypatch
):
    """Row 12: nothing is acknowledged that is not on disk, and what was is not asked for again."""
    acknowledged: set[tuple[int, Key]] = set()
    stored = Rounds.stored

    def noted(self, client, key):
        acknowledged.add((client, key))
        return stored(self, client, key)

    monkeypatch.setattr(Rounds, "stored", noted)
    with monkeypatch.context() as broken:
        broken.setattr(
            segments, "reach", Failpoints(f"journal.after-write={action}@{time}").reach
        )
        with pytest.raises(
            RecordError,
            match="what was acknowledged is kept, and a new start goes on from there",
        ) as caught:
            fleet(tmp_path / "run", pki, "raw32", honest)
    assert caught.value.exit_code == 3
    before = set(acknowledged)
    acknowledged.clear()
    summary, lines, _ = fleet(
        tmp_path / "run",
        pki,
        "raw32",
        honest,
        resume=(tmp_path / "run" / "run" / "metrics.jsonl").exists(),
    )
    assert summary["model_sha256"] == expected("raw32", absent=-1)
    assert (
        not before & acknowledged
    )  # some were written and not acknowledged: those may be found, or asked for again
    assert not any(line["failed"] for line in lines)


def honest(job: Job) -> list[pb.AgentFrame]:
    return chunks(job.key, job.payload)


def test_metrics_that_are_none():
    from fedlearn.engine.questions import parse_metrics

    good = '"loss": 1.5, "accuracy": 0.5, "num-examples": %s}'
    assert parse_metrics(("{" + good % "3").encode()) == {
        "loss": 1.5,
        "accuracy": 0.5,
        "num-examples": 3,
    }
    for count in (
        "0",
        "-1",
        "2.5",
        "true",
        "null",
        '"3"',
        "1e3",
        "NaN",
        "Infinity",
        "1" + "0" * 400,
        "1" * 5000,
        str(2**63),
        "[3]",
    ):
        assert parse_metrics(("{" + good % count).encode()) is None, count
    for text in (
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b"[" * 60_000,
        b'{"loss": 1}',
        b" " * 70_000 + ("{" + good % "3").encode(),
        b'{"x": 1' + b"0" * 400,
    ):
        assert parse_metrics(text) is None
    assert (
        parse_metrics(('{"extra": 1%s, ' % ("0" * 400) + good % "3").encode()) is None
    )
