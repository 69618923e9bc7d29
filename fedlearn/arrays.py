"""A model's state as two flat vectors, and back.

Legend: P floating-point values (parameters and float buffers), Q integer values (e.g.
BatchNorm's counters), k of P. A `Layout` is the agreed order: what both ends of an
exchange must share to read one another's payloads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import ModelError

# The dtypes that travel as float32.
FLOATS = ("float32", "float16", "bfloat16", "float64")

# The dtypes that travel as int64.
INTEGERS = ("int64", "int32", "int16", "int8", "uint8", "bool")


@dataclass(frozen=True)
class Entry:
    """One tensor of a state: its name, shape, dtype and whether an optimiser trains it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    trained: bool
    # The name of the tensor that this one is tied to, where one tensor has two names.
    same_as: str = ""

    @property
    def size(self) -> int:
        """Return the number of values."""
        return prod(self.shape)

    @property
    def is_float(self) -> bool:
        """Tell whether the values travel in the float vector (P,)."""
        return self.dtype in FLOATS

    @property
    def is_trained(self) -> bool:
        """Tell whether an optimiser trains the values, under this name or another."""
        return self.trained or bool(self.same_as)


def magnitude(values: NDArray[np.generic]) -> float:
    """Return the largest magnitude of some values; 0 of none, NaN where there is one."""
    # Two passes, without an array of magnitudes.
    highest = float(values.max(initial=0))
    lowest = float(values.min(initial=0))
    return max(highest, -lowest)


@dataclass(frozen=True)
class State:
    """A model's state, in the order of a layout.

    ``floats`` (P,) float32 and ``integers`` (Q,) int64.
    """

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

    # (k,) strictly increasing.
    indices: NDArray[np.int64]
    # (k,)
    values: NDArray[np.float32]
    size: int

    def dense(self) -> NDArray[np.float32]:
        """Return all the values (P,)."""
        dense = np.zeros(self.size, np.float32)
        dense[self.indices] = self.values
        return dense


@dataclass(frozen=True)
class Change:
    """What an update adds to a model.

    ``floats`` (P,) float32, or the k that are not 0, and ``integers`` (Q,) int64.
    """

    floats: NDArray[np.float32] | Sparse
    integers: NDArray[np.int64]

    @property
    def values(self) -> NDArray[np.float32]:
        """Return the floats that are sent: P, or k."""
        if isinstance(self.floats, Sparse):
            return self.floats.values
        return self.floats

    @cached_property
    def largest(self) -> float:
        """Return the largest magnitude of the floats; computed once."""
        return magnitude(self.values)

    def dense(self) -> State:
        """Return the change as a state of differences."""
        if isinstance(self.floats, Sparse):
            return State(self.floats.dense(), self.integers)
        return State(self.floats, self.integers)

    def after(self, start: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the floats (P,) of a model after the change; ``start``: before it."""
        if not isinstance(self.floats, Sparse):
            return start + self.floats
        end = start.copy()
        # Indices increase strictly, so none stands twice, of which numpy would add one.
        end[self.floats.indices] += self.floats.values
        return end


@dataclass(frozen=True)
class Layout:
    """The order in which a model's tensors stand in its two flat vectors."""

    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        """Raise ModelError for dtypes that no payload carries."""
        dtypes = FLOATS + INTEGERS
        for entry in self.entries:
            if entry.dtype not in dtypes:
                raise ModelError(
                    f"tensor '{entry.name}' has dtype {entry.dtype}; "
                    f"use one of {', '.join(dtypes)}"
                )

    def _float_entries(self) -> Iterator[Entry]:
        return (entry for entry in self.entries if entry.is_float)

    @cached_property
    def floats(self) -> int:
        """Return P."""
        return sum(entry.size for entry in self._float_entries())

    @cached_property
    def integers(self) -> int:
        """Return Q."""
        return sum(entry.size for entry in self.entries if not entry.is_float)

    @cached_property
    def trained(self) -> int:
        """Return the number of trained values (what papers call parameters)."""
        # Tied tensors count once, under their first name.
        return sum(entry.size for entry in self.entries if entry.trained)

    @cached_property
    def is_trained(self) -> NDArray[np.bool_]:
        """Return which of the P floats an optimiser trains.

        The others are buffers, such as BatchNorm's statistics.
        """
        # Tied tensors too: they are trained under their first name.
        # numpy concatenates at least one array; a model may have no floats.
        flags = [np.empty(0, bool)]
        for entry in self._float_entries():
            flags.append(np.full(entry.size, entry.is_trained))
        return np.concatenate(flags)

    @cached_property
    def trained_at(self) -> NDArray[np.int64] | slice:
        """Return where the trained ones of the P floats stand; a slice where all are.

        These a codec may round.
        """
        # A slice gives views, which spares most models a copy of every update.
        if self.is_trained.all():
            return slice(None)
        return np.flatnonzero(self.is_trained)

    @cached_property
    def buffers_at(self) -> NDArray[np.int64]:
        """Return where the other floats stand.

        They are statistics such as a variance, which must not be rounded below 0.
        """
        return np.flatnonzero(~self.is_trained)

    @cached_property
    def trained_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of the float tensors that are trained, in order."""
        floats = self._float_entries()
        return tuple(entry.shape for entry in floats if entry.is_trained)

    @property
    def raw_bytes(self) -> int:
        """Return the bytes of the whole state as plain float32 and int64.

        This is what an exchange costs uncompressed.
        """
        return 4 * self.floats + 8 * self.integers

    @cached_property
    def schema(self) -> bytes:
        """Return 8 bytes that identify this layout.

        They are the head of a SHA-256 over names, shapes and dtypes in order.
        """
        # As docs/wire.md has it: what is written here is part of the format.
        lines = [f"{entry.name} {entry.shape} {entry.dtype}" for entry in self.entries]
        text = "\n".join(lines)
        return hashlib.sha256(text.encode()).digest()[:8]

    def check(self, state: State) -> None:
        """Raise ModelError for a state with vectors of other sizes."""
        floats = state.floats.shape
        integers = state.integers.shape
        if floats != (self.floats,) or integers != (self.integers,):
            raise ModelError(
                f"a state of {state.floats.size} floats and {state.integers.size} "
                f"integers does not fit a layout of {self.floats} and {self.integers}"
            )

    def starts(self) -> Iterator[tuple[Entry, int]]:
        """Yield each entry, and where it starts in its vector, floats or integers."""
        next_float = 0
        next_integer = 0
        for entry in self.entries:
            if entry.is_float:
                yield entry, next_float
                next_float += entry.size
            else:
                yield entry, next_integer
                next_integer += entry.size

    def split(self, state: State) -> dict[str, NDArray[np.generic]]:
        """Return named arrays, each of its shape, as views of the state.

        They are float32 or int64. Raises ModelError for a state that does not fit.
        """
        self.check(state)
        arrays: dict[str, NDArray[np.generic]] = {}
        for entry, start in self.starts():
            vector: NDArray[np.generic] = state.integers
            if entry.is_float:
                vector = state.floats
            values = vector[start : start + entry.size]
            arrays[entry.name] = values.reshape(entry.shape)
        return arrays

    def tie(self, state: State) -> State:
        """Return the state with tied tensors made equal again, in place.

        Lossy codecs and strategies treat each name apart. Raises ModelError as `split`.
        """
        views = self.split(state)
        for entry in self.entries:
            if entry.same_as:
                views[entry.name][...] = views[entry.same_as]
        return state

    def join(self, arrays: Mapping[str, NDArray[np.generic]]) -> State:
        """Return the flat vectors of named arrays.

        Float values are cast to float32, integers to int64 (a float array at an integer's
        place is rounded), in any order. Raises ModelError unless names and shapes are this
        layout's.
        """
        floats = np.empty(self.floats, np.float32)
        integers = np.empty(self.integers, np.int64)
        state = State(floats, integers)
        views = self.split(state)
        # By name: the order of a dict is not what tells tensors apart.
        if set(arrays) != set(views):
            differing = sorted(set(arrays) ^ set(views))
            raise ModelError(
                "the arrays are not this model's; "
                f"differing names: {', '.join(differing[:5])}"
            )

        for entry in self.entries:
            array = np.asarray(arrays[entry.name])
            if array.shape != entry.shape:
                raise ModelError(
                    f"tensor '{entry.name}' has shape {array.shape}; "
                    f"the model's is {entry.shape}"
                )
            # A strategy's mean of integers is a float: a cast alone would cut it off.
            if not entry.is_float and array.dtype.kind not in "iub":
                array = np.rint(array)
            # Into the vectors themselves, cast on the way.
            views[entry.name][...] = array
        return state


def model_sha256(layout: Layout, state: State) -> str:
    """Return the SHA-256 of a model's state, as a text of hexadecimal digits.

    It covers the ordered names, shapes, dtypes and little-endian bytes. A narrower dtype
    than float32 or int64 hashes as the values that the run carries (float32, int64).
    Raises ModelError for a state that does not fit.
    """
    digest = hashlib.sha256()
    arrays = layout.split(state)
    for entry in layout.entries:
        # The same bytes on machines of either byte order.
        kind = "<f4" if entry.is_float else "<i8"
        array = np.ascontiguousarray(arrays[entry.name], dtype=kind)
        digest.update(f"{entry.name} {entry.shape} {entry.dtype}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
