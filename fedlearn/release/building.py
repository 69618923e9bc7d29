"""A release: a run's model, as the difference from the release before arrives at it.

The trained weights W are encoded against those of the release before, and decoded again:
W′. The release *is* W′. It is W′ that is evaluated, gives the golden outputs, is hashed and
signed, so the few kilobytes of the difference and the whole file lead to the same bits. Where
W′ would lose too much, or there is no release that it could start from, W goes whole.

Legend: P values, the float tensors of a package one after another.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.arrays import State
from fedlearn.clients.batches import tensors as sample_tensors
from fedlearn.clients.evaluate import evaluate
from fedlearn.errors import PayloadError, UserError
from fedlearn.models import write_state
from fedlearn.package import content, difference, function_golden, npz
from fedlearn.package.content import Package
from fedlearn.package.manifest import Manifest
from fedlearn.package.parts import (
    FUNCTIONS_GOLDEN_FILE,
    WEIGHTS_FILE,
    Delta,
    Health,
    ListedTensor,
    delta_file,
    function_file,
)
from fedlearn.release.functions import FunctionWish
from fedlearn.release.packing import Wishes, build, prove
from fedlearn.release.registry import Registry
from fedlearn.release.tables import Version
from fedlearn.runs.trained import Trained

# Points of accuracy that a release may lose against the training that it comes from.
GATE = 0.5

# Differences in a package: its own, and those that lead to its base. A board that missed
# more releases fetches the weights whole.
MOST_LINKS = 8

# Of the whole weights: what a package's differences may take together.
_LARGEST_CHAIN = 0.5

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Base:
    """The release before, as far as a difference needs it.

    payloads: of the differences that lead to it, by their files, the newest first. functions,
    samples: as the package after it has them too, by `Wishes`.
    """

    version: Version
    manifest: Manifest
    weights: Floats
    payloads: Mapping[str, bytes]
    functions: tuple[FunctionWish, ...] = ()
    samples: NDArray[Any] | None = None


@dataclass(frozen=True)
class Release:
    """A release that was built.

    payload_bytes: of the difference from the release before; None: whole, and ``whole_why``
    says why. trained_accuracy, accuracy: on the held-out samples, of W and of W′.
    """

    package: Package
    trained_accuracy: float
    accuracy: float
    payload_bytes: int | None
    whole_why: str = ""


@dataclass(frozen=True)
class _Loop:
    """What a closed loop gives: W′ as a model, the difference, and W′ itself."""

    trained: Trained
    payload: bytes
    weights: Floats


def base_of(registry: Registry, name: str) -> Base | None:
    """Return the newest release of a name, to start from; None: it has none yet."""
    version = registry.newest(name)
    if version is None:
        return None
    description = registry.manifest(version)
    weights = np.frombuffer(registry.file(version, WEIGHTS_FILE), "<f4")
    # Of weights that two releases have, the newer one counts: it comes last.
    counters = {
        other.weights_sha256: other.counter
        for other in reversed(registry.versions(name))
    }
    deltas = sorted(
        description.deltas,
        key=lambda delta: counters.get(delta.base_sha256, 0),
        reverse=True,
    )
    payloads = {delta.file: registry.file(version, delta.file) for delta in deltas}
    return Base(
        version,
        description,
        weights.astype(np.float32),
        payloads,
        *_functions(registry, version, description),
    )


def _functions(
    registry: Registry, version: Version, description: Manifest
) -> tuple[tuple[FunctionWish, ...], NDArray[Any] | None]:
    """Return a release's functions, and the samples that they are tried on, if they have any."""
    if not description.functions:
        return (), None
    # From the registry, not from files that somebody may have changed since.
    wishes = []
    for function in description.functions:
        data = registry.file(version, function_file(function.name))
        limits = (function.time_ms, function.memory_mb)
        wishes.append(FunctionWish(function.name, function.role, data, *limits))
    stored = registry.file(version, FUNCTIONS_GOLDEN_FILE)
    arrays = npz.loads(stored, FUNCTIONS_GOLDEN_FILE)
    return tuple(wishes), arrays.get(function_golden.INPUTS)


def release(
    trained: Trained,
    folder: Path,
    wishes: Wishes,
    base: Base | None,
    codec: str = difference.CODEC,
    gate: float = GATE,
    whole: bool = False,
) -> Release:
    """Write the package of a release to a new folder; the caller signs it.

    codec: of the difference. gate: the most points that W′ may lose against W. whole: send
    W as it is. Raises UserError for wishes that fit no manifest, and for a codec that is
    none.
    """
    score = _accuracy(trained)
    loop: _Loop | None = None
    why = "as asked" if whole else "there is no release before it"
    if base is not None and not whole:
        loop, why = _closed_loop(trained, base, codec)
    if loop is not None and base is not None:
        arrived = _accuracy(loop.trained)
        lost = 100 * (score - arrived)
        if lost <= gate:
            package = _write(loop.trained, trained, folder, wishes, base, loop)
            return Release(package, score, arrived, len(loop.payload))
        why = f"the difference would lose {lost:.2f} points, and {gate:g} are allowed"
    package = _write(trained, trained, folder, wishes, None, None)
    return Release(package, score, score, None, why)


def inherited(wishes: Wishes, base: Base | None) -> Wishes:
    """Return wishes for the release after ``base``: what was decided once stays decided.

    Labels, classes of devices, the health gate, int8 and functions are those of the release
    before, where no others are wished for; the counter is the next one.
    """
    if base is None:
        return wishes
    before = base.manifest
    devices = wishes.devices or before.targets[0].devices
    return replace(
        wishes,
        counter=max(wishes.counter, before.counter + 1),
        devices=devices,
        labels=wishes.labels or before.labels,
        int8=wishes.int8 or before.int8 is not None,
        health=before.health if wishes.health == Health() else wishes.health,
        functions=wishes.functions or base.functions,
        samples=wishes.samples if wishes.functions else base.samples,
    )


def _closed_loop(trained: Trained, base: Base, codec: str) -> tuple[_Loop | None, str]:
    """Return W′ and its difference; None, and why not, where W has to go whole."""
    arrays = trained.layout.split(trained.state)
    shapes = {
        entry.name: entry.shape for entry in trained.layout.entries if entry.is_float
    }
    listed = base.manifest.tensors
    if {tensor.name: tensor.shape for tensor in listed} != shapes:
        return None, "the release before has tensors of other names or shapes"
    parts = [np.empty(0, np.float32)]
    for tensor in listed:
        parts.append(arrays[tensor.name].astype(np.float32).ravel())
    try:
        payload, weights = difference.encode(
            base.weights,
            np.concatenate(parts),
            [tensor.shape for tensor in listed],
            codec,
        )
    # Values that the codec cannot carry; a codec that is none was told before.
    except PayloadError as error:
        return None, str(error)
    state = _with(trained, listed, weights)
    # Tied tensors are one tensor in the model: W′ would not be what devices arrive at.
    if (
        _vector(trained, listed, trained.layout.tie(state)).tobytes()
        != weights.tobytes()
    ):
        return None, "the model has tied tensors, which a difference would tell apart"
    module = copy.deepcopy(trained.module)
    write_state(module, trained.layout, state)
    return _Loop(replace(trained, module=module, state=state), payload, weights), ""


def _with(trained: Trained, listed: Sequence[ListedTensor], weights: Floats) -> State:
    """Return a model's state with other floats: ``weights`` (P,), in the listed order."""
    state = trained.state.copy()
    arrays = trained.layout.split(state)
    start = 0
    for tensor in listed:
        end = start + tensor.size
        arrays[tensor.name][...] = weights[start:end].reshape(tensor.shape)
        start = end
    return state


def _vector(trained: Trained, listed: Sequence[ListedTensor], state: State) -> Floats:
    """Return the floats (P,) of a state, in the listed order."""
    arrays = trained.layout.split(state)
    vector = [np.empty(0, np.float32)]
    for tensor in listed:
        vector.append(arrays[tensor.name].astype(np.float32).ravel())
    return np.concatenate(vector)


def _accuracy(trained: Trained) -> float:
    """Return the share of the held-out samples that a model gets right, 0 to 1."""
    samples = sample_tensors(trained.population.test, trained.population.modality)
    return evaluate(trained.module, samples).accuracy


def _write(
    released: Trained,
    trained: Trained,
    folder: Path,
    wishes: Wishes,
    base: Base | None,
    loop: _Loop | None,
) -> Package:
    """Write a package with its differences. Raises UserError as `release`."""
    description, stored = build(released, wishes)
    # The run's own model is named, not what the difference made of it.
    origin = replace(description.run, model_sha256=trained.model_sha256)
    description = replace(description, run=origin)
    if base is not None and loop is not None:
        payloads = _chain(base, loop, description)
        stored = {**stored, **payloads}
        deltas = [_delta(base, file, data) for file, data in payloads.items()]
        description = description.with_deltas(deltas)
    return content.write(folder, description, stored, proof=prove)


def _chain(base: Base, loop: _Loop, description: Manifest) -> dict[str, bytes]:
    """Return the differences of a package by their files: its own, then older ones.

    The oldest are left out where there are too many, or where they weigh too much. Raises
    UserError where the package has other weights than the difference arrives at.
    """
    if difference.weights_sha256(loop.weights) != description.weights_sha256:
        raise UserError(
            "the package has other weights than its difference arrives at; release it with "
            "--whole, and report this"
        )
    room = _LARGEST_CHAIN * description.files[WEIGHTS_FILE].bytes - len(loop.payload)
    payloads = {delta_file(base.version.weights_sha256): loop.payload}
    for file, data in base.payloads.items():
        # From weights that came back: the newest difference leads on from them.
        if file in payloads:
            continue
        room -= len(data)
        # A chain with a hole leads nowhere.
        if room < 0 or len(payloads) == MOST_LINKS:
            break
        payloads[file] = data
    return payloads


def _delta(base: Base, file: str, data: bytes) -> Delta:
    """Return a difference's entry in the manifest."""
    entry = content.listed(data)
    sha256 = base.version.weights_sha256
    for delta in base.manifest.deltas:
        if delta.file == file:
            sha256 = delta.base_sha256
    return Delta(sha256, file, entry.sha256, entry.bytes)
