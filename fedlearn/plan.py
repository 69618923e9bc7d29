"""Plan: what one round asks of each client of its cohort."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from fedlearn.errors import FormatError


def is_training(kind: str) -> bool:
    """Tell whether a message's type is training: "train", or "train.ACTION" of Flower's."""
    return kind.partition(".")[0] == "train"


@dataclass(frozen=True)
class Plan:
    """What a client does with the model it is sent; frozen, and the same text on both ends.

    A field that has the name of a key of [train] means what that key means; see
    `fedlearn.config.schema.TrainSection`. lr is the key's after the round's schedule.

    round: counted from 1. answer: "update" trains and answers with the difference of the
    models; "gradient" answers with minus the gradient of the mean loss over
    ``accumulate`` mini-batches at the weights sent.
    """

    round: int
    # The experiment's: every random number of a client derives from it.
    seed: int
    answer: str = "update"
    epochs: int = 1
    steps: int = 0
    batch_size: int = 10
    # Mini-batches whose gradients are averaged into one step.
    accumulate: int = 1
    lr: float = 0.1
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    label_smoothing: float = 0.0
    # FedProx's pull towards the weights sent (Li et al., MLSys 2020).
    proximal_mu: float = 0.0
    precision: str = "float32"
    augment: str = ""
    # How the answer is encoded.
    codec: str = "raw32"
    # Drawn by each client for itself from the seed, so one plan serves the cohort.
    stragglers: float = 0.0
    straggler_work: str = "partial"
    # Numbers of client methods by name, see `fedlearn.clients.methods`; FedProx's has a
    # field of its own, which agents of the first release read.
    methods: Mapping[str, float] = field(default_factory=dict)
    # See `fedlearn.clients.optimizers`.
    optimizer: str = "sgd"
    optimizer_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def method_numbers(self) -> dict[str, float]:
        """Return the numbers of the client methods that are on; 0 is off."""
        numbers = {"proximal_mu": self.proximal_mu, **self.methods}
        return {name: number for name, number in numbers.items() if number}

    def to_dict(self) -> dict[str, Any]:
        """Return every value by its JSON key."""
        return {KEYS.get(name, name): value for name, value in asdict(self).items()}

    def to_json(self) -> str:
        """Return the plan as one line of JSON.

        The keys of `LATER` are left out at their values there.
        """
        values = self.to_dict()
        for key, default in LATER.items():
            if values[key] == default:
                del values[key]
        return json.dumps(values, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Return the plan of a line of JSON; raises FormatError when it is not one."""
        try:
            plan = cls(**_arguments(json.loads(text)))
        except (TypeError, ValueError) as error:
            raise FormatError(f"not a plan: {error}") from None
        # A dataclass takes any value for any field, and the text may be anybody's.
        for one_field in fields(cls):
            value = getattr(plan, one_field.name)
            kind = one_field.type
            if not _fits(value, str(kind)):
                key = KEYS.get(one_field.name, one_field.name)
                raise FormatError(f"not a plan: '{key}' is {value!r}, not {kind}")
        return plan


def _arguments(values: object) -> dict[str, Any]:
    """Return the arguments of `Plan` that the values of a JSON text stand for.

    Raises TypeError for an unknown key.
    """
    if not isinstance(values, dict):
        raise TypeError(f"it is {values!r}, not an object")
    arguments = dict(values)
    for name, key in KEYS.items():
        # A field's own name is no key; accepted, it would hide the real one.
        if name in arguments:
            raise TypeError(f"unknown key '{name}'")
        if key in arguments:
            arguments[name] = arguments.pop(key)
    return arguments


def _fits(value: object, kind: str) -> bool:
    """Tell whether a value is of a field's kind: "int", "float", "str" or "bool".

    A float may be written as an integer.
    """
    # Python counts its booleans among the integers.
    if kind == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind.startswith("Mapping"):
        fits = _is_option if kind.endswith("Any]") else _is_number
        return isinstance(value, dict) and all(
            isinstance(name, str) and fits(one_value)
            for name, one_value in value.items()
        )
    # The exact type, again because of booleans.
    return type(value).__name__ == kind


def _is_number(value: object) -> bool:
    return _fits(value, "float")


def _is_option(value: object) -> bool:
    """Tell whether a value is a text, a number, true or false, or a list of these."""
    values = value if isinstance(value, list) else [value]
    return all(isinstance(one_value, str | int | float) for one_value in values)


# The JSON keys of fields that are named otherwise there: agents of the first release
# read "task".
KEYS = {"answer": "task"}

# Fields added since the first release, with the values that its agents assume. They are
# left out of the JSON at these values, so that old agents can read the plan.
LATER: dict[str, Any] = {
    "stragglers": 0.0,
    "straggler_work": "partial",
    "methods": {},
    "optimizer": "sgd",
    "optimizer_options": {},
}
