"""A batch in place of a server: all samples of a source, once, and what was cut off goes on."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fedlearn.clients.infer.labels import highest
from fedlearn.clients.infer.model import ServedModel
from fedlearn.clients.infer.refusal import Refusal
from fedlearn.clients.infer.samples import NamedSample, SampleSource
from fedlearn.clients.infer.sink import AnswerFile, line_of
from fedlearn.clients.infer.tensors import Array
from fedlearn.errors import DataError, RunError, one_line

# Seconds between two lines of progress.
PROGRESS_S = 2.0

Answer = dict[str, Any]
Say = Callable[[str], None]


def print_answers(
    model: ServedModel, source: Path, batch: int, write: Callable[[str], object]
) -> None:
    """Compute the samples of a source and write them as lines of CSV.

    Raises DataError for the first sample that cannot be computed.
    """
    for answers in answered(model, SampleSource(source, model).samples(), batch):
        for answer in answers:
            if "error" in answer:
                raise DataError(f"sample '{answer['sample']}': {answer['error']}")
            write(line_of(answer, is_csv=True))


def compute(
    model: ServedModel, source: Path, sink: tuple[str, Path], batch: int, say: Say
) -> None:
    """Compute the samples of a source into a file, whole or to be gone on with.

    Raises RunError at the end where samples could not be computed: their lines say why.
    """
    samples = SampleSource(source, model)
    kind, path = sink
    file = AnswerFile(path, kind == "csv", model.version)
    try:
        failed = _fill(file, model, samples, batch, say)
        file.finish()
    finally:
        file.close()
    if failed:
        raise RunError(
            f"{failed} samples could not be computed; their lines in '{path}' say why"
        )


def _fill(
    file: AnswerFile, model: ServedModel, samples: SampleSource, batch: int, say: Say
) -> int:
    """Write the answers that a file lacks; returns how many samples failed."""
    total = samples.count()
    earlier = len(file.names)
    if earlier:
        say(f"{earlier} samples are answered already; the others follow")
    missing = (sample for sample in samples.samples() if sample.name not in file.names)
    count = earlier
    failed = 0
    shown = time.monotonic()
    for answers in answered(model, missing, batch):
        file.write(answers)
        count += len(answers)
        failed += sum("error" in answer for answer in answers)
        if time.monotonic() - shown >= PROGRESS_S:
            shown = time.monotonic()
            say(f"{count}{f' of {total}' if total else ''} samples")
    say(f"{count} samples, version {model.version}")
    return failed


def answered(
    model: ServedModel, samples: Iterator[NamedSample], batch: int
) -> Iterator[list[Answer]]:
    """Yield the answers of samples, a batch at a time, in their order."""
    size = batch if model.batches else 1
    while group := list(itertools.islice(samples, size)):
        yield _of_group(model, group)


def _of_group(model: ServedModel, group: list[NamedSample]) -> list[Answer]:
    """Return the answers of some samples; those that cannot be computed together, apart."""
    arrays = [sample.array for sample in group if sample.array is not None]
    forms = {(array.shape, array.dtype) for array in arrays}
    is_alike = len(arrays) == len(group) and len(forms) == 1
    if len(group) > 1 and not is_alike:
        return _one_by_one(model, group)
    if not arrays:
        return [_failed(model, group[0], group[0].error)]
    try:
        inputs = np.stack(arrays)
        outputs = model.run(model.checked({model.inputs[0].name: inputs}))
    except Refusal as refusal:
        if len(group) > 1:
            return _one_by_one(model, group)
        return [_failed(model, group[0], one_line(refusal))]
    return [
        _answer(model, sample.name, outputs[0][index])
        for index, sample in enumerate(group)
    ]


def _one_by_one(model: ServedModel, group: list[NamedSample]) -> list[Answer]:
    answers = []
    for sample in group:
        answers += _of_group(model, [sample])
    return answers


def _answer(model: ServedModel, name: str, output: Array) -> Answer:
    """Return what the first output says of a sample; of scores, the highest one too."""
    answer: Answer = {"sample": name, "version": model.version}
    if not np.isfinite(output).all():
        return {**answer, "error": "the output has values that are no numbers"}
    if output.ndim == 1 and output.dtype.kind == "f" and len(output) > 1:
        index = int(highest(output[None], 1)[0, 0])
        is_named = index < len(model.labels)
        answer["label"] = model.labels[index] if is_named else str(index)
        answer["score"] = output[index].item()
    answer["output"] = output.tolist()
    return answer


def _failed(model: ServedModel, sample: NamedSample, reason: str) -> Answer:
    return {"sample": sample.name, "version": model.version, "error": reason}
