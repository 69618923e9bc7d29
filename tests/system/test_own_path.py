"""Where a user's modules are found: beside the config, under any name, and in no other's way."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedlearn.errors import ConfigError
from fedlearn.names import import_path
from fedlearn.system import own_path

CONFIG = """\
[experiment]
rounds = 1
[data]
name = "code:load"
path = "sets/mine.npz"
[data.partition]
kind = "iid"
clients = 2
[model]
name = "test:Net"
[engine]
kind = "serial"
"""

LOADER = """\
import numpy as np

import helpers

def load(path):
    with np.load(path) as arrays:
        x = arrays["x"]
    assert helpers.SCALE == 2
    y = np.arange(len(x)) % 2
    return x, y, x, y
"""

NET = """\
from torch import nn

class Net(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)
"""

COMMANDS = {
    "the command": [str(Path(sys.executable).parent / "fedlearn"), "simulate"],
    "python -m": [sys.executable, "-m", "fedlearn.simulate"],
}


@pytest.fixture
def place(tmp_path):
    """A config with its modules and data in one folder, and another one to stand in."""
    conf = tmp_path / "conf"
    (conf / "sets").mkdir(parents=True)
    np.savez(conf / "sets" / "mine.npz", x=np.eye(30, 3, dtype=np.float32))
    for name, text in {
        "mine.toml": CONFIG,
        "code.py": LOADER,
        "test.py": NET,
        "helpers.py": "SCALE = 2",
        # Python's own of these names are imported by torch and by fedlearn.
        "types.py": "raise RuntimeError('not the library')",
        "random.py": "raise RuntimeError('not the library')",
    }.items():
        (conf / name).write_text(text)
    for name in ("random.py", "statistics.py", "tomllib.py"):
        (tmp_path / name).write_text("raise RuntimeError('not the library')")
    return tmp_path


def simulate(command, *words, cwd):
    return subprocess.run(
        [*COMMANDS[command], *words, "--quiet"],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_both_commands_find_what_lies_beside_a_config_elsewhere(place):
    hashes = set()
    for number, command in enumerate(COMMANDS):
        out = place / f"out-{number}"
        ran = simulate(command, "conf/mine.toml", "--out", str(out), cwd=place)
        assert (ran.returncode, ran.stderr) == (0, "")
        hashes.add(json.loads((out / "summary.json").read_text())["model_sha256"])
    assert len(hashes) == 1
    # The run is resumed in yet another folder, without its config.
    (place / "elsewhere").mkdir()
    more = ("--resume", "--out", str(out), "--set", "experiment.rounds=2")
    ran = simulate("the command", *more, cwd=place / "elsewhere")
    assert (ran.returncode, ran.stderr) == (0, "")


def test_local_agents_find_it_too(place):
    loader = LOADER.replace("sets", "").replace("path) as", '"conf/sets/mine.npz") as')
    (place / "conf" / "mine.py").write_text(NET + loader.replace("(path):", "():"))
    text = CONFIG.replace('path = "sets/mine.npz"\n', "")
    text = text.replace("code:", "mine:").replace("test:", "mine:")
    (place / "conf" / "mine.toml").write_text(text)
    words = ["serve", "conf/mine.toml", "--local-agents", "2", "--out", "out"]
    ran = subprocess.run(
        [COMMANDS["the command"][0], *words],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    line = json.loads((place / "out" / "metrics.jsonl").read_text().splitlines()[1])
    assert line["clients"] > 0
    assert line["failures"] == {}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to stand in; what is imported from it is forgotten again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_package_with_a_name_of_pythons_keeps_its_parts(folder):
    package = folder / "queue"
    package.mkdir()
    (package / "__init__.py").write_text("from .parts import VALUE")
    (package / "parts.py").write_text("VALUE = 7")
    assert import_path("thing", "queue:VALUE") == 7
    assert import_path("thing", "queue.parts:VALUE") == 7
    import queue

    assert hasattr(queue, "SimpleQueue")


def test_a_file_wins_over_a_loaded_module_of_its_name(folder):
    (folder / "pytest.py").write_text("VALUE = 3")
    assert import_path("thing", "pytest:VALUE") == 3
    assert sys.modules["pytest"] is pytest
    # Python's own where the user has none.
    assert import_path("thing", "math:sqrt")(4) == 2


def test_a_module_that_fails_is_tried_anew(folder):
    (folder / "token.py").write_text("1 / 0")
    with pytest.raises(ConfigError, match="raised ZeroDivisionError"):
        import_path("thing", "token:x")
    (folder / "token.py").write_text("x = 5")
    assert import_path("thing", "token:x") == 5


def test_a_module_that_is_nowhere_says_where_was_looked(folder, monkeypatch):
    # Runs of other tests in this process have left their folders there: a line has room for few.
    here = [
        entry for entry in sys.path if "pytest-of" not in entry or entry == str(folder)
    ]
    monkeypatch.setattr(sys, "path", here)
    with pytest.raises(ConfigError) as caught:
        import_path("thing", "no_such_module.part:x")
    assert "looked in " in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "PYTHONPATH" in str(caught.value)
    (folder / "imports.py").write_text("import no_other_module")
    with pytest.raises(ConfigError) as caught:
        import_path("thing", "imports:x")
    assert "no_other_module" in str(caught.value)
    assert "looked in" not in str(caught.value)


def test_the_library_comes_first_and_what_is_installed_last(folder):
    own_path.look_in(str(folder / "mine"))
    places = {name: place for place, name in enumerate(sys.path)}
    installed = min(p for name, p in places.items() if name.endswith("-packages"))
    library = max(p for name, p in places.items() if name.endswith("lib-dynload"))
    assert library < places[str(folder / "mine")] < installed


def test_a_program_of_many_configs_keeps_the_newest_folders(folder):
    places = [str(folder / f"place{number}") for number in range(20)]
    for place in places:
        own_path.look_in(place)
    assert [place for place in sys.path if place in places] == places[-8:]
