"""How long every codec takes to encode and decode, beside a copy of the same array, one thread, one run.

python -m fedlearn.experiments.benchmarks.codec_speed [VALUES | RECORDING.npz]

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

from fedlearn import models
from fedlearn.arrays import Sparse
from fedlearn.clients.batches import tensors
from fedlearn.clients.train import train
from fedlearn.codec import CODECS, Codec, Context, codec
from fedlearn.data.samples import Samples
from fedlearn.plan import Plan
from fedlearn.wire import digest

ROWS = 512
PAIRS = (("eden1", "eden1"), ("uvq(0.1)", "eden1"), ("eden1", "pred+cvq(1,1)"), ("uvq(0.1)", "pred+cvq(0.5,1)"))
CHAINS = (
    *CODECS,
    *("q4+deflate", "topk(0.01)+tern+rice", "topk(0.01)+tern+gapz", "topk(0.01)+tern+grid", "topk(0.01)+tern+range", "topk(0.01)+tern"),
    *("topk(0.01)+q4c+grid", "topk(0.05)+q4c+rice", "topk(0.05)+q4c+grid", "randk(0.01)+raw32", "uvq(0.1)", "cvq(0.5)", "pred+cvq(0.5)"),
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
            shapes = tuple(tuple(shape) for _, shape in json.loads(str(recording["shapes"])))
            return recording["update"], Context(shapes, recording["start"] - recording["w0"])
    size = int(argument)
    return np.random.default_rng(0).standard_normal(size, dtype=np.float32), Context(((ROWS, size // ROWS), (size % ROWS,)))


def add(coder: Codec, body: bytes, context: Context, total: NDArray[np.int64]) -> None:
    """Add what is decoded to a sum in units of 2**-30."""
    coded = coder.decode(body, 1, context)
    if isinstance(coded, Sparse):
        total[coded.indices] += np.rint(coded.values.astype(np.float64) * 2**30).astype(np.int64)
    else:
        total += np.rint(coded * np.float64(2**30)).astype(np.int64)


def training_ms(samples: int) -> float:
    """Return what McMahan's CNN (1,663,370 parameters) takes to train for one epoch of batches of 10."""
    module = models.build("cnn", {}, input_shape=(1, 28, 28), classes=10, seed=0, task="image")
    layout = models.layout(module)
    random = np.random.default_rng(0)
    images = random.standard_normal((samples, 1, 28, 28), dtype=np.float32)
    data = tensors(Samples(images, random.integers(0, 10, samples)), "image")
    start = models.read_state(module, layout)
    return best_ms(partial(train, module, layout, Plan(round=1, seed=0), start, data, 0), 3)


def client_side() -> None:
    """Print what a client spends on codecs, beside its local training: decoding and naming the model, encoding the update."""
    context = Context(((512, 3136), (57_738,)))
    random = np.random.default_rng(0)
    values, moved = (random.standard_normal(context.size, dtype=np.float32) for _ in range(2))
    context = Context(context.shapes, moved)
    spent = {samples: training_ms(samples) for samples in (60, 600)}
    print(
        "\nthe client's side on McMahan's CNN, beside one epoch on " + " and ".join(f"{n} samples ({ms:.0f} ms)" for n, ms in spent.items())
    )
    for up, down in PAIRS:
        body = codec(down).encode(values, 1, context)
        taken = best_ms(partial(codec(down).decode, body, 1, context)) + best_ms(partial(digest, values))
        taken += best_ms(partial(np.add, values, values)) + best_ms(partial(codec(up).encode, values, 1, context))
        print(f"{up + ' / ' + down:<34}{taken:>8.1f} ms   " + "   ".join(f"{100 * taken / ms:.1f} %" for ms in spent.values()))


def main() -> None:
    """Print one line per codec, then the client's side."""
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
    client_side()


if __name__ == "__main__":
    main()
