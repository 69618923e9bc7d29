"""The typed line: every key has its value in an empty line, in the order that the file has."""

from typing import get_type_hints

from fedlearn.records.line import Line, empty_line


def test_an_empty_line_has_every_key_but_that_of_simulated_devices():
    line = empty_line(3)
    assert line["round"] == 3
    assert set(get_type_hints(Line)) - set(line) == {"devices"}
