"""No networks: torchmetrics imports some by name, and no example uses one."""

from __future__ import annotations


class _Absent:
    """A network that is not here."""


def __getattr__(name: str) -> type[_Absent]:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Absent
