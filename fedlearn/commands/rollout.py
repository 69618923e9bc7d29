"""The command ``fedlearn rollout``: bring a package to the devices of a fleet, wave by wave."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

from fedlearn.commands.arguments import Parser, ended
from fedlearn.commands.fleet_text import rollout_lines
from fedlearn.errors import UserError

# Devices that a list may name.
MOST_DEVICES = 1_000_000

# Requests of a wave below which its figures prove nothing.
LEAST_REQUESTS = 20

EPILOG = (
    "exit codes: 0 done, 2 wrong input, 3 refused: a package that no device could take, or "
    "a disk that fails"
)


def parser() -> Parser:
    """Return the command's arguments."""
    parser = Parser(
        prog="fedlearn rollout",
        description="Bring a signed package to the devices of a fleet, wave by wave, and "
        "back where it does harm.",
        epilog=EPILOG,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    start = verbs.add_parser("start", help="begin a rollout")
    start.add_argument("package", type=Path, metavar="PACKAGE", help="a signed package")
    _add_plan(start)
    about = {
        "pause": "open no further wave; failures still withdraw the release",
        "resume": "go on after a pause",
        "abort": "recall the release from every device, also after the end",
        "status": "tell how far the last rollout is",
    }
    for verb, help_text in about.items():
        verbs.add_parser(verb, help=help_text)
    for command in verbs.choices.values():
        command.add_argument(
            "--fleet",
            type=Path,
            required=True,
            metavar="DIR",
            help="the fleet's folder",
        )
    verbs.choices["status"].add_argument(
        "--json", action="store_true", help="print one JSON object"
    )
    return parser


def _add_plan(start: argparse.ArgumentParser) -> None:
    start.add_argument(
        "--key",
        type=Path,
        metavar="PEM",
        help="refuse a package that this release key has not signed; devices look anyway",
    )
    start.add_argument(
        "--devices",
        type=_devices,
        default=(),
        metavar="LIST",
        help="such as 0,3,5-9 (default: all that have reported to the fleet)",
    )
    start.add_argument(
        "--shares",
        type=_shares,
        default=(0.05, 0.25, 1.0),
        metavar="LIST",
        help="where waves end, as shares of the devices (default: 0.05,0.25,1)",
    )
    start.add_argument(
        "--chain",
        action="store_true",
        help="one device after another, in the order of --devices, in place of waves",
    )
    start.add_argument(
        "--most-failed",
        type=_share,
        default=0.2,
        metavar="SHARE",
        help="of a wave that may fail or be silent (default: 0.2)",
    )
    start.add_argument(
        "--silence-s",
        type=_seconds,
        default=3600.0,
        metavar="S",
        help="after which a device of an open wave counts as failed (default: 3600)",
    )
    for name, about in (
        ("errors", "share of requests that fail"),
        ("p99-ms", "median of the devices' 99th percentiles"),
        ("unsure", "share of answers below the package's confidence"),
        ("drift", "median of the devices' population stability indices"),
        ("disagreement", "share of answers that the release before labels otherwise"),
    ):
        start.add_argument(
            f"--{name}",
            type=_limit,
            default=math.inf,
            metavar="X",
            help=f"withdraw above: {about}, over all devices with the release",
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    from fedlearn.release import rollouts

    folder = arguments.fleet
    if arguments.verb == "status":
        value = rollouts.status(folder)
        print(json.dumps(value) if arguments.json else "\n".join(rollout_lines(value)))
    elif arguments.verb == "start":
        _start(arguments)
    else:
        number = rollouts.steer(folder, arguments.verb)
        print(
            f"rollout {number}: {arguments.verb} is noted; see fedlearn rollout status"
        )


def _start(arguments: argparse.Namespace) -> None:
    from fedlearn.exchange.releases import WatchLimits
    from fedlearn.package import keys
    from fedlearn.release import rollouts

    key = None if arguments.key is None else keys.read(arguments.key)
    if arguments.chain and not arguments.devices:
        raise UserError("--chain needs the devices in their order: --devices 3,1,2")
    options = rollouts.RolloutOptions(
        devices=arguments.devices,
        shares=arguments.shares,
        chain=arguments.chain,
        most_failed=arguments.most_failed,
        silence_s=arguments.silence_s,
        limits=WatchLimits(
            LEAST_REQUESTS,
            errors=arguments.errors,
            p99_ms=arguments.p99_ms,
            unsure=arguments.unsure,
            drift=arguments.drift,
            disagreement=arguments.disagreement,
        ),
        key=key,
    )
    plan = rollouts.start(arguments.fleet, arguments.package, options)
    sizes = ", ".join(str(len(wave)) for wave in plan.waves)
    before = "no model" if plan.previous is None else str(plan.previous)
    print(f"rollout {plan.number}: {plan.release} in the place of {before}")
    print(f"waves of {sizes} devices")


def _devices(text: str) -> tuple[int, ...]:
    """Return the ids of a list such as 0,3,5-9."""
    devices: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        is_sound = first.isdecimal() and (not dash or last.isdecimal())
        if not is_sound or len(first) > 7 or len(last) > 7:
            raise argparse.ArgumentTypeError(f"'{text}' is no list such as 0,3,5-9")
        end = int(last) if dash else int(first)
        if not int(first) <= end < MOST_DEVICES:
            raise argparse.ArgumentTypeError(f"'{part}' is no range of ids")
        devices += range(int(first), end + 1)
    return tuple(devices)


def _shares(text: str) -> tuple[float, ...]:
    return tuple(_share(part) for part in text.split(","))


def _share(text: str) -> float:
    return _number(text, 0.0, 1.0)


def _seconds(text: str) -> float:
    return _number(text, 1.0, 1e9)


def _limit(text: str) -> float:
    return _number(text, 0.0, 1e9)


def _number(text: str, least: float, most: float) -> float:
    """Return a number of a range; raises argparse's error for another text."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    # NaN lies in no range.
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(
            f"'{text}' is no number from {least:g} to {most:g}"
        )
    return value
