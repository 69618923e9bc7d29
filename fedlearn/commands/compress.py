"""The command ``fedlearn compress``: a smaller model in the place of a trained one."""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from fedlearn.commands.arguments import Parser, add_quiet, ended
from fedlearn.commands.places import check_outside
from fedlearn.errors import ConfigError, ExpectationError, UserError
from fedlearn.runs.start import require_extra

if TYPE_CHECKING:
    from fedlearn.compress.comparison import Verdict
    from fedlearn.compress.variants import Steps

ROUNDS = 10

# Percentage points: what 1,000 test samples can tell apart by about one standard deviation.
GATE = 0.5

EPILOG = (
    "Every step alone and one of each kind together become a row of the table, beside the "
    "original. What loses more than --gate points or is slower is refused; the smallest of "
    "the others is chosen. The same command again goes on where it stopped. exit codes: 0 "
    "a variant is chosen, 2 wrong input, 3 a run failed, 4 all variants are refused, 130 "
    "interrupted"
)

# Packages of the extra ``compress`` that every comparison needs.
_PACKAGES = ("onnx", "onnxruntime")


def parser() -> Parser:
    """Return the command's arguments."""
    parser = Parser(
        prog="fedlearn compress",
        description="Make a trained model smaller, and measure it beside the original.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "source", metavar="RUN", help="a run folder, or a file of weights with --config"
    )
    _add_steps(parser)
    _add_rounds(parser)
    parser.add_argument(
        "--gate",
        type=float,
        default=GATE,
        metavar="POINTS",
        help="percentage points of accuracy that a variant may lose (%(default)s)",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="where the variants come to stand (default: RUN-compressed)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print compress.json in place of the table"
    )
    add_quiet(parser)
    return parser


def _add_steps(parser: Parser) -> None:
    parser.add_argument(
        "--prune",
        action="append",
        type=float,
        default=[],
        metavar="SHARE",
        help="take this share of each layer's filters or units, such as 0.5; may be repeated",
    )
    parser.add_argument(
        "--low-rank",
        action="append",
        type=float,
        default=[],
        metavar="SHARE",
        help="cut dense layers to two factors with this share fewer weights; may be repeated",
    )
    parser.add_argument(
        "--int8", action="store_true", help="store and compute in 8-bit numbers"
    )
    parser.add_argument(
        "--binary",
        action="store_true",
        help="a sign a weight and a scale a filter, but in the first and the last layer",
    )
    parser.add_argument(
        "--cut",
        metavar="LAYER",
        help="cut what is chosen after this layer, into head.onnx and tail.onnx",
    )


def _add_rounds(parser: Parser) -> None:
    parser.add_argument(
        "--rounds",
        type=int,
        default=ROUNDS,
        metavar="N",
        help="federated rounds of fine-tuning after a step; 0: none (%(default)s)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change a key of the fine-tuning, e.g. --set train.lr=0.02",
    )
    parser.add_argument(
        "--config",
        metavar="CONFIG",
        help="of a file of weights: the config that it was trained by",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; a user's mistake is one line on stderr."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = parser().parse_args(words)
    return ended(lambda: _run(arguments, shlex.join(["fedlearn", "compress", *words])))


def _run(arguments: argparse.Namespace, command: str) -> None:
    """Compare, and print; raises ExpectationError where every variant is refused."""
    variants = _variants(arguments)
    _check_numbers(arguments)
    out = _folder(arguments)
    _require_packages(variants)
    require_extra()
    from fedlearn.compress.comparison import Request, compress
    from fedlearn.engine.runner import single_thread
    from fedlearn.runs.trained import load

    # As a run does: more threads would change the last bits of what is computed.
    single_thread()
    quiet = arguments.quiet or arguments.json

    def say(text: str) -> None:
        if not quiet:
            print(text, flush=True)

    request = Request(
        variants=variants,
        rounds=arguments.rounds,
        gate=arguments.gate,
        changes=arguments.set,
        cut=arguments.cut or "",
        quiet=quiet,
        command=command,
    )
    verdict = compress(load(arguments.source, arguments.config), request, out, say)
    _print(verdict, out, arguments)
    if variants and verdict.chosen is None:
        raise ExpectationError(
            f"no variant passed: each one loses more than {arguments.gate:g} points, is "
            "slower or is not smaller; the table says which"
        )


def _variants(arguments: argparse.Namespace) -> list[Steps]:
    """Return what is asked for; raises ConfigError for nothing at all."""
    from fedlearn.compress.variants import variants

    steps = variants(
        arguments.prune, arguments.low_rank, arguments.int8, arguments.binary
    )
    if not steps and not arguments.cut:
        raise ConfigError(
            "nothing to do: give --prune SHARE, --low-rank SHARE, --int8, --binary or "
            "--cut LAYER"
        )
    return steps


def _check_numbers(arguments: argparse.Namespace) -> None:
    if not (math.isfinite(arguments.gate) and 0 <= arguments.gate <= 100):
        raise ConfigError(
            f"--gate {arguments.gate:g}: percentage points from 0 to 100, such as 0.5"
        )
    if arguments.rounds < 0:
        raise ConfigError(f"--rounds {arguments.rounds}: at least 0")


def _folder(arguments: argparse.Namespace) -> Path:
    """Return the output folder; raises UserError for one that cannot be meant."""
    source = Path(arguments.source).expanduser()
    if not source.exists():
        raise UserError(
            f"'{arguments.source}' does not exist; give a run folder, or a file of weights "
            "with --config CONFIG"
        )
    if arguments.out == "":
        raise ConfigError(
            "--out is empty; name a folder, or leave it out for RUN-compressed"
        )
    name = source.resolve().name.removesuffix(".safetensors")
    out = source.resolve().parent / f"{name}-compressed"
    if arguments.out:
        out = Path(arguments.out)
    check_outside(out, "--out")
    return out


def _require_packages(variants: Sequence[Steps]) -> None:
    packages = list(_PACKAGES)
    if any(variant.prune for variant in variants):
        packages.append("torch_pruning")
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        names = ", ".join(name.replace("_", "-") for name in missing)
        raise ConfigError(f"compress needs {names}: pip install 'fedlearn[compress]'")


def _print(verdict: Verdict, out: Path, arguments: argparse.Namespace) -> None:
    """Print the verdict as a table, or as JSON."""
    from fedlearn.compress.table import cut_lines, table

    if arguments.json:
        print(json.dumps(verdict.as_json(), indent=2))
        return
    if arguments.quiet:
        return
    print(table(verdict.rows, verdict.chosen), end="")
    if verdict.cut:
        print(cut_lines(verdict.cut))
    if verdict.chosen:
        print(f"chosen: {out / verdict.chosen.folder}")
    print(f"all figures: {out / 'compress.json'}")


if __name__ == "__main__":
    sys.exit(main())
