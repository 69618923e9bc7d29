"""The folder that a comparison writes: whose it is, and what its variants were made with."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedlearn.config import Experiment, to_toml
from fedlearn.errors import ConfigError
from fedlearn.records.names import LOCK_FILE
from fedlearn.records.writing import RunFolder
from fedlearn.runs.trained import Trained

SETTINGS_FILE = "settings.json"


@dataclass(frozen=True)
class Provenance:
    """What decides a variant's weights besides its own steps.

    model_sha256: of the original. tuning_sha256: of the fine-tuning's config. rounds: of it.
    """

    source: str
    model_sha256: str
    rounds: int
    tuning_sha256: str

    def as_json(self) -> dict[str, Any]:
        """Return the settings as JSON has them."""
        return asdict(self)

    def write(self, folder: RunFolder) -> None:
        """Write the settings. Raises RecordError."""
        folder.write_json(SETTINGS_FILE, self.as_json())


def settings_of(original: Trained, tuning: Experiment, rounds: int) -> Provenance:
    """Return the settings of a comparison."""
    digest = hashlib.sha256(to_toml(tuning).encode()).hexdigest()
    return Provenance(original.source, original.model_sha256, rounds, digest)


def check_folder(out: Path) -> None:
    """Raise ConfigError for a path where no comparison can begin or go on."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; a comparison needs a folder")
    if not out.exists() or (out / SETTINGS_FILE).exists():
        return
    # A lock alone is left by one that was killed while it started.
    if any(path.name != LOCK_FILE for path in out.iterdir()):
        raise ConfigError(
            f"--out {out} is in use: it is not empty and holds no comparison; choose "
            "another folder"
        )


def check_settings(out: Path, settings: Provenance) -> None:
    """Raise ConfigError for a folder whose variants were made with other settings."""
    path = out / SETTINGS_FILE
    if not path.exists():
        return
    try:
        before = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        before = None
    if not isinstance(before, dict):
        raise ConfigError(f"{path} cannot be read; choose another folder")
    reasons = {
        "model_sha256": "of another model",
        "rounds": f"of {before.get('rounds')} rounds",
        "tuning_sha256": "of another config or other --set",
    }
    now = settings.as_json()
    for key, reason in reasons.items():
        if before.get(key) != now[key]:
            raise ConfigError(
                f"--out {out} is in use: its variants are {reason}; ask for the same, or "
                "choose another folder"
            )


def clear(out: Path, new_folders: Sequence[Path]) -> None:
    """Remove the folders of a comparison that never began; one with files stays.

    new_folders: those that were made for it, innermost first.
    """
    if out not in new_folders:
        return
    with contextlib.suppress(OSError):
        shutil.rmtree(out)
        for path in new_folders[1:]:
            path.rmdir()
