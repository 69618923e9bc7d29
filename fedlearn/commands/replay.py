"""The command ``fedlearn replay``: recompute a run's model from its journal, and compare the hashes."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from fedlearn.commands.arguments import Parser, ended
from fedlearn.errors import ConfigError, RunError
from fedlearn.records.names import (
    CONFIG_FILE,
    JOURNAL_FOLDER,
    MANIFEST_FILE,
    SUMMARY_FILE,
)


def parser() -> Parser:
    """Return the command's arguments."""
    made = Parser(
        prog="fedlearn replay",
        description="Recompute a run's model from the answers in its journal, and compare the hashes.",
    )
    made.add_argument(
        "run", type=Path, help="the folder of a run of 'fedlearn serve' that has ended"
    )
    made.add_argument(
        "--quiet", action="store_true", help="print nothing but the result"
    )
    return made


def _run(given: argparse.Namespace) -> None:
    from fedlearn import config
    from fedlearn.reporting.progress import Progress
    from fedlearn.runs.replaying import replay

    if not (given.run / JOURNAL_FOLDER).is_dir():
        raise ConfigError(
            f"'{given.run}' has no journal: only runs of 'fedlearn serve' have one"
        )
    try:
        wanted = json.loads((given.run / SUMMARY_FILE).read_text())["model_sha256"]
        codec = json.loads((given.run / MANIFEST_FILE).read_text())["codec"]
    except (OSError, ValueError, KeyError):
        raise ConfigError(
            f"'{given.run}' holds no finished run; go on with it first: fedlearn serve --resume --out {given.run}"
        ) from None
    sets = [f'codec.{way}="{codec[way]}"' for way in ("up", "down")]
    experiment = config.read(str(given.run / CONFIG_FILE), sets)
    with Progress(given.quiet) as display:
        found = replay(given.run, experiment, display)
    if found != wanted:
        raise RunError(f"the journal leads to the model {found}, the run says {wanted}")
    print(f"the journal leads to the run's own model: {found}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    given = parser().parse_args(argv)
    return ended(lambda: _run(given))


if __name__ == "__main__":
    sys.exit(main())
