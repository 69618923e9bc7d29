"""What a config's ``[expect]`` asks of a result, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedlearn.config import Experiment
from fedlearn.errors import ExpectationError
from fedlearn.records.line import Line


def expectations(
    experiment: Experiment,
    summary: Mapping[str, Any],
    scored: Sequence[Line],
) -> list[dict[str, Any]]:
    """Return what is expected, one entry each: what, wanted, got, met.

    scored: the lines of the rounds whose model was evaluated.
    """
    expect = experiment.expect
    # by_round counts to best_accuracy; the schema asks for both together.
    best = expect.best_accuracy or 0.0
    reached = [line["round"] for line in scored if (line["accuracy"] or 0.0) >= best]
    first_reached = reached[0] if reached else None
    total_bytes = summary["bytes_up"] + summary["bytes_down"]
    entries = [
        _at_least("accuracy at least", expect.accuracy, summary["accuracy"]),
        _at_least(
            "best accuracy at least", expect.best_accuracy, summary["best_accuracy"]
        ),
        _at_most(
            f"accuracy {expect.best_accuracy} by round", expect.by_round, first_reached
        ),
        _at_most("loss at most", expect.loss, summary["loss"]),
        _at_most("bytes of both directions at most", expect.total_bytes, total_bytes),
        _equal("model_sha256", expect.model_sha256, summary["model_sha256"]),
    ]
    return [entry for entry in entries if entry["wanted"] is not None]


def check_expectations(summary: Mapping[str, Any]) -> None:
    """Raise ExpectationError naming the first expectation that does not hold."""
    for entry in summary["expectations"]:
        if not entry["met"]:
            raise ExpectationError(
                f"expected {entry['what']} {entry['wanted']}; got {entry['got']}"
            )


def _at_least(what: str, expected: Any, result: Any) -> dict[str, Any]:
    # None got: the run has no such figure, and so does not meet it.
    met = expected is not None and result is not None and result >= expected
    return {"what": what, "wanted": expected, "got": result, "met": met}


def _at_most(what: str, expected: Any, result: Any) -> dict[str, Any]:
    met = expected is not None and result is not None and result <= expected
    return {"what": what, "wanted": expected, "got": result, "met": met}


def _equal(what: str, expected: Any, result: Any) -> dict[str, Any]:
    met = result == expected
    return {"what": what, "wanted": expected, "got": result, "met": met}
