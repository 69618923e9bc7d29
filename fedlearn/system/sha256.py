"""SHA-256 from Python itself, without OpenSSL's library.

`hashlib` loads libcrypto, 3.6 MB of memory, which a board that serves a small model has no
other use for. Python has the same function built in, under a private name of each version.
It takes several times as long, which is milliseconds for a model of a megabyte.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# Of Python 3.12 and later, and of those before; a build may have left both out.
_MODULES = ("_sha2", "_sha256", "hashlib")


def _built_in() -> Any:
    for name in _MODULES:
        try:
            return importlib.import_module(name).sha256
        except (ImportError, AttributeError):
            continue
    raise ImportError("this Python has no SHA-256")


# `hashlib.sha256`, with its arguments and methods.
if TYPE_CHECKING:
    from hashlib import sha256
else:
    sha256 = _built_in()

__all__ = ["sha256"]
