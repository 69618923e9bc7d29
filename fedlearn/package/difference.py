"""The difference between two releases' weights: a few kilobytes that end at the same bits.

A release's weights are *defined* as what the difference from the release before arrives at
(a closed loop, as in differential coding: Cutler, US patent 2,605,361, 1952). The builder
decodes its own difference, and evaluates, hashes and signs what came of it. Every device
that applies the difference reaches those bits, and errors do not add up: each difference
aims at the newest training, from where the devices are.

The bytes are a payload of the wire (docs/wire.md), whose decoder trusts nothing. Encoding
needs torch, decoding numpy alone.

Legend: P values, the float tensors of a package one after another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from fedlearn import wire
from fedlearn.arrays import Entry, Layout, State
from fedlearn.errors import FormatError, ModelError, SchemaError
from fedlearn.package.parts import Delta
from fedlearn.seeds import derive

# One bit a value, everything included, with the scale that undoes shrinkage: from round 30 to
# 40 of a CNN it keeps accuracy, at a 32nd of the weights (docs/release.md).
CODEC = "cvq(1,1)"

# Vectors of so few values travel exactly: 64 bytes at most, less than a block's own head.
TINY = 16

Floats = NDArray[np.float32]
Shapes = Sequence[tuple[int, ...]]

_NO_INTEGERS = np.empty(0, np.int64)


def encode(
    base: Floats, target: Floats, shapes: Shapes, codec: str = CODEC
) -> tuple[bytes, Floats]:
    """Return the difference from ``base`` (P,) towards ``target`` (P,), and where it arrives.

    What it arrives at (P,) is what `apply` gives on every device. Equal inputs give equal
    bytes: the seed comes from the hashes of both. Raises ModelError for vectors that do not
    have these shapes, PayloadError for values that the codec cannot carry.
    """
    layout = _layout(base, shapes)
    _check_size(target, layout)
    # A codec has nothing to say where everything travels exactly.
    if not layout.trained_shapes:
        codec = wire.RAW
    seed = derive(0, f"difference/{weights_sha256(base)}/{weights_sha256(target)}")
    payload, _, state = wire.encode_difference(
        layout,
        State(base, _NO_INTEGERS),
        wire.digest(base),
        State(target, _NO_INTEGERS),
        rounds_done=0,
        codec=codec,
        seed=seed,
        moved=None,
    )
    return payload, state.floats


def apply(base: Floats, payload: bytes, shapes: Shapes) -> Floats:
    """Return the weights (P,) that a difference leads to from ``base`` (P,).

    They are the builder's to the bit. Every size is compared with the shapes before memory
    is taken for it. Raises FormatError for any other bytes, and for a difference from
    another base; ModelError for a base that does not have these shapes.
    """
    layout = _layout(base, shapes)
    try:
        _, state = wire.decode_difference(layout, payload, base, wire.digest(base))
    except SchemaError as error:
        raise FormatError(str(error)) from None
    return state.floats


def arrive(
    base: Floats,
    shapes: Shapes,
    target_sha256: str,
    deltas: Sequence[Delta],
    fetch: Callable[[Delta], bytes],
) -> Floats:
    """Return the weights (P,) of this SHA-256, by a difference from ``base`` or a chain.

    deltas: of a manifest; one may lead to the base of another. fetch: returns the bytes of
    one, and is called for those on the way alone. Raises FormatError where none leads on,
    and for bytes that are not those listed; the weights then have to come whole.
    """
    by_base = {delta.base_sha256: delta for delta in deltas}
    weights = base
    sha256 = weights_sha256(base)
    while sha256 != target_sha256:
        # Taken out: a difference that leads back ends the walk.
        delta = by_base.pop(sha256, None)
        if delta is None:
            raise FormatError(
                f"no difference leads on from weights {sha256[:16]} to "
                f"{target_sha256[:16]}; fetch the weights whole"
            )
        weights = apply(weights, _checked(delta, fetch(delta)), shapes)
        sha256 = weights_sha256(weights)
    return weights


def weights_sha256(values: Floats) -> str:
    """Return the SHA-256 of values (P,) as weights.bin has them, 64 hex digits."""
    return hashlib.sha256(np.ascontiguousarray(values, "<f4").data).hexdigest()


def _checked(delta: Delta, payload: bytes) -> bytes:
    """Return the bytes of a difference. Raises FormatError for others than those listed."""
    # Unread: what nobody signed is not decoded.
    if hashlib.sha256(payload).hexdigest() != delta.sha256:
        raise FormatError(
            f"'{delta.file}' has another SHA-256 than is listed; fetch it anew, or the "
            "weights whole"
        )
    return payload


def _layout(base: Floats, shapes: Shapes) -> Layout:
    """Return the layout of the tensors, whose exact ones count as buffers. Raises ModelError."""
    entries = []
    start = 0
    for number, shape in enumerate(shapes):
        end = start + prod(shape)
        is_rounded = not _travels_exactly(shape, base[start:end])
        entries.append(Entry(str(number), tuple(shape), "float32", is_rounded))
        start = end
    layout = Layout(tuple(entries))
    _check_size(base, layout)
    return layout


def _travels_exactly(shape: tuple[int, ...], values: Floats) -> bool:
    """Tell whether a tensor's values are sent as they are; ``values``: those of the base.

    Both ends have the base, so both know. A vector that is above 0 throughout is a variance,
    which must stay so, or a scale, where rounding costs most; their bytes are few.
    """
    if len(shape) > 1:
        return False
    return values.size <= TINY or bool((values > 0).all())


def _check_size(values: Floats, layout: Layout) -> None:
    if values.shape != (layout.floats,):
        raise ModelError(
            f"{values.size:,} values where the tensors have {layout.floats:,}; "
            "take the weights of the same package"
        )
