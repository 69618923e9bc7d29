"""Recurrent models: over characters, over sensor series, and over the rows of pictures.

Legend: B batch, T time steps or characters, F features, C channels, H height, W width,
K classes.
"""

from __future__ import annotations

from torch import Tensor, nn

from fedlearn.models.inputs import image, series, text, whole


class CharLSTM(nn.Module):
    """McMahan's stacked LSTM over bytes: (B, T) int64 → (B, T, K), any T.

    It gives the scores of the next byte after every byte. Source: McMahan et al.,
    "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS
    2017: an embedding of 8, two LSTM layers of 256 units and a softmax over the
    characters. The paper counts 866,578 parameters; a 256-byte alphabet with torch's two
    bias vectors in each LSTM layer gives 866,560.

    Inputs and outputs share one alphabet of ``classes`` symbols. A prediction depends on
    earlier bytes alone, so padding after a line's end changes nothing before it.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        embedding: int = 8,
        width: int = 256,
        layers: int = 2,
    ) -> None:
        """Make the layers; raises ModelError for other data, or an option below 1."""
        super().__init__()
        text("lstm-char", input_shape)
        whole("lstm-char", "embedding", embedding)
        whole("lstm-char", "width", width)
        whole("lstm-char", "layers", layers)
        self.embedding = nn.Embedding(classes, embedding)
        # Samples come as (B, T); torch's own order is (T, B).
        self.lstm = nn.LSTM(embedding, width, layers, batch_first=True)
        self.output = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of the next byte at every position (B, T, K)."""
        # The last state is dropped: each line begins with an empty one.
        hidden, _ = self.lstm(self.embedding(x))
        scores: Tensor = self.output(hidden)
        return scores


class SensorLSTM(nn.Module):
    """One LSTM layer, a mean over time, one linear layer: (B, T, F) float32 → (B, K).

    18,887 parameters for 6 channels and 7 classes (width 64). The mean over time, rather
    than the last output, gives every step of a window a short path to the loss. Source of
    the LSTM: Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation
    1997, with the forget gate of Gers et al., Neural Computation 2000.
    """

    def __init__(
        self, input_shape: tuple[int, ...], classes: int, width: int = 64
    ) -> None:
        """Make the layers; raises ModelError for other data, or a width below 1."""
        super().__init__()
        _, features = series("lstm-sensor", input_shape)
        whole("lstm-sensor", "width", width)
        self.lstm = nn.LSTM(features, width, batch_first=True)
        self.output = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores (B, K)."""
        # Any T: the mean does not depend on the window's length.
        hidden, _ = self.lstm(x)
        scores: Tensor = self.output(hidden.mean(dim=1))
        return scores


class RowLSTM(nn.Module):
    """Two LSTM layers that read a picture row by row: (B, C, H, W) float32 → (B, K).

    A linear layer follows the last output. 214,282 parameters for 28x28 pixels and 10
    classes (width 128). Source: Sattler et al., "Robust and Communication-Efficient
    Federated Learning from Non-i.i.d. Data", IEEE Transactions on Neural Networks and
    Learning Systems 2019: a Fashion-MNIST picture is a series of 28 rows.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        width: int = 128,
        layers: int = 2,
    ) -> None:
        """Make the layers; raises ModelError for other data, or an option below 1."""
        super().__init__()
        channels, _, columns = image("lstm-rows", input_shape)
        whole("lstm-rows", "layers", layers)
        whole("lstm-rows", "width", width)

        # A step of the series is one row of all channels.
        self.lstm = nn.LSTM(channels * columns, width, layers, batch_first=True)
        self.output = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores (B, K)."""
        # (B, C, H, W) → (B, H, C·W).
        rows = x.transpose(1, 2).flatten(2)
        hidden, _ = self.lstm(rows)
        scores: Tensor = self.output(hidden[:, -1])
        return scores
