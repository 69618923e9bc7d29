"""Where Python looks for a user's own modules: behind its library, before installed packages.

So `random.py` or `types.py` beside a config shadows nothing that others import, and
`utils.py` there is the user's, whatever is installed. A module of the user's that has the
name of one of Python's own is loaded from its file, under a name of its own.
"""

# Imported before all else of fedlearn, so that what it imports is Python's own: `os` and
# `sys` are loaded when Python starts.
from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_LIBRARY = os.path.dirname(os.__file__)
_INSTALLED = ("site-packages", "dist-packages")

# Before the name of a user's module whose own name is taken.
_PREFIX = "own_"

# These are what they are, wherever a file of that name lies.
_FIXED = ("__main__", "fedlearn")


# Folders for a process that this one starts; they are looked in as those here are.
# PYTHONPATH would have them come before Python's library.
_VARIABLE = "FEDLEARN_MODULES"


# Folders that `look_in` added, the newest last, and how many stay.
_added: list[str] = []
_MOST_ADDED = 8


def environment() -> dict[str, str]:
    """Return the environment of a process that is to find the modules found here."""
    folders = [os.path.abspath(folder) for folder in own_folders()]
    return {**os.environ, _VARIABLE: os.pathsep.join(folders)}


def look_in(folder: str) -> None:
    """Have Python look for modules in a folder, if it does not yet; "": the current one."""
    if folder in sys.path:
        return
    if folder:
        _added.append(folder)
    # A program may run configs out of hundreds of folders, of which each import would
    # look into every one.
    if len(_added) > _MOST_ADDED:
        oldest = _added.pop(0)
        if oldest in sys.path:
            sys.path.remove(oldest)
    # Asked to trust no current folder (-P), Python gets it as the last resort.
    if getattr(sys.flags, "safe_path", False):
        sys.path.append(folder)
        return
    sys.path.insert(_first_installed(), folder)


def begin() -> None:
    """Have a new process find modules as its parent does, whatever command it is."""
    _spare_library()
    for folder in os.environ.get(_VARIABLE, "").split(os.pathsep):
        if folder:
            look_in(folder)


def _spare_library() -> None:
    """Put the current folder behind Python's library, where ``python -m fedlearn…`` put it first.

    ``fedlearn simulate`` and ``python -m fedlearn.simulate`` then find the same modules.
    """
    # As long as Python looks for the module of -m, this stands for its name.
    if sys.argv[:1] != ["-m"] or getattr(sys.flags, "safe_path", False):
        return
    # Another program may import fedlearn: its path is its own.
    if not any(word.startswith(("fedlearn", "-mfedlearn")) for word in sys.orig_argv):
        return
    folder = sys.path.pop(0)
    sys.path.insert(_first_installed(), folder)


def own_folders() -> list[str]:
    """Return the folders of Python's path in which a user's own modules lie, in order."""
    return [folder for folder in sys.path if not _is_pythons(folder)]


def load(module_name: str) -> ModuleType:
    """Import a module that a user names, the user's own first.

    Raises ImportError, and what the module raises.
    """
    import importlib

    top, dot, inner = module_name.partition(".")
    spec = _own_spec(top)
    if spec is None or not _is_taken(top, spec):
        return importlib.import_module(module_name)
    name = f"{_PREFIX}{top}"
    if name not in sys.modules:
        _load_as(name, spec)
    return importlib.import_module(f"{name}{dot}{inner}")


def _own_spec(top: str) -> ModuleSpec | None:
    """Return where a user's own module of a name lies; None: there is no file of it."""
    from importlib.machinery import PathFinder

    if top in _FIXED:
        return None
    spec = PathFinder.find_spec(top, own_folders())
    # A folder without __init__.py may be anything.
    return spec if spec is not None and spec.origin else None


def _is_taken(top: str, spec: ModuleSpec) -> bool:
    """Tell whether a name leads to another module than the user's."""
    from importlib.machinery import PathFinder

    loaded = sys.modules.get(top)
    if loaded is not None and getattr(loaded, "__file__", None) == spec.origin:
        return False
    # Built-in ones have no file; of others Python's own comes first.
    first = PathFinder.find_spec(top)
    if top in sys.stdlib_module_names or (first and first.origin != spec.origin):
        return True
    # Of a whole package parts may be in use already: two of it would not fit together.
    is_package = spec.submodule_search_locations is not None
    return loaded is not None and not is_package


def _load_as(name: str, spec: ModuleSpec) -> None:
    from importlib.util import module_from_spec, spec_from_file_location

    renamed = spec_from_file_location(
        name,
        spec.origin,
        submodule_search_locations=spec.submodule_search_locations,
    )
    assert renamed is not None and renamed.loader is not None
    module = module_from_spec(renamed)
    sys.modules[name] = module
    try:
        renamed.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _first_installed() -> int:
    """Return the place of the first folder of installed packages in Python's path."""
    for place, folder in enumerate(sys.path):
        if folder.endswith(_INSTALLED):
            return place
    return len(sys.path)


def _is_pythons(folder: str) -> bool:
    # Hooks of packages that are installed from their sources stand there as well.
    if folder.endswith((*_INSTALLED, ".zip")) or folder.startswith("__editable__"):
        return True
    # A console script's own folder comes first.
    return folder.startswith(_LIBRARY) or folder == os.path.dirname(sys.executable)
