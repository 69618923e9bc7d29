"""Reading run folders: whole, torn, damaged, unfinished, and what is no run folder at all."""

import json
from pathlib import Path

import pytest

from fedlearn.errors import RecordError, UserError
from fedlearn.records.reading import read


def test_a_finished_run_is_read_whole(write):
    run = read(write(name="digits by hand"))
    assert run.name == "digits by hand"
    assert run.finished
    assert run.planned_rounds == 4
    assert [line["round"] for line in run.lines] == [0, 1, 2, 3, 4]
    assert [line["round"] for line in run.trained] == [1, 2, 3, 4]
    assert run.problems == ()


def test_a_torn_last_line_is_ignored_in_silence(write):
    folder = write(finished=False)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"round": 5, "loss": 0.')
    run = read(folder)
    assert run.lines[-1]["round"] == 4
    assert run.problems == ()
    assert not run.finished


def test_a_damaged_line_in_the_middle_is_named(write):
    folder = write()
    texts = (folder / "metrics.jsonl").read_text().splitlines()
    texts[2] = texts[2][:10]
    (folder / "metrics.jsonl").write_text("\n".join(texts) + "\n")
    run = read(folder)
    assert [line["round"] for line in run.lines] == [0, 1, 3, 4]
    assert run.problems == ("metrics.jsonl cannot be read at line 3",)


def test_of_a_repeated_round_the_last_line_counts(write, lines):
    repeated = [*lines, lines[3] | {"accuracy": 0.35}, lines[4]]
    run = read(write(lines=repeated))
    assert [line["round"] for line in run.lines] == [0, 1, 2, 3, 4]
    assert run.lines[3]["accuracy"] == 0.35


def test_a_torn_summary_and_a_lost_manifest_leave_an_unfinished_run(write):
    folder = write(name="half")
    (folder / "summary.json").write_text('{"accuracy": 0.')
    (folder / "manifest.json").unlink()
    run = read(folder)
    assert not run.finished
    assert run.name == "half"  # from config.toml
    assert run.problems[0] == "manifest.json is missing"
    assert run.problems[1].startswith("summary.json cannot be read (")


@pytest.mark.parametrize(
    ("left_out", "words"),
    [
        (["config.toml"], "has no config.toml."),
        (["metrics.jsonl"], "has no metrics.jsonl."),
        (["config.toml", "metrics.jsonl"], "has no config.toml and no metrics.jsonl."),
    ],
)
def test_what_is_missing_is_said(write, left_out, words):
    folder = write()
    for name in left_out:
        (folder / name).unlink()
    with pytest.raises(UserError, match="is not a run folder: it ") as caught:
        read(folder)
    assert words in str(caught.value)


def test_a_folder_of_runs_hints_at_the_run(write, tmp_path):
    folder = write("inner")
    with pytest.raises(UserError) as caught:
        read(tmp_path)
    assert f"Did you mean '{folder}'?" in str(caught.value)


def test_a_missing_folder_a_file_and_an_empty_run(write, tmp_path):
    with pytest.raises(UserError, match="there is no run folder"):
        read(tmp_path / "nowhere")
    folder = write()
    with pytest.raises(UserError, match="is a file; give the run folder"):
        read(folder / "summary.json")
    (folder / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="holds no finished round yet"):
        read(folder)


def test_a_file_that_may_not_be_read_is_named(write, monkeypatch):
    folder = write()

    def refuse(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(
        RecordError, match=r"cannot read '.*config.toml': Permission denied"
    ):
        read(folder)


def test_lines_without_a_round_number_are_no_lines(write):
    folder = write()
    texts = [
        json.dumps([1, 2]),
        json.dumps({"loss": 1}),
        json.dumps({"round": 1, "accuracy": 0.5}),
    ]
    (folder / "metrics.jsonl").write_text("\n".join(texts))
    assert [line["round"] for line in read(folder).lines] == [1]
