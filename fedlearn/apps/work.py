"""What a node is asked and what it answers, as plain values; without flwr."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Only its type: it reads TOML, which Python 3.10 of an agent's device cannot.
    from fedlearn.apps.project import UserConfig

# Nodes are numbered from here: node 1 is the ServerApp's, and 0 counts as none.
FIRST_NODE = 1000

# Flower's codes of error replies (`flwr.common.constant.ErrorCode`): the ClientApp could not be
# loaded, it raised, no reply came in time, its node is not there, its process ended.
NOT_LOADED = 1
RAISED = 2
TOO_LATE = 4
UNAVAILABLE = 5
CRASHED = 8

# Ours, of an answer that its ServerApp is not shown: `send_and_receive` ended before.
LATE = -1


@dataclass(frozen=True)
class AppSettings:
    """What is the same for all messages that a process answers.

    folder: of the app; None: it is an installed package. copies: the folder of the records
    that nodes hold. states: of what their apps keep. node_configs: partition → its own keys.
    """

    # Paths, and not what is there: a worker reads for itself.
    folder: Path | None
    clientapp: str
    run_config: UserConfig
    nodes: int
    seed: int
    copies: Path
    states: Path
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
    """One message to one node; nothing in it depends on the machine that answers it.

    number: of the message among all, from 1. turn: among the node's own, from 1. digests:
    record → the digest of its bytes. bases: record → the digest of the copy that it is a
    difference from. keep: digests of the copies that the node holds from now on. state: the
    turn that left what the node's app keeps; 0: nothing yet. up: the codec of the reply; "":
    whole. limit: of the work on it; None: none.
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
    digests: Mapping[str, str]
    bases: Mapping[str, str]
    keep: tuple[str, ...] = ()
    state: int = 0
    up: str = ""
    limit: Limit | None = None


@dataclass(frozen=True)
class NodeAnswer:
    """What came of a message: a reply's payload, or an error.

    code: Flower's, 0 for a reply, `LATE` for one that nobody waits for any more. changed:
    whether the node's state was written anew. unanswered: whether no node has said so, and
    no exchange has it on disk.
    """

    number: int
    payload: bytes = b""
    code: int = 0
    reason: str = ""
    changed: bool = False
    unanswered: bool = False
