"""The arguments of the commands that run an experiment: ``simulate`` and ``serve``."""

from __future__ import annotations

from fedlearn.commands.arguments import Parser, add_config, add_quiet

# The codes are those of fedlearn.errors, and the shells' after Ctrl-C.
EPILOG = (
    "exit codes: 0 done, 2 wrong input, 3 the run failed, "
    "4 an [expect] line does not hold, 130 interrupted"
)


def run_parser(command: str, about: str) -> Parser:
    """Return a parser with the arguments that every command has that runs an experiment."""
    parser = Parser(prog=f"fedlearn {command}", description=about, epilog=EPILOG)
    add_config(parser)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change one key, e.g. --set train.lr=0.05",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="the run folder (default: runs/NAME-TIME)"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --out, or with the newest in runs/",
    )
    add_quiet(parser)
    return parser
