"""Brief: what a client is told of an experiment, to build what the coordinator has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedlearn.errors import FormatError


@dataclass(frozen=True)
class Brief:
    """Data, model and seed of an experiment; frozen, and the same text on both ends.

    data_options, partition, model_options: the further keys of the config's sections.
    modality: what a sample is, such as "image". holdout: share of a client's samples that
    it keeps for its evaluation. schema: of the model's layout, hex digits; a client whose
    model has another one has other code.
    """

    seed: int
    data: str
    data_options: Mapping[str, Any]
    partition: Mapping[str, Any]
    model: str
    model_options: Mapping[str, Any]
    modality: str
    classes: int
    input_shape: tuple[int, ...]
    holdout: float
    schema: str

    def to_json(self) -> str:
        """Return the brief as one line of JSON, as agents of every version read it."""
        # Nested as in the first release, whose agents still read it.
        data = {
            "name": self.data,
            "options": dict(self.data_options),
            "partition": dict(self.partition),
        }
        model = {"name": self.model, "options": dict(self.model_options)}
        return json.dumps(
            {
                "seed": self.seed,
                "data": data,
                "model": model,
                # The wire keeps the word of the first release.
                "task": self.modality,
                "classes": self.classes,
                "input_shape": list(self.input_shape),
                "holdout": self.holdout,
                "schema": self.schema,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Brief:
        """Return the brief of a line of JSON; raises FormatError when it is not one."""
        try:
            values = json.loads(text)
            data = values["data"]
            model = values["model"]
            return cls(
                seed=int(values["seed"]),
                data=str(data["name"]),
                data_options=dict(data["options"]),
                partition=dict(data["partition"]),
                model=str(model["name"]),
                model_options=dict(model["options"]),
                modality=str(values["task"]),
                classes=int(values["classes"]),
                input_shape=tuple(int(size) for size in values["input_shape"]),
                holdout=float(values["holdout"]),
                schema=str(values["schema"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__} {error}"
            raise FormatError(
                f"the coordinator's description of the experiment is not one: {reason}"
            ) from None
