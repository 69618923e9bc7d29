"""What a constant answer reaches on the held-out samples: what a model has to beat."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fedlearn.data.samples import IGNORE, Samples


def baseline(test: Samples) -> dict[str, Any]:
    """Return what always answering the most frequent class reaches; {} without any target.

    label: that class, the lowest of several. accuracy: its share of the targets. noise: the
    standard error of that share, for so many targets.
    """
    targets = test.y[test.y != IGNORE]
    if not len(targets):
        return {}
    labels, counts = np.unique(targets, return_counts=True)
    most = int(counts.argmax())
    share = float(counts[most] / len(targets))
    noise = math.sqrt(share * (1 - share) / len(targets))
    return {"label": int(labels[most]), "accuracy": share, "noise": noise}
