"""What an app's run leaves in its folder besides the log: its lines, its arrays, a summary."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from json import dumps
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from fedlearn.apps.lines import sums
from fedlearn.apps.observing import AppLine
from fedlearn.records.names import LINES_FILE, SUMMARY_FILE
from fedlearn.records.writing import RunFolder, read_lines

RESULT_FILE = "result.safetensors"
RESULT_NPZ_FILE = "result.npz"

# The dtypes that a safetensors file has names for.
_SAFE = ("float16", "float32", "float64", "bool", "int8", "uint8", "int16", "uint16")
_SAFE_TOO = ("int32", "uint32", "int64", "uint64")


class Recording:
    """The lines of a run, and the sums over them."""

    def __init__(self, folder: RunFolder) -> None:
        """Take the folder; lines that are there from before stay as they are."""
        self._folder = folder
        self._before = {
            (line.get("part", 1), line["round"]): dict(line)
            for line in read_lines(folder.path)
        }
        # A torn last line of a run that was killed would spoil the next one.
        texts = [dumps(line) + "\n" for line in self._before.values()]
        folder.write(LINES_FILE, "".join(texts))
        self.lines: list[dict[str, Any]] = []

    def add(self, line: AppLine) -> dict[str, Any]:
        """Write a line, unless the folder has it, and return it as it stands there."""
        before = self._before.get((line.part, line.round))
        plain: dict[str, Any] = line.plain()
        if before is None:
            self._folder.append(plain)  # type: ignore[arg-type]  # a line of another kind
        else:
            # Of a round that was replayed, its seconds are those that it took.
            plain = {**plain, "seconds": before.get("seconds", line.seconds)}
        self.lines.append(plain)
        return plain

    def sums(self) -> dict[str, Any]:
        """Return what `fedlearn.apps.lines.sums` has of all lines."""
        return sums(self.lines)

    def summary(self, summary: Mapping[str, Any]) -> None:
        """Write the summary: with it the run is over."""
        self._folder.sync_lines()
        self._folder.write_json(SUMMARY_FILE, summary)


def arrays_sha256(record: ArrayRecord) -> str:
    """Return the SHA-256 of a record's arrays, 64 hex digits.

    It covers the ordered names, dtypes, shapes and little-endian bytes.
    """
    # With shapes and dtypes: equal bytes of another shape are another model.
    digest = hashlib.sha256()
    for name, array in _arrays(record).items():
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def write_arrays(folder: RunFolder, record: ArrayRecord) -> str:
    """Write a record's arrays and return the file's name; "": the record has none.

    safetensors where it has names for their dtypes, else numpy's npz. Raises RecordError.
    """
    arrays = _arrays(record)
    # An app without a strategy may give no result; its messages still have a hash.
    if not arrays:
        return ""
    if all(array.dtype.name in _SAFE + _SAFE_TOO for array in arrays.values()):
        from safetensors.numpy import save

        contiguous = {k: np.ascontiguousarray(a) for k, a in arrays.items()}
        folder.write(RESULT_FILE, save(contiguous))
        return RESULT_FILE
    folder.write(RESULT_NPZ_FILE, _npz(arrays))
    return RESULT_NPZ_FILE


def _npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    from io import BytesIO

    # In memory: the file is then replaced whole.
    buffer = BytesIO()
    named: dict[str, Any] = dict(arrays)
    np.savez(buffer, **named)
    return buffer.getvalue()


def _arrays(record: ArrayRecord) -> dict[str, NDArray[Any]]:
    return {name: _array(array) for name, array in record.items()}


def _array(array: Array) -> NDArray[Any]:
    """Return an array; one of another kind than numpy's as its bytes (uint8)."""
    if array.stype == "numpy.ndarray":
        values: NDArray[Any] = array.numpy()
        # The same bytes on machines of either byte order.
        return values.astype(values.dtype.newbyteorder("<"))
    return np.frombuffer(array.data, np.uint8)
