"""What a user can bring that does not work, by import path: ``tests.wrong:name``."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from fedlearn.data.samples import Population, Samples

not_callable = 5

X = np.linspace(0, 1, 240, dtype=np.float32).reshape(60, 4)
Y = np.arange(60) % 3


def good_data():
    return X, Y, X, Y


def nan_data():
    x = X.copy()
    x[3, 1] = np.nan
    return x, Y, X, Y


def negative_labels():
    return X, Y - 1, X, Y


def labels_beyond_the_classes():
    return Population(
        "own", "features", 2, (4,), Clients([Samples(X, Y)]), Samples(X, Y)
    )


def loader_raises():
    raise ZeroDivisionError("first line\nsecond line")


def loader_exits():
    raise SystemExit("goodbye")


def loader_is_interrupted():
    raise KeyboardInterrupt


class Clients(list):
    def size(self, client: int) -> int:
        return len(self[client])


def no_clients():
    return Population("own", "features", 3, (4,), Clients(), Samples(X, Y))


def one_bad_client():
    """Two clients that work, one whose labels do not exist."""
    return Population(
        "own",
        "features",
        3,
        (4,),
        Clients([Samples(X, Y), Samples(X, Y + 7), Samples(X, Y)]),
        Samples(X, Y),
    )


def partition_raises(labels):
    raise KeyError("owner")


def model_raises(input_shape, classes):
    raise RuntimeError("out of ideas")


def not_a_model(input_shape, classes):
    return {}


class Linear(nn.Module):
    def __init__(self, input_shape, classes) -> None:
        super().__init__()
        self.linear = nn.Linear(int(np.prod(input_shape)), classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.flatten(1))


def too_wide(input_shape, classes):
    return Linear(input_shape, classes + 3)


class NothingToTrain(nn.Module):
    def __init__(self, classes) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x), self.classes)


class StartsAsNaN(Linear):
    def __init__(self, input_shape, classes) -> None:
        super().__init__(input_shape, classes)
        nn.init.constant_(self.linear.weight, float("nan"))


class FailsInTraining(Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            raise ValueError("a bug in training")
        return super().forward(x)


class BatchNormed(nn.Sequential):
    """Features through a layer that needs two samples at least."""

    def __init__(self, input_shape, classes) -> None:
        width = int(np.prod(input_shape))
        super().__init__(
            nn.Flatten(), nn.Linear(width, 6), nn.BatchNorm1d(6), nn.Linear(6, classes)
        )


class FailsAtLength(Linear):
    """A batch of nine ends in colours, over 300 lines."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) == 9:
            lines = [f"\x1b[31mlayer {line}" for line in range(300)]
            raise ValueError("\n".join([*lines, "the cause"]))
        return super().forward(x)


class FailsInEvaluation(Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if (
            not self.training and len(x) > 2
        ):  # not in the dry run before the first round
            raise ValueError("a bug in evaluation")
        return super().forward(x)


class FileMissingInEvaluation(Linear):
    """An OSError of the user's code is not the engine's own pipe that broke."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training and len(x) > 2:
            Path("/no/such/file").read_text()
        return super().forward(x)


class InterruptedInEvaluation(Linear):
    """Ctrl-C while the model is scored after round 1; ``scored`` counts in the class."""

    scored = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training and len(x) > 2:
            type(self).scored += 1
            if type(self).scored == 2:
                raise KeyboardInterrupt
        return super().forward(x)
