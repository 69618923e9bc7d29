"""An aarch64 board on another machine: Debian's arm64 Python and the registry's aarch64
wheels, run by qemu's user emulation.

Real aarch64 binaries, so it shows what a board would compute; not its GPU, heat or speed.
Everything lies in one folder, made by unprivileged apt-get and pip: nothing is installed in the
system. Some 280 MB are downloaded, once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path

import tomllib

from fedlearn.bundling.wheels import Target, download, resolve
from fedlearn.errors import FedlearnError

ROOT = Path(__file__).parents[2]
PLACE = Path(os.environ.get("FEDLEARN_EDGE", "edge")).absolute()
MACHINE = "aarch64"
TORCH = "torch<2.11"  # later ones bring CUDA, gigabytes
# Later ones crash in Debian's emulator (qemu 7.2), before they compute anything.
RUNTIME = "onnxruntime==1.23.2"
BOOT_S = 300.0


class Missing(Exception):
    """The board cannot be made here; the text says why."""


@dataclass(frozen=True)
class Board:
    """python: a program of this machine that is the board's Python; path: where the board's
    other programs are found.
    """

    python: Path
    path: Path

    def environment(self) -> dict[str, str]:
        """Return the variables with which the board's Python runs the sources here."""
        told = {
            "PYTHONPATH": str(ROOT),
            "PYTHONPYCACHEPREFIX": str(PLACE / "compiled"),
            "OMP_NUM_THREADS": "1",
        }
        return {
            **os.environ,
            **told,
            "PATH": f"{self.path}{os.pathsep}{os.environ['PATH']}",
        }


def board() -> Board:
    """Return the board, made anew where there is none; raises Missing."""
    made = Board(PLACE / "root/usr/bin/python3", PLACE / "bin")
    if not (PLACE / "ready").exists():
        shutil.rmtree(PLACE, ignore_errors=True)
        PLACE.mkdir(parents=True)
        _system(made)
        _packages(made)
        (PLACE / "ready").touch()
    return made


def with_runtime(made: Board) -> Board:
    """Give the board what runs models, unless it has it; raises Missing."""
    libraries = PLACE / "root/usr/lib/python3/dist-packages"
    if (libraries / "onnxruntime").exists():
        return made
    version = next((PLACE / "root/usr/bin").glob("python3.??")).name
    target = Target("Debian", MACHINE, version.removeprefix("python"))
    try:
        download(target, resolve(target, [RUNTIME]), PLACE / "runtime")
    except FedlearnError as error:
        raise Missing(str(error)) from None
    for wheel in (PLACE / "runtime").glob("*.whl"):
        # What the board has already stays as it is.
        if not (libraries / wheel.name.partition("-")[0]).exists():
            zipfile.ZipFile(wheel).extractall(libraries)
    shutil.rmtree(PLACE / "runtime")
    _run(str(made.python), "-c", "import onnxruntime")
    return made


def _system(made: Board) -> None:
    """Unpack the emulator and Debian's Python, and put programs of this machine in the place of
    the board's.
    """
    host = {"x86_64": "amd64"}.get(os.uname().machine)
    if host is None or not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise Missing("the emulator comes from Debian's packages, on an x86-64 machine")
    _unpack(host, ["qemu-user-static"], PLACE / "qemu")
    emulator = PLACE / "qemu-aarch64"
    shutil.move(PLACE / "qemu/usr/bin/qemu-aarch64-static", emulator)
    shutil.rmtree(PLACE / "qemu")  # the other 30 processors
    _unpack("arm64", ["python3", "openssl", "libstdc++6"], PLACE / "root")
    (real,) = (PLACE / "root/usr/bin").glob("python3.??")
    made.python.unlink()  # a link to it
    made.path.mkdir()
    # -0 hands the program's own name on: so sys.executable is a program of this machine too,
    # and the agent can start its child
    for program, binary in (
        (made.python, real),
        (made.path / "openssl", PLACE / "root/usr/bin/openssl"),
    ):
        program.write_text(
            f'#!/bin/sh\nexec {emulator} -0 "$0" -L {PLACE}/root {binary} "$@"\n'
        )
        program.chmod(0o755)


def _unpack(architecture: str, packages: list[str], folder: Path) -> None:
    """Download Debian packages and what they need, with a state of apt's own, and unpack them."""
    state = PLACE / f"apt-{architecture}"
    for name in ("lists/partial", "archives/partial"):
        (state / name).mkdir(parents=True)
    settings = {
        **{
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "APT::Sandbox::User": "root",
        },
        **{
            "Dir::State": state,
            "Dir::State::lists": state / "lists",
            "Dir::State::status": "/dev/null",
            "Dir::Cache": state,
        },
    }
    options = [
        word for key, value in settings.items() for word in ("-o", f"{key}={value}")
    ]
    _run("apt-get", "-q", *options, "update")
    _run(
        "apt-get",
        "-q",
        "-y",
        *options,
        "--no-install-recommends",
        "--download-only",
        "install",
        *packages,
    )
    for package in (state / "archives").glob("*.deb"):
        _run("dpkg-deb", "-x", str(package), str(folder))
    shutil.rmtree(state)


def _packages(made: Board) -> None:
    """Unpack the wheels that an agent needs where the board's Python finds them."""
    version = next((PLACE / "root/usr/bin").glob("python3.??")).name.removeprefix(
        "python"
    )
    target = Target("Debian", MACHINE, version)
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "dependencies"
    ]
    try:
        download(target, resolve(target, [*wanted, TORCH]), PLACE / "wheels")
    except FedlearnError as error:
        raise Missing(str(error)) from None
    for wheel in (PLACE / "wheels").glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(PLACE / "root/usr/lib/python3/dist-packages")
    shutil.rmtree(PLACE / "wheels")
    told = _run(
        str(made.python),
        "-c",
        "import platform, grpc, torch; print(platform.machine(), torch.__version__)",
    )  # compiles, too
    if not told.startswith(MACHINE):
        raise Missing(f"the emulated Python says: {told}")


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=BOOT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{command[0]}: {error}") from None
    if done.returncode:
        raise Missing(f"{command[0]} failed: {done.stderr.strip()[-300:]}")
    return done.stdout
