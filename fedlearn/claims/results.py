"""What is kept of claims that were run: a JSON file of each reproduction, and RESULTS.md, which is written from all of them."""

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
from fedlearn.claims.runs import DIGITS, Plan, Wanted, definition
from fedlearn.claims.source import made_by, source
from fedlearn.claims.verdicts import Judged
from fedlearn.errors import RecordError
from fedlearn.records.reading import RunRecord
from fedlearn.reporting.results import accuracy_curve, results
from fedlearn.reporting.units import time_text
from fedlearn.system import files

Result = Mapping[str, Any]
"""One reproduction's result, as its JSON file has it; see `result`."""

Made = Mapping[tuple[str, int], tuple[Wanted, RunRecord]]
"""(variant, seed) → a run as planned and as read."""

NUMBERS = re.compile(r"\[[-+\deE.,\s]+\]")

POINTS = 200
"""Most points of a curve that are kept."""

RUNS = Path("runs/reproduce")
"""Where runs are made."""

NOTE = (
    "With several seeds, a figure is their median, or their mean where the claim says so, with the lowest and the highest in brackets. "
    "Rounds and bytes to a target are counted as in McMahan et al. (AISTATS 2017): best accuracy so far, interpolated between rounds. "
    "Bytes are those of both directions, with all headers."
)

HEADINGS = ("claim", "wanted", "paper", "ours", "seeds", "verdict")


def longest_first(plan: Plan, folder: Path) -> list[Wanted]:
    """Return the runs of a plan, each once, those that took longest by the results of a folder first, and before them the unknown ones.

    Side by side, a long run that starts last leaves the other processors idle. Raises RecordError when results cannot be read.
    """
    took = {
        (found["name"], run["variant"]): run["seconds"]
        for found in kept(folder)
        for run in found["runs"]
    }
    ordered = sorted(
        plan.items(), key=lambda item: took.get(item[0][:2], math.inf), reverse=True
    )
    return list({run.folder: run for _, run in ordered}.values())


def result(
    reproduction: Reproduction,
    tier: str,
    seeds: Sequence[int],
    judged: Sequence[Judged],
    runs: Made,
) -> Result:
    """Return what is kept of a reproduction: its claims, and of each run what made it, its hash and its curve.

    Bytes are those of both directions, seconds those of the rounds.
    """
    return {
        "name": reproduction.name,
        "about": reproduction.about.about,
        "paper": reproduction.about.paper,
        "tier": tier,
        "seeds": list(seeds),
        "definition": definition(reproduction),
        "claims": [asdict(one) for one in judged],
        "runs": [
            _run(variant, seed, wanted, run)
            for (variant, seed), (wanted, run) in runs.items()
        ],
    }


def _run(variant: str, seed: int, wanted: Wanted, run: RunRecord) -> dict[str, Any]:
    found, curve = results(run), accuracy_curve(run.lines)
    step = -(-len(curve.rounds) // POINTS) or 1
    kept = sorted({*range(0, len(curve.rounds), step), len(curve.rounds) - 1} - {-1})
    return {
        "variant": variant,
        "seed": seed,
        "model_sha256": found.model_sha256,
        "engine": f"{wanted.agents} agents" if wanted.agents else found.engine,
        "rounds": found.rounds,
        "bytes": found.bytes_total,
        "seconds": round(found.seconds, 1),
        "source": wanted.folder.name.rpartition(".")[2],
        **made_by(run),
        "curve": {
            "rounds": [curve.rounds[i] for i in kept],
            "bytes": [curve.bytes_total[i] for i in kept],
            "accuracy": [round(curve.accuracy[i], 5) for i in kept],
        },
    }


def folder() -> Path:
    """Return where results are kept unless one says otherwise: beside the claims of a checkout, elsewhere beside the runs."""
    return Path("experiments") if Path("experiments/reproduce").is_dir() else RUNS


def keep(folder: Path, found: Result) -> bool:
    """Write a result to its file, unless that has the same claims of the same configs in a longer tier; tell whether it did.

    Raises RecordError when it cannot be written.
    """
    path = folder / "results" / f"{found['name']}.json"
    before = _read(path)
    longer = (
        TIERS.index(before["tier"]) > TIERS.index(found["tier"]) if before else False
    )
    if before and longer and before["definition"] == found["definition"]:
        return False
    text = json.dumps(found, indent=1)
    _write(
        path, f"{NUMBERS.sub(lambda list: ' '.join(list[0].split()), text)}\n"
    )  # a curve on one line
    return True


def kept(folder: Path) -> list[Result]:
    """Return all results of a folder, those of the shortest tier first."""
    found = [
        made
        for path in sorted((folder / "results").glob("*.json"))
        if (made := _read(path))
    ]
    return sorted(found, key=lambda made: (TIERS.index(made["tier"]), made["name"]))


def _read(path: Path) -> dict[str, Any] | None:
    """Return a result; None: there is none, or the file is damaged or of another version."""
    try:
        found = json.loads(path.read_text())
        return (
            found
            if found["tier"] in TIERS
            and {"name", "claims", "runs", "definition"} <= found.keys()
            else None
        )
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RecordError(f"cannot read '{path}': {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.replace(path, text.encode())
    except OSError as error:
        raise RecordError(
            f"cannot write '{path}': {error.strerror or error}; choose another --results"
        ) from None


def rows(found: Result) -> list[list[str]]:
    """Return a result's claims as rows under `HEADINGS`."""
    seeds = ", ".join(map(str, found["seeds"]))
    return [
        [c["claim"], c["wanted"], c["paper"] or "–", c["ours"], seeds, c["verdict"]]
        for c in found["claims"]
    ]


def again(found: Result) -> str:
    """Return the command that makes a result again."""
    return shlex.join(
        ["fedlearn", "reproduce", str(found["name"]), "--tier", str(found["tier"])]
    )


def origin(found: Result) -> list[str]:
    """Return where, with what and when a result's runs were made, and how long their rounds took together."""
    runs = found["runs"]
    told = [
        " / ".join(dict.fromkeys(str(run[key]) for run in runs))
        for key in ("hardware", "versions", "source", "date")
    ]
    return [*told, time_text(sum(run["seconds"] for run in runs))]


def write_results(folder: Path) -> Path:
    """Write RESULTS.md from all results that are kept, and return its path. Raises RecordError."""
    every = kept(folder)
    lines = [
        "# Results",
        "",
        f"Written by `fedlearn reproduce`; `fedlearn report --experiments` draws the same with its curves. {NOTE}",
    ]
    for found in every:
        lines += [
            "",
            f"## {found['name']}",
            "",
            _plain(
                " — ".join(text for text in (found["about"], found["paper"]) if text)
            ),
            "",
        ]
        lines += _table(HEADINGS, rows(found))
        lines += [
            f"\n{_plain(one['claim'])}: {one['verdict']}. {_plain(one['why'])}."
            for one in found["claims"]
            if one["why"]
        ]
        hardware, versions, made, date, seconds = origin(found)
        lines += [
            "",
            f"`{again(found)}`: {seconds} of rounds on {hardware}; {versions}; source {made}; {date}.",
        ]
    _write(folder / "RESULTS.md", "\n".join(lines) + "\n")
    return folder / "RESULTS.md"


def _table(headings: Sequence[str], cells: Iterable[Sequence[str]]) -> list[str]:
    lines = [headings, ["---"] * len(headings), *cells]
    return [f"| {' | '.join(_plain(cell) for cell in line)} |" for line in lines]


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def of_other_source(found: Result) -> bool:
    """Tell whether some run of a result was made by other source than what runs now."""
    return any(run["source"] != source()[:DIGITS] for run in found["runs"])
