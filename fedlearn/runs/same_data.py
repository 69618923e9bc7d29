"""Whether a resumed run has the data and the weights that it began with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedlearn.arrays import model_sha256
from fedlearn.errors import ConfigError
from fedlearn.runs.parts import Parts

# The fingerprints of `fedlearn.data.fingerprint`, in the words of an error.
_WORDS = {
    "train_sha256": "the training samples",
    "test_sha256": "the held-out samples",
    "partition_sha256": "the shares of the clients",
}


def check_same_data(parts: Parts, manifest: Mapping[str, Any]) -> None:
    """Raise ConfigError where data are not those of the manifest that a run began with.

    Rounds before and after would have learned from different samples, or be scored on some
    that they trained on. A manifest without fingerprints, of an earlier version, says nothing.
    """
    before = manifest.get("data")
    if not isinstance(before, Mapping):
        return
    now = parts.fingerprints
    changed = [
        words
        for key, words in _WORDS.items()
        if key in before and before[key] != now[key]
    ]
    if changed:
        raise ConfigError(
            f"--resume: {' and '.join(changed)} are not those that the run began with "
            f"(data set '{parts.population.name}'); bring back the same data, or start anew"
        )


def check_same_weights(parts: Parts, manifest: Mapping[str, Any]) -> None:
    """Raise ConfigError where the given weights are not those that a run began with."""
    before = manifest.get("model")
    # Without weights, or killed before it had a manifest.
    if not isinstance(before, Mapping) or "weights_sha256" not in before:
        return
    now = model_sha256(parts.layout, parts.start)
    if before["weights_sha256"] != now:
        raise ConfigError(
            f"--resume: the weights of '{before.get('weights')}' are not those that the run "
            "began with; bring them back, or start anew"
        )
