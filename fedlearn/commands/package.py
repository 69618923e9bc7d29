"""The command ``fedlearn package``: make a run's model a package, check one, compare two."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedlearn.commands.arguments import Parser, ended
from fedlearn.commands.function_arguments import (
    add_functions,
    functions_of,
    samples_of,
)
from fedlearn.commands.places import check_outside
from fedlearn.commands.release_arguments import expiry
from fedlearn.errors import UserError
from fedlearn.reporting.units import bytes_text

if TYPE_CHECKING:
    from fedlearn.release.packing import Wishes

EPILOG = (
    "fedlearn package verify|show|diff: check a package, say what it is, compare two (see: "
    "fedlearn package verify --help). exit codes: 0 done, 2 wrong input, 3 refused: the "
    "word in brackets says why"
)
LATER_EPILOG = (
    "exit codes: 0 done, 2 wrong input, 3 refused: the word in brackets says why"
)


def parser() -> Parser:
    """Return the arguments that make a package."""
    parser = Parser(
        prog="fedlearn package",
        description="Make the model of a run a package: a folder that any device can check "
        "and run.",
        epilog=EPILOG,
    )
    parser.add_argument("run", metavar="RUN", help="a run folder, or a file of weights")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="the package's folder, which is new",
    )
    parser.add_argument(
        "--config", metavar="CONFIG", help="of weights that lie in no run folder"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change one key of the config, such as the place of the data",
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="put in an int8 model too, which devices make of the same weights",
    )
    _add_release(parser)
    add_functions(parser)
    _add_health(parser)
    return parser


def _add_release(parser: Parser) -> None:
    parser.add_argument(
        "--name", default="", help="the package's name (default: the experiment's)"
    )
    parser.add_argument(
        "--counter",
        type=int,
        default=1,
        metavar="N",
        help="grows with every release; devices take none below theirs (default: 1)",
    )
    parser.add_argument(
        "--rollback",
        type=int,
        metavar="N",
        help="take the place of all releases up to counter N, though this one is older",
    )
    parser.add_argument(
        "--expires",
        metavar="DATE",
        help="no device takes it from then on: YYYY-MM-DD, or YYYY-MM-DDThh:mm:ssZ (UTC)",
    )
    parser.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="CLASS",
        help="a class of devices that it is for; may be repeated (default: every device)",
    )
    parser.add_argument(
        "--labels",
        metavar="A,B,…",
        help="the classes by name, or a file with one a line (default: their numbers)",
    )
    parser.add_argument(
        "--next-key",
        action="append",
        default=[],
        type=Path,
        metavar="PEM",
        help="a public key that devices accept from this package on, in place of theirs; "
        "may be repeated",
    )


def _add_health(parser: Parser) -> None:
    group = parser.add_argument_group(
        "health", "what a device watches once it has switched; it goes back on more"
    )
    group.add_argument(
        "--most-errors", type=float, metavar="SHARE", help="of failed requests, 0 to 1"
    )
    group.add_argument(
        "--most-ms", type=float, metavar="MS", help="the 99th percentile of a request"
    )
    group.add_argument(
        "--most-drift",
        type=float,
        metavar="PSI",
        help="population stability index of inputs or outputs; 0.25 is the usual limit",
    )
    group.add_argument(
        "--most-unsure", type=float, metavar="SHARE", help="of unsure answers, 0 to 1"
    )
    group.add_argument(
        "--confidence",
        type=float,
        metavar="P",
        help="an answer is unsure whose highest probability is below (default: 0.5)",
    )
    group.add_argument(
        "--most-disagreement",
        type=float,
        metavar="SHARE",
        help="of answers that the release before labels otherwise, 0 to 1",
    )


def verify_parser() -> Parser:
    """Return the arguments of ``fedlearn package verify``."""
    parser = Parser(
        prog="fedlearn package verify",
        description="Check a package as a device does: every byte, the signature, whether "
        "it fits, and its golden outputs on this machine's runtime.",
        epilog=LATER_EPILOG,
    )
    parser.add_argument("package", type=Path, metavar="DIR")
    parser.add_argument(
        "--key",
        action="append",
        default=[],
        type=Path,
        metavar="PEM",
        help="an accepted release key (release.pem); without one no signature is checked",
    )
    parser.add_argument(
        "--floor", type=int, default=0, metavar="N", help="the device's least counter"
    )
    parser.add_argument(
        "--target", default="", metavar="CLASS", help="the class of the device"
    )
    parser.add_argument(
        "--no-run", action="store_true", help="do not run the golden inputs"
    )
    return parser


def show_parser() -> Parser:
    """Return the arguments of ``fedlearn package show``."""
    parser = Parser(
        prog="fedlearn package show",
        description="Say what a package is, after its bytes were checked.",
        epilog=LATER_EPILOG,
    )
    parser.add_argument("package", type=Path, metavar="DIR")
    parser.add_argument("--json", action="store_true", help="print the manifest itself")
    return parser


def diff_parser() -> Parser:
    """Return the arguments of ``fedlearn package diff``."""
    parser = Parser(
        prog="fedlearn package diff",
        description="Compare two packages: what the manifests say, which files differ, how "
        "far the weights moved, and what a device has to fetch.",
        epilog=LATER_EPILOG,
    )
    parser.add_argument("old", type=Path, metavar="OLD")
    parser.add_argument("new", type=Path, metavar="NEW")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    commands = {
        "verify": (verify_parser, _verify),
        "show": (show_parser, _show),
        "diff": (diff_parser, _diff),
    }
    # A folder of such a name is written with its path: ./show
    if words and words[0] in commands:
        make_parser, run = commands[words[0]]
        arguments = make_parser().parse_args(words[1:])
        return ended(lambda: run(arguments))
    arguments = parser().parse_args(words)
    return ended(lambda: _make(arguments))


def _make(arguments: argparse.Namespace) -> None:
    # Checked before torch is imported: that takes seconds.
    if arguments.out.exists():
        raise UserError(f"--out {arguments.out} is there already; name a new folder")
    check_outside(arguments.out, "--out")
    if not Path(arguments.run).expanduser().exists():
        raise UserError(f"there is no run '{arguments.run}'; give a run folder")
    if arguments.counter < 1:
        raise UserError(f"--counter {arguments.counter}: write a number from 1")
    if arguments.rollback is not None and arguments.rollback < arguments.counter:
        raise UserError(
            f"--rollback {arguments.rollback}: name the newest counter that is taken back, "
            f"not below --counter {arguments.counter}"
        )
    wishes = _wishes(arguments)

    from fedlearn.release.packing import notes, pack
    from fedlearn.runs.trained import load

    trained = load(arguments.run, arguments.config, arguments.set)
    for note in notes(trained):
        print(f"note: {note}", file=sys.stderr)
    package = pack(trained, arguments.out, wishes)
    manifest = package.manifest
    size = sum(entry.bytes for entry in manifest.files.values())
    print(f"{arguments.out}: {manifest.name} {manifest.counter}, {bytes_text(size)}")
    print(f"sha256 {package.sha256} (manifest.json, which has the hashes of all files)")
    print(f"next: fedlearn sign {arguments.out} --key release.key")


def _wishes(arguments: argparse.Namespace) -> Wishes:
    from fedlearn.package import keys
    from fedlearn.package.parts import Health

    pems = [keys.read(path).decode() for path in arguments.next_key]
    expires = expiry(arguments.expires)
    labels = _labels(arguments.labels)
    functions = functions_of(arguments)
    samples = samples_of(arguments)
    health = Health(
        errors=arguments.most_errors,
        p99_ms=arguments.most_ms,
        drift=arguments.most_drift,
        unsure=arguments.most_unsure,
        disagreement=arguments.most_disagreement,
        confidence=arguments.confidence,
    )

    from fedlearn.release.packing import Wishes

    return Wishes(
        name=arguments.name,
        counter=arguments.counter,
        expires=expires,
        rollback=arguments.rollback,
        devices=tuple(arguments.target),
        labels=labels,
        keys=tuple(pems) or None,
        int8=arguments.int8,
        health=health,
        functions=functions,
        samples=samples,
    )


def _labels(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    if not Path(text).is_file():
        return tuple(text.split(","))
    try:
        lines = Path(text).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--labels {text} cannot be read: {error}") from None
    return tuple(line for line in lines if line)


def _verify(arguments: argparse.Namespace) -> None:
    from fedlearn.commands.packages import verified

    for line in verified(
        arguments.package,
        arguments.key,
        floor=arguments.floor,
        device=arguments.target,
        runs=not arguments.no_run,
    ):
        # Each at once: what was sound before a refusal helps to find its cause.
        print(line, flush=True)


def _show(arguments: argparse.Namespace) -> None:
    from fedlearn.commands.packages import shown
    from fedlearn.package import content

    package = content.read(arguments.package)
    if arguments.json:
        value = json.loads(package.manifest.to_bytes())
        print(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        print("\n".join(shown(package)))


def _diff(arguments: argparse.Namespace) -> None:
    from fedlearn.commands.packages import compared
    from fedlearn.package import content

    old = content.read(arguments.old)
    new = content.read(arguments.new)
    print("\n".join(compared(old, new)))


if __name__ == "__main__":
    sys.exit(main())
