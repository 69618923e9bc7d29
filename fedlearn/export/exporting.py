"""One export from a trained model to a folder: made, proven equal, measured, put in place."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fedlearn
from fedlearn.errors import ModelError, UserError
from fedlearn.export import (
    about,
    executorch,
    latency,
    litert,
    openvino,
    parity,
    torchscript,
)
from fedlearn.export.artefact import Artefact
from fedlearn.export.fold import fold
from fedlearn.export.int8 import (
    INT8_GRAPH_FILE,
    INT8_WEIGHTS_FILE,
    Quantised,
    quantised,
    write_int8,
)
from fedlearn.export.onnx import GRAPH_FILE, WEIGHTS_FILE, Exported, graph_of, write
from fedlearn.export.parity import Parity
from fedlearn.export.session import scorer
from fedlearn.runs.trained import Trained
from fedlearn.system import files
from fedlearn.text import first_few

RECORD_FILE = "export.json"

# The formats besides ONNX, which has choices of its own.
OTHERS: dict[str, Callable[[Trained, Path], Artefact]] = {
    "executorch": executorch.export,
    "openvino": openvino.export,
    "litert": litert.export,
    "torchscript": torchscript.export,
}


@dataclass(frozen=True)
class Options:
    """What an export is asked for; int8 and fold are ONNX's alone.

    gate: percentage points of accuracy that int8 may lose.
    """

    target: str = "onnx"
    int8: bool = False
    fold: bool = False
    gate: float = 0.3


@dataclass(frozen=True)
class Row:
    """One line of an export's table; sizes in bytes, CPU time of one sample in µs."""

    label: str
    bytes: int
    parity: Parity
    microseconds: float


@dataclass(frozen=True)
class ExportReport:
    """What an export came to. torch_microseconds: measured in turns with the rows'."""

    folder: Path
    rows: tuple[Row, ...]
    torch_microseconds: float
    notes: tuple[str, ...]


def export(trained: Trained, out: Path, options: Options) -> ExportReport:
    """Write a trained model in another format into a new folder, and return its figures.

    Raises UserError for a folder that is in use, or without the format's extra; ModelError
    for a model that cannot be exported, whose scores are not the trained one's, or that
    loses too much as int8. The folder is there whole, or not at all.
    """
    _check_out(out)
    with _staged(out) as stage, latency.one_thread():
        artefacts = _artefacts(trained, stage, options)
        proofs = [_proven(trained, artefact, options) for artefact in artefacts]
        scorers = {artefact.label: artefact.score for artefact in artefacts}
        figures = latency.of_scorers(trained, scorers)
        _write_record(stage, trained, artefacts, proofs)
    rows = [
        Row(artefact.label, artefact.bytes, proof, figures[artefact.label])
        for artefact, proof in zip(_moved(artefacts, out), proofs, strict=True)
    ]
    notes = [note for artefact in artefacts for note in artefact.notes]
    notes += _slower(rows)
    return ExportReport(out, tuple(rows), figures["torch"], tuple(notes))


def _slower(rows: list[Row]) -> Iterator[str]:
    """Yield what is to be said where int8 saves bytes alone."""
    for row in rows[1:]:
        if row.microseconds > rows[0].microseconds:
            yield (
                f"{row.label} is slower than {rows[0].label} on this machine: "
                "it saves bytes alone"
            )


def _artefacts(trained: Trained, stage: Path, options: Options) -> list[Artefact]:
    """Write all files of an export; return them by runtime."""
    if options.target != "onnx":
        return [OTHERS[options.target](trained, stage)]
    exported = graph_of(trained)
    written = fold(exported) if options.fold else exported
    write(written, stage)
    parity.check_graph(stage / GRAPH_FILE)
    artefacts = [_onnx(stage, written)]
    if options.int8:
        int8 = quantised(trained, exported)
        write_int8(int8, stage)
        artefacts.append(_int8(stage, int8, exported))
    return artefacts


def _onnx(stage: Path, exported: Exported) -> Artefact:
    names = (GRAPH_FILE, WEIGHTS_FILE)
    label = "onnx folded" if exported.folds else "onnx"
    return Artefact(
        label, stage, names, scorer(stage / GRAPH_FILE), notes=exported.notes
    )


def _int8(stage: Path, int8: Quantised, exported: Exported) -> Artefact:
    notes: tuple[str, ...] = ()
    # Torch's exporter writes GroupNorm as InstanceNormalization, which runs in floats.
    if int8.kind == "static" and b"InstanceNormalization" in exported.graph:
        notes = (
            "GroupNorm has no int8 kernel and cannot be folded, so int8 gains little here; "
            'train with norm = "batch" for int8',
        )
    if int8.in_floats:
        notes += (f"int8 leaves weights in floats: {first_few(int8.in_floats)}",)
    return Artefact(
        label=f"onnx int8 {int8.kind}",
        folder=stage,
        files=(INT8_GRAPH_FILE, INT8_WEIGHTS_FILE),
        score=scorer(stage / INT8_GRAPH_FILE),
        exact=False,
        # Rounded scores are compared for their accuracy alone, on all samples.
        batches=((500, None),),
        notes=notes,
    )


def _proven(trained: Trained, artefact: Artefact, options: Options) -> Parity:
    """Return how an artefact compares with torch. Raises ModelError for too little."""
    proof = parity.compare(trained, artefact.score, artefact.batches)
    if artefact.exact:
        parity.check(proof, artefact.label)
        return proof
    lost = 100 * (proof.torch_accuracy - proof.accuracy)
    # Written so that NaN does not pass.
    if not lost <= options.gate:
        raise ModelError(
            f"{artefact.label}: accuracy falls from {100 * proof.torch_accuracy:.2f} % to "
            f"{100 * proof.accuracy:.2f} %, by {lost:.2f} points (at most {options.gate:g}); "
            "export without --int8, or raise --gate"
        )
    return proof


def _write_record(
    stage: Path, trained: Trained, artefacts: list[Artefact], proofs: list[Parity]
) -> None:
    """Write what was exported and proven; no times, so that it is the same file twice."""
    record: dict[str, Any] = {
        "fedlearn": fedlearn.__version__,
        "model_sha256": trained.model_sha256,
        "config_sha256": trained.config_sha256,
        "preprocessing": about.preprocessing(trained.population),
        "labels": about.labels(trained.population),
        "artefacts": [],
    }
    for artefact, proof in zip(artefacts, proofs, strict=True):
        digests = {}
        for name in artefact.files:
            content = (stage / name).read_bytes()
            digests[name] = hashlib.sha256(content).hexdigest()
        record["artefacts"].append(
            {
                "label": artefact.label,
                "sha256": digests,
                "largest_difference": proof.largest,
                "ties": proof.ties,
                "changed": proof.changed,
                "targets": proof.targets,
                "accuracy": proof.accuracy,
                "torch_accuracy": proof.torch_accuracy,
            }
        )
    text = json.dumps(record, indent=2) + "\n"
    files.replace(stage / RECORD_FILE, text.encode())


def _moved(artefacts: list[Artefact], out: Path) -> list[Artefact]:
    """Return artefacts as they lie in their final folder."""
    return [replace(artefact, folder=out) for artefact in artefacts]


def _check_out(out: Path) -> None:
    """Raise UserError for a path that something else has."""
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists() or out.is_symlink():
        raise UserError(f"'{out}' exists; remove it, or choose another folder by --out")


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """Give a folder beside ``out`` that takes its place at the end, or is removed."""
    out = out.absolute()
    # With the process's number: two exports at once do not write into one folder.
    stage = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        shutil.rmtree(stage, ignore_errors=True)
        files.make_folder(stage)
        yield stage
        files.sync_folder(stage)
        os.rename(stage, out)
        files.sync_folder(out.parent)
    except OSError as error:
        # The disk may be another's, such as that of temporary files.
        place = Path(error.filename or stage)
        # Or a folder on the way, which is a file.
        if not (place.is_relative_to(stage) or stage.is_relative_to(place)):
            raise
        raise UserError(
            f"cannot write '{out}': {error.strerror or error}; choose another folder by --out"
        ) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
