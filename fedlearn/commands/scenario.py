"""The command ``fedlearn scenario``: play a story from the life of a model, and draw it."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from fedlearn.commands.arguments import Parser, add_quiet, ended, interrupt
from fedlearn.errors import ConfigError
from fedlearn.scenarios.scene import SCENARIOS

# Seeds of an experiment are of 32 bits.
_HIGHEST_SEED = 2**32 - 1

EPILOG = (
    "Each takes a minute or two on two cores, and starts its own processes on this machine. "
    "exit codes: 0 all that it claims held, 2 wrong input, 3 a claim did not hold, 130 "
    "interrupted"
)


def parser() -> Parser:
    """Return the command's arguments."""
    width = max(map(len, SCENARIOS))
    lines = [f"  {name:<{width}}  {about}" for name, about in SCENARIOS.items()]
    parser = Parser(
        prog="fedlearn scenario",
        description="Play a story from the life of a model with real processes, check what "
        "it claims, and draw it:\n" + "\n".join(lines),
        epilog=EPILOG,
        # The list keeps its lines.
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help="one of the scenarios above")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="a new folder for all that it leaves (default: runs/scenario-NAME)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of data and training (default: 0)",
    )
    add_quiet(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    from fedlearn.scenarios.scene import OUTCOME_FILE, run

    if not 0 <= arguments.seed <= _HIGHEST_SEED:
        raise ConfigError(f"--seed {arguments.seed}: from 0 to {_HIGHEST_SEED}")

    def say(text: str) -> None:
        if not arguments.quiet:
            print(text, flush=True)

    # As Ctrl-C: no process of a scenario outlives it.
    signal.signal(signal.SIGTERM, interrupt)
    folder = arguments.out or Path("runs") / f"scenario-{arguments.name}"
    outcome = run(arguments.name, folder, arguments.seed, say)
    for line in outcome.lines:
        say(line)
    say(f"picture  {outcome.picture}")
    say(f"facts    {folder / OUTCOME_FILE}")


if __name__ == "__main__":
    sys.exit(main())
