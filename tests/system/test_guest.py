"""A board that is hot, cool, hot in the middle of work: what the coordinator hears of it, over
real gRPC.
"""

import asyncio
import json
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from fedlearn.clients.agent.agent import Agent
from fedlearn.clients.agent.options import AgentSettings
from fedlearn.clients.agent.pipe import WorkCost, WorkReply
from fedlearn.clients.device.rules import Rules
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.server.work import WorkOrder, WorkResult
from tests.clients.device import boards
from tests.system.peers import Door, door

RULES = Rules(
    pause_s=1e-9
)  # a board that is hot in the middle of work ends it, instead of waiting


class Process:
    """What works, as far as the guest deals with it."""

    def __init__(self) -> None:
        self.signals: list[int] = []

    def send_signal(self, number: int) -> None:
        self.signals.append(number)


class Slow(Agent):
    """An agent whose work lasts as long as the test wants it to."""

    go_on: threading.Event
    process: Any

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        workshop: Any = self._workshop
        workshop._spawn = self.spawn
        workshop._ask = self.ask

    async def spawn(self) -> Any:
        return self.process

    async def ask(self, process: Any, job: Any) -> tuple[WorkReply, list[bytes]]:
        while not self.go_on.is_set():
            await asyncio.sleep(0.005)
        cost = WorkCost(steps=4, train_s=2.0)
        return WorkReply("answer", cost=cost), [b"sound"]


@pytest.fixture
def plain(tmp_path) -> Iterator[Door]:
    with door(tmp_path / "coordinator", None) as made:
        yield made


def asked(plain: Door, round: int) -> WorkResult:
    """Ask client 3 for something, and return what comes of it."""
    key = (round, "train", 0)
    plain.service.ask(
        [
            WorkOrder(
                3,
                key,
                pb.Task(key=pb.Key(round=round, kind="train"), sizes=[2]),
                (b"ab",),
            )
        ],
        60.0,
        1,
    )
    found = plain.service.next()
    assert isinstance(found, WorkResult)
    return found


def test_a_hot_board_declines_and_a_cool_one_joins_again(plain, tmp_path, monkeypatch):
    monkeypatch.setattr("fedlearn.clients.device.guest.POLL_S", 0.01)
    board = boards.orin_nano(tmp_path / "board", 95)
    agent = Slow(
        AgentSettings(
            f"127.0.0.1:{plain.service.port}",
            3,
            tmp_path / "agent",
            insecure=True,
            rules=RULES,
            root=board,
        ),
        say=lambda text: None,
    )
    agent.go_on, agent.process = threading.Event(), Process()
    agent.go_on.set()
    thread = threading.Thread(target=lambda: asyncio.run(agent.run()))
    thread.start()
    try:
        hot = asked(plain, 1)
        assert (
            hot.data is None
            and hot.failure
            == "declined: thermal: 95 °C at tj-thermal, joins again below 79 °C"
        )
        boards.orin_nano(tmp_path / "board", 85)  # cooler, and not cool
        assert "85 °C at tj-thermal" in str(asked(plain, 2).failure)
        boards.orin_nano(tmp_path / "board", 70)
        assert asked(plain, 3).data == b"sound"
        told = plain.service.devices[3]
        assert (
            "Orin Nano" in str(told["board"])
            and told["step_s"] == 0.5
            and json.dumps(told)
        )
        agent.go_on.clear()
        threading.Timer(0.1, boards.orin_nano, (tmp_path / "board", 95)).start()
        assert str(asked(plain, 4).failure).startswith("declined: thermal: 95 °C")
        assert agent.process.signals == [signal.SIGSTOP, signal.SIGCONT]
        assert plain.counters["declined"] == 3 and "failed" not in plain.counters
    finally:
        plain.service.stop(True)
        thread.join(20)
    assert not thread.is_alive()
