"""What a run leaves behind: a folder whose files survive a kill at any moment.

Small files are replaced whole (written beside, synced, renamed); `metrics.jsonl` grows by one line per round, and a
torn last line is dropped when the run is resumed. One process at a time owns a folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedlearn.errors import ConfigError, RecordError


class RunFolder:
    """The folder of one run. Every failed write raises RecordError naming the file and the reason."""

    def __init__(self, path: Path) -> None:
        """Make the folder if need be and lock it; raises ConfigError when another process owns it."""
        self.path = path
        with _writing(path, "choose another --out"):
            path.mkdir(parents=True, exist_ok=True)
            self._lock = open(path / ".lock", "w")  # noqa: SIM115  # held as long as the run
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise ConfigError(
                f"another process is writing to {path}; wait for it or choose another --out"
            ) from None

        # A worker that outlives a killed parent must not hold its lock: the next --resume comes at once.
        os.register_at_fork(after_in_child=self._lock.close)

    def close(self) -> None:
        """Give the folder free."""
        self._lock.close()

    @property
    def used(self) -> bool:
        """Tell whether a run was started here."""
        return (self.path / "config.toml").exists()

    def write(self, name: str, content: str | bytes) -> None:
        """Replace a file whole: a reader sees the old content or the new, never a part."""
        data = content.encode() if isinstance(content, str) else content
        target = self.path / name
        with _writing(target):
            target.parent.mkdir(exist_ok=True)
            part = target.with_name(f".{target.name}.part")
            try:
                with open(part, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(part, target)
            except OSError:
                with contextlib.suppress(
                    OSError
                ):  # on a full disk, make the room free again
                    part.unlink()
                raise

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Replace a JSON file whole; NaN and infinities become null."""
        self.write(name, json.dumps(_plain(value), indent=2) + "\n")

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line to `metrics.jsonl` and hand it to the operating system."""
        target = self.path / "metrics.jsonl"
        with _writing(target), open(target, "ab") as file:
            file.write(json.dumps(_plain(line)).encode() + b"\n")

    def sync_lines(self) -> None:
        """Bring the lines written so far to disk: a checkpoint must not outlive them."""
        target = self.path / "metrics.jsonl"
        with _writing(target), open(target, "ab") as file:
            os.fsync(file.fileno())

    def lines(self) -> list[dict[str, Any]]:
        """Return the whole lines of `metrics.jsonl`, without a torn last one."""
        return list(read_lines(self.path))

    def rewind(self, round: int) -> list[dict[str, Any]]:
        """Drop the lines after a round, and torn ones; returns the lines that stay."""
        kept = [line for line in self.lines() if line["round"] <= round]
        self.write("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))
        return kept


def owned(path: Path) -> bool:
    """Tell whether a process is at work on a run folder: it holds the lock as long as it lives."""
    try:
        with (path / ".lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a run folder's `metrics.jsonl` that are whole."""
    try:
        text = (path / "metrics.jsonl").read_bytes()
    except FileNotFoundError:
        return
    for raw in text.split(b"\n"):
        with contextlib.suppress(ValueError, RecursionError):
            line = json.loads(raw)
            if isinstance(line, dict) and isinstance(line.get("round"), int):
                yield line


@contextlib.contextmanager
def _writing(
    path: Path,
    fix: str = "what was written before is kept, and --resume goes on from there",
) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RecordError(
            f"cannot write {path}: {error.strerror or error}; {fix}"
        ) from error


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it: numbers that are not finite are null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
