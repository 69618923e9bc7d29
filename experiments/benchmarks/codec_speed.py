"""How long every codec takes to encode and decode, beside a copy of the same array.

python -m fedlearn.experiments.benchmarks.codec_speed [VALUES | RECORDING.npz]

One thread, one run. VALUES: how many normally distributed values, in a matrix of 512 rows.
RECORDING: what `record_updates` left; its update is taken. "copies" is the time of encoding in
copies of the array, so that machines compare; "add" decodes and adds the values into a
fixed-point int64 sum, as the server does.

At the end: what one client spends on payloads, beside its training. It receives a difference
(checksum, header, body, sum, digest) and seals its update (body, header, checksum), with all
checks, by the very functions that a run calls.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedlearn import models
from fedlearn.arrays import Layout, Sparse, State
from fedlearn.clients.batches import tensors
from fedlearn.clients.train import train
from fedlearn.codec import CODECS, Codec, Context, codec
from fedlearn.commands.arguments import Parser, ended
from fedlearn.data.samples import Samples
from fedlearn.engine.runner import single_thread
from fedlearn.errors import ConfigError
from fedlearn.experiments.benchmarks.codec import recorded
from fedlearn.plan import Plan
from fedlearn.wire import (
    UPDATE,
    Header,
    decode_difference,
    digest,
    encode,
    encode_difference,
)

ROWS, MOST_VALUES = 512, 10**9
PAIRS = (
    ("eden1", "eden1"),
    ("uvq(0.1)", "eden1"),
    ("eden1", "pred+cvq(1,1)"),
    ("uvq(0.1)", "pred+cvq(0.5,1)"),
)
CHAINS = (
    *CODECS,
    *(
        "q4+deflate",
        "topk(0.01)+tern+rice",
        "topk(0.01)+tern+gapz",
        "topk(0.01)+tern+grid",
        "topk(0.01)+tern+range",
        "topk(0.01)+tern",
    ),
    *(
        "topk(0.01)+q4c+grid",
        "topk(0.05)+q4c+rice",
        "topk(0.05)+q4c+grid",
        "randk(0.01)+raw32",
        "uvq(0.1)",
        "cvq(0.5)",
        "pred+cvq(0.5)",
    ),
)


def best_ms(call: Callable[[], object], times: int = 15) -> float:
    """Return the shortest of several calls, in milliseconds."""
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun)
    return 1e3 * min(taken)


def read(argument: str) -> tuple[NDArray[np.float32], Context]:
    """Return the values (P,) float32 and their context; raises DataError and ConfigError."""
    if argument.endswith(".npz"):
        update, _ = recorded(Path(argument))
        return update.values, update.context
    if not argument.isdecimal() or not 0 < int(argument) <= MOST_VALUES:
        raise ConfigError(
            f"'{argument}' is neither a number of values, 1 to {MOST_VALUES:,}, nor a "
            f"recording (.npz)"
        )
    size = int(argument)
    return np.random.default_rng(0).standard_normal(size, dtype=np.float32), Context(
        ((ROWS, size // ROWS), (size % ROWS,))
    )


def add(coder: Codec, body: bytes, context: Context, total: NDArray[np.int64]) -> None:
    """Add what is decoded to a sum in units of 2**-30."""
    coded = coder.decode(body, 1, context)
    if isinstance(coded, Sparse):
        total[coded.indices] += np.rint(coded.values.astype(np.float64) * 2**30).astype(
            np.int64
        )
    else:
        total += np.rint(coded * np.float64(2**30)).astype(np.int64)


def training_ms(module: nn.Module, layout: Layout, start: State, samples: int) -> float:
    """Return what McMahan's CNN takes to train for one epoch of batches of 10."""
    random = np.random.default_rng(0)
    images = random.standard_normal((samples, 1, 28, 28), dtype=np.float32)
    data = tensors(Samples(images, random.integers(0, 10, samples)), "image")
    return best_ms(
        partial(train, module, layout, Plan(round=1, seed=0), start, data, 0), 3
    )


def payloads_ms(
    layout: Layout, initial: State, up: str, down: str
) -> tuple[float, float]:
    """Return what a client takes to receive a model as a difference, and to seal its update, in
    milliseconds.
    """
    random = np.random.default_rng(0)
    change, way = (
        0.01 * random.standard_normal(layout.floats, dtype=np.float32) for _ in range(2)
    )
    held = State(initial.floats + way, initial.integers)
    name, way = digest(held.floats), held.floats - initial.floats
    sent, base, start = encode_difference(
        layout, held, name, State(held.floats + change, held.integers), 1, down, 1, way
    )

    def receive() -> None:
        moved = held.floats - initial.floats if codec(down).uses_moved else None
        decode_difference(layout, sent, held.floats, name, moved)

    def answer() -> None:
        moved = start.floats - initial.floats if codec(up).uses_moved else None
        encode(
            layout,
            Header(UPDATE, 1, base.digest, up, seed=1, examples=600, train_loss=0.1),
            State(change, held.integers),
            moved,
        )

    return best_ms(receive), best_ms(answer)


def client_side() -> None:
    """Print what a client spends on payloads, beside its local training."""
    module = models.build(
        "cnn", {}, input_shape=(1, 28, 28), classes=10, seed=0, modality="image"
    )
    layout = models.layout(module)
    initial = models.read_state(module, layout)
    spent = {
        samples: training_ms(module, layout, initial, samples) for samples in (60, 600)
    }
    beside = " and ".join(f"{n} samples ({ms:.0f} ms)" for n, ms in spent.items())
    print(
        f"\nthe client's side on McMahan's CNN, {layout.floats:,} parameters, beside "
        f"one epoch on {beside}"
    )
    print(f"{'up / down':<34}{'receive ms':>11}{'answer ms':>11}   of the epochs")
    for up, down in PAIRS:
        taken = payloads_ms(layout, initial, up, down)
        shares = "   ".join(f"{100 * sum(taken) / ms:.1f} %" for ms in spent.values())
        print(f"{f'{up} / {down}':<34}{taken[0]:>11.1f}{taken[1]:>11.1f}   {shares}")


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    p = Parser(
        prog="python -m fedlearn.experiments.benchmarks.codec_speed",
        description="Time codecs and a client's payloads, on one thread.",
    )
    p.add_argument(
        "values",
        nargs="?",
        default="1663370",
        metavar="VALUES|RECORDING.npz",
        help="how many, or which (default: %(default)s)",
    )
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments.values))


def _run(argument: str) -> None:
    """Print one line per codec, then the client's side."""
    single_thread()
    values, context = read(argument)
    into, total = np.empty_like(values), np.zeros(values.size, np.int64)
    copy_ms = best_ms(partial(np.copyto, into, values))
    print(f"{values.size:,} values; a copy takes {copy_ms:.3f} ms")
    print(
        f"{'codec':<22}{'bytes':>11}{'ratio':>8}{'encode ms':>11}{'copies':>8}"
        f"{'decode ms':>11}{'add ms':>8}{'error':>10}"
    )
    for text in CHAINS:
        coder = codec(text)
        body = coder.encode(values, 1, context)
        coded = coder.decode(body, 1, context)
        error = float(
            np.square(
                (coded.dense() if isinstance(coded, Sparse) else coded) - values
            ).sum()
            / np.square(values).sum()
        )
        encode_ms, decode_ms = (
            best_ms(partial(coder.encode, values, 1, context)),
            best_ms(partial(coder.decode, body, 1, context)),
        )
        summed = best_ms(partial(add, coder, body, context, total))
        print(
            f"{text:<22}{len(body):>11,}{4 * values.size / len(body):>8.2f}"
            f"{encode_ms:>11.2f}{encode_ms / copy_ms:>8.1f}"
            f"{decode_ms:>11.2f}{summed:>8.2f}{error:>10.2g}"
        )
    client_side()


if __name__ == "__main__":
    sys.exit(main())
