"""The command ``fedlearn replay``: recompute a run's model from its journal."""

from __future__ import annotations

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
    parser = Parser(
        prog="fedlearn replay",
        description="Recompute a run's model from the answers in its journal, and "
        "compare the hashes.",
    )
    parser.add_argument(
        "run", type=Path, help="the folder of a run of 'fedlearn serve' that has ended"
    )
    parser.add_argument(
        "--quiet", action="store_true", help="print nothing but the result"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments.run, arguments.quiet))


def _run(folder: Path, quiet: bool) -> None:
    from fedlearn import config
    from fedlearn.reporting.progress import Progress
    from fedlearn.runs.replaying import replay

    # The config as the run resolved it, so that later defaults change nothing.
    recorded_sha256, codecs = _recorded(folder)
    # "auto" chose codecs at the start, which the config does not have.
    changes = [f'codec.{way}="{codecs[way]}"' for way in ("up", "down")]
    experiment = config.read_recorded(folder / CONFIG_FILE, changes)
    with Progress(quiet) as display:
        sha256 = replay(folder, experiment, display)
    # Exact sums give the same bits in any order, so another hash is a fault, not a
    # rounding.
    if sha256 != recorded_sha256:
        raise RunError(
            f"the journal leads to the model {sha256}, the run says {recorded_sha256}"
        )
    print(f"the journal leads to the run's own model: {sha256}")


def _recorded(folder: Path) -> tuple[str, dict[str, str]]:
    """Return a finished run's model_sha256, and its codecs as used: up and down.

    Raises ConfigError for a folder that has no journal, or whose run has not ended.
    """
    if not (folder / JOURNAL_FOLDER).is_dir():
        raise ConfigError(
            f"'{folder}' has no journal: only runs of 'fedlearn serve' have one"
        )
    # Written at the end only, so a run without them has not ended.
    try:
        summary = json.loads((folder / SUMMARY_FILE).read_text())
        manifest = json.loads((folder / MANIFEST_FILE).read_text())
        # The summary is written at a run's end.
        return summary["model_sha256"], manifest["codec"]
    except (OSError, ValueError, KeyError):
        raise ConfigError(
            f"'{folder}' holds no finished run; go on with it first: "
            f"fedlearn serve --resume --out {folder}"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
