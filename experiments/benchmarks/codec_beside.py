"""Whether codecs are as fast as in another checkout, the two in turns.

python -m fedlearn.experiments.benchmarks.codec_beside CHECKOUT [--values N] [--turns N]

One process for each checkout, with one thread, and the same values in both. They take
turns at one codec after the other, so that a busy machine slows both: the ratio is that of
the shortest times. The bytes and the decoded bits of both are compared as well.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fedlearn.arrays import Sparse
from fedlearn.codec import Context, codec
from fedlearn.commands.arguments import Parser, ended
from fedlearn.errors import UserError

CODECS = (
    "raw32",
    "f16",
    "bf16",
    "q8",
    "q4",
    "eden1",
    "uvq(0.1)",
    "cvq(0.5,1)",
    "cvq(1,1)",
    "pred+cvq(1,1)",
    "topk(0.01)+tern",
)
ROWS = 512
# Calls of which a turn reports the shortest.
CALLS = 5


def shortest_ms(call: Callable[[], object]) -> float:
    """Return the shortest of a few calls, in milliseconds of CPU time."""
    times = []
    for _ in range(CALLS):
        begun = time.process_time()
        call()
        times.append(time.process_time() - begun)
    return 1e3 * min(times)


def answer(text: str, size: int) -> dict[str, float | str]:
    """Return what a codec takes in this process, and the hashes of what it makes."""
    random = np.random.default_rng(size)
    values = random.standard_normal(size, dtype=np.float32)
    moved = random.standard_normal(size, dtype=np.float32)
    context = Context(((ROWS, size // ROWS), (size % ROWS,)), moved)
    coder = codec(text)
    body = bytes(coder.encode(values, 1, context))
    decoded = coder.decode(body, 1, context)
    dense = decoded.dense() if isinstance(decoded, Sparse) else decoded
    return {
        "body": hashlib.sha256(body).hexdigest(),
        "decoded": hashlib.sha256(dense.tobytes()).hexdigest(),
        "encode": shortest_ms(lambda: coder.encode(values, 1, context)),
        "decode": shortest_ms(lambda: coder.decode(body, 1, context)),
    }


def serve() -> None:
    """Answer the questions of the parent, a line each, until it closes the pipe."""
    from fedlearn.engine.runner import single_thread

    single_thread()
    for line in sys.stdin:
        text, size = json.loads(line)
        print(json.dumps(answer(text, size)), flush=True)


class Checkout:
    """A process that runs the codecs of a checkout."""

    def __init__(self, folder: Path) -> None:
        """Start it in ``folder``; raises UserError where there is no fedlearn."""
        if not (folder / "fedlearn" / "codec").is_dir():
            raise UserError(f"'{folder}' is no checkout of fedlearn: no fedlearn/codec")
        # The folder is the first place that Python looks in; this file need not be there.
        code = (
            "import os, runpy, sys; sys.path.insert(0, os.getcwd()); "
            f"runpy.run_path({str(Path(__file__).resolve())!r})['serve']()"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(folder)},
        )

    def ask(self, text: str, size: int) -> dict[str, float | str]:
        """Return its answer for a codec."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([text, size]) + "\n")
        self.process.stdin.flush()
        reply: dict[str, float | str] = json.loads(self.process.stdout.readline())
        return reply

    def close(self) -> None:
        """End the process."""
        # Its end of the pipe: the process reads the last line and ends.
        self.process.communicate()


def compare(text: str, size: int, turns: int, sides: tuple[Checkout, Checkout]) -> None:
    """Print a codec's line: its times in both checkouts, and their ratio."""
    replies: tuple[list[dict[str, float | str]], ...] = ([], [])
    for turn in range(turns):
        # Before-after, after-before: a machine that slows down slows both.
        for place in (0, 1) if turn % 2 == 0 else (1, 0):
            replies[place].append(sides[place].ask(text, size))

    columns = [f"{text:<16}{size:>10,}"]
    for way in ("encode", "decode"):
        before, after = (min(float(r[way]) for r in side) for side in replies)
        columns.append(f"{before:>9.3f}{after:>9.3f}{after / before:>7.2f}")
    names = {(reply["body"], reply["decoded"]) for side in replies for reply in side}
    columns.append("   same bits" if len(names) == 1 else "   OTHER BITS")
    print("".join(columns), flush=True)


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    p = Parser(
        prog="python -m fedlearn.experiments.benchmarks.codec_beside",
        description="Time the codecs of another checkout and of this one, in turns.",
    )
    p.add_argument("checkout", type=Path, help="the folder of the one before")
    p.add_argument("--values", type=int, nargs="+", default=[105_866, 1_663_370])
    p.add_argument("--turns", type=int, default=6, help="(default: %(default)s)")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    """Print a line for each codec and size."""
    sides = (
        Checkout(arguments.checkout),
        Checkout(Path(__file__).resolve().parents[2]),
    )
    print(
        f"{'codec':<16}{'values':>10}{'encode':>9}{'now':>9}{'ratio':>7}"
        f"{'decode':>9}{'now':>9}{'ratio':>7}   (ms)"
    )
    try:
        for size in arguments.values:
            for text in CODECS:
                compare(text, size, arguments.turns, sides)
    finally:
        for side in sides:
            side.close()


if __name__ == "__main__":
    sys.exit(main())
