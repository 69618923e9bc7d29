"""Agents and coordinators whose frames come twice and in the wrong order.

TCP neither repeats nor reorders, so both happen here, between the machines of both ends and
their connection:
- frames, but for a connection's first, are sent and taken twice by agents;
- chunks are taken again by agents after a later one, and neighbours among the chunks that
  either end sends change places.
Chunks are small, so that payloads and answers have several.

Agents keep a ledger of what they were promised. It has a line per event, written at once:
"begin KEY", "stored KEY" (the coordinator has promised to count it), "twice", "again",
"swapped".
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from dataclasses import dataclass
from typing import Any

from fedlearn.clients.agent.actions import Action, Begin, SendFrame
from fedlearn.clients.agent.attendance import Attendance
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange import transfer
from fedlearn.exchange.keys import Key, of
from fedlearn.experiments.benchmarks.nursery import start_with_pipes
from fedlearn.server.actions import Action as RoundsAction
from fedlearn.server.actions import SendToAgent
from fedlearn.server.rounds import Rounds
from fedlearn.system import failpoints

VARIABLE = "FEDLEARN_UNRULY"
"""Of the environment: the fields of `Settings` as JSON."""

_RANDOM = random.SystemRandom()

_FIRST = ("hello", "welcome", "goodbye")
"""Frames that begin or end a connection: no stream has two of them."""


@dataclass(frozen=True)
class Settings:
    """How a process misbehaves."""

    ledger: str  # file
    nursery: str  # address
    share: float  # of the frames that something happens to
    chunk_bytes: int  # of the smallest chunk; the largest has four times as many

    def happens(self, what: str) -> bool:
        """Draw whether something happens, and write it down; unseeded: a seed would not make a
        run of processes the same again.
        """
        happens = _RANDOM.random() < self.share
        if happens:
            self.note(what)
        return happens

    def note(self, text: str) -> None:
        """Add a line to the ledger."""
        with open(self.ledger, "a") as file:
            file.write(f"{text}\n")

    def swap(self, actions: list[Any]) -> list[Any]:
        """Let neighbours among the chunks that are sent change places."""
        for at in range(1, len(actions)):
            if (
                _is_chunk(actions[at - 1])
                and _is_chunk(actions[at])
                and self.happens("swapped")
            ):
                actions[at - 1], actions[at] = actions[at], actions[at - 1]
        return actions


def _is_chunk(action: Any) -> bool:
    return isinstance(action, SendFrame | SendToAgent) and action.frame.HasField(
        "chunk"
    )


class Unruly(Attendance):
    """See the module."""

    def __init__(self, settings: Settings, *arguments: Any) -> None:
        """Take how to misbehave, and what the machine takes."""
        super().__init__(*arguments)
        self.settings = settings
        self._before: pb.CoordinatorFrame | None = None  # a chunk that came

    def heard(self, frame: pb.CoordinatorFrame, now: float) -> list[Action]:
        """Take a frame, perhaps twice, perhaps with an earlier one after it."""
        kind = frame.WhichOneof("frame")
        actions = list[Action]()
        for each in self._turned(frame, kind):
            if kind == "ack" and frame.ack.stored:
                self.settings.note(f"stored {_name(of(frame.ack.key))}")
            actions += super().heard(each, now)
        return self._unruly(actions)

    def answered(self, key: Key, data: bytes, now: float) -> list[Action]:
        """Take an answer."""
        return self._unruly(super().answered(key, data, now))

    def _turned(
        self, frame: pb.CoordinatorFrame, kind: str | None
    ) -> list[pb.CoordinatorFrame]:
        frames = [frame]
        if kind not in _FIRST and self.settings.happens("twice"):
            frames.append(frame)
        if kind == "chunk":
            if self._before is not None and self.settings.happens("again"):
                frames.append(self._before)
            self._before = frame
        return frames

    def _unruly(self, actions: list[Action]) -> list[Action]:
        """Return actions with some frames twice and some chunks in the wrong order."""
        done = list[Action]()
        for action in actions:
            if isinstance(action, Begin):
                self.settings.note(f"begin {_name(action.key)}")
            done.append(action)
            if (
                isinstance(action, SendFrame)
                and action.frame.WhichOneof("frame") not in _FIRST
                and self.settings.happens("twice")
            ):
                done.append(action)
        return self.settings.swap(done)


class UnrulyRounds(Rounds):
    """The coordinator's machine; the chunks of payloads change places."""

    settings: Settings

    def heard(
        self, session: int, frame: pb.AgentFrame, now: float
    ) -> list[RoundsAction]:
        """Take a frame."""
        return self.settings.swap(super().heard(session, frame, now))


def _name(key: Key) -> str:
    return "/".join(map(str, key))


def _prepared() -> Settings:
    """Make this process's chunks small; returns what the environment says."""
    settings = Settings(**json.loads(os.environ[VARIABLE]))
    transfer.SMALLEST, transfer.FIRST, transfer.LARGEST = (
        settings.chunk_bytes * times for times in (1, 2, 4)
    )
    return settings


def serve(arguments: list[str]) -> int:
    """Be a coordinator, with the arguments of `fedlearn serve`."""
    from fedlearn.commands.serve import main
    from fedlearn.runs import serving

    UnrulyRounds.settings = _prepared()
    vars(serving)["Rounds"] = UnrulyRounds
    return main(arguments)


def attend(arguments: list[str]) -> int:
    """Be an agent, with the arguments of `fedlearn agent`."""
    from fedlearn.clients.agent import agent
    from fedlearn.commands.agent import main

    settings = _prepared()
    armed = {
        name: os.environ.get(name, "") for name in (failpoints.VARIABLE, failpoints.LOG)
    }

    async def spawn(*command: str, **files: Any) -> Any:
        """Start the process that works: the first one is armed as this one is, later ones not,
        or work would be given up.
        """
        environment = {**armed}
        armed.clear()
        return await start_with_pipes(settings.nursery, "work", environment)

    vars(agent)["Attendance"] = lambda *told: Unruly(settings, *told)
    vars(asyncio)["create_subprocess_exec"] = spawn
    return main(arguments)
