"""The wheels that another machine needs, resolved for its processor and its Python."""

from __future__ import annotations

import re
import shutil
import tempfile
import zipfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedlearn.bundling.commands import pip, uv
from fedlearn.bundling.own import own_wheel
from fedlearn.system import files

# Minor version. Wheels for glibc 2.28 or older run on every target: JetPack 6 has 2.35,
# Raspberry Pi OS 12 has 2.36.
GLIBC = 28

# Minor version of manylinux2014's glibc, the oldest that today's wheels are built for.
OLDEST_GLIBC = 17


@dataclass(frozen=True)
class Target:
    """A kind of machine that a bundle can be made for."""

    about: str
    # As uname -m says.
    machine: str
    # The Python that the system has.
    python: str
    # What the machine's own torch requires of other packages.
    bounds: tuple[str, ...] = ()
    # The registry's torch that fits; empty: none does.
    torch: str = ""
    # Where the machine's torch comes from.
    advice: str = ""


# What --target can name.
TARGETS: Mapping[str, Target] = {
    # NVIDIA's torch for JetPack 6 was built against numpy 1; with numpy 2 it warns and may
    # crash (jetson-containers#1537).
    "jp6": Target(
        about="JetPack 6 (Jetson Orin)",
        machine="aarch64",
        python="3.10",
        bounds=("numpy<2",),
        torch="torch<2.11",
        advice="the GPU of an Orin needs NVIDIA's wheel for JetPack 6; the registry's "
        "runs on its processor alone",
    ),
    "jp7": Target(
        about="JetPack 7 (Jetson Thor, Orin from 7.2)",
        machine="aarch64",
        python="3.12",
        torch="torch<2.11",
        advice="for the GPU of a Thor: pip install 'torch>=2.11', gigabytes; an Orin's "
        "needs a wheel that was built for it",
    ),
    # From 2.11 on the registry's torch for aarch64 brings CUDA, gigabytes that no
    # Raspberry Pi can use.
    "pi": Target(
        about="Raspberry Pi OS 12, 64 bits",
        machine="aarch64",
        python="3.11",
        torch="torch<2.11",
        advice="pip install 'torch<2.11'",
    ),
    "x86": Target(
        about="PC or server, 64 bits",
        machine="x86_64",
        python="3.12",
        advice="pip install torch",
    ),
}


# In the place of a wheel of torch: the registry's, for the target's processor alone.
REGISTRY = "registry"


def gather(target: Target, torch: str | None, folder: Path) -> dict[str, str]:
    """Bring every wheel that the target needs to a folder.

    Return the requirements files that allow exactly these wheels: name → text.
    torch: None, REGISTRY or the path of a wheel. Raises UserError when uv or pip is missing,
    RunError when no set of wheels fits or the registry cannot be reached.
    """
    ours = own_wheel(folder)
    packages = resolve(target, [str(ours), "pip"])
    download(target, packages, folder)
    base = set(folder.glob("*.whl"))
    for wheel in base:
        _store(wheel)
    texts = {"requirements.txt": lock(base)}
    if torch is not None:
        _gather_torch(target, torch, packages, folder)
        # A file of its own: a machine that has a torch installs the base alone.
        texts["requirements-torch.txt"] = lock(set(folder.glob("*.whl")) - base)
    return texts


def _gather_torch(
    target: Target, torch: str, packages: Sequence[str], folder: Path
) -> None:
    """Bring a torch, and what it needs beside ``packages``, to a folder.

    Raises UserError or RunError as `gather` does.
    """
    requirement = target.torch if torch == REGISTRY else torch
    # The base stays as it is: its wheels are in the folder already.
    resolved = resolve(target, [requirement], packages)
    more = [package for package in resolved if package not in packages]
    download(target, more, folder)
    if torch != REGISTRY:
        shutil.copy(torch, folder)


def resolve(
    target: Target, requirements: Sequence[str], pinned: Sequence[str] = ()
) -> list[str]:
    """Return every package that the target needs for some requirements, as NAME==VERSION.

    requirements: paths of wheels are allowed too, and are left out of the answer.
    pinned: NAME==VERSION that must stay as they are. Raises UserError when uv is missing,
    RunError when it finds no set of wheels.
    """
    with tempfile.TemporaryDirectory(prefix="fedlearn-resolve-") as name:
        wanted_file = Path(name) / "wanted.in"
        bounds_file = Path(name) / "bounds.txt"
        wanted_file.write_text(_lines(requirements))
        bounds_file.write_text(_lines((*target.bounds, *pinned)))
        options = [
            f"--constraints={bounds_file}",
            "--no-annotate",
            "--no-header",
            "--only-binary=:all:",
            f"--python-platform={target.machine}-manylinux_2_{GLIBC}",
            f"--python-version={target.python}",
        ]
        output = uv("pip", "compile", str(wanted_file), *options)
    packages = []
    for line in output.splitlines():
        # A wheel of ours has a path instead of a version.
        if re.match(r"[\w.-]+==", line):
            # The marker after the semicolon holds for the target already.
            packages.append(line.partition(";")[0].strip())
    return sorted(packages)


def _lines(values: Iterable[str]) -> str:
    """Return values as the lines of a text file."""
    text = ""
    for value in values:
        text += f"{value}\n"
    return text


def download(target: Target, packages: Sequence[str], folder: Path) -> None:
    """Bring the target's wheels of these packages (NAME==VERSION) to a folder.

    Raises UserError without pip, RunError when it fails.
    """
    # pip takes a wheel's tag literally, so every glibc that the target runs is named.
    minors = range(GLIBC, OLDEST_GLIBC - 1, -1)
    tags = [f"manylinux_2_{minor}_{target.machine}" for minor in minors]
    tags.append(f"manylinux2014_{target.machine}")
    options = [
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--implementation=cp",
        f"--python-version={target.python}",
        *(f"--platform={tag}" for tag in tags),
        f"--dest={folder}",
    ]
    pip("download", *options, *packages)


def _store(wheel: Path) -> None:
    """Write a wheel anew without compression.

    The archive's own compression, over all files at once, makes a quarter less of it.
    """
    files = []
    with zipfile.ZipFile(wheel) as source:
        for entry in source.infolist():
            files.append((entry, source.read(entry)))
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as stored:
        for entry, data in files:
            stored.writestr(entry, data, zipfile.ZIP_STORED)


def lock(wheels: Collection[Path]) -> str:
    """Return requirements that allow exactly these files."""
    lines = []
    for wheel in sorted(wheels):
        # PyPA's file name: name-version-tags.whl.
        name, version = wheel.name.split("-")[:2]
        # A wheel's name has underscores where the package's has hyphens.
        package = name.replace("_", "-").lower()
        digest = files.sha256(wheel)
        lines.append(f"{package}=={version} --hash=sha256:{digest}\n")
    return "".join(lines)
