"""What made a result, besides its config: our source, its packages, and the platform."""

from __future__ import annotations

import ast
import hashlib
import platform
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import fedlearn
from fedlearn.records.reading import RunRecord, section

PACKAGE = Path(fedlearn.__file__).parent

# The parts of fedlearn that a model's bits come from: a change there makes results stale.
COMPUTES = (
    "arrays.py",
    "brief.py",
    "config",
    "flower.py",
    "names.py",
    "plan.py",
    "seeds.py",
    "clients",
    "codec",
    "data",
    "devices",
    "engine",
    "exchange",
    "memory",
    "models",
    "runs",
    "server",
    "strategies",
    # A payload whose checksum differs has no part in a round.
    "system/checksum.py",
    "system/varint.py",
    "wire",
)

# The parts that change no bit of a model: entry points, commands and displays, files that
# are written about a run, and what tests use. Every part stands here or in `COMPUTES`.
COMPUTES_NOTHING = (
    "__init__.py",
    "__main__.py",
    "agent.py",
    # Flower apps bring their own models; no experiment runs by them.
    "apps",
    "app.py",
    "errors.py",
    "simulate.py",
    "bundling",
    "claims",
    "commands",
    "compress",
    # Configs: a run's own config is part of its folder's name.
    "experiments",
    "export",
    # What a run takes from it is in the hash of the model that it starts from.
    "package",
    "release",
    "records",
    "reporting",
    "scenarios",
    "system/__init__.py",
    "system/appending.py",
    "system/failpoints.py",
    "system/files.py",
    "system/inside.py",
    "system/malloc.py",
    "system/own_path.py",
    "system/parent.py",
    "system/sha256.py",
    "system/sockets.py",
    "template",
    "text",
    "tuning",
)

# Packages whose version may change a model's bits.
PACKAGES = ("torch", "numpy", "flwr")


@cache
def source() -> str:
    """Return a digest, 64 hex digits, of what computes.

    Of our source, without comments and docstrings; of Python's version, `PACKAGES` and
    the machine's architecture.
    """
    digest = hashlib.sha256()
    digest.update(f"{platform.python_version()} {platform.machine()}".encode())
    for name in PACKAGES:
        digest.update(f"{name} {_version(name)}\n".encode())
    # With each file's name: a module that moves is imported as another one.
    for path in _files():
        digest.update(f"{path.relative_to(PACKAGE)}\n{_code(path)}\n".encode())
    return digest.hexdigest()


def _files() -> Iterator[Path]:
    """Yield the Python files of `COMPUTES`, in an order that depends on names alone."""
    for part in COMPUTES:
        path = PACKAGE / part
        if path.is_dir():
            yield from sorted(path.rglob("*.py"))
        else:
            yield path


def _code(path: Path) -> str:
    """Return a module's code without comments, layout and docstrings."""
    tree = ast.parse(path.read_bytes())
    # What may begin with a docstring.
    holders = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(tree):
        # Any constant that stands alone computes nothing, wherever it stands.
        if isinstance(node, holders):
            node.body = [line for line in node.body if not _is_text(line)]
    return ast.dump(tree)


def _is_text(statement: ast.stmt) -> bool:
    """Tell whether a statement is a constant alone, as a docstring is."""
    if not isinstance(statement, ast.Expr):
        return False
    return isinstance(statement.value, ast.Constant)


def _version(name: str) -> str:
    """Return the version of an installed package; "" where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def platform_of(run: RunRecord) -> str:
    """Return the platform on which a model's hash is the same everywhere.

    For example "x86_64 Intel AVX512 torch 2.13.0". The maker of the processor is part of
    it, because torch's libraries choose their kernels by it too.
    """
    machine = section(run.manifest, "platform")
    versions = section(run.manifest, "versions")
    processor = str(machine.get("processor") or "").replace("(R)", " ").split()
    # Without the build's suffix, such as "+cpu".
    torch = str(versions.get("torch") or "").partition("+")[0]
    words = [
        machine.get("machine"),
        *processor[:1],
        machine.get("torch_capability"),
        "torch",
        torch,
    ]
    return " ".join(str(word) for word in words if word)


def made_by(run: RunRecord) -> dict[str, Any]:
    """Return what a run was made with, for people: hardware, versions, date."""
    machine = section(run.manifest, "platform")
    versions = section(run.manifest, "versions").items()
    processor = machine.get("processor") or machine.get("machine") or "-"
    return {
        "hardware": f"{processor}, {machine.get('cores') or '-'} cores",
        "versions": ", ".join(
            f"{name} {number}" for name, number in versions if number
        ),
        "date": str(run.manifest.get("started") or "")[:10],
        "platform": platform_of(run),
    }
