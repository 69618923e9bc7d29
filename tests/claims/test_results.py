"""What is kept of claims, RESULTS.md, the page, and which runs are the same run."""

import json
import re
from pathlib import Path

import pytest

from fedlearn.claims import reading, results, runs, source
from fedlearn.claims.verdicts import judge
from fedlearn.commands import report
from fedlearn.records.reading import read
from tests.runfolder import write_run

TEXT = """\
[reproduce]
about = "a | b"
paper = "A paper"
base = "default"

[seeds]
ci = [0]
nightly = [0, 1]

[variant.half]
codec.up = "f16"

[[claim]]
what = "rounds"
target = 0.6
at_most = 9
paper = 5

[[claim]]
what = "bytes"
target = 0.6
over = "half"
at_least = 2
known = "the <b>bytes</b> are equal here"
"""


@pytest.fixture
def reproduction(tmp_path):
    (tmp_path / "mine.toml").write_text(TEXT)
    return reading.read(str(tmp_path / "mine.toml"))


def result_of(
    reproduction: reading.Reproduction, tier: str, tmp_path: Path
) -> results.Result:
    """Return the result of runs that are written by hand, all alike."""
    seeds = reproduction.seeds_in(tier)
    plan = runs.planned([(reproduction, seeds)], tmp_path / "runs")
    made = {}
    for (_, variant, seed), wanted in plan.items():
        if not wanted.folder.exists():
            write_run(wanted.folder)
        made[variant, seed] = (wanted, read(wanted.folder))
    judged = [
        judge(claim, {key: run for key, (_, run) in made.items()}, seeds, {})
        for claim in reproduction.claims
    ]
    return results.result_of(reproduction, tier, seeds, judged, made)


def test_results_are_one_table_with_why_and_where(reproduction, tmp_path):
    assert results.store(tmp_path, result_of(reproduction, "nightly", tmp_path))
    text = results.write_results(tmp_path).read_text()
    assert "| rounds to 60 % | ≤ 9 | 5 | 3.5 (3.5 … 3.5) | 0, 1 | holds |" in text
    assert (
        "| known miss |" in text
        and "bytes to 60 %: plain ÷ half: known miss. the <b>bytes</b> are equal here."
        in text
    )
    assert "a \\| b — A paper" in text
    assert (
        "`fedlearn reproduce mine --tier nightly`: 32 s of rounds on x86_64, - cores; "
        "fedlearn 0.1.0, python 3.11.2" in text
    )


def test_a_shorter_tier_does_not_replace_a_longer_one_of_the_same_claims(
    reproduction, tmp_path
):
    long, short = (
        result_of(reproduction, tier, tmp_path) for tier in ("nightly", "ci")
    )
    assert results.store(tmp_path, short) and results.store(tmp_path, long)
    assert not results.store(tmp_path, short)
    assert results.read_all(tmp_path) == [json.loads(json.dumps(long))]
    assert results.store(tmp_path, {**short, "definition": "another"})
    assert results.read_all(tmp_path)[0]["tier"] == "ci"


def test_tables_of_benchmarks_stand_below(reproduction, tmp_path):
    results.store(tmp_path, result_of(reproduction, "ci", tmp_path))
    (tmp_path / "results" / "zebra.md").write_text("## zebra\n\n| a |\n")
    text = results.write_results(tmp_path).read_text()
    assert text.endswith("\n\n## zebra\n\n| a |\n")


def test_a_damaged_result_is_left_out(reproduction, tmp_path):
    results.store(tmp_path, result_of(reproduction, "ci", tmp_path))
    (tmp_path / "results" / "torn.json").write_text('{"name": "to')
    assert [found["name"] for found in results.read_all(tmp_path)] == ["mine"]


def test_the_page_holds_all_and_asks_for_nothing(reproduction, tmp_path, capsys):
    results.store(tmp_path, result_of(reproduction, "nightly", tmp_path))
    assert (
        report.main(
            [
                "--experiments",
                "--results",
                str(tmp_path),
                "--out",
                str(tmp_path / "page.html"),
            ]
        )
        == 0
    )
    page = (tmp_path / "page.html").read_text()
    assert page.count("<figure>") == 2
    assert (
        "3.5 (3.5 … 3.5)" in page
        and "fedlearn reproduce mine --tier nightly" in page
        and "The star is the paper&#x27;s figure" in page
    )
    assert "the &lt;b&gt;bytes&lt;/b&gt; are equal here" in page
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--experiments"], "there are no results in 'runs/reproduce/results'"),
        (["--experiments", "run"], "leave out RUN"),
        (["--experiments", "--csv"], "leave out --csv"),
        (["run", "--results", "x"], "--results is for --experiments"),
        ([], "name the folder of a run, or give --experiments"),
    ],
)
def test_wrong_arguments_of_the_page(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert report.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_the_same_config_is_one_run_whatever_it_is_called(reproduction, tmp_path):
    (tmp_path / "twin.toml").write_text(TEXT.replace('"a | b"', '"another"'))
    twin = reading.read(
        str(tmp_path / "twin.toml"),
        ["engine.workers=3", "expect.accuracy=0.5", "experiment.about=x"],
    )
    plan = runs.planned([(reproduction, (0, 1)), (twin, (0,))], tmp_path)
    assert plan["mine", "plain", 0].folder == plan["twin", "plain", 0].folder
    assert len({run.folder for run in plan.values()}) == 4  # two variants, two seeds
    changed = reading.read(str(tmp_path / "twin.toml"), ["train.lr=0.5"])
    assert (
        runs.definition(changed)
        != runs.definition(twin)
        == runs.definition(reproduction)
    )
    folders = {run.folder for run in plan.values()}
    assert folders.isdisjoint(
        run.folder for run in runs.planned([(changed, (0, 1))], tmp_path).values()
    )


def test_other_source_makes_other_runs_unless_stale_ones_are_asked_for(
    reproduction, tmp_path, monkeypatch
):
    before = runs.planned([(reproduction, (0,))], tmp_path)["mine", "plain", 0]
    write_run(before.folder)
    monkeypatch.setattr(runs, "source", lambda: "f" * 64)
    now = runs.planned([(reproduction, (0,))], tmp_path)["mine", "plain", 0]
    assert before.finished and not now.finished and now.folder != before.folder
    assert (
        runs.planned([(reproduction, (0,))], tmp_path, stale=True)[
            "mine", "plain", 0
        ].folder
        == before.folder
    )


def test_what_computes_is_told_from_what_is_written_about_it(tmp_path):
    (tmp_path / "a.py").write_text(
        '"""A docstring."""\n\n# a comment\ndef f(x):\n    """Return it."""\n    return x + 1\n'
    )
    (tmp_path / "b.py").write_text("def f(x): return x + 1  # shorter\n")
    (tmp_path / "c.py").write_text("def f(x): return x + 2\n")
    a, b, c = (source._code(tmp_path / f"{name}.py") for name in "abc")
    assert a == b != c
    assert len(source.source()) == 64 and source.source() == source.source()


def test_every_part_of_fedlearn_is_listed_as_computing_or_not():
    listed = (*source.COMPUTES, *source.COMPUTES_NOTHING)
    assert len(set(listed)) == len(listed)
    # A folder that stands in neither list has each of its files in one of them.
    split = {part.partition("/")[0] for part in listed if "/" in part}
    parts = set()
    for path in source.PACKAGE.iterdir():
        if path.name in split:
            parts |= {f"{path.name}/{file.name}" for file in path.glob("*.py")}
        elif path.suffix == ".py" or (path / "__init__.py").exists():
            parts.add(path.name)
    assert parts == set(listed)


def test_the_runs_that_took_longest_come_first(reproduction, tmp_path):
    found = json.loads(json.dumps(result_of(reproduction, "ci", tmp_path)))
    plan = runs.planned([(reproduction, (0, 1))], tmp_path / "runs")
    plain, half = (plan["mine", name, 0] for name in ("plain", "half"))
    for one, (first, second) in {"half": (half, plain), "plain": (plain, half)}.items():
        for run in found["runs"]:
            run["seconds"] = 9.0 if run["variant"] == one else 3.0
        results.store(tmp_path, found)
        ordered = results.longest_first(plan, tmp_path)
        assert len(ordered) == 4
        assert ordered.index(first) < 2 <= ordered.index(second)
    found["runs"] = [run for run in found["runs"] if run["variant"] == "plain"]
    results.store(tmp_path, found)
    assert results.longest_first(plan, tmp_path)[0] == half  # nothing is known of it
