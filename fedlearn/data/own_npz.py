"""A user's own npz file as a data set, whatever its owner calls the column of the owners."""

from __future__ import annotations

import re
from pathlib import Path

from fedlearn.data.own import dataset
from fedlearn.data.samples import Dataset
from fedlearn.data.stored import Arrays, names_in, read_npz

KEYS = ("x_train", "y_train", "x_test", "y_test")

# The documented name of the owners of training samples.
OWNERS = "client_train"

# Other names that people have for them: client_ids, owner, user_train …
_LIKE_OWNERS = re.compile(
    r"(train_)?(client|owner|user|subject|writer|device|site)(s|_?ids?)?(_train)?"
)

FIX = (
    "save it with numpy.savez(path, x_train=…, y_train=…, x_test=…, y_test=…), or read "
    "your file in a function of your own, name = 'my_data:load'"
)


def read_own_npz(path: Path, classes: int | None = None) -> Dataset:
    """Return the set in a user's npz file; raises DataError naming what is absent or wrong.

    classes: as in `fedlearn.data.own.dataset`. Arrays that a set does not need are not read,
    and are named in its notes.
    """
    names = names_in(path, FIX)
    candidates = [name for name in names if _LIKE_OWNERS.fullmatch(name.lower())]
    # The documented name first, all others in the order of the file.
    candidates.sort(key=lambda name: name != OWNERS)
    arrays = read_npz(path, KEYS, FIX, candidates)
    owners = _owners(arrays, candidates)
    x_train, y_train, x_test, y_test = (arrays[key] for key in KEYS)
    unused = [name for name in names if name not in KEYS and name != owners]
    return dataset(
        str(path),
        x_train,
        y_train,
        x_test,
        y_test,
        arrays[owners] if owners else None,
        classes=classes,
        notes=_notes(path, owners, unused),
    )


def _owners(arrays: Arrays, candidates: list[str]) -> str:
    """Return the name of the array that has an owner for each training sample; "": none has."""
    count = len(arrays["y_train"]) if arrays["y_train"].ndim else 0
    for name in candidates:
        # Whoever uses the documented name means it; a wrong length is an error then.
        if name == OWNERS or arrays[name].shape in ((count,), (count, 1)):
            return name
    return ""


def _notes(path: Path, owners: str, unused: list[str]) -> list[str]:
    """Return what the user should know of the file: where owners come from, what is not read."""
    notes = []
    if owners and owners != OWNERS:
        notes.append(
            f"{path}: '{owners}' is read as the owners of the training samples"
        )
    if unused:
        names = ", ".join(f"'{name}'" for name in unused)
        hint = "" if owners else f"; owners of samples would be '{OWNERS}'"
        notes.append(f"{path}: not used: {names}{hint}")
    return notes
