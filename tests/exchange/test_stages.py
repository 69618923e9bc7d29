"""The table of stages in `fedlearn.server.book`, compared with what the machine does."""

import itertools
import zlib

import pytest

from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.keys import proto
from fedlearn.server import book
from fedlearn.server.book import WorkStage
from fedlearn.server.rounds import Rounds
from fedlearn.server.work import WorkOrder

KEY = (1, "train", 0)
TASK = pb.Task(key=proto(KEY), sizes=[2])
ANSWER = b"data"


def table():
    """Return (stage, event) → the next stage, None where the caller must not."""
    header, *rows = (book.__doc__ or "").split("```")[1].strip("\n").splitlines()
    events = header.split()
    stages = {}
    for row in rows:
        name, *cells = row.split()
        assert len(cells) == len(events)
        for event, cell in zip(events, cells, strict=True):
            to = {"-": None, ".": WorkStage[name]}
            stages[WorkStage[name], event] = to[cell] if cell in to else WorkStage[cell]
    return stages


TABLE = table()


def chunk(data):
    return pb.AgentFrame(
        chunk=pb.Chunk(
            key=proto(KEY), total=len(data), data=data, checksum=zlib.crc32(data)
        )
    )


def failure(reason):
    return pb.AgentFrame(failure=pb.Failure(key=proto(KEY), reason=reason))


def check(data):
    return "wrong" if data == b"bad" else None


ORDER = WorkOrder(0, KEY, TASK, (b"ab",), check)
EVENTS = {
    "ask": [lambda machine: machine.ask([ORDER], 0.0, deadline_s=1.0)],
    "answer": [lambda machine: machine.heard(1, chunk(ANSWER), 0.0)],
    "wrong": [
        lambda machine: machine.heard(1, chunk(b"bad"), 0.0),
        lambda machine: machine.heard(1, chunk(bytes(101)), 0.0),
    ],
    "lacking": [lambda machine: machine.heard(1, failure(pb.Failure.LACKING), 0.0)],
    "failure": [
        lambda machine: machine.heard(1, failure(pb.Failure.FAILED), 0.0),
        lambda machine: machine.heard(1, failure(pb.Failure.DECLINED), 0.0),
    ],
    "repair": [lambda machine: machine.repair(0, KEY, TASK, (b"model",), 0.0)],
    "stored": [lambda machine: machine.stored(0, KEY)],
    "end": [lambda machine: machine.tick(1.0)],
    "recall": [lambda machine: machine.recall(0, KEY, ANSWER)],
    "forget": [lambda machine: machine.forget(2)],
}
PATHS = {
    WorkStage.UNKNOWN: [],
    WorkStage.ASKED: ["ask"],
    WorkStage.REPAIRING: ["ask", "lacking"],
    WorkStage.STORING: ["ask", "answer"],
    WorkStage.ANSWERED: ["ask", "answer", "stored"],
}


def machine_in(stage):
    machine = Rounds(b"run", "{}", 3, 100)
    machine.connected(1, 0, 0.0)
    machine.heard(1, pb.AgentFrame(hello=pb.Hello(oldest=1, newest=1, client=0)), 0.0)
    for event in PATHS[stage]:
        EVENTS[event][0](machine)
    assert machine.book.stage(0, KEY) is stage
    return machine


def test_the_table_names_every_stage_and_event():
    assert set(TABLE) == set(itertools.product(WorkStage, EVENTS))


@pytest.mark.parametrize(
    ("stage", "event"),
    [
        pytest.param(stage, event, id=f"{stage.name}-{event}")
        for (stage, event), after in TABLE.items()
        if after is not None
    ],
)
def test_the_machine_does_what_the_table_says(stage, event):
    for happen in EVENTS[event]:
        machine = machine_in(stage)
        happen(machine)
        assert machine.book.stage(0, KEY) is TABLE[stage, event]


def test_a_revocation_and_enough_other_answers_end_work_as_a_deadline_does():
    open_stages = (WorkStage.ASKED, WorkStage.REPAIRING, WorkStage.STORING)
    for stage in open_stages:
        machine = machine_in(stage)
        machine.revoke([0])
        assert machine.book.stage(0, KEY) is TABLE[stage, "end"]
    machine = Rounds(b"run", "{}", 3, 100)
    other = WorkOrder(1, KEY, TASK, ())
    for client in (0, 1):
        hello = pb.Hello(oldest=1, newest=1, client=client)
        machine.connected(client + 1, client, 0.0)
        machine.heard(client + 1, pb.AgentFrame(hello=hello), 0.0)
    machine.ask([ORDER, other], 0.0, enough=1)
    machine.heard(2, chunk(ANSWER), 0.0)
    machine.stored(1, KEY)
    assert machine.book.stage(0, KEY) is WorkStage.UNKNOWN
    assert machine.book.stage(1, KEY) is WorkStage.ANSWERED


def test_a_client_that_lacks_its_model_too_often_has_failed():
    machine = machine_in(WorkStage.ASKED)
    for _ in range(book.REPAIRS):
        EVENTS["lacking"][0](machine)
        assert machine.book.stage(0, KEY) is WorkStage.REPAIRING
        EVENTS["repair"][0](machine)
    EVENTS["lacking"][0](machine)
    assert machine.book.stage(0, KEY) is WorkStage.UNKNOWN
