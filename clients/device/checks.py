"""What `fedlearn doctor` looks at on the device itself, but for torch.

Each check returns a `Finding`, and none raises for what it finds.
"""

from __future__ import annotations

import os
import platform
import shutil
import stat
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

from fedlearn.clients.agent import identity
from fedlearn.clients.agent.identity import Identity
from fedlearn.clients.device.findings import (
    DAY_S,
    FAILS,
    NOTE,
    SET_CLOCK,
    SKIPPED,
    WELL,
    Finding,
    day,
    moment,
    size,
    span,
)
from fedlearn.errors import RecordError

# The oldest versions that an agent runs with, as in pyproject.toml.
NEEDED = {"numpy": "1.24", "grpcio": "1.60", "protobuf": "6.31.1"}

# Bytes available. Importing torch alone takes 217 MB.
LEAST_MEMORY = 400e6
ENOUGH_MEMORY = 800e6

# Bytes free where the agent keeps models, residuals and answers.
LEAST_DISK = 100e6
ENOUGH_DISK = 1e9

# A slower sync holds up each answer.
SLOW_SYNC_S = 1.0

# A certificate that ends sooner is worth a note.
SOON_S = 7 * DAY_S

# What a disk is asked to sync: a block of the file system.
_BLOCK = bytes(4096)

# Permission bits of the group, and of all other users.
_OTHERS = 0o077


def python() -> Finding:
    """Look at Python and the few packages that an agent needs."""
    python_version = platform.python_version()
    versions = [python_version]
    faults = []
    for name, oldest in NEEDED.items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            faults.append(f"{name} is missing")
            # Go on, so that one finding names all packages that are to be installed.
            continue
        versions.append(f"{name} {version}")
        if _numbers(version) < _numbers(oldest):
            faults.append(f"{name} {version} is older than {oldest}")
    figures = {"executable": sys.executable, "version": python_version}
    if faults:
        text = f"{python_version}: {', '.join(faults)}"
        fix = f"{sys.executable} -m pip install --upgrade fedlearn"
        return Finding("python", FAILS, text, fix, figures)
    return Finding("python", WELL, ", ".join(versions), figures=figures)


def memory(available: int | None, total_mb: int) -> Finding:
    """Judge the memory that programs can still have.

    available: bytes. total_mb: of the device; 0: not known.
    """
    if available is None:
        return Finding("memory", SKIPPED, "the system does not tell")
    text = f"{size(available)} available"
    if total_mb:
        text += f" of {size(total_mb * (1 << 20))}"
    figures = {"available_bytes": available}
    fix = (
        "end other programs (a desktop takes about 1 GB: "
        "sudo systemctl set-default multi-user.target), or add swap"
    )
    if available < LEAST_MEMORY:
        return Finding("memory", FAILS, f"{text}; torch does not fit", fix, figures)
    if available < ENOUGH_MEMORY:
        text += "; a large model may not fit"
        return Finding("memory", NOTE, text, fix, figures)
    return Finding("memory", WELL, text, figures=figures)


def disk(state: Path) -> Finding:
    """Write and sync a file where the agent keeps its state, and see what is free."""
    folder = state.absolute()
    try:
        # The folder may not exist yet: its nearest parent lies on the same disk.
        folder = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(folder).free
        sync_s = _sync_s(folder)
    except PermissionError:
        text = f"'{folder}' cannot be written by this user"
        fix = (
            "run this as the user that the agent runs as, e.g. "
            f"sudo -u fedlearn fedlearn doctor --state {state}"
        )
        return Finding("disk", FAILS, text, fix)
    except OSError as error:
        fix = (
            "mount the disk writable and see 'dmesg': a card that fails becomes "
            "read-only; or choose another --state"
        )
        return Finding("disk", FAILS, f"'{folder}': {error.strerror or error}", fix)
    return _judged_disk(folder, free, sync_s)


def _sync_s(folder: Path) -> float:
    """Return how long it takes to write and sync a small file; raises OSError."""
    began = time.monotonic()
    # In the agent's own folder: another one may lie on another disk.
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
        file.write(_BLOCK)
        file.flush()
        # As an agent does for each answer: without it only the page cache is measured.
        os.fsync(file.fileno())
    return time.monotonic() - began


def _judged_disk(folder: Path, free: int, sync_s: float) -> Finding:
    figures = {"folder": str(folder), "free_bytes": free, "sync_s": round(sync_s, 4)}
    text = (
        f"{size(free)} free in '{folder}', written and synced in {1000 * sync_s:.0f} ms"
    )
    if free < LEAST_DISK:
        fix = "make room: an agent keeps a few copies of the model there"
        return Finding("disk", FAILS, text, fix, figures)
    if free < ENOUGH_DISK:
        return Finding("disk", NOTE, text, "make room before long", figures)
    if sync_s > SLOW_SYNC_S:
        fix = "each answer waits for this; a faster card or an SSD helps"
        return Finding("disk", NOTE, f"{text}: slow", fix, figures)
    return Finding("disk", WELL, text, figures=figures)


def certificate(state: Path, now: float) -> tuple[Finding, Identity | None]:
    """Look at the agent's identity: whether it is there and for how long, and who can read the key.

    now: seconds since 1970. Returns the identity too, where there is one.
    """
    enroll = f"fedlearn enroll --coordinator HOST:PORT --token - --state {state}"
    try:
        own_identity = identity.read_identity(state)
    except RecordError as error:
        fix = (
            "run this as the user that the agent runs as; if the file is damaged: "
            f"rm {state / 'identity.json'}, then {enroll}"
        )
        return Finding("certificate", FAILS, str(error), fix), None
    if own_identity is None:
        text = f"there is none in '{state}'"
        fix = f"on the coordinator: fedlearn token --client ID; then here: {enroll}"
        return Finding("certificate", FAILS, text, fix), None
    return _judged_identity(
        own_identity, state / "identity.json", now, enroll
    ), own_identity


def _judged_identity(
    own_identity: Identity, path: Path, now: float, enroll: str
) -> Finding:
    """Judge an identity in a file; enroll: the command that makes a new one."""
    figures = {"client": own_identity.client, "not_after": own_identity.not_after}
    end = day(own_identity.not_after)
    text = f"client {own_identity.client}, until {end}"
    # The mode comes first: a key that others have read is lost, whatever its dates.
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & _OTHERS:
        text += f"; other users can read its key (mode {mode:03o})"
        fix = (
            f"chmod 600 {path}; if others use this device, "
            "also enroll anew with another token"
        )
        return Finding("certificate", FAILS, text, fix, figures)
    if now >= own_identity.not_after:
        text = f"client {own_identity.client}, expired on {end}"
        fix = (
            f"if this device's clock is right ({day(now)}), it was away too long: "
            f"enroll anew with a new token ({enroll})"
        )
        return Finding("certificate", FAILS, text, fix, figures)
    if own_identity.not_after - now < SOON_S:
        fix = "the agent renews it when it reaches the coordinator: start the agent"
        return Finding("certificate", NOTE, text, fix, figures)
    return Finding("certificate", WELL, text, figures=figures)


def clock(now: float, known: float) -> Finding | None:
    """Return what is wrong with a clock that is before a moment that has been; None: nothing.

    now: what the clock says; known: the moment; both in seconds since 1970.
    """
    # Archives store local times, so less than a day proves nothing.
    if now >= known - DAY_S:
        return None
    text = (
        f"this device's clock says {moment(now)}, but it has been {moment(known)} "
        f"already: it is behind by {span(known - now)} or more"
    )
    return Finding("clock", FAILS, text, SET_CLOCK, {"behind_s": round(known - now)})


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version."""
    numbers = []
    for part in version.split("."):
        # NVIDIA's versions end in words, as 2.5.0a0+872d972e41.nv24.08 does.
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)
