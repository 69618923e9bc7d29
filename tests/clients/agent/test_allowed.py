"""`--allow MODULE` offers what a module defines, and nothing that it reaches."""

import importlib
import json
import re
import sys

import pytest

from fedlearn.brief import Brief
from fedlearn.clients.agent.allowed import check_brief, check_name
from fedlearn.errors import ConfigError

# What a user's module looks like: it imports, exports again, and decorates.
MODULE = """
import os
import subprocess
import functools
from subprocess import getoutput
from shutil import rmtree as remove
import torch
from torch import nn
from torch.nn import Linear
from zoo_of_mine.below import Deep, deeper
from other_of_mine import theirs


class Net(nn.Linear):
    def __init__(self, input_shape, classes):
        super().__init__(64, classes)


Alias = Net


class Plain:
    def __init__(self, **options):
        raise SystemExit


def load():
    return None


def by_hand(labels):
    return labels


@functools.lru_cache
def cached():
    return Net((64,), 10)


@torch.no_grad()
def decorated():
    return Net((64,), 10)


@functools.wraps(subprocess.run)
def posing(*arguments, **options):
    return subprocess.run(*arguments, **options)


def _private():
    return None


shell = lambda command: os.system(command)
made = functools.partial(os.system)
ready = Net((64,), 10)
bound = ready.forward
system = os.system
table = {"call": os.system}


def _forged():
    "Packages do this to what they export again."
    function = getoutput
    copy = type(function)(function.__code__, function.__globals__, "copy")
    copy.__module__ = __name__
    return copy


copy = _forged()
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "zoo_of_mine"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "__main__.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (folder / "above.py").write_text(MODULE)
    (folder / "below.py").write_text(
        "from torch import nn\n"
        "class Deep(nn.Identity): pass\n"
        "def deeper(): return Deep()\n"
    )
    (tmp_path / "other_of_mine.py").write_text("def theirs(): return None\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield tmp_path
    for name in list(sys.modules):
        if name.startswith(("zoo_of_mine", "other_of_mine")):
            del sys.modules[name]


ALLOW = ("zoo_of_mine",)


@pytest.mark.parametrize(
    ("part", "attribute"),
    [
        ("model", "Net"),
        ("model", "Alias"),
        ("model", "Deep"),
        ("model", "deeper"),
        ("model", "decorated"),
        ("data", "load"),
        ("data", "decorated"),
        ("partition", "by_hand"),
    ],
)
def test_what_a_module_defines_may_be_named(package, part, attribute):
    check_name(part, f"zoo_of_mine.above:{attribute}", ALLOW)


@pytest.mark.parametrize(
    ("part", "attribute", "why"),
    [
        # Through what the module imports.
        ("model", "torch.os.system", ""),
        ("data", "subprocess.getoutput", ""),
        ("partition", "os.popen", ""),
        ("model", "Net.__init__.__globals__", ""),
        ("model", "ready.forward", ""),
        ("model", "torch", "is a module"),
        # Exported again.
        ("data", "getoutput", "defined in subprocess"),
        ("data", "remove", "defined in shutil"),
        ("data", "theirs", "defined in other_of_mine"),
        ("model", "Linear", "defined in torch.nn"),
        ("data", "copy", "defined in subprocess"),
        ("data", "posing", "defined in subprocess"),
        # Objects, and what has no name of its own.
        ("model", "made", "is a partial"),
        ("model", "ready", "is a Net"),
        ("model", "bound", "is a method"),
        ("model", "system", "is a builtin"),
        ("model", "table", "is a dict"),
        ("model", "cached", "is a _lru_cache_wrapper"),
        ("model", "shell", "name of its own"),
        # Another kind than it is wanted for.
        ("model", "Plain", "is a type"),
        ("data", "Net", "is a type"),
        ("partition", "Plain", "is a type"),
        # What a package keeps for itself.
        ("data", "_private", ""),
        ("data", "__builtins__", ""),
        ("data", "__loader__", ""),
        ("model", "__getattr__", ""),
        ("model", "", ""),
        ("model", "Net()", ""),
    ],
)
def test_what_a_module_only_reaches_may_not_be_named(package, part, attribute, why):
    name = f"zoo_of_mine.above:{attribute}"
    fix = f".*{why}.*to allow it: --allow {re.escape(name)}$"
    with pytest.raises(ConfigError, match=re.escape(f"{part} '{name}'") + fix):
        check_name(part, name, ALLOW)
    # The owner may name it, and then it is the owner's choice alone.
    check_name(part, name, (name,))


def test_an_allowed_module_does_not_allow_those_beside_and_above_it(package):
    check_name("model", "zoo_of_mine.below:Deep", ("zoo_of_mine.below",))
    for name, allow in (
        ("zoo_of_mine.above:Net", ("zoo_of_mine.below",)),
        ("zoo_of_mine.above:Deep", ("zoo_of_mine.above",)),
        ("zoo_of_mine.above:Net", ("zoo_of_mine.above:Alias", "zoo_of_min", "")),
        ("zoo_of_mine..above:Net", ALLOW),
        (".above:Net", ("", *ALLOW)),
        ("zoo_of_mine.above:Net:forward", ALLOW),
    ):
        with pytest.raises(ConfigError, match="to allow it: --allow"):
            check_name("model", name, allow)


def test_a_module_that_is_a_program_does_not_run(package):
    for module in ("zoo_of_mine.__main__", "zoo_of_mine.__init__"):
        with pytest.raises(ConfigError, match="to allow it"):
            check_name("model", f"{module}:Net", ALLOW)
    assert not (package / "ran").exists()


def test_by_its_path_fedlearns_own_goes_around_no_check():
    """The short name "dir" has to be allowed; its loader has a path too."""
    text = json.dumps(
        {
            "seed": 0,
            "data": {"name": "fedlearn.data.folder:folder", "options": {}} | SHARES,
            "model": {"name": "logistic", "options": {}},
            "task": "image",
            "classes": 10,
            "input_shape": [1, 8, 8],
            "holdout": 0.0,
            "schema": "00",
        }
    )
    with pytest.raises(ConfigError, match="to allow it"):
        check_brief(Brief.from_json(text), "auto", ("fedlearn", "fedlearn.data"))
    # Of the owner's own data nothing is read from the brief.
    check_brief(Brief.from_json(text), "mine.npz", ())


SHARES = {"partition": {"kind": "iid", "clients": 2}}
