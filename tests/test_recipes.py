"""The documented recipes: which files a new method touches, shown in a copy of the tree.

docs/strategies.md says the same.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("fedlearn", "clients", "server", "strategies", "experiments")

TRIM = '''"""Trim: no entry of a step's gradient is larger than a number."""


class Trim:
    """Limits each entry of a gradient."""

    def __init__(self, number, weights):
        self.limit = number

    def bend(self, gradients, weights):
        for gradient in gradients:
            gradient.clamp_(-self.limit, self.limit)
'''

TRIM_LINE = """METHODS = {
    "trim": Named("fedlearn.clients.methods.trim:Trim", "limits gradients"),
"""

HALF = '''"""Half: the server goes half of the way to the clients' mean."""

from dataclasses import dataclass

from fedlearn.strategies.fedavg import FedAvg


@dataclass(eq=False, repr=False)
class Half(FedAvg):
    """FedAvg with half a step."""

    server_lr: float = 0.5
'''

HALF_LINE = """STRATEGIES = {
    "half": Named("fedlearn.strategies.half:Half", "half a step to the mean"),
"""

CONFIG = """
[experiment]
rounds = 2
[data]
name = "digits"
[data.partition]
kind = "iid"
clients = 6
[model]
name = "logistic"
[train]
lr = 0.5
[engine]
kind = "{engine}"
[strategy]
fraction_train = 0.5
{strategy}
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Return a copy of the product's tree."""
    copy = tmp_path_factory.mktemp("tree")
    skip = shutil.ignore_patterns("__pycache__", "benchmarks", "results")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=skip)
    return copy


def files(tree: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(tree)): path.read_bytes()
        for path in tree.rglob("*.py")
        if not any(parent.is_symlink() for parent in path.parents)
    }


def touched(tree: Path, before: dict[str, bytes]) -> list[str]:
    after = files(tree)
    return sorted(name for name in after if after[name] != before.get(name))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def sha256(tree: Path, name: str, strategy: str, engine: str = "serial") -> str:
    config = tree / f"{name}.toml"
    config.write_text(CONFIG.format(engine=engine, strategy=strategy))
    out = tree / "runs" / name
    command = [sys.executable, "-m", "fedlearn.simulate", str(config)]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    subprocess.run(
        [*command, "--quiet", "--out", str(out)], check=True, cwd=tree, env=environment
    )
    return json.loads((out / "summary.json").read_text())["model_sha256"]


def test_a_scalar_method_of_the_clients_touches_two_files(tree):
    before = files(tree)
    folder = tree / "clients" / "methods"
    (folder / "trim.py").write_text(TRIM)
    edit(folder / "__init__.py", "METHODS = {\n", TRIM_LINE)
    assert touched(tree, before) == [
        "clients/methods/__init__.py",
        "clients/methods/trim.py",
    ]

    plain = sha256(tree, "plain", "")
    trimmed = sha256(tree, "trimmed", "methods = { trim = 0.001 }")
    assert trimmed != plain
    # A limit that no gradient reaches changes nothing.
    assert sha256(tree, "wide", "methods = { trim = 1000.0 }") == plain
    # Every engine knows it: the fast one trains its clients one at a time.
    assert sha256(tree, "stacked", "methods = { trim = 0.001 }", "stacked") == trimmed


def test_a_strategy_of_the_server_touches_its_file_and_the_registrys_line(tree):
    before = files(tree)
    (tree / "strategies" / "half.py").write_text(HALF)
    edit(tree / "strategies" / "__init__.py", "STRATEGIES = {\n", HALF_LINE)
    assert touched(tree, before) == ["strategies/__init__.py", "strategies/half.py"]
    half = sha256(tree, "half", 'name = "half"')
    assert half == sha256(tree, "slow", 'name = "fedavg"\nserver_lr = 0.5')
    assert half != sha256(tree, "whole", 'name = "fedavg"')


@pytest.mark.parametrize("source", [TRIM, TRIM_LINE, HALF, HALF_LINE])
def test_the_documentation_shows_the_same_files(source):
    assert source in (ROOT / "docs" / "strategies.md").read_text(encoding="utf-8")
