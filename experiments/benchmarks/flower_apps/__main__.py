"""Flower's own examples, unchanged: `fedlearn run` beside Flower's own loop, in turn.

python -m fedlearn.experiments.benchmarks.flower_apps FOLDER [EXAMPLE …]
    [--rounds N] [--seeds N] [--out DIR] [--markdown]

FOLDER is `examples/` of a checkout of Flower; nothing of it is changed or copied. Its loaders
of data, of torchvision and of language models find our stand-ins first on the path
(``standins/``). Flower's own loop is the ServerApp over a plain Grid (`loop`). Both sides have
the same seeds, so their final models should differ by nought or by rounding; "equal" says
that all messages and replies were the same bytes. What an example needs besides
(scikit-learn, xgboost, opacus, lightning, transformers) is installed by the reader.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fedlearn.commands.arguments import Parser, ended
from fedlearn.errors import ConfigError, RunError
from fedlearn.experiments.benchmarks.flower_apps.examples import (
    EXAMPLES,
    LOCAL_MODEL,
    Example,
)
from fedlearn.experiments.benchmarks.flower_apps.table import Entry, markdown, plain


def parser() -> Parser:
    """Return the command line."""
    parser = Parser(
        prog="python -m fedlearn.experiments.benchmarks.flower_apps",
        description=(__doc__ or "").split("\n\n")[0],
    )
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="Flower's examples/"
    )
    parser.add_argument(
        "examples", nargs="*", metavar="EXAMPLE", help="(default: all sixteen)"
    )
    parser.add_argument(
        "--rounds", type=int, default=2, metavar="N", help="(default: 2)"
    )
    parser.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="(default: 3)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="keep what the runs leave, there"
    )
    parser.add_argument("--markdown", action="store_true", help="a table in Markdown")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    names = arguments.examples or list(EXAMPLES)
    _check(arguments, names)
    if arguments.out is not None:
        _compare(arguments, names, arguments.out.resolve())
        return
    with tempfile.TemporaryDirectory() as folder:
        _compare(arguments, names, Path(folder))


def _check(arguments: argparse.Namespace, names: Sequence[str]) -> None:
    """Raise ConfigError for what cannot be run."""
    for name in names:
        if name not in EXAMPLES:
            raise ConfigError(f"no example '{name}'; there are {', '.join(EXAMPLES)}")
        if not (arguments.folder / name / "pyproject.toml").is_file():
            raise ConfigError(
                f"'{arguments.folder}' has no example '{name}'; give the folder "
                "examples/ of a checkout of Flower"
            )
    for option in ("rounds", "seeds"):
        if getattr(arguments, option) < 1:
            raise ConfigError(f"--{option} is below 1")
    if arguments.out is not None and arguments.out.exists():
        raise ConfigError(f"--out {arguments.out} exists; choose another folder")


def _compare(arguments: argparse.Namespace, names: Sequence[str], out: Path) -> None:
    entries: list[Entry] = []
    for name in names:
        entry = _entry(arguments, name, out)
        entries.append(entry)
        # As they come: all of them take an hour.
        print("\n".join("  ".join(row) for row in entry.rows()), file=sys.stderr)
    print((markdown if arguments.markdown else plain)(entries))
    different = [entry.name for entry in entries if not entry.is_same]
    if different:
        raise RunError(f"not the same on both sides: {', '.join(different)}")


def _entry(arguments: argparse.Namespace, name: str, out: Path) -> Entry:
    """Run an example on both sides, seed by seed."""
    from fedlearn.experiments.benchmarks.flower_apps import sides

    example = EXAMPLES[name]
    entry = Entry(name, example.is_drawn_anew)
    packages = sides.missing(example)
    if packages:
        entry.reason = f"not installed: {', '.join(packages)}"
        return entry
    folder = (arguments.folder / name).resolve()
    try:
        model = _model(example, out)
        for seed in range(arguments.seeds):
            work = out / name / f"seed-{seed}"
            jobs = [
                sides.Job(folder, example, arguments.rounds, seed, work / side, model)
                for side in ("flower", "fedlearn")
            ]
            # In turn: both meet the machine as it is at that time.
            entry.pairs.append((sides.flowers(jobs[0]), sides.ours(jobs[1])))
    except RunError as error:
        entry.reason = str(error)
    return entry


def _model(example: Example, out: Path) -> Path:
    """Return the folder of the local model, which the first example that asks has made."""
    folder = out / "local-model"
    if LOCAL_MODEL in example.config.values() and not folder.exists():
        from fedlearn.experiments.benchmarks.flower_apps import local_model
        from fedlearn.experiments.benchmarks.flower_apps.sides import STANDINS

        local_model.make(folder, _words(STANDINS))
    return folder


def _words(standins: Path) -> tuple[str, ...]:
    """Return the words that the stand-in's texts are made of."""
    import runpy

    names = runpy.run_path(str(standins / "datasets" / "sources.py"))
    words: tuple[str, ...] = names["WORDS"]
    return words


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


if __name__ == "__main__":
    sys.exit(main())
