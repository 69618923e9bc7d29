"""What one client holds between its rounds: vectors by kind and name.

The newest few of each kind are held. Three kinds are in use. A kind is a plain name, so another
vector of a client needs no code here.

    first        the run's first model, by its digest, where it differs from what is built here
    copies       models that a difference may start from, by their digests
    residuals    what error feedback carries over, by the piece of work that left it

`Holdings` decides what is held and when it is missing; a `Storage` only reads and
writes.

Legend: P floats of the model's layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedlearn.clients.build import arrive
from fedlearn.clients.local import Local, StartModel
from fedlearn.exchange.exchange_pb2 import Task
from fedlearn.exchange.keys import of, residual_name
from fedlearn.system.files import make_folder, replace
from fedlearn.wire import decode_model, digest

Vector = NDArray[np.float32]  # (P,)

FIRST = "first"
COPIES = "copies"
RESIDUALS = "residuals"

# Bytes of a digest, and of the name of a piece of work.
NAME_BYTES = 8


class MissingModel(Exception):
    """The model that a difference starts from is not held here."""


class Storage(Protocol):
    """Where vectors (P,) float32 lie. Names are hexadecimal."""

    def read(self, kind: str, name: str) -> Vector | None:
        """Return a vector; None where it is missing or damaged."""
        ...

    def write(self, kind: str, name: str, vector: Vector) -> None:
        """Store a vector as the newest of its kind; one of the same name is replaced."""
        ...

    def forget(self, kind: str, newest: int) -> None:
        """Remove all vectors of a kind but the newest few."""
        ...


class Holdings:
    """The vectors that one client holds; see the module."""

    def __init__(self, storage: Storage, newest: int) -> None:
        """Take the storage. newest: vectors held of each kind."""
        self.storage = storage
        self.newest = newest

    def read(self, kind: str, name: bytes) -> Vector | None:
        """Return a vector (P,); None where it is missing or damaged."""
        return self.storage.read(kind, name.hex())

    def write(self, kind: str, name: bytes, vector: Vector) -> None:
        """Hold a vector (P,) as the newest of its kind, and forget the oldest."""
        self.storage.write(kind, name.hex(), vector)
        # After the write: a crash between the two leaves one too many, and none too
        # few.
        self.storage.forget(kind, self.newest)

    def arrive(self, local: Local, task: Task, payloads: Sequence[bytes]) -> StartModel:
        """Return the model that a task's payloads lead to, one after another.

        Sets the run's first model in ``local``.

        Raises MissingModel where a difference starts from a model that is not here, and
        PayloadError.
        """
        # A repair sends the first model before the client's own.
        if task.repair:
            first, *payloads = payloads
            _, state = decode_model(local.layout, first)
            self.write(FIRST, digest(state.floats), state.floats)
            local.initial = state.floats
        else:
            local.initial = self._model(FIRST, task.initial, local.initial)
        # Without a base the first difference starts from the run's first model.
        base = local.initial
        if task.base:
            base = self._model(COPIES, task.base, local.initial)
        return arrive(local.layout, payloads, base, local.initial)

    def keep_model(self, floats: Vector) -> None:
        """Hold a model's floats (P,) for a later difference."""
        self.write(COPIES, digest(floats), floats)

    def residual(self, task: Task) -> Vector | None:
        """Return the residual (P,) that a task names.

        None where it names none, or none is here.
        """
        if not (task.feedback and task.residual):
            return None
        # By name: a round that is repeated starts from the residual before the failed
        # one.
        return self.read(RESIDUALS, task.residual.to_bytes(NAME_BYTES, "little"))

    def keep_residual(self, task: Task, residual: Vector) -> None:
        """Hold the residual (P,) that the work on a task left."""
        self.write(RESIDUALS, residual_name(of(task.key)), residual)

    def _model(self, kind: str, model_digest: int, guess: Vector) -> Vector:
        """Return the model (P,) of a digest: the guess, or a held one.

        Raises MissingModel where it is neither.
        """
        name = model_digest.to_bytes(NAME_BYTES, "little")
        # Most models are built here from the seed, so nothing has to be stored.
        if digest(guess) == name:
            return guess
        model = self.read(kind, name)
        if model is None or digest(model) != name:
            raise MissingModel
        return model


class FileStorage:
    """Vectors as files of a folder, each written whole.

    KIND/NAME.f32 has the vector's digest, then its values.

    The first model lies in first.f32, its values alone: there is one, and its name is
    its digest.
    """

    def __init__(self, folder: Path) -> None:
        """Take the folder; it is made when a vector is written."""
        self.folder = folder

    def read(self, kind: str, name: str) -> Vector | None:
        """Return a vector; None where it is missing or damaged."""
        try:
            data = _bytes(self._path(kind, name))
            vector = np.frombuffer(data[self._head(kind) :], "<f4").astype(np.float32)
        except (OSError, ValueError):
            return None
        # The digest is the first model's name; other names may be those of work.
        checksum = bytes.fromhex(name) if kind == FIRST else data[:NAME_BYTES]
        return vector if digest(vector) == checksum else None

    def write(self, kind: str, name: str, vector: Vector) -> None:
        """Bring a vector to disk; raises OSError."""
        path = self._path(kind, name)
        make_folder(path.parent)
        head = digest(vector)[: self._head(kind)]
        # Little-endian, whatever the board.
        replace(path, head + vector.astype("<f4").tobytes())

    def forget(self, kind: str, newest: int) -> None:
        """Remove all files of a kind but the newest few."""
        files = list((self.folder / kind).glob("*.f32"))
        files.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for old in files[newest:]:
            old.unlink(missing_ok=True)

    def _path(self, kind: str, name: str) -> Path:
        if kind == FIRST:
            return self.folder / f"{FIRST}.f32"
        return self.folder / kind / f"{name}.f32"

    def _head(self, kind: str) -> int:
        """Return the bytes of the digest that a file begins with."""
        return 0 if kind == FIRST else NAME_BYTES


def _bytes(path: Path) -> bytes:
    """Return what a file holds; raises OSError when it cannot be read twice.

    What cannot be read is given up as lost, which a disk that fails once must not bring about.
    """
    try:
        return path.read_bytes()
    except OSError:
        return path.read_bytes()
