"""What a run's summary is made of besides the run itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fedlearn.records.line import Line


def sums(lines: Sequence[Line]) -> dict[str, Any]:
    """Return the bytes, seconds and failures of all rounds: the initial model has none."""
    trained = [line for line in lines if line["round"]]
    return {
        "bytes_up": sum(line["bytes_up"] for line in trained),
        "bytes_down": sum(line["bytes_down"] for line in trained),
        "bytes_raw": sum(line["bytes_raw"] for line in trained),
        "seconds": sum(line["seconds"] for line in trained),
        "seconds_training": sum(line["seconds_training"] for line in trained),
        "failed": sum(line["failed"] for line in trained),
    }


def line_score(line: Line) -> dict[str, float] | None:
    """Return the loss and accuracy of a line; None where its round was not evaluated."""
    if line["accuracy"] is None:
        return None
    # In a line of a file, null stands for a loss that is not finite.
    loss = math.nan if line["loss"] is None else line["loss"]
    return {"loss": loss, "accuracy": line["accuracy"]}
