"""A run of an app as it is asked for: checked before anything heavy is imported."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tomllib

from fedlearn.apps import project as projects
from fedlearn.apps.options import EXACT, RunOptions
from fedlearn.apps.project import Project, UserConfig
from fedlearn.errors import ConfigError
from fedlearn.records.names import APP_FILE, SUMMARY_FILE
from fedlearn.records.names import is_unfinished as is_part

# What a run may leave in its folder before its `APP_FILE`.
_BEFORE = (".lock", "app.log")

# Workers that a run may have.
MOST_WORKERS = 1024

_LONGEST_NAME = 60


@dataclass(frozen=True)
class Started:
    """All that a run of an app depends on.

    workers: processes; no result depends on their number. agents: whether agents answer,
    and no workers.
    """

    project: Project
    seed: int = 0
    workers: int = 1
    options: RunOptions = EXACT
    node_configs: Mapping[int, UserConfig] = field(default_factory=dict)
    agents: bool = False

    @property
    def up(self) -> str:
        """Return the codec of replies; "": whole."""
        return self.options.up

    @property
    def down(self) -> str:
        """Return the codec of messages; "": whole."""
        return self.options.down

    def plain(self) -> dict[str, Any]:
        """Return what a run that goes on must have as it was, as JSON has it."""
        project = self.project
        return {
            "app": str(project.folder.resolve()),
            "name": project.name,
            "version": project.version,
            "serverapp": project.serverapp,
            "clientapp": project.clientapp,
            "run_config": dict(project.run_config),
            "nodes": project.nodes,
            "seed": self.seed,
            "codec": {"up": self.up, "down": self.down, "first": self.options.first},
            "client_timeout_s": self.options.client_timeout_s,
            "node_config": {str(p): dict(c) for p, c in self.node_configs.items()},
            "agents": self.agents,
        }


def of_options(
    app: Path,
    *,
    changes: UserConfig | None = None,
    nodes: int | None = None,
    federation: UserConfig | None = None,
    seed: int = 0,
    workers: int = 0,
    options: RunOptions = EXACT,
    node_config: Path | None = None,
) -> Started:
    """Return a run of an app's folder.

    changes: of keys of the app's run config. federation: of its federation's. workers: 0:
    one for each core that this process may use. node_config: a TOML file. Raises
    ConfigError.
    """
    if nodes is not None and not 1 <= nodes <= projects.MOST_NODES:
        raise ConfigError(f"--nodes {nodes} is not from 1 to {projects.MOST_NODES}")
    if nodes is not None and federation and "num-supernodes" in federation:
        raise ConfigError(
            f"--nodes {nodes} and --federation-config num-supernodes="
            f"{federation['num-supernodes']} both say how many nodes there are; give one"
        )
    project = projects.read(app, changes, nodes, federation)
    configs: Mapping[int, UserConfig] = {}
    if node_config is not None:
        configs = node_configs(node_config, project.nodes)
    return Started(project, seed, workers_of(workers, project), options, configs)


def workers_of(workers: int, project: Project) -> int:
    """Return the number of workers: no more than nodes; raises ConfigError."""
    if not 0 <= workers <= MOST_WORKERS:
        raise ConfigError(f"--workers {workers} is not from 0 to {MOST_WORKERS}")
    # A worker without a node would only take memory.
    number = workers or len(os.sched_getaffinity(0))
    return min(number, project.nodes)


def of_folder(path: Path, workers: int = 0) -> Started:
    """Return the run that a folder holds, to go on with it; raises ConfigError."""
    try:
        plain = json.loads((path / APP_FILE).read_text(encoding="utf-8"))
        app = Path(plain["app"])
        # Read anew: the app may have moved, and its files are what runs.
        project = projects.read(app, None, plain["nodes"])
        project = replace(
            project,
            run_config=plain["run_config"],
            serverapp=plain["serverapp"],
            clientapp=plain["clientapp"],
        )
        configs = {int(p): config for p, config in plain["node_config"].items()}
        options = _options(plain)
        seed = plain["seed"]
        # Folders of before had no agents.
        agents = bool(plain.get("agents", False))
    except FileNotFoundError:
        raise ConfigError(
            f"--resume: {path} holds no run of an app (it has no {APP_FILE})"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"--resume: {path / APP_FILE} cannot be read ({error}); start anew"
        ) from None
    number = workers_of(workers, project)
    return Started(project, seed, number, options, configs, agents)


def _options(plain: Mapping[str, Any]) -> RunOptions:
    codec = plain["codec"]
    # Runs of before have neither of the last two.
    timeout_s = plain.get("client_timeout_s", 0.0)
    return RunOptions(codec["up"], codec["down"], codec.get("first", ""), timeout_s)


def check_same(path: Path, started: Started) -> None:
    """Raise ConfigError when a folder's run is not the one that is asked for."""
    before = of_folder(path).plain()
    now = started.plain()
    check_way(path, before["agents"], started.agents)
    changed = [key for key, value in now.items() if before.get(key) != value]
    if changed:
        raise ConfigError(
            f"--out {path} holds a run with another {changed[0].replace('_', '-')}; "
            "resume with the same options, or with --resume --out alone"
        )


def check_way(path: Path, agents: bool, wanted: bool) -> None:
    """Raise ConfigError when a folder's run is to go on with nodes of the other kind.

    agents: of the folder's run. wanted: of the command.
    """
    if agents == wanted:
        return
    command = "serve" if agents else "run"
    raise ConfigError(
        f"--out {path} holds a run of 'fedlearn {command}'; "
        f"to go on: fedlearn {command} --resume --out {path}"
    )


def check_folder(path: Path, resume: bool) -> None:
    """Raise ConfigError for a folder in which no run can begin, or go on."""
    if path.exists() and not path.is_dir():
        raise ConfigError(f"--out {path} is a file; a run needs a folder")
    if (path / APP_FILE).exists():
        if (path / SUMMARY_FILE).exists():
            raise ConfigError(
                f"--out {path} holds a run that is finished; choose another folder"
            )
        if not resume:
            raise ConfigError(
                f"--out {path} already holds a run; add --resume to go on with it, "
                "or choose another folder"
            )
        return
    names = [entry.name for entry in path.iterdir()] if path.exists() else []
    if any(name not in _BEFORE and not is_part(name) for name in names):
        raise ConfigError(
            f"--out {path} is not empty and holds no run of an app; choose another folder"
        )


def is_unfinished(path: Path) -> bool:
    """Return whether a folder holds a run that can go on."""
    return (path / APP_FILE).exists() and not (path / SUMMARY_FILE).exists()


def node_configs(path: Path, nodes: int) -> dict[int, UserConfig]:
    """Return what a TOML file says of nodes: keys for all, and tables for one of them.

    A table's name is the node's partition-id. Raises ConfigError.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--node-config {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--node-config {path} is no TOML: {error}") from error
    common = {k: v for k, v in document.items() if not isinstance(v, dict)}
    shared = projects.flat(common, f"--node-config {path}")
    # Nodes without keys of their own have none in memory.
    configs = {p: dict(shared) for p in range(nodes)} if shared else {}
    for name, table in document.items():
        if not isinstance(table, dict):
            continue
        if not name.isdecimal() or int(name) >= nodes:
            raise ConfigError(
                f"--node-config {path}: [{name}] is no partition-id from 0 to {nodes - 1}"
            )
        values = projects.flat(table, f"--node-config {path} [{name}]")
        configs.setdefault(int(name), {}).update(values)
    return configs


def folder_name(project: Project) -> str:
    """Return an app's name as a folder's name."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", project.name).strip("-.")
    return name[:_LONGEST_NAME] or "app"
