"""Text from strangers, made fit for a terminal."""

import pytest

from fedlearn.errors import ClientError, one_line, reason_of
from fedlearn.text import REASON_CHARACTERS, first_few, printable, shortened


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


def test_a_long_text_keeps_its_begin_and_its_end_on_one_line():
    text = "could not run\n" + "\x1b[31m backend\n" * 10_000 + "out of ideas"
    line = shortened(text, 60)
    assert line.startswith("could not run") and line.endswith("out of ideas")
    assert len(line) == 60
    assert line.isprintable()
    assert shortened("short\n  text", 60) == "short text"


class _Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyError("owner"), "KeyError: 'owner'"),
        (AssertionError(), "AssertionError"),
        (ClientError("client 3 has no samples"), "client 3 has no samples"),
        (ValueError("two\nlines\x07"), r"ValueError: two lines\x07"),
        (_Unspeakable(), "_Unspeakable"),
    ],
)
def test_a_reason_has_the_kind_of_strange_errors_alone(error, reason):
    assert reason_of(error) == reason


def test_a_reason_and_a_line_have_a_length():
    for kind in (ValueError, ClientError):
        assert len(reason_of(kind("word " * 5000))) == REASON_CHARACTERS
    assert len(one_line(ValueError("word " * 5000))) == 2000
