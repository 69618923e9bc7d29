"""The mutation fuzzer of the exchange: ``python -m tests.exchange_fuzz [--count N]
[--seed N] [--first N]``.

Sound frames of both directions are damaged and go the way that they go in a run. An
agent's: parsed, heard by `Rounds`, checked as `Question` checks answers, stored, and decoded
as the Grid decodes them. A coordinator's: parsed, heard by `Attendance`, its plan read
and its payloads decoded. What comes of each must be an answer that is whole and finite,
or a refusal; nothing may be raised, take long, or stay in memory. Frames go in blocks
that begin with fresh machines, so a failure repeats with its block.
"""

from __future__ import annotations

import argparse
import gc
import random
import resource
import signal
import sys
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from google.protobuf.message import DecodeError

from fedlearn import wire
from fedlearn.clients.agent import attendance
from fedlearn.clients.agent.actions import Action, Begin, Connect, SendFrame
from fedlearn.engine.questions import Question
from fedlearn.engine.task import Task
from fedlearn.errors import PayloadError
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.findings import (
    DeviceFinding,
    diagnosis_frame,
    findings_of,
    reason_in,
)
from fedlearn.exchange.keys import proto
from fedlearn.exchange.release_frames import (
    Offer,
    WrongFrame,
    installed_frame,
    offer_of,
    report_of,
    wanted_frame,
)
from fedlearn.exchange.releases import (
    InstalledReport,
    InstallFailure,
    ReleaseId,
    WantedRelease,
    WatchFigures,
)
from fedlearn.plan import Plan
from fedlearn.server.actions import Action as CoordinatorAction
from fedlearn.server.actions import SendToAgent, StoreAnswer
from fedlearn.server.rounds import Rounds
from fedlearn.server.work import ModelMissing, WorkOrder, WorkResult
from fedlearn.strategies.aggregate import check_range
from tests.wire.corpus import SMALL, Case, case
from tests.wire.mutate import INTERESTING, MUTATIONS, WORDS, bomb_streams

BLOCK = 500
LONG_S = 10.0
"""Seconds of processor time that one frame may take."""

CODECS = (
    "raw32",
    "q8",
    "eden1",
    "q8+deflate",
    "topk(0.05)+q4",
    "topk(0.02)+tern+rice",
    "uvq(0.5)",
    "f16",
    "sign",
    "q4",
)
CLIENTS, LIMIT = 4, 1 << 16
METRICS = b'{"loss": 1.5, "accuracy": 0.5, "num-examples": 60}'
PLAN = Plan(1, 7)
RELEASE = ReleaseId("model", 3, "ab" * 32)
FINDING = DeviceFinding("disk", "FAILS", "it is full", "make room")
REPORT = InstalledReport(
    "disk",
    5,
    RELEASE,
    None,
    InstallFailure(6, RELEASE, "its golden outputs differ"),
    RELEASE,
    "fetching",
    "outside its hours",
    WatchFigures(100, 0.01, 8.0, 0.1, 0.2),
)
COMPARED = WatchFigures(100, 0.01, 8.0, 0.1, 0.2, 0.3)


def updates() -> list[Case]:
    return [case(text, "update", SMALL, False) for text in CODECS]


def models() -> list[Case]:
    return [case(text, "snapshot", SMALL, False) for text in ("raw32", "f16", "q8")]


def agent_frames(answers: Sequence[bytes] = ()) -> dict[str, pb.AgentFrame]:
    """Return sound frames of an agent; answers: bytes that it may have been asked for."""
    key = pb.Key(round=1, kind="train", turn=0)
    found = {
        "hello": pb.AgentFrame(
            hello=pb.Hello(oldest=1, newest=1, software="fedlearn 0.1", client=1)
        ),
        "heartbeat": pb.AgentFrame(heartbeat=pb.Heartbeat()),
        "failed": pb.AgentFrame(failure=pb.Failure(key=key, text="no power")),
        "declined": pb.AgentFrame(
            failure=pb.Failure(key=key, reason=pb.Failure.DECLINED, text="too hot")
        ),
        "lacking": pb.AgentFrame(
            failure=pb.Failure(key=key, reason=pb.Failure.LACKING)
        ),
        "received": pb.AgentFrame(ack=pb.Ack(key=key, offset=7)),
        "facts": pb.AgentFrame(
            facts=pb.Facts(json='{"board":"Jetson Orin Nano","watts":7.5}')
        ),
        "renewal": pb.AgentFrame(
            renewal=pb.Renewal(request=b"-----BEGIN CERTIFICATE REQUEST-----\n")
        ),
        "metrics": pb.AgentFrame(
            chunk=_chunk(pb.Key(round=1, kind="evaluate"), METRICS)
        ),
        "installs": pb.AgentFrame(
            hello=pb.Hello(oldest=1, newest=1, client=1, installs=True)
        ),
        "fetches": pb.AgentFrame(
            hello=pb.Hello(oldest=1, newest=1, client=1, installs=True, fetches=True)
        ),
        "installed": installed_frame(REPORT),
        "compared": installed_frame(replace(REPORT, figures=COMPARED)),
        "diagnoses": pb.AgentFrame(
            hello=pb.Hello(oldest=1, newest=1, client=1, diagnoses=True)
        ),
        "diagnosis": diagnosis_frame(5, [FINDING]),
        "no diagnosis": diagnosis_frame(6, [], "its owner does not want it"),
    }
    return found | {
        f"answer {number}": pb.AgentFrame(chunk=_chunk(key, data))
        for number, data in enumerate(answers)
    }


def coordinator_frames(
    payloads: Sequence[bytes] = (b"",),
) -> dict[str, pb.CoordinatorFrame]:
    """Return sound frames of a coordinator; payloads: of its task."""
    key = pb.Key(round=1, kind="train", turn=0)
    limits: dict[str, Any] = {
        "idle_ms": 120_000,
        "busy_ms": 1000,
        "lease_ms": 4500,
        "limit_bytes": LIMIT,
    }
    task = pb.Task(
        key=key,
        plan=PLAN.to_json(),
        sizes=[len(data) for data in payloads],
        base=0,
        initial=2**63,
        residual=5,
        feedback=True,
    )
    found = {
        "welcome": pb.CoordinatorFrame(
            welcome=pb.Welcome(
                version=1,
                run=b"r" * 16,
                experiment='{"seed": 1}',
                **limits,
            )
        ),
        "task": pb.CoordinatorFrame(task=task),
        "ack": pb.CoordinatorFrame(ack=pb.Ack(key=key, offset=7)),
        "stored": pb.CoordinatorFrame(ack=pb.Ack(key=key, offset=1, stored=True)),
        "refusal": pb.CoordinatorFrame(
            refusal=pb.Refusal(key=key, reason="the round is over")
        ),
        "cancel": pb.CoordinatorFrame(
            cancel=pb.Cancel(key=key, reason="enough others answered")
        ),
        "goodbye": pb.CoordinatorFrame(
            goodbye=pb.Goodbye(reason="the run is over", done=True)
        ),
        "again": pb.CoordinatorFrame(
            goodbye=pb.Goodbye(
                reason="the coordinator restarts", again_min_ms=500, again_max_ms=3000
            )
        ),
        "certificate": pb.CoordinatorFrame(
            certificate=pb.Certificate(
                certificate=b"-----BEGIN CERTIFICATE-----\n", expires=2_000_000_000
            )
        ),
        "heartbeat": pb.CoordinatorFrame(heartbeat=pb.Heartbeat()),
        "fleet": pb.CoordinatorFrame(
            welcome=pb.Welcome(version=1, experiment="{}", releases=True, **limits)
        ),
        "wanted": wanted_frame(Offer(WantedRelease(7, RELEASE), b"{}", (b"sig",))),
        "nothing": wanted_frame(Offer(WantedRelease(8, None))),
        "diagnose": pb.CoordinatorFrame(diagnose=pb.Diagnose(number=5)),
    }
    whole = b"".join(payloads)
    at = 0
    for part, data in enumerate(payloads):
        found[f"part {part}"] = pb.CoordinatorFrame(
            chunk=pb.Chunk(key=key, offset=at, total=len(whole), data=data)
        )
        at += len(data)
    return found


def _chunk(key: pb.Key, data: bytes) -> pb.Chunk:
    return pb.Chunk(key=key, total=len(data), data=data, checksum=zlib.crc32(data))


class Coordinator:
    """The coordinator's way of a frame."""

    def __init__(self, draw: random.Random, cases: Sequence[Case]) -> None:
        """Ask client 1 for something, behind a greeted connection."""
        self.case = draw.choice(cases)
        self.machine = Rounds(b"r" * 16, "{}", CLIENTS, LIMIT)
        header = wire.read_header(self.case.payload)
        plan = Plan(1, 0, codec=self.case.codec)
        held: Any = SimpleNamespace(header=header)
        self.questions = {
            kind: Question(Task(1, kind, plan), (1, kind, 0), held, pb.Task(), ())
            for kind in ("train", "evaluate")
        }
        self.session = 0
        self.taken = 0
        self.now = 0.0
        self.keep()

    def keep(self) -> None:
        """See that the client attends and has work."""
        if 1 not in self.machine.attending:
            self.session += 1
            self.act(self.machine.connected(self.session, None, self.now))
            self.act(
                self.machine.heard(self.session, agent_frames()["hello"], self.now)
            )
        for kind in ("train", "evaluate"):
            key = (1, kind, 0)
            if key not in self.machine.book.open_work.get(1, {}):
                task = pb.Task(key=proto(key), plan=PLAN.to_json())
                work = WorkOrder(
                    1,
                    key,
                    task,
                    (),
                    self.questions[kind].fault,
                )
                self.act(self.machine.ask([work], self.now))

    def take(self, data: bytes) -> None:
        """Take a frame's bytes."""
        self.now += 0.01
        try:
            frame = pb.AgentFrame.FromString(data)
            if frame.HasField("installed"):
                report_of(frame.installed)
            if frame.HasField("diagnosis"):
                findings_of(frame.diagnosis)
                reason_in(frame.diagnosis)
        except (DecodeError, WrongFrame):
            return
        self.act(self.machine.heard(self.session, frame, self.now))
        self.act(self.machine.tick(self.now))
        self.keep()

    def act(self, actions: Sequence[CoordinatorAction]) -> None:
        for action in actions:
            if isinstance(action, SendToAgent):
                action.frame.SerializeToString()
            elif isinstance(action, StoreAnswer):
                assert len(action.data) <= LIMIT
                self.act(self.machine.stored(action.client, action.key))
            elif isinstance(action, ModelMissing):
                self.act(
                    self.machine.repair(
                        action.client,
                        action.key,
                        pb.Task(key=proto(action.key)),
                        (),
                        self.now,
                    )
                )
            elif isinstance(action, WorkResult):
                assert (action.data is None) != (action.failure is None)
                if action.data is not None and action.key[1] == "train":
                    self.decode(action.data)

    def decode(self, data: bytes) -> None:
        try:
            header, change = wire.decode(
                SMALL, data, (wire.UPDATE, wire.GRADIENT), None, self.case.codec
            )
            check_range(change, header.examples, CLIENTS)
        except PayloadError:
            return
        assert np.isfinite(change.values).all()
        # A strategy may weigh by a metric, and then no examples need be reported.
        assert header.examples > 0 or header.metrics or header.records
        self.taken += 1


class Agent:
    """An agent's way of a frame."""

    def __init__(self, draw: random.Random, cases: Sequence[Case]) -> None:
        """Attend."""
        self.machine = attendance.Attendance(1, "fedlearn 0.1", draw.random)
        self.now = 0.0
        self.taken = 0
        self.keep()

    def keep(self) -> None:
        if not self.machine.connected:
            self.act(self.machine.opened(self.now))
        if not self.machine._welcomed:
            self.act(self.machine.heard(coordinator_frames()["welcome"], self.now))

    def take(self, data: bytes) -> None:
        """Take a frame's bytes."""
        self.now += 0.01
        try:
            frame = pb.CoordinatorFrame.FromString(data)
            if frame.HasField("wanted"):
                offer_of(frame.wanted)
        except (DecodeError, WrongFrame):
            return
        self.act(self.machine.heard(frame, self.now))
        assert self.machine.next_alarm(self.now) >= 0
        self.act(self.machine.tick(self.now))
        self.keep()

    def act(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, SendFrame):
                action.frame.SerializeToString()
            elif isinstance(action, Connect):
                assert action.after_s >= 0
            elif isinstance(action, Begin):
                self.act(self.begin(action))

    def begin(self, action: Begin) -> list[Action]:
        try:
            Plan.from_json(action.task.plan)
            for payload in action.payloads:
                _, state = wire.decode_model(SMALL, payload)
                assert np.isfinite(state.floats).all()
                self.taken += 1
        except (PayloadError, RecursionError) as error:
            return self.machine.failed(action.key, pb.Failure.FAILED, str(error))
        return self.machine.answered(action.key, b"answer", self.now)


def mutated(
    draw: random.Random,
    frame: pb.AgentFrame | pb.CoordinatorFrame,
    cases: Sequence[Case],
    other: bytes,
) -> bytes:
    """Return a sound frame with damage: of its payload (whose checksum may be mended),
    its fields, or its bytes.
    """
    way = draw.randrange(10)
    made = type(frame).FromString(frame.SerializeToString())
    kind = made.WhichOneof("frame")
    if kind == "chunk" and way < 5:
        how = draw.choices(
            [way for way, _ in MUTATIONS], [weight for _, weight in MUTATIONS]
        )[0]
        data = how(draw, draw.choice(cases), cases)
        made.chunk.data, made.chunk.total = data, len(data)
        made.chunk.checksum = zlib.crc32(data)
    elif way < 8:
        _change(draw, getattr(made, kind or "heartbeat"))
    if way < 7:
        return made.SerializeToString()
    out = bytearray(made.SerializeToString())
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = draw.randrange(len(out) + 1)
        sort = draw.randrange(5)
        if sort == 0 and at < len(out):
            out[at] ^= 1 << draw.randrange(8)
        elif sort == 1 and at < len(out):
            out[at] = draw.choice(INTERESTING)
        elif sort == 2:
            del out[at : at + draw.choice((1, 2, 10))]
        elif sort == 3:
            out[at:at] = draw.choice(
                (draw.randbytes(4), b"\xff" * 9 + b"\x01", out[:50])
            )
        else:
            begin = draw.randrange(len(other) + 1)
            out[at:at] = other[begin : begin + draw.choice((1, 10, 200))]
    return bytes(out)


TEXTS = (
    "",
    "train",
    "evaluate",
    "query",
    "\x00",
    "../../x",
    "x" * 70_000,
    "{}",
    "[" * 5000,
    "null",
    '{"round": 1, "seed": 1e999}',
    "\U0001f600",
)


def _change(draw: random.Random, message: Any) -> None:
    """Give one to three fields of a message, or of one within it, other values."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        fields = message.DESCRIPTOR.fields
        if not fields:
            return
        one = draw.choice(fields)
        if one.name == "findings":
            for _ in range(draw.choice((0, 1, 2, 50))):
                message.findings.add(state="ok")
            for part in message.findings[:2]:
                _change(draw, part)
        elif one.message_type is not None:
            _change(draw, getattr(message, one.name))
        elif one.name == "sizes":
            message.sizes[:] = [
                draw.choice((*WORDS, 0, 5, LIMIT))
                for _ in range(draw.choice((0, 1, 2, 50)))
            ]
        elif one.name == "signatures":
            message.signatures[:] = [draw.randbytes(50)] * draw.choice((0, 1, 2, 50))
        elif one.type == one.TYPE_DOUBLE:
            numbers = (0.0, -1.0, 1e300, float("inf"), float("nan"))
            setattr(message, one.name, draw.choice(numbers))
        elif one.type == one.TYPE_STRING:
            setattr(message, one.name, draw.choice(TEXTS))
        elif one.type == one.TYPE_BYTES:
            setattr(
                message, one.name, draw.randbytes(draw.choice((0, 1, 100, LIMIT + 1)))
            )
        elif one.type == one.TYPE_BOOL:
            setattr(message, one.name, draw.random() < 0.5)
        else:
            top = {
                one.TYPE_UINT32: 2**32 - 1,
                one.TYPE_FIXED32: 2**32 - 1,
                one.TYPE_ENUM: 2**31 - 1,
                one.TYPE_INT64: 2**63 - 1,
            }
            most = top.get(one.type, 2**64 - 1)
            near = getattr(message, one.name) + draw.choice((-1, 1))
            setattr(
                message,
                one.name,
                draw.choice(
                    [min(max(0, near), most), *(word for word in WORDS if word <= most)]
                ),
            )


@dataclass
class Findings:
    """What a run found: each sort of failure with the block that has it; the slowest
    frame, and the memory that stayed.
    """

    failures: dict[str, str] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)
    tried: int = 0
    taken: int = 0
    slowest_s: float = 0.0
    grown_bytes: int = 0


def fuzz(seed: int, first: int, count: int) -> Findings:
    """Return what ``count`` mutated frames from number ``first`` on find; first: a
    multiple of `BLOCK`.
    """
    cases = {Coordinator: updates(), Agent: models()}
    found = Findings()
    before = signal.signal(signal.SIGPROF, _too_long)
    room = 0
    bomb_streams()
    try:
        for begin in range(first, first + count, BLOCK):
            draw = random.Random(f"{seed}/{begin}")
            _block(
                draw,
                min(BLOCK, first + count - begin),
                draw.choice((Coordinator, Coordinator, Agent)),
                cases,
                found,
                begin,
            )
            if begin - first == BLOCK * max(
                1, count // BLOCK // 20
            ):  # caches are full, the allocator has its pages
                gc.collect()
                room = _resident_bytes()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    gc.collect()
    found.grown_bytes = _resident_bytes() - room
    return found


def _block(
    draw: random.Random, count: int, kind: Any, cases: Any, found: Findings, begin: int
) -> None:
    party, known = kind(draw, cases[kind]), cases[kind]
    if isinstance(party, Coordinator):
        made: Any = agent_frames(
            [*[party.case.payload] * 8, *(one.payload for one in known)]
        )
    else:
        made = coordinator_frames([known[0].payload])
    frames = list(made.values())
    for number in range(begin, begin + count):
        frame = draw.choice(frames)
        data = (
            mutated(draw, frame, known, draw.choice(frames).SerializeToString())
            if draw.random() < 0.8
            else frame.SerializeToString()
        )
        signal.setitimer(signal.ITIMER_PROF, LONG_S)
        begun = time.perf_counter()
        try:
            party.take(data)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            sort = f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"
            found.failures.setdefault(
                sort,
                f"{error}; again: --first {begin} --count {BLOCK}; "
                f"frame {number}: {data[:200].hex()}",
            )
            party = kind(draw, known)
        signal.setitimer(signal.ITIMER_PROF, 0)
        found.slowest_s = max(found.slowest_s, time.perf_counter() - begun)
        found.tried += 1
    found.taken += party.taken
    if kind is Coordinator:
        found.counters.update(party.machine.counters)


def _too_long(number: int, frame: Any) -> None:
    raise TimeoutError(f"a frame takes more than {LONG_S:g} s")


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> int:
    """Run the fuzzer; the exit code is 1 when something failed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.exchange_fuzz",
        description=(__doc__ or "").splitlines()[0],
    )
    parser.add_argument(
        "--count", type=int, default=1_000_000, help="frames (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--first",
        type=int,
        default=0,
        help=f"number of the first frame, a multiple of {BLOCK} (%(default)s)",
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.perf_counter()
    found = fuzz(given.seed, given.first, given.count)
    seconds = time.perf_counter() - begun
    print(
        f"{found.tried:,} frames in {seconds:.0f} s "
        f"({found.tried / seconds:,.0f} a second); "
        f"{found.taken:,} sound answers or models"
    )
    print(
        f"slowest {1e3 * found.slowest_s:.1f} ms; "
        f"memory grew by {found.grown_bytes / 1e6:.1f} MB; "
        f"{dict(sorted(found.counters.items()))}"
    )
    for sort, told in found.failures.items():
        print(f"FAILED: {sort}\n  {told}")
    return 1 if found.failures or found.grown_bytes > 20e6 else 0


if __name__ == "__main__":
    sys.exit(main())
