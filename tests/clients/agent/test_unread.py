"""An agent whose coordinator asks and never reads."""

import asyncio

from fedlearn.clients.agent import agent as module
from fedlearn.clients.agent.agent import Agent
from fedlearn.clients.agent.attendance import Attendance
from fedlearn.clients.agent.options import AgentSettings
from fedlearn.exchange import exchange_pb2 as pb


def test_a_coordinator_that_does_not_read_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "UNREAD_FRAMES", 40)
    lines: list[str] = []

    async def ask() -> tuple[bool, bool]:
        agent = Agent(AgentSettings("127.0.0.1:1", 3, tmp_path), say=lines.append)
        agent._outbox = asyncio.Queue()
        agent._state = Attendance(3, "test", lambda: 0.5)
        agent._perform(agent._state.opened(0.0))
        # Beside the hello.
        for _ in range(38):
            agent._send(pb.AgentFrame(heartbeat=pb.Heartbeat()))
        before = agent._hang_up.is_set()
        agent._send(pb.AgentFrame(heartbeat=pb.Heartbeat()))
        return before, agent._hang_up.is_set()

    assert asyncio.run(ask()) == (False, True)
    (line,) = lines
    assert line.startswith("not connected: the coordinator does not read; again in")
