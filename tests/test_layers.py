"""Imports go one way, the agent's side stays light, and a user's environment gets one top-level
name.
"""

import ast
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fedlearn.__main__ import COMMANDS

ROOT = Path(__file__).parents[1]
LAYERS = [
    {"text"},
    {"errors", "seeds", "arrays", "plan", "brief", "config", "names", "system"},
    {"models", "data", "codec", "records", "devices", "bundling", "template"},
    {"wire", "exchange", "package", "reporting"},
    {"server"},
    {"flower"},
    {"clients", "strategies"},
    {"memory"},
    {"engine", "apps"},
    {"runs"},
    {"claims", "tuning", "export", "release", "compress"},
    {"scenarios"},
    {"commands"},
    {"simulate", "agent", "app"},
    {"__main__"},
]
ROOT_FOLDERS = ("clients", "server", "strategies", "experiments")
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}
SIBLINGS = {
    *itertools.permutations(("clients", "strategies", "server"), 2),
}
AGENT = {
    *("clients", "codec", "wire", "exchange", "package", "models", "data"),
    *(
        "arrays",
        "plan",
        "brief",
        "seeds",
        "errors",
        "names",
        "system",
        "text",
    ),
}
"""The parts that run where the data is. Of each other they may import what the layers allow; of
all else, `PACKAGES`.
"""

PACKAGES = {
    "torch",
    "numpy",
    "google",
    "grpc",
    "isal",
    "onnxruntime",
    "cryptography",
    "orjson",
    "paho",
    "cv2",
}  # google: of protobuf; the last six: used where they are installed
# What the coordinator's library imports besides the standard library and lower layers.
SERVER_PACKAGES = {"google", "grpc", "cryptography"}
FLOWERS = {"clients/app.py"}
"""Files of the agent's side that are made for Flower, and import it: the ClientApp."""


def sources(folders=("fedlearn", "clients", "server", "strategies"), generated=False):
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not any(parent.is_symlink() for parent in path.parents) and (
                generated or not path.name.endswith("_pb2.py")
            ):
                yield path


def part_of(path: Path) -> str:
    first, *rest = path.relative_to(ROOT).parts
    name = rest[0] if first == "fedlearn" else first
    return name.removesuffix(".py")


def imports(path: Path):
    yield from imported(path.read_text())


def imported(source: str):
    """Yield every name that a source imports, in functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(
                "a relative import: this test, and a reader, cannot tell of what"
            )
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [
                node.module,
                *(f"{node.module}.{alias.name}" for alias in node.names),
            ]
            yield from names
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def edges():
    for path in sources():
        source = part_of(path)
        for name in imports(path):
            parts = name.split(".")
            if (
                parts[0] == "fedlearn"
                and len(parts) > 1
                and parts[1] in LEVEL
                and source in LEVEL
                and parts[1] != source
            ):
                yield source, parts[1], path


def test_every_part_has_a_layer():
    assert {part_of(p) for p in sources()} - {"__init__", "py"} <= set(LEVEL)


def test_the_documentation_has_the_same_order():
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    section = page.split("## Imports go one way")[1].split("\n## ")[0]
    lines = re.findall(r"^\d+\. ([^:\n]+)", section, re.MULTILINE)
    assert [set(line.replace("`", "").split(", ")) for line in lines] == LAYERS


def test_no_part_imports_a_higher_layer():
    assert [
        f"{a} imports {b} in {p.name}" for a, b, p in edges() if LEVEL[a] < LEVEL[b]
    ] == []


def test_no_two_parts_import_each_other():
    found = {(a, b) for a, b, _ in edges()}
    assert {(a, b) for a, b in found if (b, a) in found} == set()


def file_of(name: str) -> Path | None:
    """Return the file of a dotted name of the tree; None: it is no module of it."""
    parts = name.split(".")
    if parts[0] != "fedlearn" or len(parts) < 2:
        return None
    home = ROOT if parts[1] in ROOT_FOLDERS else ROOT / "fedlearn"
    place = home.joinpath(*parts[1:])
    for file in (place.with_suffix(".py"), place / "__init__.py"):
        if file.is_file():
            return file
    return None


def files_imported(path: Path) -> set[Path]:
    """Return the files of the tree that a file imports, in functions too.

    ``from package import module`` is an import of the module, and not of what the
    package's own file defines.
    """
    files = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                module = file_of(f"{node.module}.{alias.name}")
                files.add(module or file_of(node.module))
        elif isinstance(node, ast.Import):
            files |= {file_of(alias.name) for alias in node.names}
    return {file for file in files if file is not None and file != path}


def circles(graph: dict[Path, set[Path]]) -> list[list[str]]:
    """Return the groups of files that reach one another, by Tarjan's algorithm (1972)."""
    index: dict[Path, int] = {}
    low: dict[Path, int] = {}
    stack: list[Path] = []
    groups: list[list[str]] = []

    def visit(file: Path) -> None:
        index[file] = low[file] = len(index)
        stack.append(file)
        for other in graph.get(file, ()):
            if other not in index:
                visit(other)
                low[file] = min(low[file], low[other])
            elif other in stack:
                low[file] = min(low[file], index[other])
        if low[file] == index[file]:
            place = stack.index(file)
            group = stack[place:]
            del stack[place:]
            if len(group) > 1:
                groups.append(sorted(str(member.relative_to(ROOT)) for member in group))

    for file in graph:
        if file not in index:
            visit(file)
    return groups


def test_no_files_import_each_other_in_functions_either():
    assert circles({path: files_imported(path) for path in sources()}) == []


def test_what_a_simulation_imports_of_ours_needs_neither_grpc_nor_cryptography():
    """Only agents need them. (Flower's own package loads both, whatever we do.)"""
    reached: set[Path] = set()
    waiting = {ROOT / "fedlearn" / "runs" / "simulation.py"}
    while waiting:
        file = waiting.pop()
        reached.add(file)
        waiting |= files_imported(file) - reached
    packages = {
        (file.relative_to(ROOT), name)
        for file in reached
        for name in imports(file)
        if name.split(".")[0] in ("grpc", "cryptography")
    }
    assert len(reached) > 100
    assert packages == set()


def test_a_circle_of_three_files_is_seen():
    a, b, c, d = (ROOT / name for name in "abcd")
    assert circles({a: {b}, b: {c}, c: {a, d}, d: set()}) == [["a", "b", "c"]]


def test_the_two_sides_meet_in_the_engine_only():
    assert {(a, b) for a, b, _ in edges()} & SIBLINGS == set()


def test_flwr_is_imported_above_the_wire_only():
    allowed = {"flower", "strategies", "memory", "engine", "apps", "runs", "app"}
    users = {
        p for p in sources() if any(name.split(".")[0] == "flwr" for name in imports(p))
    }
    assert {
        part_of(p) for p in users if str(p.relative_to(ROOT)) not in FLOWERS
    } <= allowed


def test_no_command_imports_another():
    """What commands share is the library's, or a module of commands that is no command."""
    commands = {module for module, _ in COMMANDS.values()}
    commands |= {"fedlearn.commands.simulate", "fedlearn.commands.agent"}
    borrowed = {
        (path.stem, name)
        for path in (ROOT / "fedlearn" / "commands").glob("*.py")
        for name in imports(path)
        if name in commands
    }
    assert borrowed == set()


def test_the_server_imports_nothing_but_its_few_packages():
    """It is a pure library: any run, or none of ours, can be driven by it."""
    standard = sys.stdlib_module_names | {"fedlearn"}
    imported_by = {
        str(path.relative_to(ROOT)): {name.split(".")[0] for name in imports(path)}
        for path in sources(("server",))
    }
    assert len(imported_by) > 10
    assert set().union(*imported_by.values()) <= standard | SERVER_PACKAGES


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        (
            "import fedlearn.server.service",
            {"flwr", "torch", "numpy", "pydantic", "rich", "matplotlib"},
        ),
        # The state machine and what a run asks of clients need no network either.
        (
            "import fedlearn.server.rounds, fedlearn.server.work",
            {"flwr", "torch", "numpy", "grpc", "cryptography"},
        ),
    ],
)
def test_the_server_loads_no_heavy_package(statement, absent):
    assert loaded_by(statement) & absent == set()


def foreign(source: str) -> set[str]:
    """Return what a source imports that the agent's side must not."""
    found = set()
    for name in imported(source):
        package, _, rest = name.partition(".")
        part = rest.partition(".")[0]
        if package == "fedlearn":
            found |= {name} if part and part not in AGENT | {"__version__"} else set()
        elif package not in PACKAGES and package not in sys.stdlib_module_names:
            found.add(name)
    return found


def agent_files():
    for path in sources(("fedlearn", "clients"), generated=True):
        if part_of(path) in AGENT and str(path.relative_to(ROOT)) not in FLOWERS:
            yield path


def test_the_agents_side_imports_nothing_but_its_few_packages():
    """An agent's machine has torch, numpy, protobuf and grpc: an import of anything else fails
    there, at once or one day.
    """
    files = list(agent_files())
    assert {part_of(path) for path in files} >= {
        "clients",
        "codec",
        "wire",
        "models",
        "data",
        "arrays",
        "plan",
        "seeds",
        "errors",
        "names",
    }
    assert {
        str(path.relative_to(ROOT)): wrong
        for path in files
        if (wrong := foreign(path.read_text()))
    } == {}


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        (
            "import numpy as np, torch.nn, zlib\nfrom google.protobuf import message\n"
            "from fedlearn import models, __version__",
            set(),
        ),
        ("def late():\n    import flwr.app", {"flwr.app"}),
        ("if 1:\n    from pandas import read_csv", {"pandas", "pandas.read_csv"}),
        ("from fedlearn import config", {"fedlearn.config"}),
        (
            "from fedlearn.runs.loop import Run",
            {"fedlearn.runs.loop", "fedlearn.runs.loop.Run"},
        ),
    ],
)
def test_a_late_or_foreign_import_is_seen(source, wrong):
    assert foreign(source) == wrong


def loaded_by(statement: str) -> set[str]:
    code = (
        f"{statement}\nimport sys; print(' '.join(sorted({{m.split('.')[0] for m "
        f"in sys.modules}})))"
    )
    return set(
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        ).stdout.split()
    )


@pytest.mark.parametrize(
    "statement",
    [
        "from fedlearn.clients import train, evaluate, augment",
        "import fedlearn.wire, fedlearn.models",
    ],
)
def test_the_agents_side_loads_no_heavy_package(statement):
    assert (
        loaded_by(statement)
        & {"flwr", "pydantic", "rich", "matplotlib", "fastapi", "safetensors"}
        == set()
    )


def test_an_idle_agent_loads_neither_torch_nor_numpy():
    heavy = {"torch", "numpy", "flwr", "pydantic", "rich", "cryptography"}
    assert (
        loaded_by("import fedlearn.commands.agent, fedlearn.clients.agent.agent")
        & heavy
        == set()
    )


def test_no_top_level_name_but_fedlearn():
    assert (
        loaded_by("import fedlearn.runs.simulation")
        & {"clients", "server", "strategies", "experiments"}
        == set()
    )


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--list"], ["no-such-file.toml"], ["--set", "train.lrr=1"]],
)
def test_arguments_are_checked_before_torch_or_flwr_are_imported(arguments):
    code = (
        "import sys\nfrom fedlearn.commands.simulate import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        "print('LOADED', {'torch', 'flwr', 'matplotlib'} & set(sys.modules))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    ).stdout
    assert out.splitlines()[-1] == "LOADED set()"
