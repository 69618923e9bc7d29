"""Models of dense layers alone, for images, series and features.

Legend: B batch, K classes, D numbers in one sample.
"""

from __future__ import annotations

from math import prod

from torch import Tensor, nn

from fedlearn.models.inputs import whole


class Logistic(nn.Module):
    """Multinomial logistic regression: (B, …) float32 → (B, K).

    D·K + K parameters, 7,850 on MNIST. The convex model of Li et al., "Federated
    Optimization in Heterogeneous Networks" (FedProx), MLSys 2020; its synthetic data (60
    features, 10 classes) gives 610 parameters.
    """

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        """Make the layer; ``input_shape`` is of one sample."""
        super().__init__()
        # Whatever its shape, a sample is a vector of D numbers here.
        self.linear = nn.Linear(prod(input_shape), classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores (B, K)."""
        scores: Tensor = self.linear(x.flatten(1))
        return scores


class TwoNN(nn.Module):
    """The MNIST "2NN": two hidden ReLU layers of 200 units, (B, …) float32 → (B, K).

    199,210 parameters on MNIST. Source: McMahan et al., "Communication-Efficient Learning
    of Deep Networks from Decentralized Data", AISTATS 2017. ``width``: units of each
    hidden layer. The paper does not give its initialisation; this is torch's default.
    """

    def __init__(
        self, input_shape: tuple[int, ...], classes: int, width: int = 200
    ) -> None:
        """Make the layers; raises ModelError unless the width is a whole number >= 1."""
        super().__init__()
        # torch's own message would not name the option.
        whole("2nn", "width", width)
        self.hidden1 = nn.Linear(prod(input_shape), width)
        self.hidden2 = nn.Linear(width, width)
        self.output = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores (B, K)."""
        # From the second axis on: the first is the batch.
        x = self.hidden1(x.flatten(1)).relu()
        x = self.hidden2(x).relu()
        scores: Tensor = self.output(x)
        return scores
