"""A model's state as two flat vectors, and back.

Legend: P floating-point values (parameters and float buffers), Q integer values (e.g. BatchNorm's counters), k of P.
A `Layout` is the agreed order: what both ends of an exchange must share to read one another's payloads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import ModelError

FLOATS = ("float32", "float16", "bfloat16", "float64")
INTEGERS = ("int64", "int32", "int16", "int8", "uint8", "bool")


@dataclass(frozen=True)
class Entry:
    """One tensor of a state: its name, shape, dtype and whether an optimiser trains it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    trained: bool
    same_as: str = ""  # the name of the tensor that this one is tied to, where one tensor stands under two names

    @property
    def size(self) -> int:
        """Return the number of values."""
        return prod(self.shape)

    @property
    def is_float(self) -> bool:
        """Tell whether the values travel in the float vector (P,)."""
        return self.dtype in FLOATS


def magnitude(values: NDArray[np.generic]) -> float:
    """Return the largest magnitude of some values; 0 of none, NaN where there is one."""
    return max(float(values.max(initial=0)), -float(values.min(initial=0)))


@dataclass(frozen=True)
class State:
    """A model's state: ``floats`` (P,) float32 and ``integers`` (Q,) int64, in the order of a layout."""

    floats: NDArray[np.float32]
    integers: NDArray[np.int64]

    @property
    def largest(self) -> float:
        """Return the largest magnitude of the floats."""
        return magnitude(self.floats)

    def copy(self) -> State:
        """Return a copy that shares nothing with this one."""
        return State(self.floats.copy(), self.integers.copy())


@dataclass(frozen=True)
class Sparse:
    """A vector of ``size`` values of which all but k are 0."""

    indices: NDArray[np.int64]  # (k,) strictly increasing
    values: NDArray[np.float32]  # (k,)
    size: int

    def dense(self) -> NDArray[np.float32]:
        """Return all the values (P,)."""
        out = np.zeros(self.size, np.float32)
        out[self.indices] = self.values
        return out


@dataclass(frozen=True)
class Change:
    """What an update adds to a model: ``floats`` (P,) float32, or the k that are not 0, and ``integers`` (Q,) int64."""

    floats: NDArray[np.float32] | Sparse
    integers: NDArray[np.int64]

    @property
    def values(self) -> NDArray[np.float32]:
        """Return the floats that are there: P, or k."""
        return self.floats.values if isinstance(self.floats, Sparse) else self.floats

    @cached_property
    def largest(self) -> float:
        """Return the largest magnitude of the floats; looked for once."""
        return magnitude(self.values)

    def dense(self) -> State:
        """Return the change as a state of differences."""
        return State(
            self.floats.dense() if isinstance(self.floats, Sparse) else self.floats,
            self.integers,
        )

    def after(self, start: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return where the change leads from a model's floats (P,)."""
        if not isinstance(self.floats, Sparse):
            return start + self.floats
        end = start.copy()
        end[self.floats.indices] += self.floats.values
        return end


@dataclass(frozen=True)
class Layout:
    """The order in which a model's tensors stand in its two flat vectors."""

    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        """Refuse dtypes that no payload carries."""
        for entry in self.entries:
            if entry.dtype not in FLOATS + INTEGERS:
                raise ModelError(
                    f"tensor '{entry.name}' has dtype {entry.dtype}; use one of {', '.join(FLOATS + INTEGERS)}"
                )

    @cached_property
    def floats(self) -> int:
        """Return P."""
        return sum(e.size for e in self.entries if e.is_float)

    @cached_property
    def integers(self) -> int:
        """Return Q."""
        return sum(e.size for e in self.entries if not e.is_float)

    @cached_property
    def trained(self) -> int:
        """Return the number of values that an optimiser trains (what papers call parameters)."""
        return sum(e.size for e in self.entries if e.trained)

    @cached_property
    def is_trained(self) -> NDArray[np.bool_]:
        """Return which of the P floats an optimiser trains; the others are buffers, such as BatchNorm's statistics."""
        return np.concatenate(
            [
                np.full(e.size, e.trained or bool(e.same_as))
                for e in self.entries
                if e.is_float
            ]
            or [np.empty(0, bool)]
        )

    @cached_property
    def trained_at(self) -> NDArray[np.int64] | slice:
        """Return where among the P floats those stand that are trained, which a codec may round; all of them: a slice."""
        return slice(None) if self.is_trained.all() else np.flatnonzero(self.is_trained)

    @cached_property
    def buffers_at(self) -> NDArray[np.int64]:
        """Return where the other floats stand: statistics such as a variance, which must not be rounded below 0."""
        return np.flatnonzero(~self.is_trained)

    @cached_property
    def trained_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of the float tensors that are trained, in order."""
        return tuple(
            e.shape for e in self.entries if e.is_float and (e.trained or e.same_as)
        )

    @property
    def raw_bytes(self) -> int:
        """Return the bytes of the whole state as plain float32 and int64: what an exchange costs uncompressed."""
        return 4 * self.floats + 8 * self.integers

    @cached_property
    def schema(self) -> bytes:
        """Return 8 bytes that name this layout: the head of a SHA-256 over names, shapes and dtypes in order."""
        text = "\n".join(f"{e.name} {e.shape} {e.dtype}" for e in self.entries)
        return hashlib.sha256(text.encode()).digest()[:8]

    def split(self, state: State) -> dict[str, NDArray[np.generic]]:
        """Return named arrays, each of its shape, as views of the state (float32 or int64)."""
        if state.floats.shape != (self.floats,) or state.integers.shape != (
            self.integers,
        ):
            raise ModelError(
                f"a state of {state.floats.size} floats and {state.integers.size} integers "
                f"does not fit a layout of {self.floats} and {self.integers}"
            )
        out: dict[str, NDArray[np.generic]] = {}
        at = {True: 0, False: 0}
        for entry in self.entries:
            start, vector = (
                at[entry.is_float],
                state.floats if entry.is_float else state.integers,
            )
            out[entry.name] = vector[start : start + entry.size].reshape(entry.shape)
            at[entry.is_float] += entry.size
        return out

    def tie(self, state: State) -> State:
        """Return the state with tied tensors alike again: lossy codecs and strategies treat each name apart."""
        views = self.split(state)
        for entry in self.entries:
            if entry.same_as:
                views[entry.name][...] = views[entry.same_as]
        return state

    def join(self, arrays: Mapping[str, NDArray[np.generic]]) -> State:
        """Return the flat vectors of named arrays; names and shapes must be this layout's.

        Float values are cast to float32, integers to int64 (a float array at an integer's place is rounded).
        """
        state = State(
            np.empty(self.floats, np.float32), np.empty(self.integers, np.int64)
        )
        views = self.split(state)
        if list(arrays) != list(views):
            odd = sorted(set(arrays) ^ set(views)) or ["(another order)"]
            raise ModelError(
                f"the arrays are not this model's; differing names: {', '.join(odd[:5])}"
            )
        for entry in self.entries:
            array = np.asarray(arrays[entry.name])
            if array.shape != entry.shape:
                raise ModelError(
                    f"tensor '{entry.name}' has shape {array.shape}; the model's is {entry.shape}"
                )
            views[entry.name][...] = (
                array if entry.is_float or array.dtype.kind in "iub" else np.rint(array)
            )
        return state


def model_sha256(layout: Layout, state: State) -> str:
    """Return the SHA-256 of the ordered names, shapes, dtypes and little-endian bytes of a model's state.

    A narrower dtype than float32 or int64 hashes as the values that the run carries (float32, int64).
    """
    digest = hashlib.sha256()
    for entry, array in zip(layout.entries, layout.split(state).values(), strict=True):
        kind = "<f4" if entry.is_float else "<i8"
        digest.update(f"{entry.name} {entry.shape} {entry.dtype}\n".encode())
        digest.update(np.ascontiguousarray(array, dtype=kind).tobytes())
    return digest.hexdigest()
