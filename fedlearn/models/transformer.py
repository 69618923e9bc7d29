"""A small causal transformer over bytes.

Legend: B batch, T characters, D width, K classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from fedlearn.errors import ModelError
from fedlearn.models.inputs import text, whole

# The byte that fills a line up to T.
PADDING = 0


class Block(nn.Module):
    """Self-attention, then two dense layers: (B, T, D) → (B, T, D).

    Each part is normalised before, and added to its input after.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        """Make the layers; 12·D² + 13·D parameters."""
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        # Queries, keys and values in one product.
        self.qkv = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the block's output.

        ``mask`` (B, 1, T, T) is True where a row's position may look at a column's.
        """
        batch, length, width = x.shape
        projected = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1)
        # (3, B, heads, T, D / heads).
        queries, keys, values = projected.permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        joined = attended.transpose(1, 2).reshape(batch, length, width)
        x = x + self.dropout(self.mix(joined))

        hidden = gelu(self.wide(self.norm2(x)))
        output: Tensor = x + self.dropout(self.narrow(hidden))
        return output


class CharTransformer(nn.Module):
    """Scores of the next byte after every byte: (B, T) int64 → (B, T, K), any T.

    462,592 parameters with K = 256. Sources: Vaswani et al., "Attention Is All You Need",
    NeurIPS 2017 (attention, fixed sinusoidal positions, so the count does not depend on
    T); Xiong et al., "On Layer Normalization in the Transformer Architecture", ICML 2020
    (normalisation before each part: no warm-up needed); GELU of Hendrycks and Gimpel,
    arXiv 1606.08415, 2016.

    A prediction depends on earlier bytes alone. Padding (byte 0) is never looked at from
    elsewhere, wherever it stands; a padded position sees itself, so that nothing becomes
    NaN. ``layers`` of ``width`` D with ``heads`` (D must be even and a multiple of
    heads); ``dropout`` in [0, 1).
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        layers: int = 2,
        width: int = 128,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        """Make the layers; raises ModelError for other data, or an option out of range."""
        super().__init__()
        text("transformer-char", input_shape)
        whole("transformer-char", "layers", layers)
        whole("transformer-char", "width", width)
        whole("transformer-char", "heads", heads)
        # Each head takes an equal part; sines and cosines take a half each.
        if width % heads or width % 2:
            raise ModelError(
                f"model 'transformer-char': width {width} must be even "
                f"and a multiple of heads {heads}"
            )
        if not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
            raise ModelError(
                "model 'transformer-char': 'dropout' must be a number in [0, 1), "
                f"not {dropout!r}"
            )

        self.embedding = nn.Embedding(classes, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of the next byte at every position (B, T, K)."""
        # One mask serves all blocks and heads.
        mask = visible(x)
        hidden = self.embedding(x)
        _, length, width = hidden.shape
        # They are fixed, so they are made anew, and no state carries them.
        hidden = hidden + positions(length, width).to(hidden)
        for block in self.blocks:
            hidden = block(hidden, mask)
        scores: Tensor = self.output(self.norm(hidden))
        return scores


def visible(x: Tensor) -> Tensor:
    """Return which positions see which, (B, 1, T, T) bool.

    Position i (row) sees position j (column) when j is no padding and j ≤ i, or j is i.
    """
    length = x.shape[1]
    everywhere = torch.ones(length, length, dtype=torch.bool, device=x.device)
    is_earlier = everywhere.tril()
    is_itself = torch.eye(length, dtype=torch.bool, device=x.device)
    is_text = (x != PADDING)[:, None, None, :]
    return (is_text & is_earlier) | is_itself


def positions(length: int, width: int) -> Tensor:
    """Return the fixed encoding (T, D) float32 of positions t by t / 10000^(2d/D).

    Sines are in the first half, cosines in the second.
    """
    exponents = torch.arange(0, width, 2) * (-math.log(10_000.0) / width)
    # 10000^(-2d/D), from its logarithm.
    rates = torch.exp(exponents)
    angles = torch.arange(length)[:, None] * rates
    return torch.cat((angles.sin(), angles.cos()), dim=1)
