"""Appending to a file: all of some bytes are on the disk, or none of them is there."""

from __future__ import annotations

import contextlib
import os

from fedlearn.system.failpoints import reach


def append(descriptor: int, size_bytes: int, data: bytes, points: str = "") -> int:
    """Append bytes and sync; return the file's new size in bytes.

    descriptor: opened to append. size_bytes: the file's size before. points: the failpoints
    that are reached are POINTS.before-write, .before-sync and .after-sync. Raises OSError,
    after which the file has the size that it had.
    """
    _reach(points, "before-write")
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        _reach(points, "before-sync")
        os.fsync(descriptor)
    except OSError:
        # Nobody was promised what is cut off here.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, size_bytes)
        raise
    _reach(points, "after-sync")
    return size_bytes + len(data)


def _reach(points: str, place: str) -> None:
    if points:
        reach(f"{points}.{place}")
