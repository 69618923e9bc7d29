"""The wheels that another machine needs, resolved for its processor and its Python, never for this machine's."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedlearn.bundling.commands import pip, uv
from fedlearn.bundling.own import own_wheel

GLIBC = 28
"""Wheels for glibc 2.28 or older run on every target: JetPack 6 has 2.35, Raspberry Pi OS 12 has 2.36."""


@dataclass(frozen=True)
class Target:
    """A kind of machine."""

    about: str
    machine: str  # as uname -m says
    python: str
    bounds: tuple[str, ...] = ()  # what its own torch asks of other packages
    torch: str = ""  # the registry's torch that fits; empty: none does
    advice: str = ""  # where its torch comes from


TARGETS: Mapping[str, Target] = {
    # NVIDIA's torch for JetPack 6 was built against numpy 1; with numpy 2 it warns and may crash (jetson-containers#1537).
    "jp6": Target(
        "JetPack 6 (Jetson Orin)",
        "aarch64",
        "3.10",
        ("numpy<2",),
        "torch<2.11",
        "the GPU of an Orin needs NVIDIA's wheel for JetPack 6; the registry's runs on its processor alone",
    ),
    "jp7": Target(
        "JetPack 7 (Jetson Thor, Orin from 7.2)",
        "aarch64",
        "3.12",
        (),
        "torch<2.11",
        "for the GPU of a Thor: pip install 'torch>=2.11', gigabytes; an Orin's needs a wheel that was built for it",
    ),
    # From 2.11 on the registry's torch for aarch64 brings CUDA, gigabytes that no Raspberry Pi can use.
    "pi": Target(
        "Raspberry Pi OS 12, 64 bits",
        "aarch64",
        "3.11",
        (),
        "torch<2.11",
        "pip install 'torch<2.11'",
    ),
    "x86": Target(
        "PC or server, 64 bits", "x86_64", "3.12", (), "", "pip install torch"
    ),
}
"""What --target can name. Python is the one that the system has."""


REGISTRY = "registry"
"""In the place of a wheel of torch: the registry's, for the target's processor alone."""


def gather(target: Target, torch: str | None, folder: Path) -> dict[str, str]:
    """Bring every wheel that the target needs to a folder, and return the text of the requirements that allow exactly these.

    torch: None, REGISTRY or the path of a wheel. Raises UserError when uv or pip is missing, RunError when there is no
    fitting set of wheels or the registry cannot be reached.
    """
    ours = own_wheel(folder)
    packages = resolve(target, [str(ours), "pip"])
    download(target, packages, folder)
    base = set(folder.glob("*.whl"))
    for wheel in base:
        _store(wheel)
    texts = {"requirements.txt": lock(base)}
    if torch is not None:
        more = [
            package
            for package in resolve(
                target, [target.torch if torch == REGISTRY else torch], packages
            )
            if package not in packages
        ]
        download(target, more, folder)
        if torch != REGISTRY:
            shutil.copy(torch, folder)
        texts["requirements-torch.txt"] = lock(set(folder.glob("*.whl")) - base)
    return texts


def resolve(
    target: Target, wanted: Sequence[str], pinned: Sequence[str] = ()
) -> list[str]:
    """Return every package that the target needs for some requirements, as NAME==VERSION.

    wanted: requirements, or paths of wheels, which are left out of the answer. pinned: NAME==VERSION that must stay as they
    are. Raises UserError when uv is missing, RunError when it finds no set of wheels.
    """
    with tempfile.TemporaryDirectory(prefix="fedlearn-resolve-") as name:
        given, bounds = Path(name) / "wanted.in", Path(name) / "bounds.txt"
        given.write_text("".join(f"{line}\n" for line in wanted))
        bounds.write_text("".join(f"{line}\n" for line in (*target.bounds, *pinned)))
        found = uv(
            *(
                "pip",
                "compile",
                str(given),
                "--constraints",
                str(bounds),
                "--no-annotate",
                "--no-header",
                "--only-binary",
                ":all:",
            ),
            *(
                "--python-platform",
                f"{target.machine}-manylinux_2_{GLIBC}",
                "--python-version",
                target.python,
            ),
        )
    return sorted(
        line.partition(";")[0].strip()
        for line in found.splitlines()
        if re.match(r"[\w.-]+==", line)
    )


def download(target: Target, packages: Sequence[str], folder: Path) -> None:
    """Bring the target's wheels of these packages (NAME==VERSION) to a folder; raises UserError without pip, RunError when it fails."""
    tags = [
        f"manylinux_2_{minor}_{target.machine}" for minor in range(GLIBC, 16, -1)
    ] + [f"manylinux2014_{target.machine}"]
    places = [word for tag in tags for word in ("--platform", tag)]
    pip(
        *(
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--implementation",
            "cp",
            "--python-version",
            target.python,
        ),
        *(*places, "--dest", str(folder), *packages),
    )


def _store(wheel: Path) -> None:
    """Write a wheel anew without compression: the archive's own, over all files at once, makes a quarter less of it."""
    with zipfile.ZipFile(wheel) as source:
        files = [(entry, source.read(entry)) for entry in source.infolist()]
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as stored:
        for entry, data in files:
            stored.writestr(entry, data, zipfile.ZIP_STORED)


def lock(wheels: Collection[Path]) -> str:
    """Return requirements that allow exactly these files."""
    lines = []
    for wheel in sorted(wheels):
        name, version = wheel.name.split("-")[:2]
        lines.append(
            f"{name.replace('_', '-').lower()}=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"
        )
    return "".join(lines)
