"""How the run of a Flower app is doing, as its folder shows it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedlearn.apps.lines import KINDS, failed_text, sums
from fedlearn.errors import RunError
from fedlearn.records.names import APP_FILE, LINES_FILE, SUMMARY_FILE
from fedlearn.records.writing import owned, read_lines
from fedlearn.runs.status import Status, of_agents


def of_app_folder(folder: Path) -> Status:
    """Return the status of an app's run; raises RunError for files that cannot be read.

    Rounds that are planned are the app's secret, so the status has none.
    """
    try:
        lines: list[dict[str, Any]] = [dict(line) for line in read_lines(folder)]
    except OSError as error:
        path = folder / LINES_FILE
        raise RunError(f"cannot read '{path}': {error.strerror or error}") from None
    totals = sums(lines)
    about = _about(folder)
    served = bool(about.get("agents"))
    # Whoever holds the lock of the folder is at work on it.
    live = owned(folder)
    state, next_command = _state(folder, bool(lines), live, served)
    agents = of_agents(folder, live, served)
    # What stands there of an app is the number of a message.
    agents["lately"] = tuple(replace(t, round=None) for t in agents["lately"])
    return Status(
        state=state,
        round=totals["rounds"],
        rounds=None,
        seconds=lines[-1].get("seconds") if lines else None,
        bytes_up=totals["bytes_up"],
        bytes_down=totals["bytes_down"],
        next=next_command,
        app=str(about.get("name") or folder.name),
        messages=totals["messages"],
        failed=totals["failed"],
        failure=failed_text(totals) or None,
        metrics={kind: totals[kind] for kind in KINDS if totals[kind]},
        **agents,
    )


def _state(
    folder: Path, begun: bool, live: bool, served: bool
) -> tuple[str, str | None]:
    """Return a run's state in words, and the command that goes on with it, or None.

    begun: it has a round. live: a process is at work on it. served: its nodes are agents.
    """
    if live and begun:
        return "running", None
    if live:
        return ("waits for agents" if served else "starting"), None
    if (folder / SUMMARY_FILE).is_file():
        return "finished", None
    path = shlex.quote(str(folder))
    if served:
        command = f"fedlearn serve --resume --out {path} and the options that it had"
    else:
        command = f"fedlearn run --resume --out {path}"
    return "stopped", command


def _about(folder: Path) -> Mapping[str, Any]:
    try:
        value = json.loads((folder / APP_FILE).read_text(encoding="utf-8"))
    # The lines can be summed up without it.
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
