"""The owner's probe: samples and labels that the owner trusts, which a release is tried on.

Golden inputs say that a model computes here what its publisher says. A probe says whether that
is right, before the model answers anything.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import PackageError, UserError, reason_of
from fedlearn.package import golden
from fedlearn.package.content import Package
from fedlearn.package.manifest import Manifest

# Samples that are computed together.
_BATCH = 32


def check(package: Package, path: Path, least: float) -> float:
    """Return the share of a probe's samples that a package labels rightly.

    path: a .npz file with x (N, …) as the package takes raw samples, and y (N, …), names or
    numbers of classes. Raises PackageError, "probe", for a share below ``least``, UserError
    for a file that is no probe.
    """
    manifest = package.manifest
    x, y = _read(path)
    if x.dtype.name != manifest.preprocessing.dtype:
        raise _wrong(
            path, f"has x as {x.dtype.name}, not {manifest.preprocessing.dtype}"
        )
    session = golden.session(package)
    classes = []
    for start in range(0, len(x), _BATCH):
        outputs = golden.run(session, manifest, x[start : start + _BATCH])
        classes.append(outputs.argmax(-1))
    labels = np.concatenate(classes)
    if labels.shape != y.shape:
        raise _wrong(path, f"has y of shape {y.shape}, and answers have {labels.shape}")
    share = float((_named(labels, y, manifest, path) == y).mean())
    if share < least:
        raise PackageError(
            "probe",
            f"it labels {share:.1%} of the owner's {len(x)} samples rightly, less than "
            f"{least:.1%}",
        )
    return share


def _read(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return x and y. Raises UserError."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            x = arrays["x"]
            y = arrays["y"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise _wrong(path, f"cannot be read: {reason_of(error)}") from None
    if not len(x) or len(x) != len(y):
        raise _wrong(path, f"has {len(x)} samples and {len(y)} labels")
    return x, y


def _named(
    labels: NDArray[Any], y: NDArray[Any], manifest: Manifest, path: Path
) -> NDArray[Any]:
    """Return labels as y has them: names of classes, or their numbers."""
    if y.dtype.kind in "iu":
        return labels
    if y.dtype.kind != "U":
        raise _wrong(path, f"has y as {y.dtype.name}, neither names nor whole numbers")
    if not labels.max() < len(manifest.labels):
        raise _wrong(path, "has names of classes, and the package has none of its own")
    names: NDArray[Any] = np.array(manifest.labels)[labels]
    return names


def _wrong(path: Path, what: str) -> UserError:
    return UserError(f"the probe '{path}' {what}; it is a .npz file with x and y")
