"""The command ``fedlearn report``: its table, its pages, its exports and its errors."""

import csv
import io
import subprocess
import sys
from pathlib import Path

import pytest

import fedlearn
from fedlearn.commands.report import main


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def csv_rows(capsys, *arguments):
    """Return the command's CSV as dictionaries."""
    assert main([*map(str, arguments), "--csv"]) == 0
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_csv_has_the_numbers(write, capsys, tmp_path):
    row = csv_rows(capsys, write(), "--target", "0.6")[0]
    assert row["name"] == "tiny"
    assert float(row["rounds_to_target"]) == pytest.approx(3.5)
    assert float(row["bytes_to_target"]) == pytest.approx(14000)
    assert (row["bytes_up"], row["bytes_down"], row["bytes_total"]) == (
        "4000",
        "12000",
        "16000",
    )
    assert float(row["ratio_to_raw"]) == 4
    assert (row["accuracy"], row["best_accuracy"], row["engine"]) == (
        "0.8",
        "0.8",
        "pool, 2 workers",
    )
    assert len(row["model_sha256"]) == 64
    assert list(tmp_path.glob("*.html")) == []


def test_the_plain_table_is_aligned(write, capsys):
    assert (
        main(
            [
                str(write("a", name="first")),
                str(write("b", name="the second", finished=False)),
            ]
        )
        == 0
    )
    heading, first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("first") and second.startswith("the second (unfinished)  ")
    end = heading.index("vs float32") + len("vs float32")
    assert first[:end].endswith(" 4×") and second[:end].endswith(" 4×")
    assert first.endswith("0123456789ab") and second.endswith(" -")


def test_one_run_is_drawn_again_in_its_folder(write, capsys):
    folder = write()
    assert main([str(folder)]) == 0
    assert "page: " in capsys.readouterr().err
    assert len(list((folder / "plots").glob("*.png"))) == 5
    assert (folder / "report.html").read_text(encoding="utf-8").count("<figure>") == 5


def test_out_leaves_the_run_folder_as_it_is(write, tmp_path):
    folder = write()
    assert main([str(folder), "--out", "page.html"]) == 0
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count("<figure>") == 5
    assert not (folder / "report.html").exists()
    assert list((folder / "plots").iterdir()) == []


def test_several_runs_make_one_page(write, tmp_path, lines):
    first = write("a", name="<b>one</b> $x_1$")
    slower = [line | {"round": 2 * line["round"]} for line in lines]
    second = write("b", name="_two", lines=slower)
    changed = (
        (second / "config.toml")
        .read_text()
        .replace("lr = 0.1", "lr = 0.05\nnesterov = true")
    )
    (second / "config.toml").write_text(changed)
    assert main([str(first), str(second), "--target", "0.6"]) == 0
    text = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert text.count("data:image/png;base64,") == 2
    assert "<b>one</b> $x" not in text and "&lt;b&gt;one" in text
    assert (
        '<td><code>train.lr</code></td><td class="n">0.1</td><td class="n">0.05</td>'
        in text
    )
    assert (
        '<td><code>train.nesterov</code></td><td class="n">not set</td><td class="n">true</td>'
        in text
    )
    assert "train.epochs" not in text and "data.name" not in text
    assert '<td class="n">3.5</td><td class="n">7.0</td>' in text  # rounds to 60 %
    assert "http:" not in text and "https:" not in text and "<script" not in text


def test_equal_configs_are_said_to_be_equal(write, tmp_path):
    assert main([str(write("a")), str(write("b")), "--out", "both.html"]) == 0
    assert "configs are equal" in (tmp_path / "both.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "there is no run folder 'nowhere'"),
        (
            ["."],
            "'.' is not a run folder: it has no config.toml and no metrics.jsonl. "
            "Did you mean 'tiny'?",
        ),
        (["tiny", "--target", "80"], "--target 80: give a share of 1, such as 0.8"),
        (["tiny", "--target", "nan"], "--target nan: give a share"),
        (["tiny", "./tiny"], "the run 'tiny' is given twice"),
        (["tiny", "--out", "tiny"], "--out 'tiny' is a folder"),
    ],
)
def test_a_wrong_input_is_one_clear_line_and_exit_code_2(
    write, capsys, arguments, words
):
    write()
    assert main(arguments) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert (
        found.err.startswith("fedlearn: ")
        and words in found.err
        and found.err.count("\n") == 1
    )


def test_what_cannot_be_written_is_exit_code_3(write, capsys):
    assert main([str(write()), "--out", "nowhere/page.html"]) == 3
    assert "cannot write the page 'nowhere/page.html'" in capsys.readouterr().err


def test_a_damaged_file_is_warned_about(write, capsys):
    folder = write()
    (folder / "manifest.json").write_text("{")
    csv_found = main([str(folder), "--csv"])
    assert csv_found == 0
    assert "manifest.json cannot be read" in capsys.readouterr().err


def test_without_tensorboard_the_install_line_is_named(write, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert main([str(write()), "--csv", "--tensorboard", "events"]) == 2
    assert "pip install 'fedlearn[tensorboard]'" in capsys.readouterr().err


def test_tensorboard_events_hold_the_scalars(write, capsys, tmp_path):
    loader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_file_loader"
    )
    assert main([str(write()), "--csv", "--tensorboard", "events"]) == 0
    (file,) = (tmp_path / "events" / "tiny").glob("events.out.tfevents.*")
    found: dict[str, dict[int, tuple[float, float]]] = {}
    for event in loader.EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            number = (
                value.tensor.float_val[0]
                if value.HasField("tensor")
                else value.simple_value
            )
            found.setdefault(value.tag, {})[event.step] = (number, event.wall_time)
    assert {step: pytest.approx(v) for step, (v, _) in found["accuracy"].items()} == {
        0: 0.1,
        1: 0.4,
        3: 0.3,
        4: 0.8,
    }
    assert [v for v, _ in found["bytes_total"].values()] == [
        0,
        4000,
        8000,
        12000,
        16000,
    ]
    assert found["phase/encode"][1][0] == pytest.approx(0.2)
    assert found["accuracy"][4][1] - found["accuracy"][0][1] == pytest.approx(
        8.0
    )  # four rounds of 2 s
    assert main([str(tmp_path / "tiny"), "--csv", "--tensorboard", "events"]) == 2
    assert "holds events already" in capsys.readouterr().err


def test_help_loads_nothing_heavy():
    code = (
        "import sys, fedlearn.commands.report, fedlearn.reporting.progress\n"
        "try: fedlearn.commands.report.main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "names = {'matplotlib', 'rich', 'torch', 'numpy', 'flwr', 'tensorboard'}\n"
        "heavy = names & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    home = Path(fedlearn.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--target" in done.stdout


def test_a_terminal_gets_a_drawn_table(write, monkeypatch):
    pytest.importorskip("rich")

    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main([str(write(name="[red]markup")), "--out", "page.html"]) == 0
    text = terminal.getvalue()
    assert "[red]markup" in text  # a name is no markup
    assert "rounds to target" in text and "80.00 %" in text
    assert (
        max(len(line) for line in text.splitlines() if "\x1b" not in line) <= 60
    )  # turned on its side
