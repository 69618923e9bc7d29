"""A small network of inverted residuals for images, for clients with little memory.

Legend: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from torch import Tensor, nn

from fedlearn.models import norm as norms
from fedlearn.models.inputs import image, whole
from fedlearn.models.memory import channels_last

# (channels at width 16, stride) of each inverted residual.
STAGES = ((16, 1), (24, 2), (24, 1), (32, 2), (32, 1))


class InvertedResidual(nn.Module):
    """1x1 up, depthwise 3x3, 1x1 down without ReLU, added to the input.

    (B, C, H, W) → (B, ``out``, H / stride, W / stride), rounded up. The input is added
    where the shape stays. An expansion of 1 needs no way up.
    """

    def __init__(
        self, channels: int, out: int, stride: int, expansion: int, norm: str
    ) -> None:
        """Make the layers; the depthwise one has ``expansion`` times the channels."""
        super().__init__()
        wide = channels * expansion
        up: list[nn.Module] = []
        if expansion > 1:
            up = [
                nn.Conv2d(channels, wide, 1, bias=False),
                norms.normalise(norm, wide),
                nn.ReLU6(),
            ]
        # No bias before a normalisation, which has one of its own.
        self.layers = nn.Sequential(
            *up,
            nn.Conv2d(wide, wide, 3, stride, padding=1, groups=wide, bias=False),
            norms.normalise(norm, wide),
            nn.ReLU6(),
            # No ReLU after the way down: the paper's bottlenecks are linear.
            nn.Conv2d(wide, out, 1, bias=False),
            norms.normalise(norm, out),
        )
        self.adds = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        y: Tensor = self.layers(x)
        if self.adds:
            return x + y
        return y


class SmallMobileNet(nn.Module):
    """Five inverted residuals between two convolutions: (B, C, H, W) float32 → (B, K).

    Images have at least 4x4 pixels. Source: Sandler et al., "MobileNetV2: Inverted
    Residuals and Linear Bottlenecks", CVPR 2018. What differs: fewer and narrower blocks,
    no stride in the first convolution (small images), an expansion of 4 rather than 6 (1
    in the first block, as in the paper), and GroupNorm, see `norm.normalise`. 32,522
    parameters for 32x32x3 and 10 classes, 32,234 for 28x28x1.

    ``width``: channels of the first block. ``norm``: "group" or "batch".
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        width: int = 16,
        expansion: int = 4,
        norm: str = "group",
    ) -> None:
        """Make the layers; raises ModelError for other data, or an option out of range."""
        super().__init__()
        channels, _, _ = image("mobilenet-small", input_shape, minimum=4)
        whole("mobilenet-small", "width", width)
        whole("mobilenet-small", "expansion", expansion)
        norms.check("mobilenet-small", norm)

        blocks: list[nn.Module] = []
        block_in = width
        for width_at_16, stride in STAGES:
            # A narrow width must not round a block away.
            block_out = max(1, width_at_16 * width // 16)
            block_expansion = expansion if blocks else 1
            block = InvertedResidual(block_in, block_out, stride, block_expansion, norm)
            blocks.append(block)
            block_in = block_out

        # Made after the blocks: the order of making decides the first weights.
        self.stem = _conv_block(channels, width, 3, norm)
        self.blocks = nn.Sequential(*blocks)
        self.head = _conv_block(block_in, 4 * block_in, 1, norm)
        self.output = nn.Linear(4 * block_in, classes)
        channels_last(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores (B, K)."""
        x = self.head(self.blocks(self.stem(x)))
        # The mean over all pixels, so that every image size has the same head.
        scores: Tensor = self.output(x.mean(dim=(2, 3)))
        return scores


def _conv_block(channels: int, out: int, size: int, norm: str) -> nn.Sequential:
    """Return a convolution that keeps the image's size, its normalisation and ReLU6."""
    # Without a bias, as in the blocks.
    conv = nn.Conv2d(channels, out, size, padding=size // 2, bias=False)
    return nn.Sequential(conv, norms.normalise(norm, out), nn.ReLU6())
