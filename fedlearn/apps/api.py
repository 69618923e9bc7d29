"""Run a whole Flower app: what ``fedlearn run`` and `fedlearn.run` call."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlearn.apps import sources
from fedlearn.apps.start import Started, check_folder, check_same, check_way
from fedlearn.errors import RunError
from fedlearn.records.names import APP_FILE, LINES_FILE, MANIFEST_FILE
from fedlearn.records.writing import RunFolder
from fedlearn.text import first_few

if TYPE_CHECKING:
    from fedlearn.apps.running import OpenNodes

_PACKAGES = ("fedlearn", "flwr", "torch", "numpy")


@dataclass(frozen=True)
class AppRun:
    """A finished run of an app: its folder, and its summary."""

    folder: Path
    summary: Mapping[str, Any]


def run_app(
    started: Started,
    path: Path,
    *,
    resume: bool = False,
    quiet: bool = False,
    show: Callable[[str], None] = print,
    open_nodes: OpenNodes | None = None,
) -> AppRun:
    """Run an app in a folder, or go on with the run that it holds.

    show: takes what the terminal shows before and after the rounds. open_nodes: those who
    answer its messages; None: processes of this machine. Raises ConfigError for
    a folder or an app that cannot be used, RunError when the app's ServerApp fails, or each
    message of a run, RecordError when the folder cannot be written.
    """
    # Before anything is made: a wrong option leaves no folder behind.
    check_folder(path, resume)
    if (path / APP_FILE).exists():
        check_same(path, started)
        check_way(path, started.agents, open_nodes is not None)
        if not quiet:
            _tell_changes(path, started, show)
    shown_path = path
    # The app may change the working directory.
    path = path.resolve()
    project = replace(started.project, folder=started.project.folder.resolve())
    started = replace(started, project=project)
    # Only now: it imports flwr.
    from fedlearn.apps.report import summary_text
    from fedlearn.apps.running import execute, local_nodes

    with closing(RunFolder(path)) as folder:
        _begin(folder, started)
        if not quiet:
            show(_begun(started, shown_path))
        summary = execute(started, folder, quiet, open_nodes or local_nodes)
    if not quiet:
        show(summary_text(summary, str(shown_path)))
    _check_answered(started, shown_path, summary)
    return AppRun(shown_path, summary)


def _tell_changes(path: Path, started: Started, show: Callable[[str], None]) -> None:
    """Tell of files of the app that are others than those that the run began with."""
    before = json.loads((path / APP_FILE).read_text(encoding="utf-8")).get("files")
    # Runs of before noted none.
    if not isinstance(before, dict):
        return
    names = sources.changed(before, sources.digests(started.project.folder))
    if names:
        show(
            f"the app has changed since the run began ({first_few(names)}): answers that "
            "are there stay, and those that follow are the changed app's"
        )


def _begin(folder: RunFolder, started: Started) -> None:
    """Write what a run was started with, unless it goes on."""
    if (folder.path / APP_FILE).exists():
        return
    folder.write_json(MANIFEST_FILE, _manifest())
    # Last: a folder with this file can be resumed.
    files = sources.digests(started.project.folder)
    text = json.dumps({**started.plain(), "files": files}, indent=2)
    folder.write(APP_FILE, text + "\n")


def _check_answered(started: Started, path: Path, summary: Mapping[str, Any]) -> None:
    """Raise RunError for a run whose every message failed: no strategy learned of that."""
    if summary["messages"] and summary["failed"] == summary["messages"]:
        first = summary["first_failure"]
        reason = f"node {first['node']}: {first['reason']}" if first else "no reason"
        raise RunError(
            f"all {summary['messages']} messages of {started.project.name} failed; the "
            f"first: {reason}; all reasons are in {path / LINES_FILE}, tracebacks in "
            f"{path / 'app.log'}"
        )


def _begun(started: Started, path: Path) -> str:
    project = started.project
    # Two are few: who meant more should see it at once.
    why = " (Flower's default; --nodes N)" if project.by_default else ""
    workers = "agents" if started.agents else f"{started.workers} workers"
    text = (
        f"{project.name}: {project.nodes} nodes{why}, {workers}, "
        f"seed {started.seed}, run folder {path}"
    )
    if project.unused:
        text += f"\nnot used here: {', '.join(project.unused)}"
    return text


def _manifest() -> dict[str, Any]:
    versions: dict[str, str] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        # An app without torch needs none.
        except PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "platform": {"system": platform.platform(), "machine": platform.machine()},
        "command": sys.argv,
    }
