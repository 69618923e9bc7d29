"""Models as `fedlearn.runs.trained.load` gives them, without a run that trained them."""

from functools import cache

import torch

from fedlearn import models
from fedlearn.config import read
from fedlearn.models import read_state
from fedlearn.runs.parts import build_parts
from fedlearn.runs.trained import Trained

# What each model is built for, where pictures of 28x28 pixels are not its data.
DATA = {
    "lstm-char": "shakespeare-mini",
    "transformer-char": "shakespeare-mini",
    "lstm-sensor": "watch-mini",
}
# Every shipped model, and the options under which a model is another graph.
ALL: list[tuple[str, tuple[str, ...]]] = [(name, ()) for name in models.MODELS]
ALL += [(name, ("model.norm=batch",)) for name in ("resnet-small", "mobilenet-small")]
IDS = [" ".join((name, *changes)) for name, changes in ALL]


@cache
def untrained(name: str, *changes: str, seed: int = 0) -> Trained:
    """Return a model with the weights of a seed, its statistics moved off 0 and 1."""
    data = DATA.get(name, "fashion-mini")
    table: dict = {"data": {"name": data}, "model": {"name": name}}
    table["experiment"] = {"seed": seed}
    # Pictures have no owners of their own.
    if data == "fashion-mini":
        table["data"]["partition"] = {"kind": "iid", "clients": 10}
    experiment = read(table, changes)
    parts = build_parts(experiment)
    _spread(parts.module, seed)
    return Trained(
        source=name,
        folder=None,
        experiment=experiment,
        module=parts.module.eval(),
        layout=parts.layout,
        state=read_state(parts.module, parts.layout),
        population=parts.population,
    )


def _spread(module: torch.nn.Module, seed: int) -> None:
    """Move BatchNorm's statistics and all scales away from their first values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point() and tensor.dim() == 1:
                noise = 0.2 * torch.rand(tensor.shape, generator=generator)
                tensor += noise
            elif name.endswith("num_batches_tracked"):
                tensor += 7
