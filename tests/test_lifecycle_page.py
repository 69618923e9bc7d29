"""Each row of docs/lifecycle.md has a command, a page that names it, and tests that are there.

That the commands exist is checked with those of all pages, by tests/test_doc_commands.py.
"""

import re

import pytest

from tests.test_prose import ROOT

PAGE = (ROOT / "docs/lifecycle.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| what ")
]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_row_is_documented_and_tested(row):
    _, command, pages, tests = row
    texts = [
        (ROOT / "docs" / name).read_text(encoding="utf-8")
        for name in re.findall(r"\((\w+\.md)\)", pages)
    ]
    for words in re.findall(r"`(fedlearn [a-z]+)", command):
        assert any(words in text for text in texts), f"no page names '{words}'"
    paths = re.findall(r"`([^`]+)`", tests)
    assert paths and all((ROOT / path).is_file() for path in paths)


def test_the_page_has_rows():
    assert len(ROWS) > 15
