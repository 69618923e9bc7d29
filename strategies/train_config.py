"""`TrainConfig`: the one ConfigRecord that a strategy's rounds share, as in Flower.

What a strategy writes into it in one round holds in the next. Flower's ``start`` hands the
same record to each `configure_train`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.app import ConfigRecord

# What we write into the config before each attempt.
ATTEMPT = "attempt"
ROUND = "server-round"

_MISSING = object()


class TrainConfig:
    """The train config of one run: the strategy's own values, and the experiment's.

    record: what the strategy's ``start`` is given.
    """

    def __init__(self) -> None:
        """Begin with no values."""
        self.record = ConfigRecord()
        # What was put in by `fill`, and is not the strategy's.
        self._filled: dict[str, Any] = {}

    def fill(self, config: ConfigRecord, settings: Mapping[str, Any]) -> None:
        """Put the experiment's settings of a round into a config.

        A key whose value the strategy has changed is the strategy's from then on.
        """
        for key, value in settings.items():
            present = config.get(key, _MISSING)
            if present is _MISSING or present == self._filled.get(key, _MISSING):
                config[key] = value
                self._filled[key] = value

    def own(self) -> dict[str, Any]:
        """Return the strategy's own values: for a checkpoint."""
        return {
            key: value
            for key, value in self.record.items()
            if key not in (ATTEMPT, ROUND) and value != self._filled.get(key, _MISSING)
        }

    def recall(self, values: Mapping[str, Any]) -> None:
        """Put the values of a checkpoint back."""
        self.record = ConfigRecord(dict(values))
