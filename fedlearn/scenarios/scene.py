"""What every scenario is: a line about it, and a function that plays it in a folder.

A scenario is a module of this package with ``SUMMARY``, a line for people, and
``play(folder, seed, say) -> Outcome``. It raises RunError with the claim that did not hold.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from fedlearn.errors import ConfigError, RunError, UserError
from fedlearn.names import nearest
from fedlearn.system import files

# Scenario → about. Its module is imported when it is played: one line needs no numpy.
SCENARIOS = {
    "maintenance": "industry: bearings wear, a fleet learns again, a bad release is recalled",
    "traffic": "traffic: a folder as camera, counts by class over MQTT",
    "wearable": "medicine: a renewed model over 1 kbit/s, and back offline",
    "soil": "agriculture: a batch of readings, computed elsewhere as the link dies",
}

OUTCOME_FILE = "outcome.json"
PICTURE_FILE = "scenario.png"

Say = Callable[[str], None]
"""Tells people one line of what happens."""


@dataclass(frozen=True)
class SceneOutcome:
    """What a scenario came to.

    lines: what was seen, one fact a line. picture: the PNG file. facts: figures by name.
    """

    lines: list[str]
    picture: Path
    facts: dict[str, float | int | str]


# Scenarios say it shortly; `fedlearn.engine.task` has another Outcome.
Outcome = SceneOutcome


def check(holds: bool, claim: str) -> None:
    """Raise RunError for a claim of a scenario that does not hold.

    claim: what should be so, with the figures that were seen instead.
    """
    if not holds:
        raise RunError(f"this should hold, and does not: {claim}")


def run(name: str, folder: Path, seed: int, say: Say) -> Outcome:
    """Play a scenario in a new folder, and keep its facts there as ``outcome.json``.

    folder: made if need be; what is in it stays. Raises ConfigError for a folder that holds
    something, UserError for an unknown name, RunError for a claim that does not hold.
    """
    module = importlib.import_module(_module(name))
    _check_empty(folder)
    files.make_folder(folder)
    outcome: Outcome = module.play(folder, seed, say)
    text = json.dumps(
        {"scenario": name, "seed": seed, "facts": outcome.facts}, indent=2
    )
    # Last: a folder with this file holds a scenario that ended well.
    files.replace(folder / OUTCOME_FILE, f"{text}\n".encode())
    return outcome


def _module(name: str) -> str:
    if name not in SCENARIOS:
        known = ", ".join(SCENARIOS)
        raise UserError(
            f"unknown scenario '{name}'.{nearest(name, SCENARIOS)} Known: {known}"
        )
    module = f"fedlearn.scenarios.{name}"
    # A wheel may have been made without it: said, where an import would be a traceback.
    if find_spec(module) is None:
        raise UserError(
            f"the scenario '{name}' is not in this fedlearn; install a newer one"
        )
    return module


def _check_empty(folder: Path) -> None:
    # A folder that somebody made for it is as good as none.
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(f"--out {folder} is a file; a scenario needs a folder")
    if any(folder.iterdir()):
        raise ConfigError(
            f"'{folder}' holds something already; name another folder with --out, or "
            "remove this one"
        )
