"""What made a result, besides its config: the source that computes, the packages under it, and the platform."""

from __future__ import annotations

import ast
import hashlib
import platform
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import fedlearn
from fedlearn.records.reading import RunRecord, section

PACKAGE = Path(fedlearn.__file__).parent

COMPUTES = (
    *("arrays.py", "config", "flower.py", "names.py", "plan.py", "seeds.py"),
    *(
        "clients",
        "codec",
        "data",
        "devices",
        "engine",
        "exchange",
        "models",
        "server",
        "strategies",
        "wire",
    ),
)
"""The parts of fedlearn that a model's bits come from; pages, displays and commands are not among them."""

PACKAGES = ("torch", "numpy", "flwr")


@cache
def source() -> str:
    """Return a digest, 64 hex digits, of what computes: our source but for comments and docstrings, Python, packages, architecture."""
    digest = hashlib.sha256(
        f"{platform.python_version()} {platform.machine()}".encode()
    )
    for name in PACKAGES:
        digest.update(f"{name} {_version(name)}\n".encode())
    for path in _files():
        digest.update(f"{path.relative_to(PACKAGE)}\n{_code(path)}\n".encode())
    return digest.hexdigest()


def _files() -> Iterator[Path]:
    for part in COMPUTES:
        path = PACKAGE / part
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


def _code(path: Path) -> str:
    """Return a module's code without what changes nothing: comments, layout, docstrings."""
    tree = ast.parse(path.read_bytes())
    for place in ast.walk(tree):
        if isinstance(
            place, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ):
            place.body = [
                line
                for line in place.body
                if not (
                    isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)
                )
            ]
    return ast.dump(tree)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def platform_of(run: RunRecord) -> str:
    """Return the platform on which a model's hash is the same everywhere, such as "x86_64 Intel AVX512 torch 2.13.0".

    The maker of the processor is part of it: torch's libraries choose their kernels by it too.
    """
    where, versions = (
        section(run.manifest, "platform"),
        section(run.manifest, "versions"),
    )
    maker = str(where.get("processor") or "").replace("(R)", " ").split()
    torch = str(versions.get("torch") or "").partition("+")[0]
    words = [
        where.get("machine"),
        *maker[:1],
        where.get("torch_capability"),
        "torch",
        torch,
    ]
    return " ".join(str(word) for word in words if word)


def made_by(run: RunRecord) -> dict[str, Any]:
    """Return what a run was made with, for people: hardware, versions, date."""
    where = section(run.manifest, "platform")
    versions: Mapping[str, Any] = section(run.manifest, "versions")
    return {
        "hardware": f"{where.get('processor') or where.get('machine') or '-'}, {where.get('cores') or '-'} cores",
        "versions": ", ".join(
            f"{name} {found}" for name, found in versions.items() if found
        ),
        "date": str(run.manifest.get("started") or "")[:10],
        "platform": platform_of(run),
    }
