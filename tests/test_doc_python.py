"""The Python examples of the documentation run: each page's in order, in one namespace."""

import re
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)

# Blocks that show a file of the reader's, with dots where their code goes.
SHOWN_ALONE = re.compile(r"^\s*\.\.\.$", re.MULTILINE)


def examples(page: Path) -> list[tuple[int, str]]:
    """Return the Python blocks of a page that can be run, each with its first line."""
    text = page.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, match.start(1)) + 1, match[1])
        for match in BLOCK.finditer(text)
        if not SHOWN_ALONE.search(match[1])
    ]


@pytest.mark.parametrize("name", ["README.md", "docs/python.md"])
def test_the_pages_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = examples(ROOT / name)
    assert blocks
    # As in a notebook: its classes are those of no module.
    namespace = {"__name__": "__main__"}
    for line, source in blocks:
        begun = time.perf_counter()
        # Blank lines give errors the page's line numbers.
        exec(compile("\n" * (line - 1) + source, name, "exec"), namespace)
        print(f"{name}:{line}: {time.perf_counter() - begun:.1f} s")
