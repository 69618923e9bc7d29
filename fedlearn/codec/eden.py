"""`Eden1`: one bit a value after a random rotation, unbiased.

Source: EDEN (Vargaftik et al., ICML 2022), its one-bit case, which DRIVE (Vargaftik et
al., NeurIPS 2021) introduced. Differs from the papers: blocks are rotated on their own
(see `rotation`), each with its own scale.

With y the rotated block and s = sign(y), the decoder's estimate is c · R⁻¹ s with
c = ‖x‖² / ‖y‖₁, whose projection on x is exactly x for every rotation, and whose
expectation over rotations is x. Its normalised squared error is π/2 − 1 = 0.57 per
update; averaged over a cohort it shrinks with the number of clients.

Legend: P values, n blocks of B values.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedlearn.arrays import magnitude
from fedlearn.codec import Context, rotation
from fedlearn.errors import FormatError, PayloadError

# The largest magnitude: its square still sums in float32.
LARGEST = 1e15


class Eden1:
    """A float32 scale per block and a bit per value.

    1.01 bits a value, 31.7 times fewer bytes than float32.
    """

    uses_moved = False
    for_differences = True

    def encode(self, values: NDArray[np.float32], seed: int, context: Context) -> bytes:
        """Return scales and signs as bytes; raises PayloadError above 1e15."""
        largest = magnitude(values)
        if largest > LARGEST:
            raise PayloadError(
                f"the value {largest:g} does not fit eden1 (up to 1e15); use raw32"
            )

        # Here, because a board that only decodes has no torch.
        import torch

        from fedlearn.codec import torch_rotation

        flips = torch_rotation.signs(seed)
        scales = [flips[:0]]
        bits = []
        # torch warns of memory that it may not write, hence "W".
        vector = np.require(values, np.float32, ["C", "W"])
        for part in rotation.blocks(vector, values.size):
            block = torch.from_numpy(part)
            energy = torch.linalg.vector_norm(block, dim=1).square()
            rotated = torch_rotation.transform(block * flips[: block.shape[1]])
            # The transform is not normalised: this is √B times ‖y‖₁, and the decoder's
            # transform, √B times R⁻¹, takes the factor away.
            total = torch.linalg.vector_norm(rotated, 1, dim=1)
            scales.append(torch.where(total > 0, energy / total, 0.0))
            bits.append(np.packbits(rotated.numpy() >= 0).tobytes())

        scale_bytes = torch.cat(scales).numpy().astype("<f4").tobytes()
        return b"".join([scale_bytes, *bits])

    def decode(self, body: bytes, seed: int, context: Context) -> NDArray[np.float32]:
        """Return the estimate (P,) float32; the same bits on every machine.

        Raises FormatError for bytes that no encoder made for P values.
        """
        size = context.size
        padded = rotation.padded(size)
        scales = _read_scales(body, size)
        packed = np.frombuffer(body, np.uint8, offset=4 * scales.size)
        bits = np.unpackbits(packed)

        values = np.empty(padded, np.float32)
        flips = rotation.signs(seed)
        first = 0
        sources = rotation.blocks(bits, size)
        targets = rotation.blocks(values, size)

        for source, target in zip(sources, targets, strict=True):
            end = first + len(source)
            # Whole numbers, so that the transform is exact; the scale rounds once.
            symbols = source.astype(np.float32)
            symbols *= 2
            symbols -= 1
            rotated = rotation.transform(symbols)
            # A hostile scale may lead beyond float32; the receiver refuses what is not finite.
            with np.errstate(over="ignore", invalid="ignore"):
                rotated *= scales[first:end, None]
            np.multiply(rotated, flips[: source.shape[1]], out=target)
            first = end
        return values[:size]


def _read_scales(body: bytes, size: int) -> NDArray[np.float32]:
    """Return the scales (n,) of ``size`` values; raises FormatError."""
    count = rotation.count(size)
    length = 4 * count + rotation.padded(size) // 8
    if len(body) != length:
        raise FormatError(f"{len(body)} bytes of eden1 where the model needs {length}")
    scales = np.frombuffer(body, "<f4", count).astype(np.float32)
    if not (np.isfinite(scales).all() and (scales >= 0).all()):
        raise FormatError("a scale of eden1 is negative, NaN or infinite")
    return scales
