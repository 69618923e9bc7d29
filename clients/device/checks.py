"""What `fedlearn doctor` looks at on the device itself; each check is one `Finding`, and none raises for what it finds."""

from __future__ import annotations

import json
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from fedlearn.clients.agent import identity
from fedlearn.errors import RecordError

WELL, NOTE, FAILS, SKIPPED = "ok", "note", "FAILS", "-"
"""States: all is well; works, but read this; does not work; not looked at."""

NEEDED = {"numpy": "1.24", "grpcio": "1.60", "protobuf": "6.31.1"}
"""The oldest versions that an agent runs with, as in pyproject.toml."""

KERNEL_S = 180.0
"""How long torch may take to load and to run its first kernel; a Jetson reads it from an SD card."""

LEAST_MEMORY, ENOUGH_MEMORY = 400e6, 800e6
"""Bytes available. Importing torch alone takes 217 MB."""

LEAST_DISK, ENOUGH_DISK = 100e6, 1e9
"""Bytes free where the agent keeps models, residuals and answers."""

SLOW_SYNC_S = 1.0
SOON_S = 7 * 86400.0
DAY_S = 86400.0


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it is, what to do about it (for all that fails), and figures for machines."""

    name: str
    state: str
    text: str
    fix: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)


def python() -> Finding:
    """Look at Python and the few packages that an agent needs."""
    found, wrong = [platform.python_version()], []
    for name, oldest in NEEDED.items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{name} is missing")
            continue
        found.append(f"{name} {version}")
        if _numbers(version) < _numbers(oldest):
            wrong.append(f"{name} {version} is older than {oldest}")
    figures = {"executable": sys.executable, "version": platform.python_version()}
    if wrong:
        return Finding(
            "python",
            FAILS,
            f"{found[0]}: {', '.join(wrong)}",
            f"{sys.executable} -m pip install --upgrade fedlearn",
            figures,
        )
    return Finding("python", WELL, ", ".join(found), figures=figures)


def memory(available: int | None, total_mb: int) -> Finding:
    """Judge the memory that programs can still have, bytes, of all that there is (MB, 0: not known)."""
    if available is None:
        return Finding("memory", SKIPPED, "the system does not tell")
    text = f"{_size(available)} available" + (
        f" of {_size(1048576 * total_mb)}" if total_mb else ""
    )
    figures = {"available_bytes": available}
    fix = "end other programs (a desktop takes about 1 GB: sudo systemctl set-default multi-user.target), or add swap"
    if available < LEAST_MEMORY:
        return Finding("memory", FAILS, f"{text}; torch does not fit", fix, figures)
    if available < ENOUGH_MEMORY:
        return Finding(
            "memory", NOTE, f"{text}; a large model may not fit", fix, figures
        )
    return Finding("memory", WELL, text, figures=figures)


def disk(state: Path) -> Finding:
    """Write and sync a file where the agent keeps its state, and see what is free."""
    folder = state.absolute()
    try:
        folder = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(folder).free
        began = time.monotonic()
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
        sync_s = time.monotonic() - began
    except PermissionError:
        fix = f"run this as the user that the agent runs as, e.g. sudo -u fedlearn fedlearn doctor --state {state}"
        return Finding("disk", FAILS, f"'{folder}' cannot be written by this user", fix)
    except OSError as error:
        fix = "mount the disk writable and see 'dmesg': a card that fails becomes read-only; or choose another --state"
        return Finding("disk", FAILS, f"'{folder}': {error.strerror or error}", fix)
    figures = {"folder": str(folder), "free_bytes": free, "sync_s": round(sync_s, 4)}
    text = f"{_size(free)} free in '{folder}', written and synced in {1000 * sync_s:.0f} ms"
    if free < LEAST_DISK:
        return Finding(
            "disk",
            FAILS,
            text,
            "make room: an agent keeps a few copies of the model there",
            figures,
        )
    if free < ENOUGH_DISK:
        return Finding("disk", NOTE, text, "make room before long", figures)
    if sync_s > SLOW_SYNC_S:
        return Finding(
            "disk",
            NOTE,
            f"{text}: slow",
            "each answer waits for this; a faster card or an SSD helps",
            figures,
        )
    return Finding("disk", WELL, text, figures=figures)


def certificate(state: Path, now: float) -> tuple[Finding, identity.Identity | None]:
    """Look at the agent's identity: whether it is there, whose it is, how long it lasts, who can read the key."""
    name = "certificate"
    enroll = f"fedlearn enroll --coordinator HOST:PORT --token T --state {state}"
    try:
        found = identity.read_identity(state)
    except RecordError as error:
        fix = f"run this as the user that the agent runs as; if the file is damaged: rm {state / 'identity.json'}, then {enroll}"
        return Finding(name, FAILS, str(error), fix), None
    if found is None:
        fix = f"on the coordinator: fedlearn token --client ID; then here: {enroll}"
        return Finding(name, FAILS, f"there is none in '{state}'", fix), None
    figures = {"client": found.client, "not_after": found.not_after}
    text = f"client {found.client}, until {day(found.not_after)}"
    mode = stat.S_IMODE((state / "identity.json").stat().st_mode)
    if mode & 0o077:
        fix = f"chmod 600 {state / 'identity.json'}; if others use this device, also enroll anew with another token"
        return Finding(
            name,
            FAILS,
            f"{text}; other users can read its key (mode {mode:03o})",
            fix,
            figures,
        ), found
    if now >= found.not_after:
        fix = f"if this device's clock is right ({day(now)}), it was away too long: enroll anew with a new token ({enroll})"
        return Finding(
            name,
            FAILS,
            f"client {found.client}, expired on {day(found.not_after)}",
            fix,
            figures,
        ), found
    if found.not_after - now < SOON_S:
        return Finding(
            name,
            NOTE,
            text,
            "the agent renews it when it reaches the coordinator: start the agent",
            figures,
        ), found
    return Finding(name, WELL, text, figures=figures), found


def clock(now: float, known: float) -> Finding | None:
    """Return what is wrong with a clock that is before a moment that has been, both in seconds since 1970."""
    if now >= known - DAY_S:
        return None
    behind = f"it is behind by {days(known - now)} or more"
    text = f"this device's clock says {moment(now)}, but it has been {moment(known)} already: {behind}"
    return Finding("clock", FAILS, text, SET_CLOCK, {"behind_s": round(known - now)})


def torch(
    jetson: bool,
    command: Sequence[str] = (sys.executable, "-m", "fedlearn.clients.device.kernel"),
    timeout_s: float = KERNEL_S,
) -> Finding:
    """Have a process load torch and run kernels; see `fedlearn.clients.device.kernel`."""
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    try:
        told, errors = child.communicate(timeout=timeout_s)
        ended = _ending(child.returncode)
    except subprocess.TimeoutExpired:
        child.kill()
        told, errors = child.communicate()
        ended = f"it does not come back within {timeout_s:g} s"
    facts: dict[str, Any] = {}
    for line in told.decode(errors="replace").splitlines():
        if line.startswith("{") and line.endswith(
            "}"
        ):  # torch and its libraries print what they like
            facts.update(json.loads(line))
    last = (errors.decode(errors="replace").strip().splitlines() or [""])[-1][:300]
    return _judged(facts, ended, last, jetson)


def _judged(
    facts: Mapping[str, Any], ended: str | None, last: str, jetson: bool
) -> Finding:
    """Return the finding for what the process told, how it ended (None: well) and the last line of its errors."""
    install = _route(jetson)

    def fails(text: str, fix: str) -> Finding:
        return Finding("torch", FAILS, text, fix, facts)

    if "missing" in facts:
        hidden = (
            " (this environment does not see the system's packages: make it with --system-site-packages)"
            if _is_closed()
            else ""
        )
        return fails(f"no module '{facts['missing']}'{hidden}", install)
    if "broken" in facts:
        return fails(
            f"torch is there but cannot be loaded: {facts['broken']}",
            f"it was built for another system; {install}",
        )
    if "version" not in facts:
        return fails(
            f"importing torch: {ended or last or 'nothing came back'}",
            f"python3 -X faulthandler -c 'import torch'; then {install}",
        )
    version = f"torch {facts['version']}"
    if facts.get("cpu_wrong"):
        return fails(
            f"{version} computes wrongly on the CPU: {facts['cpu_wrong']}",
            f"the build does not fit this processor; {install}",
        )
    if "cpu_wrong" not in facts:
        return fails(
            f"{version}: on the CPU {ended or last}",
            f"the build does not fit this processor; {install}",
        )
    if "no_gpu" in facts:
        if jetson:
            text = f"{version} finds no GPU ({str(facts['no_gpu']).splitlines()[0]}); it trains on the CPU"
            return Finding(
                "torch",
                NOTE,
                text,
                f"is this user in the groups video and render? If so: {install}",
                facts,
            )
        return Finding("torch", WELL, f"{version}, on the CPU", figures=facts)
    if "gpu" not in facts:
        return fails(
            f"{version}: looking for a GPU {ended or last}",
            "the driver does not answer; restart the device, and see 'dmesg'",
        )
    place = f"{facts['gpu']} ({facts['capability']})"
    if facts.get("gpu_wrong"):
        return fails(
            f"{version} computes wrongly on the {place}: {facts['gpu_wrong']}", install
        )
    if "gpu_s" in facts:
        return Finding(
            "torch",
            WELL,
            f"{version}, kernels run on the {place} and are right",
            figures=facts,
        )
    reason = (
        str(facts.get("gpu_error") or ended or last or "nothing came back")
        .strip()
        .splitlines()[0]
    )
    built = (
        f"; this torch is built for {' '.join(facts['built_for'])}"
        if facts["capability"] not in facts["built_for"]
        else ""
    )
    return fails(
        f"{version} loads, but a kernel does not run on the {place}: {reason}{built}",
        install,
    )


def _route(jetson: bool) -> str:
    if jetson:
        return "install NVIDIA's own wheel for this JetPack (docs/jetson.md has the table); what 'pip install torch' gives has another CUDA"
    return f"{sys.executable} -m pip install 'torch>=2.5,<2.11' (on ARM, newer ones bring gigabytes of CUDA)"


def _is_closed() -> bool:
    """Tell whether this is a virtual environment that does not see the system's packages."""
    try:
        return (
            "include-system-site-packages = false"
            in (Path(sys.prefix) / "pyvenv.cfg").read_text()
        )
    except OSError:
        return False


def _ending(code: int) -> str | None:
    if code == 0:
        return None
    return (
        f"it ends by signal {-code}" + (" (out of memory?)" if code == -9 else "")
        if code < 0
        else None
    )


SET_CLOCK = "set it: sudo timedatectl set-ntp true, or without a time server: sudo date -s '2030-01-31 12:00' (the right one)"


def day(seconds: float) -> str:
    """Return a moment (seconds since 1970) as a date, UTC."""
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def moment(seconds: float) -> str:
    """Return a moment (seconds since 1970) as date and time, UTC."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def days(span_s: float) -> str:
    """Return a span of time in words."""
    span_s = abs(span_s)
    for unit, unit_s in (("days", DAY_S), ("hours", 3600.0), ("minutes", 60.0)):
        if span_s >= 2 * unit_s:
            return f"{span_s / unit_s:.0f} {unit}"
    return f"{span_s:.1f} s"


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version."""
    parts = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        parts.append(int(part))
    return tuple(parts)
