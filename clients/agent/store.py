"""The answers on an agent's disk: each is whole or missing after a power cut."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from fedlearn.exchange.keys import Key
from fedlearn.system.checksum import crc32
from fedlearn.system.failpoints import armed, reach
from fedlearn.system.files import make_folder, private, replace

# Of a run's folder: the answers that the coordinator does not have yet.
ANSWERS = "answers"

# Bytes of the task, bytes of the answer, CRC-32 of both.
_HEAD = struct.Struct("<III")


def answer_name(key: Key) -> str:
    """Return the file name of the answer to a piece of work."""
    number, kind, turn = key
    # The kind is the coordinator's word, and must not lead out of the folder.
    return f"{number:08d}-{quote(kind, safe='')}-{turn}"


def write_answer(path: Path, task: bytes, answer: bytes) -> None:
    """Keep an answer beside the task that it answers; raises OSError."""
    # Over both: an answer beside another task would be sent for the wrong work.
    checksum = crc32(answer, crc32(task))
    # The task is stored too: after a restart it says what this answers.
    data = _HEAD.pack(len(task), len(answer), checksum) + task + answer
    reach("agent.before-answer")
    if armed("agent.half-answer"):
        # What a kill in the middle of the write leaves behind.
        with open(path.with_name(f".{path.name}.part"), "wb", opener=private) as part:
            part.write(data[: len(data) // 2])
        reach("agent.half-answer")
    make_folder(path.parent)
    replace(path, data)
    reach("agent.after-answer")


def answers(folder: Path) -> Iterator[tuple[str, bytes, bytes]]:
    """Yield the answers in a folder that are whole: name, task, answer."""
    # Parts of files begin with a dot.
    for path in sorted(folder.glob("[!.]*")):
        # A damaged file is no answer: the work is done again, with the same bytes.
        with contextlib.suppress(OSError, struct.error):
            data = path.read_bytes()
            task_bytes, answer_bytes, checksum = _HEAD.unpack_from(data)
            answer_at = _HEAD.size + task_bytes
            task = data[_HEAD.size : answer_at]
            answer = data[answer_at : answer_at + answer_bytes]
            if len(answer) == answer_bytes and crc32(answer, crc32(task)) == checksum:
                yield path.name, task, answer
