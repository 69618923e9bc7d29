"""Text from strangers, made fit for a terminal."""

import pytest

from fedlearn.text import first_few, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, größer, 模型", "plain, größer, 模型"),
        ("two\nlines", r"two\nlines"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("right\u202eleft", r"right\u202eleft"),
        ("half a pair: \ud800", r"half a pair: \ud800"),
    ],
)
def test_what_a_terminal_cannot_show_is_escaped(text, shown):
    assert printable(text) == shown


def test_long_lists_are_cut():
    assert first_few([1, 2, 3]) == "1, 2, 3"
    assert first_few(range(5), limit=2) == "0, 1 and 3 more"
