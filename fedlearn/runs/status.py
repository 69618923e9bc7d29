"""How a run is doing, from its folder or from its coordinator's figures.

Reading does not disturb a run that goes on, and files that are torn or missing are as
good as empty. Nothing here imports torch or flwr.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomllib

from fedlearn.errors import RunError, UserError
from fedlearn.records.line import Line
from fedlearn.records.names import (
    ADDRESS_FILE,
    CONFIG_FILE,
    LINES_FILE,
    PATIENCE,
    SUMMARY_FILE,
)
from fedlearn.records.writing import owned, read_lines

TIMEOUT_S = 5.0

# More than a coordinator's figures take; an endless page must not fill the memory.
LONGEST_BYTES = 1 << 20

# A line of Prometheus' text format: fedlearn_NAME{LABEL="VALUE"} NUMBER.
_FIGURE = re.compile(r'fedlearn_(\w+)(?:\{\w+="([^"]*)"\})? (\S+)')

Figures = Mapping[tuple[str, str], float]
"""(name, label) → value; the label is empty for a figure that has none."""


@dataclass(frozen=True)
class Trouble:
    """The newest event about one client of those that its owner may want to know.

    time: UTC, ISO 8601.
    """

    time: str
    event: str
    client: int | None
    round: int | None
    text: str


@dataclass(frozen=True)
class Status:
    """How a run is doing; None: not known. Sizes in bytes.

    seconds: of the last round. counts: event → how often. next: the command that goes
    on with the run, where one is needed. Of a Flower app alone: its name, its messages,
    those that failed and why the first of them, and its last metrics, by whose they are
    ("train", "evaluate" or "server").
    """

    state: str
    round: int
    rounds: int | None
    accuracy: float | None = None
    loss: float | None = None
    seconds: float | None = None
    attending: int | None = None
    bytes_up: int | None = None
    bytes_down: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    lately: tuple[Trouble, ...] = ()
    next: str | None = None
    app: str | None = None
    messages: int | None = None
    failed: int | None = None
    failure: str | None = None
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def of_folder(folder: Path) -> Status:
    """Return the status of a run as its folder shows it.

    Raises UserError for a folder that holds no run, RunError for files that the system
    does not let us read.
    """
    _check_folder(folder)
    served = bool(_json_object(folder / ADDRESS_FILE))
    lines = _lines(folder)
    last: Mapping[str, Any] = lines[-1] if lines else {}
    scored = _last_scored(lines)
    # Whoever holds the lock of the folder is at work on it.
    live = owned(folder)
    state, next_command = _state(folder, lines, live, served)
    return Status(
        state=state,
        round=int(last.get("round", 0)),
        rounds=_planned_rounds(folder),
        accuracy=scored.get("accuracy"),
        loss=scored.get("loss"),
        seconds=last.get("seconds"),
        bytes_up=sum(line.get("bytes_up", 0) for line in lines),
        bytes_down=sum(line.get("bytes_down", 0) for line in lines),
        next=next_command,
        **of_agents(folder, live, served),
    )


def of_agents(folder: Path, live: bool, served: bool) -> dict[str, Any]:
    """Return the fields of a status that are of a run's agents, from its log of events.

    live: a process is at work on the run. served: its clients are agents.
    """
    # Imported late: a run in a folder needs no server.
    from fedlearn.server.observe import TROUBLE, read

    events = read(folder)
    troubles = [event for event in events if event["event"] in TROUBLE]
    # Only a run over agents has any attending.
    attending = (_attending(events) if live else 0) if served else None
    return {
        "attending": attending,
        "counts": _counts(troubles, TROUBLE),
        "lately": _newest_by_client(troubles),
    }


def _check_folder(folder: Path) -> None:
    if not folder.exists():
        raise UserError(f"there is no run folder '{folder}'")
    if not folder.is_dir():
        raise UserError(f"'{folder}' is a file; give the folder of a run")
    served = bool(_json_object(folder / ADDRESS_FILE))
    if not served and not (folder / CONFIG_FILE).exists():
        raise UserError(
            f"'{folder}' is not a run folder: it has no config.toml and no address.json"
        )


def _lines(folder: Path) -> list[Line]:
    try:
        return list(read_lines(folder))
    except OSError as error:
        path = folder / LINES_FILE
        raise RunError(f"cannot read '{path}': {error.strerror or error}") from None


def _last_scored(lines: Sequence[Line]) -> Mapping[str, Any]:
    """Return the last line of an evaluated round; empty where there is none."""
    for line in reversed(lines):
        if line.get("accuracy") is not None:
            scored: Mapping[str, Any] = line
            return scored
    return {}


def _attending(events: Sequence[Mapping[str, Any]]) -> int | None:
    """Return how many agents attend, by the newest event that has it."""
    for event in reversed(events):
        if isinstance(event.get("attending"), int):
            return int(event["attending"])
    return None


def _counts(
    troubles: Sequence[Mapping[str, Any]], order: Sequence[str]
) -> dict[str, int]:
    counts = Counter(trouble["event"] for trouble in troubles)
    return {event: counts[event] for event in order if counts[event]}


def _newest_by_client(troubles: Sequence[Mapping[str, Any]]) -> tuple[Trouble, ...]:
    """Return the newest trouble of each client, newest first.

    Strangers, who have no id, count as one client.
    """
    newest: dict[int | None, Mapping[str, Any]] = {}
    # From the newest: the first entry of a client stays.
    for event in reversed(troubles):
        newest.setdefault(event.get("client"), event)
    return tuple(_trouble(client, event) for client, event in newest.items())


def _trouble(client: int | None, event: Mapping[str, Any]) -> Trouble:
    return Trouble(
        time=str(event.get("time", "")),
        event=event["event"],
        client=client,
        round=_round_of(event.get("key")),
        text=str(event.get("text", "")),
    )


def _round_of(key: object) -> int | None:
    """Return the round of an event's key "ROUND/TASK/ATTEMPT"; None: it has none."""
    number = str(key).partition("/")[0]
    return int(number) if number.isdecimal() else None


def _state(
    folder: Path, lines: Sequence[Line], live: bool, served: bool
) -> tuple[str, str | None]:
    """Return a run's state in words, and the command that goes on with it, or None.

    live: a process is at work on it. served: its clients are agents.
    """
    if live and lines:
        return "running", None
    if live:
        return ("waits for agents" if served else "starting"), None
    rounds_done = int(lines[-1].get("round", 0)) if lines else 0
    if _is_finished(folder, rounds_done):
        return "finished", None
    path = shlex.quote(str(folder))
    fleet = _json_object(folder / ADDRESS_FILE).get("fleet")
    if isinstance(fleet, str):
        # A run of a fleet goes on with its coordinator, and a failed one by another wish.
        place = shlex.quote(fleet)
        command = (
            f"fedlearn fleet {place} and the options that it had, or, of a run that failed, "
            f"fedlearn fleet run CONFIG --fleet {place} --out {path}"
        )
    elif served:
        command = f"fedlearn serve --resume --out {path} and the options that it had"
    else:
        command = f"fedlearn simulate --resume --out {path}"
    return "stopped", command


def _is_finished(folder: Path, rounds_done: int) -> bool:
    """Return whether the summary is of all rounds that the config asks for.

    It is older than the config in a run that was resumed for more rounds.
    """
    summary = _json_object(folder / SUMMARY_FILE)
    # A summary of fewer rounds was written before the run was resumed.
    if summary.get("rounds") != rounds_done:
        return False
    rounds = _planned_rounds(folder)
    if rounds is None or rounds_done >= rounds:
        return True
    if summary.get("ended") == PATIENCE:
        return True
    stop_at = _experiment_table(folder).get("stop_at") or math.inf
    return bool((summary.get("best_accuracy") or 0.0) >= stop_at)


def _planned_rounds(folder: Path) -> int | None:
    rounds = _experiment_table(folder).get("rounds")
    return rounds if isinstance(rounds, int) else None


def _experiment_table(folder: Path) -> Mapping[str, Any]:
    """Return a run's table [experiment]; empty: it has none yet."""
    try:
        table = tomllib.loads((folder / CONFIG_FILE).read_text())["experiment"]
    except (OSError, ValueError, KeyError):
        return {}
    return table if isinstance(table, dict) else {}


def _json_object(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def of_coordinator(url: str) -> Status:
    """Return the status of a run as its coordinator's ``/metrics`` show it.

    Raises UserError for an address that is none, RunError where nothing answers or
    something else does.
    """
    page = _page_address(url)
    figures = _figures(_fetched(page))
    if ("fleet_devices", "") in figures:
        raise UserError(
            f"{page} is a fleet's; its page is {page.removesuffix('metrics')}, and fedlearn "
            "status FLEET reads its folder"
        )
    if ("rounds_done", "") not in figures:
        raise RunError(f"{page}: these are not the figures of fedlearn serve")
    counts = {
        label: int(value)
        for (name, label), value in figures.items()
        if name == "exchange_events_total" and value
    }
    healthy = figures.get(("healthy", ""))
    return Status(
        state="running" if healthy else "not well; /healthz says why",
        round=_whole(figures, "rounds_done") or 0,
        rounds=_whole(figures, "rounds"),
        accuracy=figures.get(("accuracy", "")),
        loss=figures.get(("loss", "")),
        seconds=figures.get(("round_seconds", "")),
        attending=_whole(figures, "agents_attending"),
        bytes_up=_whole(figures, "payload_bytes_total", "up"),
        bytes_down=_whole(figures, "payload_bytes_total", "down"),
        counts=counts,
    )


def _page_address(url: str) -> str:
    page = url if "://" in url else f"http://{url}"
    if not page.startswith(("http://", "https://")):
        raise UserError(f"--url {url}: write http://HOST:PORT")
    # Both the page's address and its server's are taken.
    return page.rstrip("/").removesuffix("/metrics") + "/metrics"


def _fetched(page: str) -> str:
    # Without a proxy: the page is on this machine, or at the end of a tunnel.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(page, timeout=TIMEOUT_S) as reply:
            return str(reply.read(LONGEST_BYTES).decode(errors="replace"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise RunError(
            f"{page}: {reason}; is 'fedlearn serve --metrics-port' running there?"
        ) from None


def _figures(text: str) -> Figures:
    """Return the figures of a page in Prometheus' text format that are finite."""
    figures = {}
    for name, label, number in _FIGURE.findall(text):
        try:
            value = float(number)
        except ValueError:
            # Another service may answer at this port.
            continue
        if math.isfinite(value):
            figures[name, label] = value
    return figures


def _whole(figures: Figures, name: str, label: str = "") -> int | None:
    value = figures.get((name, label))
    return None if value is None else int(value)
