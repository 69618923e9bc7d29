"""How long every codec takes to encode and decode, beside a copy of the same array, one thread, one run.

python experiments/benchmarks/codec_speed.py [VALUES]
"""

import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from fedlearn.codec import CODECS, codec


def best_ms(call: Callable[[], object], times: int = 15) -> float:
    """Return the shortest of several calls, in milliseconds."""
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun)
    return 1e3 * min(taken)


def main() -> None:
    """Print one line per codec."""
    torch.set_num_threads(1)
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 1_663_370
    values = np.random.default_rng(0).standard_normal(size, dtype=np.float32)
    print(f"{size:,} normally distributed values; a copy takes {best_ms(values.copy):.2f} ms")
    print(f"{'codec':<8}{'bytes':>12}{'ratio':>8}{'encode ms':>11}{'decode ms':>11}{'error':>10}")
    for name in CODECS:
        coder = codec(name)
        body = coder.encode(values, 1)
        error = float(np.square(coder.decode(body, size, 1) - values).sum() / np.square(values).sum())
        encode, decode = best_ms(partial(coder.encode, values, 1)), best_ms(partial(coder.decode, body, size, 1))
        print(f"{name:<8}{len(body):>12,}{4 * size / len(body):>8.2f}{encode:>11.2f}{decode:>11.2f}{error:>10.2g}")


if __name__ == "__main__":
    main()
