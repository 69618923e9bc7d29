"""The line that a run adds to ``metrics.jsonl`` after each round: every key, its unit, its meaning.

Readers must expect less: a line of another version or of a damaged file may lack any key but
``round``, or hold another type. `fedlearn.records.reading` has the functions to ask for values.
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


class DevicesLine(TypedDict):
    """A round on simulated devices: virtual seconds, and joules above what an idle device takes."""

    # How long the round lasts: until its slowest client, or the deadline, is through.
    seconds: float
    # Profile → sums over its clients: ``clients`` and ``late`` are counts, ``away``, ``down``,
    # ``compute``, ``up`` and ``wait`` seconds, ``joules`` energy.
    by_profile: dict[str, dict[str, float]]
    # The virtual time at the round's end, from the start of the run.
    now_s: float
    # The energy of all clients.
    joules: float
    # Clients that missed the deadline.
    late: int


class Line(TypedDict):
    """One round of a run. Bytes, messages and seconds are those of the round alone."""

    # From 1. Round 0, where present, is the initial model's evaluation.
    round: int
    # On held-out samples: the mean loss, and the share of right answers (0 to 1). None in rounds
    # that are not evaluated; in the file, a loss that is not finite is null too.
    loss: float | None
    accuracy: float | None
    # The clients' training loss: their mean, as the strategy weighs them.
    train_loss: float | None
    # The size of the cohort; how many of it failed; client → reason of those.
    clients: int
    failed: int
    failures: dict[str, str]
    # How often the round was tried, 1 where the first attempt was enough.
    attempts: int
    # Payloads as encoded, headers included: sent by clients, sent to clients; and both
    # directions as they would be in plain float32.
    bytes_up: int
    bytes_down: int
    bytes_raw: int
    # Payloads sent by clients; models sent to them, for training and evaluation.
    messages_up: int
    messages_down: int
    # Of ``messages_down``: whole models where a difference was meant.
    whole_models: int
    # Part of the codecs' work (``up_encode``, ``up_decode``, ``down``) → seconds of one thread.
    seconds_codec: dict[str, float]
    # Wall time of the round; of local training (summed over clients, divided by the workers);
    # and phase (``prepare``, ``train``, ``encode``, …) → seconds.
    seconds: float
    seconds_training: float
    seconds_by_phase: dict[str, float]
    # How the model does on the clients' own data: ``clients``, ``accuracy`` (mean), ``worst10``
    # (mean of the worst 10 %), ``spread``, ``loss``, ``failed``. None where they did not evaluate.
    clients_evaluation: dict[str, float] | None
    # What clients report under other names: ``train`` and ``evaluate`` as the strategy sums it
    # up, or else means over those that report it; ``unusable``: a metric that was no finite
    # number → how many clients' it was. None where there is nothing of the kind.
    metrics: dict[str, dict[str, Any]] | None
    # With ``[devices]`` only.
    devices: NotRequired[DevicesLine]


def empty_line(round_number: int) -> Line:
    """Return the line of a round in which nobody was asked and nothing was evaluated.

    The file keeps this order of keys.
    """
    return {
        "round": round_number,
        "loss": None,
        "accuracy": None,
        "train_loss": None,
        "clients": 0,
        "failed": 0,
        "failures": {},
        "attempts": 1,
        "bytes_up": 0,
        "bytes_down": 0,
        "bytes_raw": 0,
        "messages_up": 0,
        "messages_down": 0,
        "whole_models": 0,
        "seconds_codec": {},
        "seconds": 0.0,
        "seconds_training": 0.0,
        "seconds_by_phase": {},
        "clients_evaluation": None,
        "metrics": None,
    }
