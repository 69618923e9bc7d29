"""The command ``fedlearn export``: a trained model in the format of another runtime."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedlearn.commands.arguments import Parser, ended
from fedlearn.commands.places import check_outside
from fedlearn.errors import UserError

if TYPE_CHECKING:
    from fedlearn.export.exporting import ExportReport

TARGETS = ("onnx", "executorch", "openvino", "litert", "torchscript")

EPILOG = (
    "Every format is compared with torch on the whole test set before it is kept: scores "
    "within 1e-4 and the same highest one. exit codes: 0 done, 2 the model or an argument "
    "does not allow it, and nothing is written"
)


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    parser = Parser(
        prog="fedlearn export",
        description="Write a trained model for another runtime, proven equal to torch's.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "run",
        metavar="RUN",
        help="a finished run's folder, or a safetensors file with --config",
    )
    parser.add_argument(
        "--to", choices=TARGETS, default="onnx", help="the format (%(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="a new folder (RUN-FORMAT)"
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="with onnx: also weights of 8 bits, as int8.onnx and int8.bin",
    )
    parser.add_argument(
        "--gate",
        type=float,
        metavar="POINTS",
        help="with --int8: percentage points of accuracy that it may lose (0.3)",
    )
    parser.add_argument(
        "--fold",
        action="store_true",
        help="with onnx: fold BatchNorms; a run cannot start from the weights then",
    )
    parser.add_argument(
        "--config", help="of weights that are no run's: a TOML file or a shipped name"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    _check(arguments)
    if arguments.out:
        check_outside(arguments.out, "--out")
    # Only now: torch takes seconds to import.
    from fedlearn.export.exporting import Options, export
    from fedlearn.runs.trained import load

    options = Options(target=arguments.to, int8=arguments.int8, fold=arguments.fold)
    if arguments.gate is not None:
        options = Options(arguments.to, arguments.int8, arguments.fold, arguments.gate)
    trained = load(arguments.run, arguments.config)
    out = arguments.out or _default_out(arguments.run, arguments.to)
    # Beside what is no run folder there may be one.
    check_outside(out, "--out")
    _print(export(trained, out, options))


def _check(arguments: argparse.Namespace) -> None:
    """Raise UserError for arguments that do not go together."""
    for name in ("int8", "fold"):
        if getattr(arguments, name) and arguments.to != "onnx":
            raise UserError(
                f"--{name} is for --to onnx; leave it out for {arguments.to}"
            )
    if arguments.gate is None:
        return
    if not arguments.int8:
        raise UserError("--gate is for --int8, which loses accuracy; leave it out")
    if not (math.isfinite(arguments.gate) and 0 <= arguments.gate <= 100):
        raise UserError(
            f"--gate {arguments.gate:g}: give percentage points from 0 to 100, such as 0.3"
        )


def _default_out(run: str, target: str) -> Path:
    """Return a folder beside the run or the file of weights."""
    path = Path(run).expanduser()
    stem = path.stem if path.is_file() else path.resolve().name
    return path.parent / f"{stem}-{target}"


def _print(report: ExportReport) -> None:
    """Print the table, and where the files are."""
    from fedlearn.reporting.units import bytes_text, percent_text

    torch_accuracy = report.rows[0].parity.torch_accuracy
    lines = [("", "bytes", "difference", "ties", "accuracy", "CPU µs", "× torch")]
    lines.append(
        (
            "torch",
            "",
            "",
            "",
            percent_text(torch_accuracy),
            f"{report.torch_microseconds:.1f}",
            "",
        )
    )
    for row in report.rows:
        lines.append(
            (
                row.label,
                bytes_text(row.bytes),
                f"{row.parity.largest:.1e}",
                str(row.parity.ties),
                percent_text(row.parity.accuracy),
                f"{row.microseconds:.1f}",
                f"{report.torch_microseconds / row.microseconds:.1f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        name = line[0].ljust(widths[0])
        figures = [
            text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True)
        ]
        print("  ".join((name, *figures)).rstrip())
    print(f"\n{report.folder}")
    for note in report.notes:
        print(f"note: {note}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
