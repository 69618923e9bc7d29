"""Where a command may write: not into a folder that is whole, such as a run or a package."""

from __future__ import annotations

from pathlib import Path

from fedlearn.errors import UserError
from fedlearn.package.content import is_package
from fedlearn.records.names import CONFIG_FILE, LINES_FILE

# Of a variant of `fedlearn compress`, whose files it lists, and of a registry.
_VARIANT_FILE = "variant.json"
_REGISTRY_FILE = "registry.db"


def check_outside(path: Path, option: str, fills: bool = False) -> None:
    """Refuse a new path inside a folder that is whole: what is added there would spoil it.

    A package is refused by every device once it has a file that nobody listed; a run is
    archived, compared and removed as one. option: as messages name it. fills: the path is a
    folder that may be there, and files come to lie in it. Raises UserError.
    """
    place = path.expanduser().resolve()
    folders = [place, *place.parents]
    for folder in folders[0 if fills else 1 :]:
        kind = _kind(folder)
        if kind:
            raise UserError(
                f"{option} {path} would add to {kind}, '{folder}', which stays as it is; "
                "name a place outside of it"
            )


def _kind(folder: Path) -> str:
    """Return what a folder is that stays whole; "": it is none."""
    # A run has a manifest of its own, and may have files of any name.
    if (folder / CONFIG_FILE).exists() and (folder / LINES_FILE).exists():
        return "a run folder"
    if (folder / CONFIG_FILE).exists() and (folder / _VARIANT_FILE).exists():
        return "a variant of fedlearn compress"
    if (folder / _REGISTRY_FILE).exists():
        return "a registry"
    return "a package" if is_package(folder) else ""
