"""Names that Flower itself has moved since the examples of April 2026, under their old names.

Python imports this file at its start. flwr 1.38 and later have ``UserConfig`` in `flwr.app` and
``Mod``, ``ClientAppCallable`` in `flwr.clientapp.typing`; two of the examples look elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

# Old module → what it had, and where that is now.
_MOVED = {
    "flwr.client.typing": ("flwr.clientapp.typing", ("ClientAppCallable", "Mod")),
    "flwr.common.typing": ("flwr.app", ("UserConfig",)),
}


class _Names(Loader):
    """Loads a module, where there still is one, and adds the names that have moved."""

    def __init__(self, name: str, inner: Loader | None) -> None:
        self._name = name
        self._inner = inner

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec) if self._inner else None

    def exec_module(self, module: ModuleType) -> None:
        if self._inner is not None:
            self._inner.exec_module(module)
        source, names = _MOVED[self._name]

        def missing(name: str) -> Any:
            # When it is asked for: flwr.app itself imports the module.
            if name in names:
                return getattr(import_module(source), name)
            raise AttributeError(name)

        module.__dict__.setdefault("__getattr__", missing)


class _Moved(MetaPathFinder):
    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname not in _MOVED:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None:
            return ModuleSpec(fullname, _Names(fullname, None))
        spec.loader = _Names(fullname, spec.loader)
        return spec


sys.meta_path.insert(0, _Moved())
