"""Where a batch's answers go: lines of JSON or CSV, which a killed batch goes on from.

The lines lie in ``OUT.part`` until all are there, and take OUT's name then. A line that was
cut off is written again.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from fedlearn.errors import RecordError, UserError
from fedlearn.system import files

# The columns of a CSV file before the model's own outputs.
COLUMNS = ("sample", "version", "label", "score", "error")

Answer = Mapping[str, Any]


class AnswerFile:
    """A file of answers, one a line. is_csv: not JSON."""

    def __init__(self, path: Path, is_csv: bool, version: str) -> None:
        """Begin a file, or go on with one that was interrupted.

        Raises UserError where it is there already, is being written by another process, or
        was begun with another version of the model.
        """
        if path.exists():
            raise UserError(
                f"'{path}' is there already; name another file, or remove it"
            )
        if not path.parent.is_dir():
            raise UserError(f"there is no folder '{path.parent}' for '{path.name}'")
        self._path = path
        self._part = path.with_name(f"{path.name}.part")
        self._is_csv = is_csv
        self.names: set[str] = set()
        self._file: IO[bytes] = open(  # noqa: SIM115
            self._part, "a+b", opener=files.private
        )
        try:
            self._hold()
            self._go_on(version)
        except BaseException:
            self._file.close()
            raise

    def write(self, answers: Sequence[Answer]) -> None:
        """Add lines; they are in the file, if not on the disk, when this returns."""
        for answer in answers:
            self._file.write(line_of(answer, self._is_csv).encode())
        self._file.flush()

    def finish(self) -> None:
        """Give the file its name: it is whole. Raises OSError."""
        self._file.flush()
        os.fsync(self._file.fileno())
        os.replace(self._part, self._path)
        files.sync_folder(self._path.parent)
        self._file.close()

    def close(self) -> None:
        """Leave the file to be gone on with."""
        self._file.close()

    def _hold(self) -> None:
        """Lock the file for this process alone; raises UserError where another has it."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another process is writing '{self._path}'") from None

    def _go_on(self, version: str) -> None:
        """Note what is answered, and cut off what is no whole line."""
        self._file.seek(0)
        end = 0
        for line in self._file:
            sample = _answered(line, self._is_csv)
            if sample is None:
                break
            name, own_version = sample
            if own_version != version:
                raise RecordError(
                    f"'{self._part}' was begun with version {own_version}, and this is "
                    f"{version}; remove it to begin anew"
                )
            self.names.add(name)
            end += len(line)
        self._file.truncate(end)


def line_of(answer: Answer, is_csv: bool) -> str:
    """Return an answer as a line of its file."""
    if not is_csv:
        return f"{json.dumps(answer, separators=(',', ':'))}\n"
    stream = io.StringIO()
    row = [answer.get(column, "") for column in COLUMNS]
    csv.writer(stream, lineterminator="\n").writerow(
        [*row, *_flat(answer.get("output"))]
    )
    return stream.getvalue()


def _flat(value: Any) -> list[Any]:
    """Return nested lists of values as one."""
    if value is None:
        return []
    if not isinstance(value, list):
        return [value]
    return [leaf for part in value for leaf in _flat(part)]


def _answered(line: bytes, is_csv: bool) -> tuple[str, str] | None:
    """Return whose answer a line is, and of which version; None: it is no whole line."""
    if not line.endswith(b"\n"):
        return None
    try:
        text = line.decode()
        if is_csv:
            sample, version = next(csv.reader([text]))[:2]
            return sample, version
        value = json.loads(text)
        return value["sample"], value["version"]
    # What a power cut leaves in a file may be anything.
    except (ValueError, KeyError, TypeError, StopIteration, csv.Error):
        return None
