"""Synthetic twins: data with the shapes, types and owners of a real set, drawn from a seed, and learnable.

They need no file, so that a config, a model or a fleet can be tried before anything is fetched. What a model
reaches on them says nothing about the real set.

Legend: N samples, T steps or bytes, F channels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.checks import whole
from fedlearn.data.samples import IGNORE, Dataset, Modality, Samples
from fedlearn.seeds import generator

Drawn = tuple[Samples, NDArray[np.int64]]  # samples and their classes (N,)


@dataclass(frozen=True)
class Schema:
    """What a set looks like: its modality, classes, shape of one sample, sizes, and natural owners (0: none)."""

    modality: Modality
    classes: int
    shape: tuple[int, ...]
    train: int
    test: int
    owners: int = 0
    owners_per_group: int = 1
    columns: tuple[str, ...] = ()


SCHEMAS: dict[str, Schema] = {
    "digits": Schema("image", 10, (1, 8, 8), 1_438, 359),
    "fashion-mini": Schema("image", 10, (1, 28, 28), 6_000, 1_000),
    "mnist": Schema("image", 10, (1, 28, 28), 60_000, 10_000),
    "fashion": Schema("image", 10, (1, 28, 28), 60_000, 10_000),
    "watch-mini": Schema(
        "series", 7, (64, 6), 2_854, 561, 20, 2, ("client", "subject")
    ),
    "watch": Schema("series", 7, (64, 6), 2_854, 561, 20, 2, ("client", "subject")),
    "shakespeare-mini": Schema(
        "text", 256, (80,), 22_907, 5_868, 296, 30, ("client", "play")
    ),
    "shakespeare": Schema(
        "text", 256, (80,), 88_042, 22_642, 1_281, 34, ("client", "play")
    ),
}


def twin(
    name: str, seed: int, train: int | None = None, test: int | None = None
) -> Dataset:
    """Return the twin of a named set; ``train`` and ``test`` change its sizes. Raises ConfigError for a wrong size."""
    schema = SCHEMAS[name]
    counts = (
        schema.train if train is None else whole("[data] train", train, 1, 10_000_000),
        schema.test if test is None else whole("[data] test", test, 1, 10_000_000),
    )
    draw: Callable[..., Drawn] = {"image": _images, "series": _series, "text": _lines}[
        schema.modality
    ]
    (training, labels), (held_out, _) = (
        draw(
            schema,
            count,
            generator(seed, f"twin/{name}/rule"),
            generator(seed, f"twin/{name}/{part}"),
        )
        for count, part in zip(counts, ("train", "test"), strict=True)
    )
    ids = _owners(schema, counts[0])
    return Dataset(
        name=f"{name} (synthetic)",
        modality=schema.modality,
        classes=schema.classes,
        input_shape=schema.shape,
        train=training,
        test=held_out,
        labels=ids["play"] if schema.modality == "text" else labels,
        ids=ids,
        licence="generated",
        source=f"fedlearn's synthetic twin, seed {seed}",
    )


def _owners(schema: Schema, count: int) -> dict[str, NDArray[np.int64]]:
    """Return id columns (N,): equal runs of samples for each owner, runs of owners for each group."""
    if not schema.owners:
        return {}
    owner = np.arange(count) * min(schema.owners, count) // count
    return dict(
        zip(schema.columns, (owner, owner // schema.owners_per_group), strict=True)
    )


def _images(
    schema: Schema, count: int, rule: np.random.Generator, rng: np.random.Generator
) -> Drawn:
    """Draw a coarse 4×4 pattern per class, shown with varying contrast under noise."""
    channels, height, width = schema.shape
    coarse = rule.random((schema.classes, channels, 4, 4)) * 180
    pattern = (
        coarse.repeat(height // 4, axis=2).repeat(width // 4, axis=3).astype(np.float32)
    )
    labels = rng.integers(schema.classes, size=count)
    x = np.empty((count, *schema.shape), np.uint8)
    for start in range(
        0, count, 1000
    ):  # in blocks: the noise is float, 4 times the pictures' memory
        block = labels[start : start + 1000]
        contrast = rng.uniform(0.4, 1.0, (len(block), 1, 1, 1)).astype(np.float32)
        noise = rng.standard_normal((len(block), *schema.shape), np.float32) * 30
        x[start : start + 1000] = np.clip(
            pattern[block] * contrast + noise + 30, 0, 255
        )
    return Samples(x, labels), labels


def _series(
    schema: Schema, count: int, rule: np.random.Generator, rng: np.random.Generator
) -> Drawn:
    """Draw one sine per class and channel, with a random phase per window under noise."""
    steps, channels = schema.shape
    frequency = rule.uniform(1, 8, (schema.classes, 1, channels))  # cycles per window
    amplitude = rule.uniform(0.5, 1.5, (schema.classes, 1, channels))
    labels = rng.integers(schema.classes, size=count)
    time = np.arange(steps)[None, :, None] / steps
    phase = rng.uniform(0, 2 * np.pi, (count, 1, 1))
    clean = amplitude[labels] * np.sin(2 * np.pi * frequency[labels] * time + phase)
    x = (clean + rng.normal(0, 0.3, clean.shape)).astype(np.float32)
    return Samples(x, labels), labels


def _lines(
    schema: Schema, count: int, rule: np.random.Generator, rng: np.random.Generator
) -> Drawn:
    """Draw lines from a Markov chain over 27 letters: the next is one of 3, with odds 6 : 3 : 1."""
    (length,) = schema.shape
    letters = np.frombuffer(b" abcdefghijklmnopqrstuvwxyz", np.uint8)
    follows = np.array([rule.choice(27, 3, replace=False) for _ in range(27)])
    text = np.empty((count, length + 1), np.uint8)
    state = rng.integers(27, size=count)
    for step in range(length + 1):
        text[:, step] = letters[state]
        state = follows[state, np.searchsorted([0.6, 0.9], rng.random(count))]
    ends = rng.integers(
        length // 4, length + 1, size=count
    )  # bytes in a line; the newline comes after
    text[np.arange(count), ends] = ord("\n")
    valid = np.arange(length) < ends[:, None]
    x = np.where(valid, text[:, :-1], 0).astype(np.uint8)
    y = np.where(valid, text[:, 1:].astype(np.int16), np.int16(IGNORE))
    return Samples(x, y), np.zeros(count, np.int64)
