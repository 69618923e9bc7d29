"""How long every codec takes to encode and decode, beside a copy of the same array, one thread, one run.

python experiments/benchmarks/codec_speed.py [VALUES | RECORDING.npz]

VALUES: how many normally distributed values, in a matrix of 512 rows. RECORDING: what `record_updates` left; its update
is taken. "copies" is the time of encoding in copies of the array, so that machines compare; "add" decodes and adds the
values into a fixed-point int64 sum, as the server does.
"""

import json
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from fedlearn.arrays import Sparse
from fedlearn.codec import CODECS, Codec, Context, codec

ROWS = 512
CHAINS = (
    *CODECS,
    *("q4+deflate", "topk(0.01)+tern+rice", "topk(0.01)+tern+gapz", "topk(0.01)+tern+grid", "topk(0.01)+tern+range", "topk(0.01)+tern"),
    *("topk(0.01)+q4c+grid", "topk(0.05)+q4c+rice", "topk(0.05)+q4c+grid", "randk(0.01)+raw32", "uvq(0.1)", "cvq(0.5,0)"),
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
    """Return the values (P,) float32 and their context."""
    if argument.endswith(".npz"):
        with np.load(argument) as recording:
            return recording["update"], Context(tuple(tuple(shape) for _, shape in json.loads(str(recording["shapes"]))))
    size = int(argument)
    return np.random.default_rng(0).standard_normal(size, dtype=np.float32), Context(((ROWS, size // ROWS), (size % ROWS,)))


def add(coder: Codec, body: bytes, context: Context, total: NDArray[np.int64]) -> None:
    """Add what is decoded to a sum in units of 2**-30."""
    coded = coder.decode(body, 1, context)
    if isinstance(coded, Sparse):
        total[coded.indices] += np.rint(coded.values.astype(np.float64) * 2**30).astype(np.int64)
    else:
        total += np.rint(coded * np.float64(2**30)).astype(np.int64)


def main() -> None:
    """Print one line per codec."""
    torch.set_num_threads(1)
    values, context = read(sys.argv[1] if len(sys.argv) > 1 else "1663370")
    into, total = np.empty_like(values), np.zeros(values.size, np.int64)
    copy_ms = best_ms(partial(np.copyto, into, values))
    print(f"{values.size:,} values; a copy takes {copy_ms:.3f} ms")
    print(f"{'codec':<22}{'bytes':>11}{'ratio':>8}{'encode ms':>11}{'copies':>8}{'decode ms':>11}{'add ms':>8}{'error':>10}")
    for text in CHAINS:
        coder = codec(text)
        body = coder.encode(values, 1, context)
        coded = coder.decode(body, 1, context)
        error = float(np.square((coded.dense() if isinstance(coded, Sparse) else coded) - values).sum() / np.square(values).sum())
        encode, decode = best_ms(partial(coder.encode, values, 1, context)), best_ms(partial(coder.decode, body, 1, context))
        summed = best_ms(partial(add, coder, body, context, total))
        print(
            f"{text:<22}{len(body):>11,}{4 * values.size / len(body):>8.2f}{encode:>11.2f}{encode / copy_ms:>8.1f}"
            f"{decode:>11.2f}{summed:>8.2f}{error:>10.2g}"
        )


if __name__ == "__main__":
    main()
