"""Where the stand-in's columns come from: fedlearn's bundled pictures, or a generator.

Shapes, dtypes and names are those of the hub's data sets; values need only be such that a
model can learn something.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fedlearn

Columns = dict[str, Any]

BUNDLED = Path(fedlearn.__file__).parent / "data" / "bundled"

# Rows of a split: enough for batches on every node, few enough for two cores.
_ROWS = {"train": 1000, "test": 200}

_GOOD = ("great", "fine", "lovely", "bright", "moving")
_BAD = ("dull", "weak", "awful", "flat", "boring")
_NEUTRAL = ("the", "film", "plot", "actor", "scene", "was", "and", "very")

# All words of the texts: a tokenizer of its own needs no download.
WORDS = (*_GOOD, *_BAD, *_NEUTRAL)


def columns_of(name: str, split: str) -> Columns:
    """Return the columns of one split of a data set; raises KeyError for an unknown one."""
    if name not in _SOURCES:
        raise KeyError(f"the stand-in has no '{name}', but {', '.join(_SOURCES)}")
    return _SOURCES[name](split)


def pictures(bundled: str, split: str, key: str) -> Columns:
    """Return bundled pictures, uint8 (N, height, width), and their labels."""
    with np.load(BUNDLED / f"{bundled}.npz") as file:
        x = file[f"x_{split}"][: _ROWS[split]]
        y = file[f"y_{split}"][: _ROWS[split]]
    return {key: x, "label": y.astype(np.int64)}


def _cifar(split: str) -> Columns:
    """Return pictures of clothes as CIFAR-10 has its: uint8 (N, 32, 32, 3)."""
    columns = pictures("fashion-mini", split, "img")
    grey = np.pad(columns["img"], ((0, 0), (2, 2), (2, 2)))
    return {**columns, "img": np.repeat(grey[..., None], 3, axis=3)}


def _mnist(split: str) -> Columns:
    """Return digits as MNIST has its: uint8 (N, 28, 28)."""
    columns = pictures("digits", split, "image")
    # Each of 8 x 8 shades (0 to 16) as a square of three pixels, inside a frame.
    shades = np.minimum(columns["image"].astype(np.uint16) * 16, 255).astype(np.uint8)
    large = np.kron(shades, np.ones((1, 3, 3), np.uint8))
    return {**columns, "image": np.pad(large, ((0, 0), (2, 2), (2, 2)))}


def _iris(names: tuple[str, ...], label: str) -> Callable[[str], Columns]:
    """Return what draws 150 flowers of three species, whose measures lie apart."""

    def draw(split: str) -> Columns:
        generator = _generator("iris", split)
        species = generator.integers(0, 3, 150)
        centres = 3 + species[:, None] * np.linspace(0.5, 1.5, len(names))
        # Inside the bins of the example that counts them.
        x = generator.normal(centres, 0.4).clip(2, 8)
        return {**{name: x[:, i] for i, name in enumerate(names)}, label: species}

    return draw


def _higgs(split: str) -> Columns:
    generator = _generator("higgs", split)
    x = generator.normal(size=(_ROWS[split], 28)).astype(np.float32)
    is_signal = x[:, 0] + x[:, 1] ** 2 + 0.5 * generator.normal(size=len(x)) > 0.5
    return {"inputs": x, "label": is_signal.astype(np.float32)}


def _census(split: str) -> Columns:
    """Return 14 measures of adults, and whether they earn much."""
    generator = _generator("census", split)
    rows = _ROWS[split]
    age = generator.integers(18, 80, rows)
    gain = generator.normal(size=rows)
    columns: Columns = {f"measure.{i}": generator.normal(size=rows) for i in range(11)}
    columns["age"] = age
    columns["work"] = _texts(generator, ("private", "state", "own"), rows)
    columns["gain"] = gain
    is_rich = age + 20 * gain > 55
    columns["income"] = np.where(is_rich, ">50K", "<=50K").astype(object)
    return columns


def _titanic(split: str) -> Columns:
    """Return passengers, in the hub's order of columns."""
    generator = _generator("titanic", split)
    rows = 400
    survived = generator.integers(0, 2, rows)
    titles = _texts(generator, ("Mr.", "Mrs.", "Miss."), rows)
    ends = _texts(generator, ("A", "Be", "Cee"), rows)
    is_woman = survived + generator.normal(size=rows) > 0.5
    return {
        "Survived": survived,
        "Pclass": generator.integers(1, 4, rows),
        "Name": titles + " " + ends,
        "Sex": np.where(is_woman, "female", "male").astype(object),
        "Age": generator.uniform(1, 80, rows),
        "Siblings/Spouses Aboard": generator.integers(0, 4, rows),
        "Parents/Children Aboard": generator.integers(0, 4, rows),
        "Fare": generator.uniform(5, 90, rows) + 20 * survived,
    }


def _reviews(split: str) -> Columns:
    """Return texts of which each has words of praise or of blame, and neutral ones."""
    generator = _generator("reviews", split)
    rows = 400 if split == "train" else 100
    labels = generator.integers(0, 2, rows)
    texts = [
        " ".join(
            generator.permutation(
                [
                    *generator.choice(_GOOD if label else _BAD, 2),
                    *generator.choice(_NEUTRAL, int(generator.integers(4, 12))),
                ]
            )
        )
        for label in labels
    ]
    return {"text": texts, "label": labels}


def _generator(name: str, split: str) -> np.random.Generator:
    return np.random.default_rng([*name.encode(), *split.encode()])


def _texts(
    generator: np.random.Generator, words: tuple[str, ...], rows: int
) -> NDArray[Any]:
    return generator.choice(np.array(words, object), rows)


_SOURCES: dict[str, Callable[[str], Columns]] = {
    "uoft-cs/cifar10": _cifar,
    "zalando-datasets/fashion_mnist": lambda s: pictures("fashion-mini", s, "image"),
    "ylecun/mnist": _mnist,
    "hitorilabs/iris": _iris(
        ("petal_length", "petal_width", "sepal_length", "sepal_width"), "species"
    ),
    "scikit-learn/iris": _iris(("SepalLengthCm", "SepalWidthCm"), "Species"),
    "jxie/higgs": _higgs,
    "scikit-learn/adult-census-income": _census,
    "julien-c/titanic-survival": _titanic,
    "stanfordnlp/imdb": _reviews,
}
