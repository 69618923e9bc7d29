"""``name = "dir"``: a folder in torchvision's IDX or LEAF's JSON layout, or one npz file."""

from __future__ import annotations

from pathlib import Path

from fedlearn.data.checks import wholes
from fedlearn.data.idx_folder import FIRST, holds_idx, read_idx_folder
from fedlearn.data.leaf import read_leaf
from fedlearn.data.own_npz import read_own_npz
from fedlearn.data.samples import Dataset
from fedlearn.errors import ConfigError, DataError

# The endings of pictures, which are not read here.
PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".tif", ".tiff", ".webp"}

# Files looked at in a folder of class folders: enough to know what it is.
LOOKED_AT = 1_000


def folder(
    path: str, shape: list[int] | None = None, classes: int | None = None
) -> Dataset:
    """Return the data set at ``path``; ``shape`` [C, H, W] turns LEAF's flat lists into pictures.

    A folder: IDX files (plain or .gz) in it, in raw/ or in */raw/, or LEAF's train/*.json and
    test/*.json. A file: an npz with x_train, y_train, x_test, y_test and perhaps client_train.
    classes: how many there are; None: up to the largest label. Nothing is ever unpickled. Raises
    DataError naming the file and what is wrong, ConfigError for a path that is no text.
    """
    if not isinstance(path, str):
        raise ConfigError(f"[data] path = {path!r} is not the name of a folder")
    place = Path(path).expanduser()
    if place.is_file():
        return read_own_npz(place, classes)
    if not place.is_dir():
        raise DataError(f"[data] path = '{path}': there is no such folder or file")
    # torchvision keeps the files of MNIST in MNIST/raw.
    for candidate in (place, place / "raw", *sorted(place.glob("*/raw"))):
        if holds_idx(candidate):
            return read_idx_folder(candidate, classes)
    _check_no_pictures(place)
    if (place / "train").is_dir():
        picture = None
        if shape is not None:
            picture = tuple(wholes("[data] shape", shape).tolist())
        return read_leaf(place, picture, classes)
    raise DataError(
        f"[data] path = '{path}' holds neither {FIRST}[.gz] (IDX) "
        "nor train/*.json (LEAF)"
    )


def _check_no_pictures(place: Path) -> None:
    """Raise DataError for folders of picture files, which are no layout that is read here."""
    for pattern in ("*/*", "train/*/*"):
        for count, path in enumerate(place.glob(pattern)):
            if path.suffix.lower() in PICTURES:
                raise DataError(
                    f"[data] path = '{place}' holds folders of picture files, which are not "
                    "read; load them in a function of your own, name = 'my_data:load', for "
                    "example with torchvision's ImageFolder"
                )
            if count >= LOOKED_AT:
                break
