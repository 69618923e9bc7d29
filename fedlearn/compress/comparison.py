"""`compress`: makes the variants of a model, measures all beside the original, and chooses.

The output folder has a folder for each variant, ``compress.json``, ``pareto.png``, and the
settings that its variants were made with. What is made is not made again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlearn.compress.folder import check_folder, check_settings, clear, settings_of
from fedlearn.compress.halves import check_layer, cut_in_two
from fedlearn.compress.making import Bench, make, running_file, shaped
from fedlearn.compress.plot import draw
from fedlearn.compress.rounds import AGAIN, tuned_experiment
from fedlearn.compress.rows import Candidate, best, judged
from fedlearn.compress.scoring import measured
from fedlearn.compress.variants import ORIGINAL, Steps
from fedlearn.errors import ModelError, UserError
from fedlearn.models.binary import binary_names
from fedlearn.records.writing import RunFolder
from fedlearn.runs.trained import Trained

RESULT_FILE = "compress.json"
PLOT_FILE = "pareto.png"
CUT_FOLDER = "cut"


@dataclass(frozen=True)
class Request:
    """What is asked for.

    rounds: federated rounds of each fine-tuning; 0: none. gate: percentage points that a
    variant may lose. changes: of keys of the fine-tuning, as ``--set`` has them. cut: the
    layer after which what is chosen is cut in two; "": none. command: what goes on with
    it, for messages.
    """

    variants: Sequence[Steps]
    rounds: int = 10
    gate: float = 0.5
    changes: Sequence[str] = ()
    cut: str = ""
    quiet: bool = False
    command: str = "fedlearn compress"


@dataclass(frozen=True)
class Verdict:
    """What came of it.

    rows: the original first, then the variants in the order of the request. chosen: the
    smallest that was not refused; None: all were. cut: facts of the cut; {}: none.
    """

    rows: Sequence[Candidate]
    chosen: Candidate | None
    cut: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Return it as ``compress.json`` has it."""
        return {
            "chosen": self.chosen.name if self.chosen else None,
            "rows": [row.as_json() for row in self.rows],
            "cut": self.cut,
        }


def compress(
    original: Trained, request: Request, out: Path, say: Callable[[str], None]
) -> Verdict:
    """Make and measure what is asked for below a folder.

    say: shows a line. Raises UserError for a folder in use, for a step that the model does
    not allow, and for a missing package; RunError where a fine-tuning fails.
    KeyboardInterrupt leaves what is made, and the next call goes on with it.
    """
    bench = Bench(
        original=original,
        tuning=tuned_experiment(original.experiment, request.rounds, request.changes),
        rounds=request.rounds,
        folder=out,
        quiet=request.quiet,
        command=request.command,
        say=say,
    )
    settings = settings_of(original, bench.tuning, request.rounds)
    check_folder(out)
    # Noted before they are made, so that `clear` removes these and no other.
    new_folders = [path for path in (out, *out.parents) if not path.exists()]
    with contextlib.closing(RunFolder(out, AGAIN)) as folder:
        try:
            check_settings(out, settings)
            _check_steps(bench, request)
        except UserError:
            clear(out, new_folders)
            raise
        settings.write(folder)
        verdict = _compared(bench, request)
        facts = settings.as_json() | {"gate": request.gate} | verdict.as_json()
        folder.write_json(RESULT_FILE, facts)
    return verdict


def _check_steps(bench: Bench, request: Request) -> None:
    """Raise UserError for a step that the model does not allow, before hours of rounds."""
    original = bench.original
    if not len(original.population.test):
        raise ModelError(
            f"'{original.population.name}' has no test samples to compare models on"
        )
    if request.cut:
        check_layer(original, request.cut)
    for variant in request.variants:
        module = shaped(bench, variant)
        if variant.store == "binary" and not binary_names(module):
            raise ModelError(
                f"nothing of '{original.experiment.model.name}' can be binarised: it has no "
                "dense layer or convolution between its first and its last layer; leave "
                "out --binary"
            )


def _compared(bench: Bench, request: Request) -> Verdict:
    """Return the rows of all variants, which are made where they are not there."""
    folders = {
        variant.name: make(bench, variant) for variant in (ORIGINAL, *request.variants)
    }
    bench.say(f"measuring in turns: {', '.join(folders)}")
    rows = judged(measured(bench, folders), request.gate)
    chosen = best(rows)
    facts: dict[str, Any] = {}
    if request.cut:
        # Without variants, or where all are refused, the original is what there is.
        folder = folders[chosen.name if chosen else ORIGINAL.name]
        facts = cut_in_two(
            bench, running_file(folder), request.cut, bench.folder / CUT_FOLDER
        )
    if request.variants:
        draw(bench.folder / PLOT_FILE, rows, chosen, request.gate)
    return Verdict(rows, chosen, facts)
