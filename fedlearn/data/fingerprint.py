"""The fingerprint of what a run trains on and is scored on: a resumed run compares it.

Arrays are read in blocks, so that one on disk (`numpy.memmap`) stays there. Small arrays are
hashed whole. Of large ones blocks spread evenly are, so that a start never waits for long; their
shape and type count always.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.partition import Partitioned
from fedlearn.data.samples import Population, Samples
from fedlearn.seeds import derive, isolated

# Bytes of an array that are hashed at most: 0.4 s at 640 MB/s, measured on one core.
MOST_BYTES = 1 << 28

# Bytes of a block: the most that is copied at a time.
BLOCK_BYTES = 1 << 20

# Clients whose samples are read where they are drawn or loaded when asked for.
CLIENTS_READ = 8

# Clients whose sizes count there; each takes some microseconds.
SIZES_READ = 1_000


def fingerprints(population: Population) -> dict[str, str | None]:
    """Return the SHA-256 of each part of a population, hex digits, by its name in a manifest.

    partition_sha256: which samples are whose; None where clients are not a partition of one
    set. train_sha256: the training samples. test_sha256: the held-out samples.
    """
    clients = population.clients
    partition = None
    if isinstance(clients, Partitioned):
        partition = clients.partition.sha256()
        train = samples_sha256(clients.train)
    else:
        train = _clients_sha256(population)
    return {
        "partition_sha256": partition,
        "train_sha256": train,
        "test_sha256": samples_sha256(population.test),
    }


def samples_sha256(samples: Samples) -> str:
    """Return the hex SHA-256 of samples: their shapes, types and values."""
    digest = hashlib.sha256()
    _add(digest, samples)
    return digest.hexdigest()


def changes(population: Population) -> bool:
    """Return whether clients that give their samples when asked give others each time."""
    return _client_digest(population, 0) != _client_digest(population, 0)


def _clients_sha256(population: Population) -> str:
    """Return the hex SHA-256 of clients that give their samples when asked: of a few of them."""
    clients = population.clients
    total = len(clients)
    digest = hashlib.sha256(f"{total} clients".encode())
    sizes = [clients.size(client) for client in range(min(total, SIZES_READ))]
    digest.update(np.array(sizes, "<i8").tobytes())
    # No run could be resumed whose samples are new at each reading.
    if not changes(population):
        evenly = np.linspace(0, total - 1, min(total, CLIENTS_READ))
        for client in np.unique(evenly.astype(np.int64)):
            digest.update(_client_digest(population, int(client)))
    return digest.hexdigest()


def _client_digest(population: Population, client: int) -> bytes:
    """Return the digest of one client's samples; b"" where they cannot be read."""
    digest = hashlib.sha256()
    try:
        # They may be drawn from global generators, as in a round.
        with isolated(derive(0, "fingerprint", client)):
            _add(digest, population.clients[client])
    # The clients may be the user's code, which raises anything; their rounds say what.
    except Exception:
        return b""
    return digest.digest()


def _add(digest: Any, samples: Samples) -> None:
    """Add samples to a digest."""
    for array in (samples.x, samples.y):
        # Little-endian whatever the machine, so that the digest is the same everywhere.
        little = array.dtype.newbyteorder("<")
        digest.update(f"{array.shape} {little.str}".encode())
        for block in _blocks(array):
            digest.update(np.ascontiguousarray(block, little).tobytes())


def _blocks(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield blocks of the first axis: all of them, or as many as `MOST_BYTES` allow."""
    row_bytes = max(1, array.nbytes // max(1, len(array)))
    rows = max(1, BLOCK_BYTES // row_bytes)
    starts = np.arange(0, len(array), rows)
    count = max(1, MOST_BYTES // (rows * row_bytes))
    # The first and the last are among them: samples are added and cut off at ends.
    evenly = np.linspace(0, len(starts) - 1, min(len(starts), count))
    for place in np.unique(evenly.astype(np.int64)):
        start = starts[place]
        yield array[start : start + rows]
