"""A short run of the exchange's fuzzer, proofs that it would notice, and the frames that
every version must read.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.server.rounds import Rounds
from tests import exchange_fuzz as fuzz

GOLDENS = Path(__file__).parent / "goldens_exchange" / "version-1.json"


def sound() -> dict[str, dict[str, str]]:
    """Return frames of today, by direction and name, as hexadecimal digits."""
    made: dict[str, Any] = {
        "agent": fuzz.agent_frames([b"an answer"]),
        "coordinator": fuzz.coordinator_frames([b"a payload"]),
    }
    return {
        side: {
            name: frame.SerializeToString(deterministic=True).hex()
            for name, frame in frames.items()
        }
        for side, frames in made.items()
    }


def test_damaged_frames_are_refused_or_sound():
    found = fuzz.fuzz(2026, 0, 6000)
    assert found.failures == {}
    assert found.taken > 200  # it reaches the end of the way
    reached = {
        "hello_again",
        "unknown_frame",
        "late",
        "oversized",
        "malformed",
        "damaged",
        "chunks_again",
        "failed",
        "declined",
        "lacking",
    }
    assert reached <= set(found.counters), found.counters
    assert found.grown_bytes <= 20e6


@pytest.mark.parametrize("fault", [ZeroDivisionError, RecursionError])
def test_a_fault_is_found_and_repeats_with_its_block(fault, monkeypatch):
    def broken(*told):
        raise fault

    monkeypatch.setattr(Rounds, "_failure", broken)
    found = fuzz.fuzz(2026, 0, 2000)
    assert any(sort.startswith(fault.__name__) for sort in found.failures)


def test_old_frames_are_read_as_they_were_meant():
    for side, kind in (("agent", pb.AgentFrame), ("coordinator", pb.CoordinatorFrame)):
        kept = json.loads(GOLDENS.read_text())[side]
        for name, told in kept.items():
            frame = kind.FromString(bytes.fromhex(told["bytes"]))
            assert str(frame) == told["text"], name
            assert frame.SerializeToString(deterministic=True).hex() == told["bytes"], (
                name
            )


def test_every_frame_of_today_has_a_golden():
    """A frame that changes gets a new name here, and its old bytes stay: agents of every
    version are answered.
    """
    kept = json.loads(GOLDENS.read_text())
    for side, frames in sound().items():
        assert {
            name: told["bytes"] for name, told in kept[side].items()
        }.items() >= frames.items()
    kinds = {frame.WhichOneof("frame") for frame in fuzz.agent_frames([b""]).values()}
    assert kinds == {one.name for one in pb.AgentFrame.DESCRIPTOR.fields}
    kinds = {
        frame.WhichOneof("frame") for frame in fuzz.coordinator_frames([b""]).values()
    }
    assert kinds == {one.name for one in pb.CoordinatorFrame.DESCRIPTOR.fields}
