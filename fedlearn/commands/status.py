"""The command ``fedlearn status [RUN|FLEET]``: how a run, or a fleet of devices, is doing."""

from __future__ import annotations

import argparse
import calendar
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedlearn.commands.arguments import Parser, ended
from fedlearn.errors import ConfigError, UserError
from fedlearn.records.names import ADDRESS_FILE, APP_FILE, CONFIG_FILE
from fedlearn.records.places import RUNS
from fedlearn.reporting.units import bytes_text, number_text, percent_text, time_text
from fedlearn.runs.status import Status, Trouble, of_coordinator, of_folder
from fedlearn.text import first_few, printable

# Clients whose troubles are shown; there may be more.
SHOWN = 10

# What a fleet's folder has and a run's has not; see `fedlearn.server.rollout_store`.
STORE_FILE = "rollouts.sqlite"

EPILOG = (
    "A run on this machine is read from its folder. One elsewhere is asked by the address "
    "of fedlearn serve --metrics-port, e.g. through ssh -L 9100:127.0.0.1:9100 HOST. "
    "exit codes: 0 done, 2 wrong input, 3 nothing answers"
)


def parser() -> Parser:
    """Return the command's arguments."""
    parser = Parser(
        prog="fedlearn status",
        description="Tell how a run is doing, while it goes on and after; or how a fleet's "
        "devices and its rollout are.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "run",
        nargs="?",
        type=Path,
        metavar="RUN|FLEET",
        help="the folder of a run, or of a fleet (default: the newest run in runs/)",
    )
    parser.add_argument(
        "--url",
        metavar="URL",
        help="ask the coordinator there, e.g. http://127.0.0.1:9100",
    )
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="of a fleet: write its page too"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    if arguments.url and arguments.run:
        raise ConfigError("give the folder of a run or --url, not both")
    # Its file alone tells a fleet: nothing of releases is loaded for a run.
    if arguments.run and (arguments.run / STORE_FILE).is_file():
        _tell_fleet(arguments)
        return
    if arguments.page:
        raise ConfigError(
            "--page is of a fleet; the page of a run is its report.html (fedlearn report)"
        )
    if arguments.url:
        # A run elsewhere has no folder here.
        status = of_coordinator(arguments.url)
    else:
        status = _of_folder(arguments.run or _newest_run())
    print(json.dumps(asdict(status)) if arguments.json else text(status))


def _of_folder(folder: Path) -> Status:
    # Its file tells the run of an app.
    if (folder / APP_FILE).is_file():
        from fedlearn.runs.app_status import of_app_folder

        return of_app_folder(folder)
    return of_folder(folder)


def _tell_fleet(arguments: argparse.Namespace) -> None:
    from fedlearn.commands.fleet_text import fleet_lines
    from fedlearn.release.fleet_status import status as status_of
    from fedlearn.reporting.fleet_page import write_fleet_page

    value = status_of(arguments.run)
    if arguments.page:
        write_fleet_page(value, arguments.page)
    print(json.dumps(value) if arguments.json else "\n".join(fleet_lines(value)))


def _newest_run() -> Path:
    # A run over agents has its address before its config.
    runs = [
        path.parent
        for name in (ADDRESS_FILE, CONFIG_FILE, APP_FILE)
        for path in RUNS.glob(f"*/{name}")
    ]
    if not runs:
        raise UserError("there is no run in runs/; give its folder, or --url")
    return max(runs, key=lambda path: path.stat().st_mtime)


def text(status: Status) -> str:
    """Return a status for people: one line per fact, then what went wrong lately."""
    # Some texts come from agents: a terminal would obey their control characters.
    lines = [f"{name:<10}{printable(fact)}" for name, fact in _facts(status)]
    if status.lately:
        lines.append("lately")
    lines += [_trouble_line(trouble) for trouble in status.lately[:SHOWN]]
    if len(status.lately) > SHOWN:
        lines.append(f"  and {len(status.lately) - SHOWN} clients more")
    return "\n".join(lines)


def _facts(status: Status) -> Iterator[tuple[str, str]]:
    """Yield (name, text) for every fact that is known."""
    if status.app is not None:
        yield "app", status.app
    yield "state", status.state
    yield "round", _round_text(status)
    if status.accuracy is not None:
        accuracy = percent_text(status.accuracy)
        yield "accuracy", f"{accuracy}, loss {number_text(status.loss)}"
    if status.bytes_up or status.bytes_down:
        up = bytes_text(status.bytes_up)
        yield "bytes", f"{up} up, {bytes_text(status.bytes_down)} down"
    if status.messages is not None:
        yield "messages", f"{status.messages}, {status.failed} failed"
    if status.failure:
        yield "failures", status.failure
    for kind, metrics in status.metrics.items():
        yield kind, metrics_text(metrics)
    if status.attending is not None:
        yield "agents", f"{status.attending} attend"
    if status.counts:
        counts = sorted(status.counts.items())
        yield "counted", ", ".join(f"{count} {event}" for event, count in counts)
    if status.next is not None:
        yield "to go on", status.next


def metrics_text(metrics: Mapping[str, Any]) -> str:
    """Return an app's metrics in one line; its folder has those that have no room there."""
    numbers = [
        f"{name} {number_text(value)}"
        for name, value in metrics.items()
        # Flower's metrics may be lists too.
        if isinstance(value, int | float)
    ]
    return first_few(numbers)


def _round_text(status: Status) -> str:
    planned = "" if status.rounds is None else f" of {status.rounds}"
    rounds = f"{status.round}{planned} done"
    if status.round and status.seconds:
        return f"{rounds}, the last in {time_text(status.seconds)}"
    return rounds


def _trouble_line(trouble: Trouble) -> str:
    client = "-" if trouble.client is None else f"client {trouble.client}"
    round_text = "" if trouble.round is None else f"round {trouble.round}"
    columns = (
        f"  {_ago(trouble.time):<13}{client:<14}{trouble.event:<12}{round_text:<11}"
    )
    return f"{columns}{printable(trouble.text)}".rstrip()


def _ago(moment: str) -> str:
    """Return how long ago a moment was (UTC, ISO 8601), "-" for text that is none."""
    try:
        # Only to the second, and without the zone, which is always UTC.
        then = calendar.timegm(time.strptime(moment[:19], "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return "-"
    # A coordinator elsewhere may have a clock that is ahead of ours.
    elapsed = time_text(max(0, time.time() - then))
    return f"{elapsed.replace(' min', ' m')} ago"


if __name__ == "__main__":
    sys.exit(main())
