"""The versions of flwr that are promised are those that `make flower-versions` tests."""

import re
from importlib.metadata import version
from pathlib import Path

import tomllib

ROOT = Path(__file__).parents[2]


def numbers(text):
    return tuple(int(part) for part in text.split(".")[:2])


def promised():
    """Return the lowest version of flwr that the extras allow, and the first that they do not."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    # What a coordinator may have, an agent may have as well.
    (line,) = {
        line
        for name in ("sim", "flower")
        for line in extras[name]
        if line.startswith("flwr")
    }
    match = re.match(r"flwr>=([0-9.]+),<([0-9.]+);", line)
    assert match
    return numbers(match[1]), numbers(match[2])


def test_both_ends_of_the_range_are_tested():
    lowest, above = promised()
    match = re.search(r"^FLOWERS \?= (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert match
    tested = [numbers(text) for text in match[1].split()]
    newest = (above[0], above[1] - 1)
    assert tested == [lowest, newest]


def test_what_is_installed_is_in_the_range():
    lowest, above = promised()
    assert lowest <= numbers(version("flwr")) < above


def test_what_users_copy_has_the_same_range():
    lowest, above = promised()
    text = f"flwr>={lowest[0]}.{lowest[1]},<{above[0]}.{above[1]}"
    for name in (
        "experiments/flower/pyproject.toml",
        "fedlearn/template/files/pyproject.toml.in",
        "docs/flower.md",
    ):
        assert text in (ROOT / name).read_text(encoding="utf-8"), name
