"""What the device is, as Linux tells it, and the facts that the coordinator may know of it.

As in `fedlearn.clients.device.readings`, nothing here raises, and only the standard library is
imported.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from fedlearn.clients.device.readings import read
from fedlearn.clients.device.sysfiles import ROOT, find, folders, text

# JetPack by release of Jetson Linux, from NVIDIA's archive. Of other releases only the first
# number is told.
JETPACK = {
    "36.3": "6.0",
    "36.4": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "38.2": "7.0",
    "38.2.1": "7.0",
}

# First number of JetPack by first number of Jetson Linux.
FAMILY = {"32": "4", "34": "5", "35": "5", "36": "6", "38": "7"}

# Characters of a text in `facts`: all of them together stay below 4 KB of JSON.
LONGEST = 80

Fact = str | int | float


def facts(root: Path = ROOT) -> dict[str, Fact]:
    """Return what the coordinator may know of the device; what is not known is left out.

    It is flat, and at most 4 KB as JSON. No address, name or number of the device or its owner
    is among them.
    """
    facts: dict[str, Fact] = {}
    # Short texts bound the whole: the coordinator refuses facts above 4 KB.
    for name, value in {**_lasting(root), **_passing(root)}.items():
        if isinstance(value, str):
            facts[name] = _short(value)
        elif value is not None:
            facts[name] = value
    return facts


def _lasting(root: Path) -> Mapping[str, Fact | None]:
    """Return the facts that stay: hardware and software."""
    release = l4t(root)
    memory_kb = find(root / "proc/meminfo", r"^MemTotal:\s+(\d+) kB")
    return {
        "board": board(root),
        "chip": chip(root),
        "machine": platform.machine(),
        "os": find(root / "etc/os-release", r'^PRETTY_NAME="?([^"\n]*)'),
        "kernel": text(root / "proc/sys/kernel/osrelease") or None,
        "l4t": release,
        # Without a table entry the family is told, as "6" is more use than nothing.
        "jetpack": jetpack(release) if release else None,
        "cpus": _cpus(root),
        "memory_mb": int(memory_kb) // 1024 if memory_kb else None,
        "gpu": gpu(root),
        "python": platform.python_version(),
        "torch": torch_version(),
    }


def _passing(root: Path) -> Mapping[str, Fact | None]:
    """Return the facts of this moment."""
    reading = read(root)
    passing: dict[str, Fact | None] = {}
    if reading.free_bytes is not None:
        passing["free_mb"] = reading.free_bytes >> 20
    if reading.power_mode is not None:
        passing["power_mode"] = reading.power_mode.name
    if reading.hottest is not None:
        passing["temperature_c"] = round(reading.hottest.celsius, 1)
    if reading.watts is not None:
        passing["watts"] = round(reading.watts, 2)
    if reading.battery is not None:
        passing["battery_percent"] = reading.battery.percent
        passing["mains"] = "no" if reading.battery.drawing else "yes"
    return passing


def board(root: Path = ROOT) -> str | None:
    """Return the board's name, as its device tree or its BIOS tells it."""
    # A Jetson has a device tree, a PC has a BIOS (DMI).
    tree = text(root / "proc/device-tree/model")
    if tree:
        return tree
    vendor = text(root / "sys/class/dmi/id/sys_vendor")
    product = text(root / "sys/class/dmi/id/product_name")
    return f"{vendor} {product}".strip() or None


def chip(root: Path = ROOT) -> str | None:
    """Return the chip that a device tree is compatible with, e.g. "nvidia,tegra234"."""
    # The names go from the board to the chip.
    names = text(root / "proc/device-tree/compatible").split("\0")
    return names[-1] or None


def l4t(root: Path = ROOT) -> str | None:
    """Return the release of Jetson Linux, e.g. "36.4.3"; None on other systems."""
    pattern = r"# R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)"
    release = re.match(pattern, text(root / "etc/nv_tegra_release"))
    if release is None:
        return None
    # NVIDIA's archive, and so `JETPACK`, names 36.4.0 as "36.4".
    return f"{release[1]}.{release[2].removesuffix('.0')}"


def jetpack(release: str) -> str | None:
    """Return the JetPack that a release of Jetson Linux belongs to: "6.2", or just "6"."""
    family = release.partition(".")[0]
    return JETPACK.get(release) or FAMILY.get(family)


def gpu(root: Path = ROOT) -> str | None:
    """Return the name of a GPU with a driver of its own; a Jetson's is part of the chip."""
    for folder in folders(root / "proc/driver/nvidia/gpus", "*"):
        name = find(folder / "information", r"^Model:\s*(.+)$")
        if name:
            return name
    return None


def torch_version() -> str | None:
    """Return the version of the installed torch, by the name of its folder.

    Importing it, or reading metadata, costs memory that a waiting agent does not take.
    """
    for folder in sys.path:
        with contextlib.suppress(OSError):
            for name in os.listdir(folder or "."):
                version = re.fullmatch(r"torch-([^-]+)\.(?:dist|egg)-info", name)
                if version:
                    return version[1]
    return None


def _cpus(root: Path) -> int | None:
    """Return how many cores are switched on: low power modes switch some off."""
    spans = text(root / "sys/devices/system/cpu/online")
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", spans):
        return None
    count = 0
    for span in spans.split(","):
        first, _, last = span.partition("-")
        count += int(last or first) - int(first) + 1
    return count


def _short(value: str) -> str:
    """Return the beginning of a text, with all but printable ASCII replaced."""
    # A device's texts are not to be trusted: they may hold control sequences of a terminal.
    return re.sub(r"[^ -~]", "?", value[:LONGEST])
