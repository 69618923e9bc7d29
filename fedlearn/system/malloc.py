"""The C library's allocator: keep the pages of large blocks, or return what is free."""

from __future__ import annotations

import contextlib
import ctypes

# M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h.
_TRIM = -1
_MMAP = -3

# The largest value that glibc takes for its M_MMAP_THRESHOLD on 64-bit machines.
KEPT_BYTES = 32 << 20


def give_back() -> None:
    """Return freed memory to the kernel now; without glibc, do nothing.

    A runtime that has loaded a model leaves megabytes of what it needed meanwhile.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def keep_pages() -> None:
    """Let freed blocks be used again up to 32 MiB; without glibc, do nothing.

    By default glibc returns large blocks to the kernel when they are freed, and the
    kernel clears each page before it hands it out again: of a process that sends and
    receives models that is an eighth of the time.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_TRIM, KEPT_BYTES)
        mallopt(_MMAP, KEPT_BYTES)
