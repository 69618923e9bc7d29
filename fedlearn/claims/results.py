"""The results of claims: a JSON file of each reproduction, and RESULTS.md of all.

The keys of the JSON files are those of `result_of`; older files are read as they are.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedlearn.claims.reading import TIERS, Reproduction
from fedlearn.claims.runs import DIGITS, PlannedRun, RunPlan, definition
from fedlearn.claims.source import made_by, source
from fedlearn.claims.verdicts import Judgement
from fedlearn.errors import RecordError
from fedlearn.records.reading import RunRecord
from fedlearn.reporting.results import accuracy_curve, results
from fedlearn.reporting.units import time_text
from fedlearn.system import files

# One reproduction's result, as its JSON file has it; see `result_of`.
Result = Mapping[str, Any]

# (variant, seed) → a run as planned and as read.
FinishedRuns = Mapping[tuple[str, int], tuple[PlannedRun, RunRecord]]

# Most points of a curve that are kept: enough for a picture, and small files.
POINTS = 200

# Where runs are made.
RUNS = Path("runs/reproduce")

NOTE = (
    "With several seeds, a figure is their median, or their mean where the claim says so, "
    "with the lowest and the highest in brackets. "
    "Rounds and bytes to a target are counted as in McMahan et al. (AISTATS 2017): best "
    "accuracy so far, interpolated between rounds. "
    "Bytes are those of both directions, with all headers."
)

HEADINGS = ("claim", "wanted", "paper", "ours", "seeds", "verdict")

# Keys without which a JSON file is no result.
_NEEDED = {"name", "claims", "runs", "definition"}

# A list of numbers in indented JSON, which stands on one line instead.
_NUMBERS = re.compile(r"\[[-+\deE.,\s]+\]")


def longest_first(plan: RunPlan, folder: Path) -> list[PlannedRun]:
    """Return the runs of a plan, each once, in the order to start them.

    First those without a result in the folder, then those that took longest there. Side
    by side, a long run that starts last leaves the other processors idle. Raises
    RecordError when results cannot be read.
    """
    # (reproduction, variant) → seconds of one of its seeds: they take about the same.
    seconds = {
        (result["name"], run["variant"]): run["seconds"]
        for result in read_all(folder)
        for run in result["runs"]
    }
    ordered = sorted(
        plan.items(), key=lambda item: seconds.get(item[0][:2], math.inf), reverse=True
    )
    # Several claims may need one run.
    by_folder = {run.folder: run for _, run in ordered}
    return list(by_folder.values())


def result_of(
    reproduction: Reproduction,
    tier: str,
    seeds: Sequence[int],
    judgements: Sequence[Judgement],
    runs: FinishedRuns,
) -> Result:
    """Return the result of a reproduction.

    Its claims, and of each run what made it, its hash and its curve. Bytes are those of
    both directions, seconds those of the rounds.
    """
    return {
        "name": reproduction.name,
        "about": reproduction.about.about,
        "paper": reproduction.about.paper,
        "tier": tier,
        "seeds": list(seeds),
        "definition": definition(reproduction),
        "claims": [asdict(judgement) for judgement in judgements],
        "runs": [
            _run(variant, seed, planned, run)
            for (variant, seed), (planned, run) in runs.items()
        ],
    }


def _run(
    variant: str, seed: int, planned: PlannedRun, run: RunRecord
) -> dict[str, Any]:
    """Return what a result has of a run."""
    figures = results(run)
    engine = figures.engine
    if planned.agents:
        engine = f"{planned.agents} agents"
    return {
        "variant": variant,
        "seed": seed,
        "model_sha256": figures.model_sha256,
        "engine": engine,
        "rounds": figures.rounds,
        "bytes": figures.bytes_total,
        "seconds": round(figures.seconds, 1),
        # The folder's name ends with the digest of the source: see `claims.runs`.
        "source": planned.folder.name.rpartition(".")[2],
        **made_by(run),
        "curve": _curve(run),
    }


def _curve(run: RunRecord) -> dict[str, list[float]]:
    """Return about `POINTS` points of a run's accuracy, the last among them."""
    curve = accuracy_curve(run.lines)
    count = len(curve.rounds)
    step = max(1, math.ceil(count / POINTS))
    positions = list(range(0, count, step))
    # The last point is what most claims are about.
    if positions and positions[-1] != count - 1:
        positions.append(count - 1)
    return {
        "rounds": [curve.rounds[i] for i in positions],
        "bytes": [curve.bytes_total[i] for i in positions],
        # A hundredth of a percent point shows in no picture.
        "accuracy": [round(curve.accuracy[i], 5) for i in positions],
    }


def default_folder() -> Path:
    """Return where results stand by default.

    In a checkout beside the claims, elsewhere beside the runs.
    """
    checkout = Path("experiments")
    if (checkout / "reproduce").is_dir():
        return checkout
    return RUNS


def store(folder: Path, result: Result) -> bool:
    """Write a result to its file; return whether it did.

    The file's result stays if it has the same claims of the same configs in a longer
    tier. Raises RecordError when it cannot be written.
    """
    path = folder / "results" / f"{result['name']}.json"
    before = _read(path)
    # The definition has no seeds in it: a longer tier has more of them, and says more.
    same = before and before["definition"] == result["definition"]
    if before and same and _length(before) > _length(result):
        return False
    # Indented, so that a difference between two results is readable in git.
    text = json.dumps(result, indent=1)
    text = _NUMBERS.sub(lambda numbers: " ".join(numbers[0].split()), text)
    _write(path, f"{text}\n")
    return True


def read_all(folder: Path) -> list[Result]:
    """Return all results of a folder, those of the shortest tier first.

    A damaged file, or one of another version, is left out. Raises RecordError for one
    that cannot be read.
    """
    usable: list[Result] = []
    for path in (folder / "results").glob("*.json"):
        result = _read(path)
        if result:
            usable.append(result)
    usable.sort(key=lambda result: (_length(result), result["name"]))
    return usable


def _length(result: Result) -> int:
    """Return the position of a result's tier among `TIERS`."""
    tier = result["tier"]
    return TIERS.index(tier)


def _read(path: Path) -> dict[str, Any] | None:
    """Return a result; None: there is none, or it is damaged or of another version."""
    try:
        result: dict[str, Any] = json.loads(path.read_text())
        usable = result["tier"] in TIERS and result.keys() >= _NEEDED
        return result if usable else None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RecordError(f"cannot read '{path}': {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        # Not worth an error: the next `fedlearn reproduce` of it writes it anew.
        return None


def _write(path: Path, text: str) -> None:
    """Write a file whole; raises RecordError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.replace(path, text.encode(), files.PUBLIC)
    except OSError as error:
        raise RecordError(
            f"cannot write '{path}': {error.strerror or error}; "
            "choose another --results"
        ) from None


def rows(result: Result) -> list[list[str]]:
    """Return a result's claims as rows under `HEADINGS`."""
    # All claims of a file have the same seeds.
    seeds = ", ".join(map(str, result["seeds"]))
    return [
        [
            claim["claim"],
            claim["wanted"],
            claim["paper"] or "–",
            claim["ours"],
            seeds,
            claim["verdict"],
        ]
        for claim in result["claims"]
    ]


def command(result: Result) -> str:
    """Return the command that makes a result again."""
    name = shlex.quote(result["name"])
    return f"fedlearn reproduce {name} --tier {result['tier']}"


def origin(result: Result) -> str:
    """Return with what and when a result's runs were made, and their rounds' time."""
    runs = result["runs"]
    # Runs may come from several machines and days: each value once, in their order.
    hardware, versions, digests, date = (
        " / ".join(dict.fromkeys(str(run[key]) for run in runs))
        for key in ("hardware", "versions", "source", "date")
    )
    seconds = time_text(sum(run["seconds"] for run in runs))
    return f"{seconds} of rounds on {hardware}; {versions}; source {digests}; {date}."


def write_results(folder: Path) -> Path:
    """Write RESULTS.md from all results of a folder, and return its path.

    Below them stand the tables that benchmarks left beside them, ``results/*.md``. Raises
    RecordError.
    """
    lines = [
        "# Results",
        "",
        "Written by `fedlearn reproduce`; `fedlearn report --experiments` draws the same "
        f"with its curves. {NOTE}",
    ]
    for result in read_all(folder):
        lines += _section(result)
    for table in sorted((folder / "results").glob("*.md")):
        try:
            lines += ["", table.read_text(encoding="utf-8").strip()]
        except OSError as error:
            raise RecordError(f"cannot read {table}: {error.strerror}") from error
    path = folder / "RESULTS.md"
    _write(path, "\n".join(lines) + "\n")
    return path


def _section(result: Result) -> list[str]:
    """Return the lines of a result in RESULTS.md."""
    about = " — ".join(text for text in (result["about"], result["paper"]) if text)
    lines = ["", f"## {result['name']}", "", _plain(about), ""]
    lines += _table(HEADINGS, rows(result))
    for claim in result["claims"]:
        if not claim["why"]:
            continue
        text = _plain(claim["claim"])
        why = _plain(claim["why"])
        lines.append(f"\n{text}: {claim['verdict']}. {why}.")
    return [*lines, "", f"`{command(result)}`: {origin(result)}"]


def _table(headings: Sequence[str], cells: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table in Markdown."""
    lines = []
    for line in (headings, ["---"] * len(headings), *cells):
        text = " | ".join(map(_plain, line))
        lines.append(f"| {text} |")
    return lines


def _plain(text: str) -> str:
    """Return a text as a cell of a table in Markdown may hold it."""
    # A bar or a line's end would end the cell.
    escaped = text.replace("|", "\\|")
    return escaped.replace("\n", " ")


def of_other_source(result: Result) -> bool:
    """Tell whether other source than what runs now made some run of a result."""
    ours = source()[:DIGITS]
    return any(run["source"] != ours for run in result["runs"])
