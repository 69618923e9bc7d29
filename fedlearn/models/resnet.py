"""A small residual network for images.

Legend: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from torch import Tensor, nn

from fedlearn.models import norm as norms
from fedlearn.models.inputs import image, whole
from fedlearn.models.memory import channels_last


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut.

    (B, C, H, W) → (B, ``out``, H / stride, W / stride), rounded up.
    """

    def __init__(self, channels: int, out: int, stride: int, norm: str) -> None:
        """Make the layers.

        The shortcut is a 1x1 convolution where the shape changes, else the input itself.
        """
        super().__init__()
        # No bias before a normalisation, which has one of its own.
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.norm1 = norms.normalise(norm, out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.norm2 = norms.normalise(norm, out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False),
                norms.normalise(norm, out),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        y = self.norm1(self.conv1(x)).relu()
        y = self.norm2(self.conv2(y))
        # Added before the last ReLU, as in the paper.
        y = y + self.shortcut(x)
        activated: Tensor = y.relu()
        return activated


class SmallResNet(nn.Module):
    """A residual network in three stages: (B, C, H, W) float32 → (B, K).

    Images have at least 4x4 pixels; the stages have 16, 32 and 64 channels. Source: He et
    al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2
    (CIFAR-10): 6·n + 2 layers, here n = ``blocks`` = 1 and with GroupNorm, see
    `norm.normalise`. What differs: projections on the shortcuts where the paper pads with
    zeros. 78,042 parameters for 32x32x3 and 10 classes, 77,754 for 28x28x1; ``blocks`` =
    3 gives ResNet-20 (272,474).

    ``width``: channels of the first stage. ``norm``: "group" or "batch".
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        width: int = 16,
        blocks: int = 1,
        norm: str = "group",
    ) -> None:
        """Make the layers; raises ModelError for other data, or an option out of range."""
        super().__init__()
        channels, _, _ = image("resnet-small", input_shape, minimum=4)
        whole("resnet-small", "width", width)
        whole("resnet-small", "blocks", blocks)
        norms.check("resnet-small", norm)
        # 3x3 without stride or pooling, as in the paper's network for small images.
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            norms.normalise(norm, width),
            nn.ReLU(),
        )

        stages: list[nn.Module] = []
        block_in = width
        for stage in range(3):
            # Each stage has twice the channels of the one before, on half of each side.
            block_out = width << stage
            for block in range(blocks):
                is_smaller = stage > 0 and block == 0
                stride = 2 if is_smaller else 1
                stages.append(ResidualBlock(block_in, block_out, stride, norm))
                block_in = block_out

        self.stages = nn.Sequential(*stages)
        self.output = nn.Linear(block_in, classes)
        channels_last(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores (B, K)."""
        x = self.stages(self.stem(x))
        # The mean over all pixels, so that every image size has the same output layer.
        scores: Tensor = self.output(x.mean(dim=(2, 3)))
        return scores
