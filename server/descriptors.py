"""How many connections a coordinator takes, so that its own files can always be opened."""

from __future__ import annotations

import contextlib
import resource
from dataclasses import dataclass

from fedlearn.server.observe import Log
from fedlearn.system import sockets

# Files that the run may open at a time beside its connections: checkpoints, databases, logs,
# pipes of workers. Of few descriptors a quarter.
RESERVE = 256

# Connections that nobody vouches for yet, beyond those of the run's own clients: of one
# address, and of all.
STRANGERS_EACH = 128
STRANGERS = 512

# Files where the system sets no limit.
UNLIMITED = 1 << 20

# Connections at the port of the enrollment: each is one short call. And those at either port
# that come between two looks at the strangers, who have room until they are ended.
ENROLLING = 1024
ARRIVALS = 1024


@dataclass(frozen=True)
class Admission:
    """How many connections are taken.

    attending, enrolling: at the two ports, strangers and agents together. each, strangers:
    that nobody vouches for, of one address and of all.
    """

    attending: int
    enrolling: int
    each: int
    strangers: int


def admission_for(clients: int, log: Log) -> Admission:
    """Return how many connections a run with so many clients takes; raises the limit of files.

    A limit that stays too low is noted.
    """
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    # A connection is a file, and 1024 is the usual first limit.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    # A number below zero stands for no limit.
    limits = admission(limit if limit >= 0 else UNLIMITED, clients)
    if limits.attending < clients:
        log.note(
            f"at most {limits.attending} of the {clients} clients can attend at a time: "
            f"this process may have {limit} files open; raise its limit (ulimit -n)"
        )
    return limits


def admission(limit: int, clients: int) -> Admission:
    """Return how many connections a coordinator takes. limit: of files. clients: of the run."""
    reserve = min(RESERVE, limit // 4)
    room = max(2, limit - sockets.open_files() - reserve)
    enrolling = max(1, min(ENROLLING, room // 8))
    # A client that comes back may have its old connection still.
    strangers = min(room - enrolling, clients + STRANGERS)
    return Admission(
        attending=min(room - enrolling, 2 * clients + STRANGERS + ARRIVALS),
        enrolling=enrolling,
        # All clients may come back at once, and from behind one address.
        each=max(1, min(room // 2, clients + STRANGERS_EACH)),
        strangers=strangers,
    )
