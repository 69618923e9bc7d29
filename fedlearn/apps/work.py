"""What a worker is asked and what it answers, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedlearn.apps.project import UserConfig

# Flower's code of a node that is not there.
UNAVAILABLE = 5

# Ours, of an answer that its ServerApp is not shown: `send_and_receive` ended before.
LATE = -1


@dataclass(frozen=True)
class AppSettings:
    """What is the same for all messages of a run.

    node_configs: partition → its own keys. copies: the folder of the records that nodes hold.
    """

    # Paths, and not what is there: a worker reads for itself.
    folder: Path
    clientapp: str
    run_config: UserConfig
    nodes: int
    seed: int
    copies: Path
    node_configs: Mapping[int, UserConfig] = field(default_factory=dict)


@dataclass(frozen=True)
class Limit:
    """The seconds that a node may work on a message.

    code: of the answer in the place of a late one. name: who set it, for its reason.
    """

    seconds: float
    code: int
    name: str


@dataclass(frozen=True)
class Work:
    """One message to one node.

    number: of the message among all, from 1. turn: among the node's own, from 1. bases:
    record → the digest of the copy that it is a difference from. state: the file of what
    the node's app keeps; None: nothing yet. next_state: where it goes when it changes. up: the
    codec of the reply; "": whole. limit: of the work on it; None: none.
    """

    number: int
    node: int
    partition: int
    turn: int
    kind: str
    group: str
    message_id: str
    ttl: float
    payload: bytes
    bases: Mapping[str, str]
    state: Path | None
    next_state: Path
    up: str = ""
    limit: Limit | None = None


@dataclass(frozen=True)
class NodeAnswer:
    """What came of a message: a reply's payload, or an error.

    code: Flower's, 0 for a reply, `LATE` for one that nobody waits for any more. changed:
    whether the node's state was written anew.
    """

    number: int
    payload: bytes = b""
    code: int = 0
    reason: str = ""
    changed: bool = False
