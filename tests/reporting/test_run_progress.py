"""The progress of a run: plain lines, the live display, silence.

A broken terminal does nothing to a run.
"""

import io
import json
import os
import re
import sys
import threading
import time

import pytest

from fedlearn.reporting.progress import Progress
from fedlearn.reporting.tally import RunTally

FACTS = {
    "name": "tiny",
    "rounds": 4,
    "data": "digits, 6 clients",
    "model": "logistic",
    "engine": "pool, 2 workers",
}


class Terminal(io.StringIO):
    """A terminal in memory."""

    encoding = "utf-8"

    def isatty(self):
        """Say that this is a terminal."""
        return True


@pytest.fixture(autouse=True)
def _terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "40")
    monkeypatch.delenv("NO_COLOR", raising=False)


def play(progress, lines, facts=FACTS):
    """Run through the lines as a run would."""
    progress.start(facts)
    for line in lines:
        for done in range(1, line["clients"] + 1):
            progress.client_done(done, line["clients"])
        progress.round_done(line)


def test_plain_lines_have_the_figures(write, lines):
    folder, stream = write(), io.StringIO()
    (folder / "plots" / "loss.png").write_bytes(b"")
    with Progress(stream=stream) as progress:
        play(progress, lines)
        progress.note("client 3 is slow")
        progress.finish(json.loads((folder / "summary.json").read_text()), folder)
    text = stream.getvalue()
    assert text.startswith("fedlearn: tiny\n  data      digits, 6 clients\n")
    assert "\x1b" not in text
    table = [line.split() for line in text.splitlines() if re.match(r" +\d/4", line)]
    assert [row[0] for row in table] == ["0/4", "1/4", "2/4", "3/4", "4/4"]
    assert table[3][1:5] == ["30.00", "%", "40.00", "%"]  # accuracy, best
    assert "12.0 kB" in text and "4×" in text
    assert (
        len(
            {
                len(line)
                for line in text.splitlines()
                if re.match(r" +(\d/4|round)", line)
            }
        )
        == 1
    )  # aligned
    assert "warning: client 3 is slow" in text
    assert re.search(r"accuracy +80.00 %, best 80.00 %, loss 1.200", text)
    assert re.search(r"bytes +4.00 kB up, 12.0 kB down, 4× fewer than float32", text)
    assert re.search(r"expected +accuracy: wanted >= 0.8, got 0.8, met", text)
    assert re.search(r"plots +loss\n", text)
    assert f"compare     fedlearn report {folder} OTHER_RUN" in text


def test_long_runs_print_twenty_lines_and_the_first(lines):
    stream = io.StringIO()
    many = [lines[1] | {"round": position} for position in range(1, 1001)]
    with Progress(stream=stream) as progress:
        play(progress, many, FACTS | {"rounds": 1000})
    rounds = re.findall(r"^ +(\d+)/1000 ", stream.getvalue(), flags=re.MULTILINE)
    assert rounds == ["1", *(str(position) for position in range(50, 1001, 50))]


def test_five_silent_seconds_bring_a_line(lines, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    with Progress(stream=stream) as progress:
        progress.start(FACTS | {"rounds": 1000})
        for position in range(1, 11):
            now[0] += 2.0
            progress.round_done(lines[1] | {"round": position})
    rounds = re.findall(r"^ +(\d+)/1000 ", stream.getvalue(), flags=re.MULTILINE)
    assert rounds == ["1", "4", "7", "10"]  # after 2, 8, 14 and 20 seconds


def test_quiet_prints_nothing(write, lines, capsys):
    folder = write()
    with Progress(quiet=True) as progress:
        play(progress, lines)
        progress.note("something")
        progress.interrupted(folder, "command")
        progress.finish({}, folder)
    assert capsys.readouterr() == ("", "")


def test_a_warning_before_the_run_is_shown_is_a_line_too():
    stream = io.StringIO()
    with Progress(stream=stream) as progress:
        progress.note("nothing has come\nfrom \x1b[31myour loader")
    assert stream.getvalue() == (
        "warning: nothing has come from \\x1b[31myour loader\n"
    )


def test_an_interrupted_run_names_the_command_that_continues_it(write, lines):
    stream = io.StringIO()
    with Progress(stream=stream) as progress:
        play(progress, lines[:3])
        progress.interrupted(write(), "python -m fedlearn.simulate --out tiny --resume")
    assert stream.getvalue().endswith(
        "continue with  python -m fedlearn.simulate --out tiny --resume\n"
    )
    assert re.search(r"rounds done +2 of 4", stream.getvalue())


def test_a_terminal_gets_a_live_display_without_a_thread(write, lines):
    pytest.importorskip("rich")
    folder, stream, threads = write(), Terminal(), threading.active_count()
    stdout = sys.stdout
    with Progress(stream=stream) as progress:
        play(progress, lines[:4])
        progress.client_done(2, 5)
        assert threading.active_count() == threads
        assert sys.stdout is stdout
        progress.note("[red]not markup")
        progress.interrupted(folder, "again")
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    assert "round 4/4" in text and "clients 2/5" in text
    assert "best 40.00 % (round 1)" in text and "4× fewer than float32" in text
    assert "warning: [red]not markup" in text
    assert "continue with  again" in text
    assert (
        stream.getvalue().count("\x1b[?25l")
        == stream.getvalue().count("\x1b[?25h")
        == 1
    )  # the cursor is back


def test_an_exception_gives_the_terminal_back(lines):
    pytest.importorskip("rich")
    stream = Terminal()

    def fail():
        with Progress(stream=stream) as progress:
            play(progress, lines[:2])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert stream.getvalue().count("\x1b[?25h") == 1


def test_a_forked_worker_leaves_the_display_alone(lines, monkeypatch):
    pytest.importorskip("rich")
    stream = Terminal()
    progress = Progress(stream=stream)
    play(progress, lines[:2])
    before = stream.getvalue()
    parent = os.getpid()
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: parent + 1)
        progress.round_done(lines[2])
        progress.__exit__(None, None, None)
    assert stream.getvalue() == before
    progress.__exit__(None, None, None)
    assert stream.getvalue().count("\x1b[?25h") == 1


def test_redraws_are_few(lines):
    pytest.importorskip("rich")
    stream = Terminal()
    with Progress(stream=stream) as progress:
        play(
            progress,
            [lines[1] | {"round": position} for position in range(1, 301)],
            FACTS | {"rounds": 300},
        )
    assert (
        stream.getvalue().count("float32") < 30
    )  # 1,800 events in a moment, at most ten frames a second


def test_no_color_takes_colours_away(lines, monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    with Progress(stream=stream) as progress:
        play(progress, lines)
    assert "╭" in stream.getvalue()
    assert not re.search(r"\x1b\[(\d+;)*(3\d|9\d)", stream.getvalue())


@pytest.mark.parametrize("why", ["dumb", "ascii", "no rich"])
def test_terminals_that_get_plain_lines(lines, monkeypatch, why):
    stream = Terminal()
    if why == "dumb":
        monkeypatch.setenv("TERM", "dumb")
    elif why == "ascii":
        monkeypatch.setattr(Terminal, "encoding", "ascii")
    else:
        monkeypatch.setitem(sys.modules, "rich.console", None)
        monkeypatch.delitem(sys.modules, "fedlearn.reporting.live", raising=False)
    with Progress(stream=stream) as progress:
        play(progress, lines)
    assert "\x1b" not in stream.getvalue()
    assert "4/4" in stream.getvalue()
    assert ("×" in stream.getvalue()) == (why != "ascii")


def test_a_closed_pipe_does_not_end_the_run(lines):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    with Progress(stream=Closed()) as progress:
        play(progress, lines)
        progress.note("still running")


def test_a_resumed_run_goes_on_counting(lines):
    stream = io.StringIO()
    with Progress(stream=stream) as progress:
        play(progress, lines[4:], FACTS | {"lines": lines[:4]})
    row = stream.getvalue().splitlines()[-1].split()
    assert row[0] == "4/4"
    assert row[-1] == "s" and "16.0" not in row
    assert ["4.00", "kB", "12.0", "kB"] == row[
        row.index("kB") - 1 : row.index("kB") + 3
    ]


def test_time_left_and_the_line_of_accuracies(lines):
    tally = RunTally(4)
    assert tally.seconds_left() is None and tally.sparkline(10) == ""
    for line in lines[:3]:
        tally.add(line)
    assert tally.seconds_left() == pytest.approx(4.0)  # two rounds of 2 s
    tally.clients_done, tally.clients_total = 1, 4
    assert tally.seconds_left() == pytest.approx(3.5)
    tally.add(lines[3])
    tally.add(lines[4])
    assert tally.sparkline(10) == "▁▄▃█"  # 0.1, 0.4, 0.3, 0.8
    assert tally.sparkline(2) == "▁█"
