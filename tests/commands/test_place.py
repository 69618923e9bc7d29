"""``fedlearn place``: a trace beside the best in hindsight, and arguments that are refused."""

import re

import pytest

from fedlearn.commands.place import main


def test_a_trace_is_replayed_beside_the_best_choice(tmp_path, capsys):
    picture = tmp_path / "p.png"
    trace = tmp_path / "t.csv"
    options = ["--plot", str(picture), "--write", str(trace)]
    assert main(["replay", "link-dies", "--seed", "100", *options]) == 0
    table = capsys.readouterr().out
    match = re.search(r"placed +\S+ +(\S+)", table)
    assert match and 1.0 <= float(match[1]) <= 1.05
    assert picture.read_bytes().startswith(b"\x89PNG")
    # What was written says the same again.
    assert main(["replay", str(trace)]) == 0
    again = re.search(r"placed +\S+ +(\S+)", capsys.readouterr().out)
    assert again and again[1] == match[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["replay", "link-die"], "link-dies"),
        (["replay", "link-dies", "--write", "/no/such/t.csv"], "cannot be written"),
        (["route", "a", "b", "--budget", "1.5"], "--budget 1.5"),
        (["route", "absent", "b"], "'absent' is no run folder"),
        (["split", "r", "--mbps", "0"], "--mbps 0: a number above 0"),
        (["split", "r", "--turn-ms", "nan"], "--turn-ms nan: a number above 0"),
        (["split", "absent"], "'absent' is no run folder"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, words, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
