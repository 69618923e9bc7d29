"""What `fedlearn.server.rounds` asks of the service around it: actions, as plain values."""

from __future__ import annotations

import json
from dataclasses import dataclass

from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.keys import Key
from fedlearn.exchange.transfer import Data
from fedlearn.server.work import ModelMissing, WorkResult

# Characters that an agent may say of its device in one frame.
FACTS_CHARACTERS = 4096

# No figure of a device is larger; a text of digits can name numbers beyond any float.
LARGEST_FACT = 1e18


@dataclass(frozen=True)
class SendToAgent:
    """Send a frame to a connection; data: of its chunk, if it has one."""

    session: int
    frame: pb.CoordinatorFrame
    data: Data = b""


@dataclass(frozen=True)
class StoreAnswer:
    """Bring an answer to disk, then call `Rounds.stored`. checksum: CRC-32 of the data."""

    client: int
    key: Key
    data: bytes
    checksum: int


@dataclass(frozen=True)
class DropSession:
    """End a connection."""

    session: int
    reason: str


@dataclass(frozen=True)
class DeviceFacts:
    """What a client's agent says of its device: numbers and short texts by name."""

    client: int
    facts: dict[str, str | float]


Action = (
    SendToAgent | StoreAnswer | WorkResult | ModelMissing | DeviceFacts | DropSession
)


def parse_facts(text: str) -> dict[str, str | float] | None:
    """Return the facts of an agent's JSON; None for anything but a flat object.

    Its values are texts, and numbers up to LARGEST_FACT.
    """
    # Before it is parsed: nested JSON takes far more memory than its text.
    if len(text) > FACTS_CHARACTERS:
        return None
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(facts, dict) or not all(map(_is_fact, facts.values())):
        return None
    return facts


def _is_fact(value: object) -> bool:
    """Tell whether a value is a text, or a number that a figure can have."""
    if isinstance(value, str):
        return True
    # Compared as it is: to turn a whole number of any length into a float can fail.
    return isinstance(value, int | float) and abs(value) <= LARGEST_FACT
