"""What a device's owner decides of releases, by options or in the settings file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ReleaseSettings:
    """What a device's owner decides of releases.

    folder: of the slots. names: of the packages that are accepted. keys: PEM of the release
    keys. device: its class, for the packages' targets. most_bytes: of files that travel.
    most_megabytes: of a trial run, 0: any. watch_s, ready_s, starts: of `WatchTerms`. serve:
    arguments of ``fedlearn infer``, None: another program serves what serving.json names.
    shadow: share of the requests that the release before answers too while one is on trial.
    disagreement: most of those answers that may have another label, if the manifest does not
    say less. probe, least_accuracy: the owner's own samples, a .npz file with x and y, and
    the share of them that a release has to label rightly. functions: whether packages may
    have steps before and after the model.
    """

    folder: Path
    names: tuple[str, ...]
    keys: tuple[str, ...]
    device: str = ""
    most_bytes: int = 1 << 30
    most_megabytes: int = 0
    watch_s: float = 600.0
    ready_s: float = 60.0
    starts: int = 3
    serve: tuple[str, ...] | None = None
    shadow: float = 0.05
    disagreement: float = 0.5
    probe: Path | None = None
    least_accuracy: float = 0.0
    functions: bool = False
