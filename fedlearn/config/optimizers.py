"""What each of the clients' optimisers takes beside the keys of ``[train]``."""

from __future__ import annotations

# Name → the keys of [train.optimizer_options], as torch.optim spells them.
OPTIONS: dict[str, tuple[str, ...]] = {
    "sgd": (),
    "adam": ("betas", "eps", "amsgrad"),
    "adamw": ("betas", "eps", "amsgrad"),
    "adagrad": ("lr_decay", "initial_accumulator_value", "eps"),
    "rmsprop": ("alpha", "eps", "centered"),
}

# Of those that have momentum of ``[train]``'s kind.
WITH_MOMENTUM = ("sgd", "rmsprop")

# Learning rates where a config names none: torch's. Steps of Adam's kind are about as long as
# the rate, so that SGD's 0.1 would be far too long.
RATES = {"adam": 0.001, "adamw": 0.001, "adagrad": 0.01, "rmsprop": 0.01}

# Weight decay where a config names none: without any, AdamW is Adam.
DECAYS = {"adamw": 0.01}
