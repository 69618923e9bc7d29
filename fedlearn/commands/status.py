"""``fedlearn status [RUN]``: how a run is doing, from its folder or from its figures; while it goes on and after."""

from __future__ import annotations

import argparse
import json
import math
import re
import shlex
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fedlearn.commands.arguments import Parser, ended
from fedlearn.errors import ConfigError, RunError, UserError
from fedlearn.records.names import ADDRESS_FILE, CONFIG_FILE, LINES_FILE, SUMMARY_FILE
from fedlearn.records.writing import owned, read_lines
from fedlearn.reporting.units import bytes_text, number_text, percent_text, time_text
from fedlearn.text import printable

SHOWN = 10
"""Clients whose troubles are shown; there may be more."""

TIMEOUT_S = 5.0
LONGEST_BYTES = 1 << 20

FIGURE = re.compile(r'fedlearn_(\w+)(?:\{\w+="([^"]*)"\})? (\S+)')

EPILOG = """A run on this machine is read from its folder. One elsewhere is asked by the address of fedlearn serve
--metrics-port, e.g. through ssh -L 9100:127.0.0.1:9100 HOST. exit codes: 0 done, 2 wrong input, 3 nothing answers"""


@dataclass(frozen=True)
class Trouble:
    """What went wrong with one client lately: the newest such event."""

    time: str  # UTC
    event: str
    client: int | None
    round: int | None
    text: str


@dataclass(frozen=True)
class Status:
    """How a run is doing; None: not known. Sizes in bytes."""

    state: str
    round: int
    rounds: int | None
    accuracy: float | None = None
    loss: float | None = None
    seconds: float | None = None  # of the last round
    attending: int | None = None
    bytes_up: int | None = None
    bytes_down: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)  # event → how often
    lately: tuple[Trouble, ...] = ()
    next: str | None = None  # the command that goes on


def parser() -> Parser:
    """Return the command's arguments."""
    made = Parser(
        prog="fedlearn status",
        description="Tell how a run is doing, while it goes on and after.",
        epilog=EPILOG,
    )
    made.add_argument(
        "run",
        nargs="?",
        type=Path,
        metavar="RUN",
        help="the run's folder (default: the newest in runs/)",
    )
    made.add_argument(
        "--url",
        metavar="URL",
        help="ask the coordinator there, e.g. http://127.0.0.1:9100",
    )
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    given = parser().parse_args(argv)
    return ended(lambda: _run(given))


def _run(given: argparse.Namespace) -> None:
    if given.url and given.run:
        raise ConfigError("give the folder of a run or --url, not both")
    found = (
        of_coordinator(given.url) if given.url else of_folder(given.run or _newest())
    )
    print(json.dumps(asdict(found)) if given.json else text(found))


def of_folder(folder: Path) -> Status:
    """Return the status of a run as its folder tells it; raises UserError for a folder that holds none."""
    from fedlearn.server.observe import TROUBLE, read

    if not folder.exists():
        raise UserError(f"there is no run folder '{folder}'")
    if not folder.is_dir():
        raise UserError(f"'{folder}' is a file; give the folder of a run")
    address, summary = (
        _object(folder / ADDRESS_FILE),
        _object(folder / SUMMARY_FILE),
    )
    if not address and not (folder / CONFIG_FILE).exists():
        raise UserError(
            f"'{folder}' is not a run folder: it has no config.toml and no address.json"
        )
    try:
        lines = list(read_lines(folder))
    except OSError as error:
        raise RunError(
            f"cannot read '{folder / LINES_FILE}': {error.strerror or error}"
        ) from None
    events = read(folder)
    last: Mapping[str, Any] = lines[-1] if lines else {}
    scored: Mapping[str, Any] = next(
        (line for line in reversed(lines) if line.get("accuracy") is not None), {}
    )
    done, rounds = int(last.get("round", 0)), _rounds(folder)
    live = owned(folder)
    state, again = _state(
        folder, done, rounds, live, summary, bool(address), bool(lines)
    )
    counts = {
        event: sum(entry["event"] == event for entry in events) for event in TROUBLE
    }
    here = next(
        (
            entry["attending"]
            for entry in reversed(events)
            if isinstance(entry.get("attending"), int)
        ),
        None,
    )
    return Status(
        state=state,
        round=done,
        rounds=rounds,
        accuracy=scored.get("accuracy"),
        loss=scored.get("loss"),
        seconds=last.get("seconds"),
        attending=(here if live else 0) if address else None,
        bytes_up=sum(line.get("bytes_up", 0) for line in lines),
        bytes_down=sum(line.get("bytes_down", 0) for line in lines),
        counts={event: count for event, count in counts.items() if count},
        lately=_lately([entry for entry in events if entry["event"] in TROUBLE]),
        next=again,
    )


def of_coordinator(url: str) -> Status:
    """Return the status of a run as its coordinator's `/metrics` tell it; raises UserError or RunError."""
    page = url if "://" in url else f"http://{url}"
    if not page.startswith(("http://", "https://")):
        raise UserError(f"--url {url}: write http://HOST:PORT")
    page = page.rstrip("/").removesuffix("/metrics") + "/metrics"
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(page, timeout=TIMEOUT_S) as reply:
            told = reply.read(LONGEST_BYTES).decode(errors="replace")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise RunError(
            f"{page}: {reason}; is 'fedlearn serve --metrics-port' running there?"
        ) from None
    figures = {
        (name, label): float(value)
        for name, label, value in FIGURE.findall(told)
        if _is_finite(value)
    }
    if ("rounds_done", "") not in figures:
        raise RunError(f"{page}: these are not the figures of fedlearn serve")
    counts = {
        label: int(value)
        for (name, label), value in figures.items()
        if name == "exchange_events_total" and value
    }

    def one(name: str, label: str = "") -> float | None:
        return figures.get((name, label))

    def whole(name: str, label: str = "") -> int | None:
        found = one(name, label)
        return None if found is None else int(found)

    return Status(
        state="running" if one("healthy") else "not well; /healthz says why",
        round=whole("rounds_done") or 0,
        rounds=whole("rounds"),
        accuracy=one("accuracy"),
        loss=one("loss"),
        seconds=one("round_seconds"),
        attending=whole("agents_attending"),
        bytes_up=whole("payload_bytes_total", "up"),
        bytes_down=whole("payload_bytes_total", "down"),
        counts=counts,
    )


def text(found: Status) -> str:
    """Return a status for people: one line per fact."""
    of = f" of {found.rounds}" if found.rounds is not None else ""
    facts = {
        "state": found.state,
        "round": f"{found.round}{of} done"
        + (
            f", the last in {time_text(found.seconds)}"
            if found.round and found.seconds
            else ""
        ),
        "accuracy": f"{percent_text(found.accuracy)}, loss {number_text(found.loss)}"
        if found.accuracy is not None
        else None,
        "bytes": f"{bytes_text(found.bytes_up)} up, {bytes_text(found.bytes_down)} down"
        if found.bytes_up or found.bytes_down
        else None,
        "agents": f"{found.attending} attend" if found.attending is not None else None,
        "counted": ", ".join(
            f"{count} {event}" for event, count in sorted(found.counts.items())
        )
        or None,
        "to go on": found.next,
    }
    shown = [
        f"{name:<10}{printable(value)}"
        for name, value in facts.items()
        if value is not None
    ]
    if found.lately:
        shown.append("lately")
    for trouble in found.lately[:SHOWN]:
        who = "-" if trouble.client is None else f"client {trouble.client}"
        when = "" if trouble.round is None else f"round {trouble.round}"
        shown.append(
            f"  {_ago(trouble.time):<13}{who:<14}{trouble.event:<12}{when:<11}{printable(trouble.text)}".rstrip()
        )
    if len(found.lately) > SHOWN:
        shown.append(f"  and {len(found.lately) - SHOWN} clients more")
    return "\n".join(shown)


def _state(
    folder: Path,
    done: int,
    rounds: int | None,
    live: bool,
    summary: Mapping[str, Any],
    served: bool,
    begun: bool,
) -> tuple[str, str | None]:
    """Return a run's state in words, and the command that goes on with it where one is needed."""
    if live:
        return (
            "running" if begun else "waits for agents" if served else "starting"
        ), None
    stop_at = _config(folder).get("stop_at") or math.inf
    if summary.get("rounds") == done and (
        rounds is None
        or done >= rounds
        or (summary.get("best_accuracy") or 0.0) >= stop_at
    ):
        return "finished", None
    command = "serve" if served else "simulate"
    return (
        "stopped",
        f"fedlearn {command} --resume --out {shlex.quote(str(folder))}"
        + (" and the options that it had" if served else ""),
    )


def _lately(events: Sequence[Mapping[str, Any]]) -> tuple[Trouble, ...]:
    """Return the newest trouble of each client, newest first; strangers, who have no id, count as one."""
    newest: dict[int | None, Mapping[str, Any]] = {}
    for entry in reversed(events):
        newest.setdefault(entry.get("client"), entry)
    return tuple(
        Trouble(
            str(entry.get("time", "")),
            entry["event"],
            client,
            _round(entry.get("key")),
            str(entry.get("text", "")),
        )
        for client, entry in newest.items()
    )


def _round(key: object) -> int | None:
    number = str(key).partition("/")[0]
    return int(number) if number.isdecimal() else None


def _ago(moment: str) -> str:
    try:
        import calendar

        then = calendar.timegm(time.strptime(moment[:19], "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return "-"
    return f"{time_text(max(0, time.time() - then)).replace(' min', ' m')} ago"


def _rounds(folder: Path) -> int | None:
    found = _config(folder).get("rounds")
    return found if isinstance(found, int) else None


def _config(folder: Path) -> Mapping[str, Any]:
    """Return a run's table [experiment]; empty: it has none yet."""
    import tomllib

    try:
        found = tomllib.loads((folder / CONFIG_FILE).read_text())["experiment"]
    except (OSError, ValueError, KeyError):
        return {}
    return found if isinstance(found, dict) else {}


def _newest() -> Path:
    runs = [
        path.parent
        for name in (ADDRESS_FILE, CONFIG_FILE)
        for path in Path("runs").glob(f"*/{name}")
    ]
    if not runs:
        raise UserError("there is no run in runs/; give its folder, or --url")
    return max(runs, key=lambda path: path.stat().st_mtime)


def _object(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_finite(value: str) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


if __name__ == "__main__":
    sys.exit(main())
