"""Files of an agent that must be whole after a power cut, and the answers among them."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path

from fedlearn.system.checksum import crc32
from fedlearn.system.failpoints import armed, reach
from fedlearn.system.files import replace

_SIZES = struct.Struct("<III")  # of the task, of the answer; CRC-32 of both


def write_file(path: Path, data: bytes) -> None:
    """Replace a file, in a folder that is made if need be; raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, data)


def write_answer(path: Path, task: bytes, answer: bytes) -> None:
    """Keep an answer beside the task that it answers; raises OSError."""
    data = (
        _SIZES.pack(len(task), len(answer), crc32(answer, crc32(task))) + task + answer
    )
    reach("agent.before-answer")
    if armed("agent.half-answer"):
        (path.parent / f".{path.name}.part").write_bytes(data[: len(data) // 2])
        reach("agent.half-answer")
    write_file(path, data)
    reach("agent.after-answer")


def answers(folder: Path) -> Iterator[tuple[str, bytes, bytes]]:
    """Yield the answers in a folder that are whole: name, task, answer."""
    for path in sorted(folder.glob("[!.]*")):  # the others are parts of files
        with contextlib.suppress(OSError, struct.error):
            data = path.read_bytes()
            task, answer, checksum = _SIZES.unpack_from(data)
            told = data[_SIZES.size : _SIZES.size + task]
            body = data[_SIZES.size + task : _SIZES.size + task + answer]
            if crc32(body, crc32(told)) == checksum and len(body) == answer:
                yield path.name, told, body
