"""Payloads of every codec and kind, the same on every machine: what the fuzzer mutates
and the goldens keep.

Values are whole numbers times powers of two, made of raw PCG64 output, whose stream numpy
promises never to change.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlearn import wire
from fedlearn.arrays import Change, Entry, Layout, State
from fedlearn.codec import CODECS, ZERO, codec
from fedlearn.errors import PayloadError
from fedlearn.wire import Header

CHAINS = (
    "topk(0.01)+tern", "topk(0.05)+q4c", "topk(0.05)+q4", "topk(0.02)+raw32",
    "topk(0.02)+tern+rice", "topk(0.02)+tern+gapz", "topk(0.02)+tern+grid",
    "topk(0.02)+tern+range", "topk(0.6)+tern", "topk(0.9)+q8+gapz", "topk(1)+f16+range",
    "randk(0.05)+q8", "randk(0.05)+q4+deflate", "sign", "q4c", "bf16", "q4+deflate",
    "q8+deflate", "uvq(0.1)", "uvq(0.5)", "cvq(0.5,0.5)", "cvq(2)", "pred+cvq(0.5)",
    "pred+topk(0.02)+tern", "pred+q4",
)  # fmt: skip
"""Codecs besides those of a single name; one that this version does not know is an error
where it is used.
"""

SMALL = Layout(
    (
        Entry("w", (20, 12), "float32", True),
        Entry("b", (12,), "float32", True),
        Entry("mean", (24,), "float32", False),
        Entry("n", (), "int64", False),
    )
)
LARGE = Layout(
    (
        Entry("c.w", (16, 3, 3, 3), "float32", True),
        Entry("c.mean", (16,), "float32", False),
        Entry("c.n", (2,), "int64", False),
        Entry("d.w", (64, 64), "float32", True),
        Entry("d.b", (64,), "float16", True),
    )
)
PLAIN = Layout(
    (Entry("w", (20, 140), "float32", True),)
)  # no buffers: decoders then hand on what the codec gives
WIDE = Layout(
    (Entry("w", (300, 240), "float32", True), Entry("b", (300,), "float32", True))
)  # blocks of 4,096 values
TWO_NN = Layout(
    (
        Entry("w1", (200, 784), "float32", True),
        Entry("w2", (200, 200), "float32", True),
        Entry("b", (2410,), "float32", True),
    )
)
CNN = Layout(
    (
        Entry("c1", (32, 1, 5, 5), "float32", True),
        Entry("c2", (64, 32, 5, 5), "float32", True),
        Entry("d1", (512, 3136), "float32", True),
        Entry("d2", (10, 512), "float32", True),
        Entry("b", (618,), "float32", True),
    )
)  # the sizes of McMahan's CNN: 1,663,370 values
KINDS = {
    "snapshot": wire.SNAPSHOT,
    "update": wire.UPDATE,
    "gradient": wire.GRADIENT,
    "difference": wire.DIFFERENCE,
}


@dataclass(frozen=True)
class Case:
    """A payload and what its receiver knows."""

    codec: str
    kind: str
    layout: Layout
    base: NDArray[np.float32]  # (P,) the model that the receiver holds
    moved: NDArray[np.float32] | None
    payload: bytes

    def take(self, data: bytes) -> tuple[Header, Change]:
        """Return what a receiver of this kind makes of bytes."""
        if self.kind == "snapshot":
            header, state = wire.decode_model(self.layout, data)
        elif self.kind == "difference":
            header, state = wire.decode_difference(
                self.layout, data, self.base, wire.digest(self.base), self.moved
            )
        else:
            return wire.decode(
                self.layout, data, (wire.UPDATE, wire.GRADIENT), self.moved
            )
        return header, Change(state.floats, state.integers)


def texts() -> list[str]:
    """Return the codecs of the corpus, those of a single name first."""
    return list(dict.fromkeys([*CODECS, ZERO, *CHAINS]))


def values(size: int, seed: int, scale: float = 2.0**-18) -> NDArray[np.float32]:
    """Return (size,) float32, about normal with deviation 38,000 times ``scale``, a power
    of two: exact on every machine.
    """
    quarters = (
        np.random.PCG64(seed)
        .random_raw(size)
        .astype("<u8")
        .view("<u2")
        .reshape(-1, 4)
        .astype(np.int64)
    )
    return ((quarters.sum(axis=1) - 131_070) * scale).astype(np.float32)


def moved(layout: Layout) -> NDArray[np.float32]:
    """Return how far a model has moved, (P,) float32: rows unlike one another, some of
    them not at all.
    """
    return values(layout.floats, 3, 2.0**-22) * (
        np.arange(layout.floats) // 11 % 5
    ).astype(np.float32)


def case(text: str, kind: str, layout: Layout, known: bool, seed: int = 11) -> Case:
    """Return the case of a codec; known: whether both ends know the movement. Raises
    PayloadError where a codec cannot.
    """
    base = values(layout.floats, 1)
    base[layout.buffers_at] = np.abs(base[layout.buffers_at])
    integers = np.arange(7, 7 + layout.integers, dtype=np.int64)
    change = values(layout.floats, 2, 2.0**-24)
    far = moved(layout) if known else None
    if text == ZERO:
        change[layout.is_trained] = 0
    if kind == "snapshot":
        data, _, _ = wire.encode_model(layout, State(base, integers), 4, text, seed)
    elif kind == "difference":
        target = base + change
        target[layout.buffers_at] = np.abs(target[layout.buffers_at])
        if text == ZERO:
            target = base.copy()
        data, _, _ = wire.encode_difference(
            layout,
            State(base, integers),
            wire.digest(base),
            State(target, integers),
            5,
            text,
            seed,
            far,
        )
    else:
        header = Header(
            kind=KINDS[kind],
            round=4,
            digest=wire.digest(base),
            codec=text,
            seed=seed,
            examples=60,
            train_loss=0.5,
            residual=wire.FRESH,
            metrics={"a": 1, "b": 0.25, "c": [1, 2]},
        )
        data = wire.encode(layout, header, State(change, integers), far)
    return Case(text, kind, layout, base, far, data)


def cases(layouts: tuple[Layout, ...] = (SMALL, LARGE, PLAIN)) -> Iterator[Case]:
    """Yield every codec as every kind that it carries, on each layout; with movement
    known where it matters.
    """
    for text in texts():
        for kind in KINDS:
            for layout in layouts:
                for known in (False, True)[
                    : 2 if codec(text).uses_moved and kind != "snapshot" else 1
                ]:
                    try:
                        made = case(text, kind, layout, known)
                    except PayloadError:
                        continue  # zero carries no snapshot
                    if made.codec == wire.read_header(made.payload).codec:
                        yield made
