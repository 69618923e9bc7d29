"""onnxruntime as all of fedlearn loads it: silent, because what it refuses is raised.

It writes lines of its own to standard error, past Python and past every log: what it found of the
machine's hardware when it is imported, advice on graphs, and each error before it raises that.
A command's error is one line, and a service's log is for its owner.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxruntime import SessionOptions

# Of its five severities, 0 to 4: what is followed by the process's end.
_FATAL = 4

# Such as "2026-11-30 16:28:29.1 [W:onnxruntime:Default, device_discovery.cc:164 …] …", in
# whichever colour; I, W and E are not the end of anything.
_LINE = re.compile(rb"[^\n]*\[[VIWE]:onnxruntime[^\n]*\n?")


def load() -> ModuleType:
    """Return the module onnxruntime, which logs nothing from now on. Raises ImportError."""
    with _without_banner():
        import onnxruntime
    onnxruntime.set_default_logger_severity(_FATAL)
    module: ModuleType = onnxruntime
    return module


def options(runtime: ModuleType) -> SessionOptions:
    """Return options of a session on one thread that logs nothing. runtime: `load`'s."""
    settings: SessionOptions = runtime.SessionOptions()
    # One thread: what is compared with torch, and the same sums on every machine.
    settings.intra_op_num_threads = 1
    settings.inter_op_num_threads = 1
    settings.log_severity_level = _FATAL
    return settings


@contextlib.contextmanager
def _without_banner() -> Iterator[None]:
    """Keep what onnxruntime writes while it is imported off standard error.

    Its severity can be set only afterwards. What others write meanwhile comes out at the end.
    """
    is_closed = sys.stderr is None
    if "onnxruntime" in sys.modules or is_closed or not hasattr(os, "memfd_create"):
        yield
        return
    sys.stderr.flush()
    before = os.dup(2)
    try:
        room = os.memfd_create("stderr")
        try:
            os.dup2(room, 2)
            try:
                yield
            finally:
                sys.stderr.flush()
                os.dup2(before, 2)
                _write_rest(room)
        finally:
            os.close(room)
    finally:
        os.close(before)


def _write_rest(room: int) -> None:
    """Write to standard error what is not onnxruntime's own."""
    data = os.pread(room, os.fstat(room).st_size, 0)
    rest = _LINE.sub(b"", data)
    # A standard error that is closed or full takes nothing.
    with contextlib.suppress(OSError):
        while rest:
            rest = rest[os.write(2, rest) :]
