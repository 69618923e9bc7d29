"""Synthetic twins: data with the shapes, types and owners of a real set, drawn from a seed.

They need no file, so a config, a model or a fleet can be tried before anything is fetched. They
are learnable, but what a model reaches on them says nothing about the real set.

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

# Samples, and their classes (N,) int64.
Labelled = tuple[Samples, NDArray[np.int64]]

# Largest size that a config may ask for.
LARGEST = 10_000_000
# Pictures drawn at once: the noise is float32, four times the memory of the uint8 pictures.
BLOCK = 1000


@dataclass(frozen=True)
class Schema:
    """What a set looks like: shape of one sample, sizes and natural owners."""

    modality: Modality
    classes: int
    # Of one sample.
    shape: tuple[int, ...]
    # Numbers of samples.
    train: int
    test: int
    # Natural owners; 0: none.
    owners: int = 0
    owners_per_group: int = 1
    # Names of the id columns: owners, and groups of owners.
    columns: tuple[str, ...] = ()


# The figures of the real sets, by name.
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
    """Return the twin of a named set; ``train`` and ``test`` change its sizes.

    Raises ConfigError for a wrong size.
    """
    schema = SCHEMAS[name]
    train_size, test_size = schema.train, schema.test
    if train is not None:
        train_size = whole("[data] train", train, 1, LARGEST)
    if test is not None:
        test_size = whole("[data] test", test, 1, LARGEST)
    training, labels = _draw_part(name, "train", train_size, seed)
    held_out, _ = _draw_part(name, "test", test_size, seed)
    ids = _owners(schema, train_size)
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


def _draw_part(name: str, part: str, count: int, seed: int) -> Labelled:
    """Draw ``count`` samples of the training or the held-out part.

    Both parts follow one rule, which has a random stream of its own: so a model that learns the
    training part does well on the held-out one.
    """
    schema = SCHEMAS[name]
    draw = _DRAWS[schema.modality]
    rule = generator(seed, f"twin/{name}/rule")
    rng = generator(seed, f"twin/{name}/{part}")
    return draw(schema, count, rule, rng)


def _owners(schema: Schema, count: int) -> dict[str, NDArray[np.int64]]:
    """Return id columns (N,): equal runs of samples per owner, equal runs of owners per group."""
    if not schema.owners:
        return {}
    # A small twin has fewer owners, so that none is without a sample.
    owners = min(schema.owners, count)
    owner = np.arange(count) * owners // count
    group = owner // schema.owners_per_group
    return dict(zip(schema.columns, (owner, group), strict=True))


def _images(
    schema: Schema, count: int, rule: np.random.Generator, rng: np.random.Generator
) -> Labelled:
    """Draw a coarse 4×4 pattern per class, shown with varying contrast under noise."""
    channels, height, width = schema.shape
    coarse = rule.random((schema.classes, channels, 4, 4)) * 180
    rows = coarse.repeat(height // 4, axis=2)
    pattern = rows.repeat(width // 4, axis=3).astype(np.float32)
    labels = rng.integers(schema.classes, size=count)
    x = np.empty((count, *schema.shape), np.uint8)
    for start in range(0, count, BLOCK):
        end = min(start + BLOCK, count)
        size = end - start
        contrast = rng.uniform(0.4, 1.0, (size, 1, 1, 1)).astype(np.float32)
        noise = rng.standard_normal((size, *schema.shape), np.float32)
        clean = pattern[labels[start:end]] * contrast
        # Grey of 30 below, so that the noise shows on dark places too.
        pixels = clean + noise * 30 + 30
        x[start:end] = np.clip(pixels, 0, 255)
    return Samples(x, labels), labels


def _series(
    schema: Schema, count: int, rule: np.random.Generator, rng: np.random.Generator
) -> Labelled:
    """Draw one sine per class and channel, with a random phase per window under noise."""
    steps, channels = schema.shape
    # In cycles per window.
    frequency = rule.uniform(1, 8, (schema.classes, 1, channels))
    amplitude = rule.uniform(0.5, 1.5, (schema.classes, 1, channels))
    labels = rng.integers(schema.classes, size=count)
    # As a share of the window, along the middle axis of (N, T, F).
    time = np.arange(steps)[None, :, None] / steps
    phase = rng.uniform(0, 2 * np.pi, (count, 1, 1))
    angle = 2 * np.pi * frequency[labels] * time + phase
    clean = amplitude[labels] * np.sin(angle)
    noise = rng.normal(0, 0.3, clean.shape)
    x = (clean + noise).astype(np.float32)
    return Samples(x, labels), labels


def _lines(
    schema: Schema, count: int, rule: np.random.Generator, rng: np.random.Generator
) -> Labelled:
    """Draw lines from a Markov chain over 27 letters: the next is one of 3, with odds 6 : 3 : 1."""
    (length,) = schema.shape
    letters = np.frombuffer(b" abcdefghijklmnopqrstuvwxyz", np.uint8)
    follows = np.array([rule.choice(27, 3, replace=False) for _ in range(27)])
    text = np.empty((count, length + 1), np.uint8)
    state = rng.integers(27, size=count)
    # Cumulative odds of the first and of the first two successors.
    odds = [0.6, 0.9]
    for step in range(length + 1):
        text[:, step] = letters[state]
        chance = rng.random(count)
        successor = np.searchsorted(odds, chance)
        state = follows[state, successor]
    # Bytes in each line; the newline that ends it comes after them.
    ends = rng.integers(length // 4, length + 1, size=count)
    text[np.arange(count), ends] = ord("\n")
    valid = np.arange(length) < ends[:, None]
    inputs = text[:, :-1]
    targets = text[:, 1:].astype(np.int16)
    x = np.where(valid, inputs, 0).astype(np.uint8)
    y = np.where(valid, targets, np.int16(IGNORE))
    return Samples(x, y), np.zeros(count, np.int64)


# Takes the schema, the number of samples, and the generators of the rule and of the samples.
_Draw = Callable[[Schema, int, np.random.Generator, np.random.Generator], Labelled]

_DRAWS: dict[Modality, _Draw] = {"image": _images, "series": _series, "text": _lines}
