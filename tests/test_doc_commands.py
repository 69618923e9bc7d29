"""Every command in the documentation is one that exists: its name, its options, the keys it sets.

Nothing is run but ``--help``: what a command does has its own tests.
"""

import functools
import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

from fedlearn.config import read
from tests.test_prose import BESIDE, DOCS, ROOT

PAGES = [*DOCS, *BESIDE, *sorted((ROOT / "experiments").glob("benchmarks/NOTES-*.md"))]
# All blocks, one after another: the end of one would else be taken for the begin of another.
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`((?:fedlearn|python -m (?:fedlearn|tests)\S*) [^`\n]+)`")


def blocks(text: str, *languages: str) -> list[str]:
    """Return the blocks of a page's text in some languages; "" is none that is named."""
    return [block for language, block in BLOCK.findall(text) if language in languages]


ROLLOUT = ("start", "pause", "resume", "abort", "status")


def commands(page: Path) -> list[list[str]]:
    """Return the words of each command of ours in a page's shell blocks and inline code."""
    text = page.read_text(encoding="utf-8")
    lines = [
        line for block in blocks(text, "", "sh", "bash") for line in block.splitlines()
    ]
    out = []
    for line in [*lines, *INLINE.findall(text)]:
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # a line of output, or of a command over several lines
            continue
        words = words[1:] if words[:1] == ["sudo"] else words
        if words and words[0].endswith("bin/fedlearn"):
            words[0] = "fedlearn"
        if words and words[0].endswith("bin/python"):
            words[0] = "python"
        if words[:1] == ["fedlearn"] or (
            words[:2] == ["python", "-m"]
            and words[2].startswith(("fedlearn", "tests."))
        ):
            out.append(words)
    return out


@functools.cache
def help_of(start: tuple[str, ...]) -> str:
    """Return what a command prints of itself."""
    python = [sys.executable, "-m"]
    module = ["fedlearn", *start[1:]] if start[0] == "fedlearn" else list(start[2:])
    done = subprocess.run(
        [*python, *module, "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(start)} is no command: {done.stderr}"
    return done.stdout


def start_of(words: list[str]) -> tuple[str, ...]:
    """Return the words that name the command, before its arguments."""
    if words[0] == "python":
        return tuple(words[:3])
    two = tuple(words[:3]) in {
        ("fedlearn", "agent", "install"),
        ("fedlearn", "pki", "init"),
        ("fedlearn", "pki", "server"),
        ("fedlearn", "data", "fetch"),
        ("fedlearn", "data", "list"),
        ("fedlearn", "data", "path"),
        ("fedlearn", "package", "verify"),
        ("fedlearn", "package", "show"),
        ("fedlearn", "package", "diff"),
        ("fedlearn", "place", "route"),
        ("fedlearn", "place", "split"),
        ("fedlearn", "place", "replay"),
        ("fedlearn", "registry", "serve"),
        ("fedlearn", "registry", "token"),
        ("fedlearn", "release", "list"),
        ("fedlearn", "release", "promote"),
        ("fedlearn", "release", "rollback"),
        ("fedlearn", "release", "history"),
        ("fedlearn", "release", "fetch"),
        ("fedlearn", "fleet", "run"),
        *(("fedlearn", "rollout", verb) for verb in ROLLOUT),
    }
    return tuple(words[: 3 if two else 2])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist_with_their_options(page: Path) -> None:
    for words in commands(page):
        if words[1:2] and words[1].startswith(("-", "…", "COMMAND")):
            continue
        text = help_of(start_of(words))
        known = set(re.findall(r"--[a-z][a-z0-9-]*", text))
        given = {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}
        assert given <= known, (
            f"{page.relative_to(ROOT)}: {' '.join(start_of(words))} has no "
            f"{', '.join(sorted(given - known))}"
        )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_keys_that_a_command_sets_exist(page: Path) -> None:
    for words in commands(page):
        pairs = itertools.pairwise(words)
        sets = [value for option, value in pairs if option == "--set"]
        sets = [value for value in sets if "…" not in value and value[:8] != "section."]
        read(None, sets)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_configs_are_toml(page: Path) -> None:
    for block in blocks(page.read_text(encoding="utf-8"), "toml"):
        tomllib.loads(block)
