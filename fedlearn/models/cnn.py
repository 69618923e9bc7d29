"""Convolutional models for images.

Legend: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from fedlearn.models.inputs import image
from fedlearn.models.memory import channels_last


class CNN(nn.Module):
    """McMahan's CNN: (B, C, H, W) float32 → (B, K), at least 4x4 pixels.

    Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from
    Decentralized Data", AISTATS 2017: two 5x5 convolutions that keep the image's size (32
    and 64 channels), each followed by ReLU and 2x2 max pooling, a dense layer of 512
    units and the output. 1,663,370 parameters on MNIST. Other image sizes change the
    dense layer alone: 188,810 parameters for 8x8x1 and 10 classes, 2,156,490 for 32x32x3.
    The paper does not give its initialisation; this is torch's default.
    """

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        """Make the layers; raises ModelError for other data than images."""
        super().__init__()
        # Two poolings leave nothing of a smaller image.
        channels, height, width = image("cnn", input_shape, minimum=4)
        self.conv1 = nn.Conv2d(channels, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
        # Two poolings halve each side twice, rounded down.
        self.hidden = nn.Linear(64 * (height // 4) * (width // 4), 512)
        self.output = nn.Linear(512, classes)
        channels_last(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores (B, K)."""
        # Pooled first: ReLU of the maximum is the maximum of ReLUs, on a quarter of them.
        x = max_pool2d(self.conv1(x), 2).relu()
        x = max_pool2d(self.conv2(x), 2).relu()
        x = self.hidden(x.flatten(1)).relu()
        scores: Tensor = self.output(x)
        return scores


class SmallCNN(nn.Module):
    """A CNN that learns fast on a CPU: (B, C, H, W) float32 in [0, 1] → (B, K).

    Images have at least 4x4 pixels. Two 3x3 convolutions that keep the image's size (16
    and 32 channels), each followed by ReLU and 2x2 max pooling, a dense layer of 64 units
    and the output; 105,866 parameters for 28x28x1 and 10 classes, 13,706 for 8x8x1,
    136,874 for 32x32x3.

    Pixels are centred to [-1, 1] first, and weights start as He et al., "Delving Deep
    into Rectifiers", ICCV 2015, the output's near zero: on fashion-mini that ends 1.6 to
    2 points higher (docs/models.md).
    """

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        """Make the layers; raises ModelError for other data than images."""
        super().__init__()
        # Two poolings leave nothing of a smaller image.
        channels, height, width = image("cnn-small", input_shape, minimum=4)
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.hidden = nn.Linear(32 * (height // 4) * (width // 4), 64)
        self.output = nn.Linear(64, classes)
        for layer in (self.conv1, self.conv2, self.hidden):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        # Near zero, so that the first scores favour no class.
        nn.init.normal_(self.output.weight, std=0.01)
        for parameter in self.parameters():
            # Only biases have one dimension: this model has no normalisation.
            is_bias = parameter.dim() == 1
            if is_bias:
                nn.init.zeros_(parameter)
        channels_last(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores (B, K)."""
        x = max_pool2d(self.conv1(2 * x - 1), 2).relu()
        x = max_pool2d(self.conv2(x), 2).relu()
        x = self.hidden(x.flatten(1)).relu()
        scores: Tensor = self.output(x)
        return scores


class LeNet(nn.Module):
    """The small CNN of NIID-Bench: (B, C, H, W) float32 → (B, K), at least 16x16 pixels.

    Source: Li et al., "Federated Learning on Non-IID Data Silos: An Experimental Study",
    ICDE 2022, after LeCun et al.'s LeNet-5 (Proceedings of the IEEE, 1998): two 5x5
    convolutions without padding (6 and 16 channels), each followed by ReLU and 2x2 max
    pooling, dense layers of 120 and 84 units and the output. 44,426 parameters on MNIST.
    The initialisation is torch's default.
    """

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        """Make the layers; raises ModelError for other data than images."""
        super().__init__()
        # Without padding, nothing is left of an image of 15 pixels.
        channels, height, width = image("lenet", input_shape, minimum=16)
        self.conv1 = nn.Conv2d(channels, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        rows = _lenet_side(height)
        columns = _lenet_side(width)
        self.hidden1 = nn.Linear(16 * rows * columns, 120)
        self.hidden2 = nn.Linear(120, 84)
        self.output = nn.Linear(84, classes)
        channels_last(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores (B, K)."""
        # Pooled first: ReLU of the maximum is the maximum of ReLUs, on a quarter of them.
        x = max_pool2d(self.conv1(x), 2).relu()
        x = max_pool2d(self.conv2(x), 2).relu()
        x = self.hidden1(x.flatten(1)).relu()
        x = self.hidden2(x).relu()
        scores: Tensor = self.output(x)
        return scores


def _lenet_side(pixels: int) -> int:
    """Return the side of LeNet's last maps: each convolution takes 4 pixels."""
    after_first = (pixels - 4) // 2
    return (after_first - 4) // 2
