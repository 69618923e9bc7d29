"""The name of an app's package, from the name of its folder."""

from __future__ import annotations

import keyword
import re
import sys
from importlib.machinery import PathFinder
from pathlib import Path

from fedlearn.errors import UserError
from fedlearn.system import own_path

# What Python imports and a package index takes: PEP 508 wants its ends to be no "_".
_NAME = re.compile(r"[A-Za-z]([A-Za-z0-9_]*[A-Za-z0-9])?")

# What the app imports or holds, whether it is installed or not.
_USED = {"fedlearn", "flwr", "numpy", "pytest", "setuptools", "test_app", "torch"}


def package_name(folder: Path) -> str:
    """Return the name of the package in a folder: the folder's own, with "_" for "-".

    Raises UserError for a name that Python cannot import, or that hides another module.
    """
    name = folder.name.replace("-", "_")
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise UserError(
            f"'{folder.name or folder}' is no name for a package: give a folder whose name has "
            "letters, digits, - and _ only, begins with a letter, ends with a letter or "
            "digit, and is no word of Python's"
        )
    if _is_taken(name):
        raise UserError(
            f"'{name}' is a module of Python or of an installed package, which the app's "
            f"would hide; give a folder of another name, such as '{name}_app'"
        )
    return name


def _is_taken(name: str) -> bool:
    if name in sys.stdlib_module_names or name in _USED:
        return True
    # A package in a folder of the user's own hides nothing that others import.
    folders = set(own_path.own_folders())
    installed = [folder for folder in sys.path if folder not in folders]
    return PathFinder.find_spec(name, installed) is not None
