"""What an exported model says of itself: labels, preprocessing, and what it was trained on."""

from __future__ import annotations

import json
from typing import Any

import fedlearn
from fedlearn.data.samples import Population
from fedlearn.runs.trained import Trained


def preprocessing(population: Population) -> dict[str, Any]:
    """Return how a raw sample becomes the model's input, as `clients.batches.tensors` does it.

    dtype: of the raw sample. cast: the input's. divide: by what it is divided after the
    cast, where it is.
    """
    raw = population.test.x.dtype.name
    if population.modality == "text":
        return {"dtype": raw, "cast": "int64"}
    steps: dict[str, Any] = {"dtype": raw, "cast": "float32"}
    if population.modality == "image" and raw == "uint8":
        steps["divide"] = 255
    return steps


def labels(population: Population) -> list[str]:
    """Return the name of each score on the output's last axis: the number of its class.

    Of a text it is the number of the next byte.
    """
    return [str(number) for number in range(population.classes)]


def metadata(trained: Trained) -> dict[str, str]:
    """Return what stands in an ONNX file's ``metadata_props``; lists are JSON.

    It is the same for all trainings of one model on one data set, so that their graphs are
    the same bytes.
    """
    population = trained.population
    facts = {
        "fedlearn.version": fedlearn.__version__,
        "fedlearn.model": trained.experiment.model.name,
        "fedlearn.data": population.name,
        "fedlearn.modality": population.modality,
        "fedlearn.preprocessing": _json(preprocessing(population)),
        "fedlearn.labels": _json(labels(population)),
    }
    return facts


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)
