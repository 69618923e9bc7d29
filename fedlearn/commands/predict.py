"""The command ``fedlearn predict``: the classes of samples, by the model of a run."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlearn.commands.arguments import Parser, ended
from fedlearn.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

EPILOG = (
    "FILE is an npz with the array x, an npy, or a CSV with a row of numbers for each sample, "
    "in the order and the scale of training. Prints a row for each sample: its number and "
    "its class. exit codes: 0 done, 2 the run or the file does not allow it"
)


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    parser = Parser(
        prog="fedlearn predict",
        description="Answer for the samples of a file with the final model of a run.",
        epilog=EPILOG,
    )
    parser.add_argument("run", metavar="RUN", help="a finished run's folder")
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="samples: .npz, .npy or .csv"
    )
    parser.add_argument(
        "--probabilities",
        action="store_true",
        help="also the probability of every class",
    )
    parser.add_argument(
        "--best",
        action="store_true",
        help="with the model of the best round, which keep_best = true keeps",
    )
    parser.add_argument(
        "--out", type=Path, metavar="CSV", help="write a new CSV instead of printing"
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a line instead of CSV"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    out: Path | None = arguments.out
    if out is not None and out.exists():
        raise UserError(f"--out {out} exists; name a new file, or remove it")
    # Only now: torch takes seconds to import.
    from fedlearn.data.samples_file import read_samples
    from fedlearn.runs.api import load

    run = load(arguments.run)
    samples = read_samples(arguments.file.expanduser())
    shares = run.predict(samples, probabilities=True, best=arguments.best)
    rows = _rows(shares, arguments.probabilities)
    text = _lines(rows) if arguments.json else _table(rows)
    if out is None:
        print(text, end="")
        return
    from fedlearn.system.files import replace

    replace(out, text.encode())
    print(f"{out}: {len(shares):,} samples")


def _rows(shares: NDArray[Any], with_shares: bool) -> list[dict[str, Any]]:
    """Return a mapping for each sample; shares: (N, K) or (N, T, K), probabilities."""
    rows = []
    for number, sample in enumerate(shares):
        # Of a text, the next byte at each place.
        row: dict[str, Any] = {"sample": number, "class": sample.argmax(-1).tolist()}
        if with_shares:
            for label, share in enumerate(sample.T.tolist()):
                row[f"p{label}"] = share
        rows.append(row)
    return rows


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def _table(rows: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    names = list(rows[0]) if rows else ["sample", "class"]
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


if __name__ == "__main__":
    sys.exit(main())
