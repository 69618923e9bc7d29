"""Writing a run folder, so that its files survive a kill or a power cut at any moment.

Small files are replaced whole (see `fedlearn.system.files`). ``metrics.jsonl`` grows by one line
per round, and a torn last line is dropped when the run is resumed. One process at a time owns a
folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from json import dumps, loads
from pathlib import Path
from typing import Any

from fedlearn.errors import ConfigError, RecordError
from fedlearn.records.line import Line
from fedlearn.records.names import CONFIG_FILE, LINES_FILE, LOCK_FILE, is_unfinished
from fedlearn.system import files


class RunFolder:
    """The folder of one run.

    Every method that writes raises RecordError where the write fails, with the file and the reason.
    """

    def __init__(self, path: Path, again: str = "--resume") -> None:
        """Make the folder if need be and lock it.

        again: what goes on with the run after a failed write, as messages name it. Raises
        ConfigError when another process owns the folder, RecordError when it cannot be made.
        """
        self.path = path
        self._advice = (
            f"what was written before is kept, and {again} goes on from there"
        )
        with _errors_named(path, "choose another --out"):
            files.make_folder(path)
            # Open, and so locked, as long as the run; whatever ends the process frees it.
            self._lock = open(path / LOCK_FILE, "w", opener=files.private)  # noqa: SIM115
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._lock.close()
                raise ConfigError(
                    f"another process is writing to {path}; "
                    "wait for it or choose another --out"
                ) from None

        # A worker that outlives a killed parent must not hold its lock, for --resume may follow
        # at once.
        os.register_at_fork(after_in_child=self._lock.close)
        # Under the lock: what is unfinished now belongs to a process that has ended.
        _sweep(path)

    def close(self) -> None:
        """Release the folder."""
        self._lock.close()

    @property
    def used(self) -> bool:
        """Return whether a run was started here."""
        return (self.path / CONFIG_FILE).exists()

    def write(self, name: str, content: str | bytes) -> None:
        """Replace a file whole: a reader sees the old content or the new, never a part.

        name: relative to the folder; one folder on the way is made. Raises RecordError.
        """
        if isinstance(content, str):
            content = content.encode()
        path = self.path / name
        with _errors_named(path, self._advice):
            files.make_folder(path.parent)
            files.replace(path, content)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Replace a JSON file whole; NaN and infinities become null. Raises RecordError."""
        text = dumps(_json_value(value), indent=2)
        self.write(name, f"{text}\n")

    def append(self, line: Line) -> None:
        """Add a line to ``metrics.jsonl`` and hand it to the operating system.

        It is on disk after `sync_lines`. Raises RecordError.
        """
        path = self.path / LINES_FILE
        data = dumps(_json_value(line)).encode()
        with (
            _errors_named(path, self._advice),
            open(path, "ab", opener=files.private) as file,
        ):
            # One write, so that a kill leaves at most one torn line, the last.
            file.write(data + b"\n")

    def sync_lines(self) -> None:
        """Bring the lines to disk, since a checkpoint must not outlive them. Raises RecordError."""
        path = self.path / LINES_FILE
        # To append opens the file as it is; a sync reaches what other descriptors wrote to it.
        with _errors_named(path, self._advice), open(path, "ab") as file:
            os.fsync(file.fileno())

    def lines(self) -> list[Line]:
        """Return the whole lines of ``metrics.jsonl``, without a torn last one. Raises OSError."""
        return list(read_lines(self.path))

    def rewind(self, last_round: int) -> list[Line]:
        """Drop torn lines and those after a round; return the lines that stay.

        Raises RecordError when the file cannot be written, OSError when it cannot be read.
        """
        lines = [line for line in self.lines() if line["round"] <= last_round]
        text = "".join(dumps(line) + "\n" for line in lines)
        self.write(LINES_FILE, text)
        return lines


def _sweep(path: Path) -> None:
    """Remove what a process that was killed left unfinished in a run folder.

    What cannot be removed stays: nobody reads it.
    """
    for entry in path.iterdir():
        if not is_unfinished(entry.name):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                entry.unlink()


def owned(path: Path) -> bool:
    """Return whether a living process owns a run folder: the lock goes with its process."""
    try:
        # A shared lock is refused while the owner has its own, and is gone when the file closes.
        with (path / LOCK_FILE).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the lines of a run folder's ``metrics.jsonl`` that are whole. Raises OSError."""
    try:
        text = (path / LINES_FILE).read_bytes()
    except FileNotFoundError:
        # A run that was killed while it started has none yet.
        return
    for raw in text.split(b"\n"):
        # A torn line is no JSON, and a damaged disk may hold anything.
        with contextlib.suppress(ValueError, RecursionError):
            line = loads(raw)
            if isinstance(line, dict) and isinstance(line.get("round"), int):
                yield line  # type: ignore[misc]  # other keys may be missing, see Line


@contextlib.contextmanager
def _errors_named(path: Path, advice: str) -> Iterator[None]:
    """Turn an OSError into a RecordError that names the file, the reason and what to do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise RecordError(f"cannot write {path}: {reason}; {advice}") from error


def _json_value(value: Any) -> Any:
    """Return a value as JSON can hold it: numbers that are not finite become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _json_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(entry) for entry in value]
    return value
