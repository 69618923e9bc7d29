"""Append records until killed, and tell each acknowledged key at once: python -m
tests.server.journal_child FOLDER FIRST.
"""

import hashlib
import os
import sys
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from fedlearn.server import journal

GROUPS, SEGMENT_BYTES = 40, 20_000


def data(key: str) -> bytes:
    """Return the bytes of a key's record, 0 to 3,000 of them."""
    digest = hashlib.sha256(key.encode()).digest()
    return (digest * 100)[: int.from_bytes(digest[:2], "little") % 3001]


def tell(key: str, done: Future[None]) -> None:
    if done.exception() is None:
        os.write(1, f"{key}\n".encode())


def main(folder: str, first: str) -> None:
    journal.SEGMENT_BYTES = SEGMENT_BYTES
    log = journal.Journal(Path(folder))
    number = int(first)
    for group in range(GROUPS):
        waiting = []
        for _ in range(1 + group % 7):
            key = f"k{number}"
            future = log.append({"key": key, "number": number}, data(key))
            future.add_done_callback(partial(tell, key))
            waiting.append(future)
            number += 1
        for future in waiting:
            future.result()
    log.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
