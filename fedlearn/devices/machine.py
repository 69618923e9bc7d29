"""The machine that computes, in words, so that a figure can say where it was measured."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return what the processor calls itself; the machine's architecture where it does not say."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    values = {}
    for line in lines:
        key, _, value = line.partition(":")
        values[key.strip()] = value.strip()
    # x86 has "model name"; a Jetson or a Raspberry Pi has the board's "Model".
    name = values.get("model name") or values.get("Model")
    return name or platform.processor() or platform.machine()


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))
