"""Every shipped model in other formats: parity on the whole test set, accuracy, CPU time.

python -m fedlearn.experiments.benchmarks.exporting [MODEL …] [--to FORMAT …] [--rounds N]
[--seeds N …] [--int8]

Each model is trained for a few rounds first, as untrained ones score nearly the same for all
classes. A model ends in +batch where it is to have BatchNorm. Torch and the other runtime are
measured in turns, in one process, on one thread, one sample a call. What a format cannot take
says so in its line.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fedlearn as fl
from fedlearn import models
from fedlearn.commands.arguments import Parser, ended
from fedlearn.commands.export import TARGETS
from fedlearn.errors import FedlearnError, UserError, one_line
from fedlearn.export.exporting import Options, Row, export
from fedlearn.reporting.units import bytes_text
from fedlearn.runs.trained import load

BATCH = "+batch"

# What each model is trained on, where it is not pictures.
DATA = {
    "lstm-char": "shakespeare-mini",
    "transformer-char": "shakespeare-mini",
    "lstm-sensor": "watch-mini",
}
ROUNDS = 3

HEADINGS = (
    "model",
    "format",
    "bytes",
    "difference",
    "ties",
    "accuracy",
    "µs",
    "torch µs",
)
WIDTHS = (22, 18, 8, 10, 4, 17, 8, 8)


def names() -> list[str]:
    """Return every model that is measured."""
    return [*models.MODELS, f"resnet-small{BATCH}", f"mobilenet-small{BATCH}"]


def settings(name: str, rounds: int, seed: int) -> dict[str, Any]:
    """Return the config that a model is trained by."""
    model, _, norm = name.partition("+")
    data = DATA.get(model, "fashion-mini")
    table: dict[str, Any] = {
        "experiment": {"name": model, "rounds": rounds, "seed": seed},
        "data": {"name": data},
        "model": {"name": model},
        "train": {"lr": 0.03, "momentum": 0.9, "epochs": 3},
        "strategy": {"fraction_train": 0.1},
        "engine": {"kind": "serial"},
    }
    if norm:
        table["model"]["norm"] = norm
    if data == "fashion-mini":
        table["data"]["partition"] = {"kind": "dirichlet", "clients": 100, "alpha": 0.5}
    if data == "shakespeare-mini":
        # A character model learns slowly, and a part of the speakers shows as much.
        table["train"] = {"lr": 0.5, "epochs": 1}
        table["strategy"] = {"clients_per_round": 4}
    return table


def rows(
    name: str, run: Path, folder: Path, targets: Sequence[str], int8: bool
) -> Iterator[str]:
    """Export a run to each format; yield the lines of the table."""
    trained = load(str(run))
    for target in targets:
        options = Options(target, int8=int8 and target == "onnx", gate=100)
        try:
            report = export(trained, folder / target, options)
        except FedlearnError as error:
            yield f"{name.ljust(WIDTHS[0])}  {target}: {one_line(error)}"
            continue
        for row in report.rows:
            yield line(cells(name, row, report.torch_microseconds))


def cells(name: str, row: Row, torch_microseconds: float) -> tuple[str, ...]:
    """Return the cells of one row."""
    accuracy = (
        f"{100 * row.parity.accuracy:.2f} of {100 * row.parity.torch_accuracy:.2f}"
    )
    return (
        name,
        row.label,
        bytes_text(row.bytes),
        f"{row.parity.largest:.1e}",
        str(row.parity.ties),
        accuracy,
        f"{row.microseconds:.1f}",
        f"{torch_microseconds:.1f}",
    )


def line(texts: Sequence[str]) -> str:
    """Return cells as one line: names to the left, numbers to the right."""
    aligned = [
        text.ljust(width) if place < 2 else text.rjust(width)
        for place, (text, width) in enumerate(zip(texts, WIDTHS, strict=True))
    ]
    return "  ".join(aligned).rstrip()


def measure(name: str, arguments: Any, seed: int) -> Iterator[str]:
    """Train one model and yield the lines of its formats."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        fl.run(settings(name, arguments.rounds, seed), out=run, quiet=True)
        yield from rows(name, run, Path(folder), arguments.to, arguments.int8)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, line by line as it comes to be."""
    parser = Parser(
        prog="exporting", description="Parity and CPU time of exported models."
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help="default: all")
    parser.add_argument("--to", nargs="+", choices=TARGETS, default=["onnx"])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--int8", action="store_true", help="also int8, with onnx")
    arguments = parser.parse_args(argv)

    def table() -> None:
        for name in arguments.models:
            if name not in names():
                raise UserError(f"unknown model '{name}'; known: {', '.join(names())}")
        print(line(HEADINGS), flush=True)
        for name in arguments.models or names():
            for seed in arguments.seeds:
                for text in measure(name, arguments, seed):
                    print(text, flush=True)

    return ended(table)


if __name__ == "__main__":
    sys.exit(main())
