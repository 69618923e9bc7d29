"""What a user should know of a data set that can be used: one sentence for each oddity.

None of them is an error, as each may be meant. A run shows them once, and its manifest keeps
them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.own_arrays import NO_REGRESSION, NUMBERED
from fedlearn.data.samples import Modality, Samples

# Pictures whose brightest value is at most this are read as nearly black: 1/8 of white.
FAINT = 31

# Classes that a sentence names; more make it no clearer.
NAMED = 5


def remarks(
    name: str,
    modality: Modality,
    train: Samples | None,
    test: Samples,
    classes: int | None,
) -> tuple[str, ...]:
    """Return the sentences on a data set, in the types that `Samples` names.

    train: None where clients give their samples when asked. classes: as its user states them;
    None: they were counted.
    """
    sentences: list[str] = []
    first_part = "test" if train is None else "train"
    if modality == "image":
        sentences += _of_pictures(f"{name}: x_{first_part}", (train or test).x)
    if modality == "text":
        return tuple(sentences)
    test_classes = np.unique(test.y)
    train_classes = None
    if train is not None:
        train_classes = np.unique(train.y)
        sentences += _of_one(f"{name}: y_train", train_classes)
    sentences += _of_one(f"{name}: y_test", test_classes)
    if train_classes is not None:
        sentences += _of_absent(name, train_classes, test_classes)
        # Whoever states the classes knows that some have no sample here.
        if classes is None:
            sentences += _of_gaps(name, np.union1d(train_classes, test_classes))
    return tuple(sentences)


def faint(where: str, x: NDArray[np.generic]) -> str:
    """Return the sentence on pictures uint8 that are nearly black, "" for others."""
    brightest = int(np.max(x))
    if brightest > FAINT:
        return ""
    return (
        f"{where}: its largest value is {brightest} of 255, and pictures are read as "
        f"x / 255: nearly black; multiply by {255 // max(1, brightest)} if it means white"
    )


def _of_pictures(where: str, x: NDArray[np.generic]) -> Iterator[str]:
    """Yield what is odd about pictures: nearly black, or perhaps with channels that stand last."""
    sentence = faint(where, x)
    if sentence:
        yield sentence
    _, channels, height, width = x.shape
    # Channels that stand last are refused where they are few; with many it is a guess.
    if channels == height != width and channels > 3:
        yield (
            f"{where} is read as {channels} channels of {height}×{width}; if they stand "
            "last, use x.transpose(0, 3, 1, 2)"
        )


def _of_one(where: str, present: NDArray[np.generic]) -> Iterator[str]:
    """Yield that all labels are one class: any accuracy says nothing then."""
    if len(present) == 1:
        yield (
            f"{where}: every label is class {present[0]}, so a model that always says so "
            "scores 100 %; look at how the labels were read"
        )


def _of_absent(
    name: str, train: NDArray[np.generic], test: NDArray[np.generic]
) -> Iterator[str]:
    """Yield that held-out samples have classes that no training sample has."""
    absent = np.setdiff1d(test, train)
    if len(absent):
        yield (
            f"{name}: y_test has {_classes(absent)}, of which y_train has no sample; "
            "shuffle before the two parts are cut"
        )


def _of_gaps(name: str, present: NDArray[np.generic]) -> Iterator[str]:
    """Yield that some labels below the largest have no sample."""
    largest = int(present[-1])
    if len(present) == largest + 1:
        return
    yield (
        f"{name}: {len(present):,} of the classes 0 to {largest:,} have samples, and a "
        f"model gets {largest + 1:,} outputs; state classes = {largest + 1} if that is "
        f"meant, else {NUMBERED}; {NO_REGRESSION}"
    )


def _classes(numbers: NDArray[np.generic]) -> str:
    """Return class numbers in words, a few of them named."""
    names = ", ".join(str(number) for number in numbers[:NAMED])
    more = ", …" if len(numbers) > NAMED else ""
    word = "class" if len(numbers) == 1 else "classes"
    return f"the {word} {names}{more}"
