"""Exported models under other Pythons' onnxruntime, such as 1.23, the last for Python 3.10.

FEDLEARN_RUNTIMES names their interpreters, separated by colons: clean environments with numpy
and onnxruntime alone, made beforehand:

    ~/.pyenv/versions/3.10.13/bin/python -m venv /tmp/old
    /tmp/old/bin/pip install numpy onnxruntime==1.23.2
    FEDLEARN_RUNTIMES=/tmp/old/bin/python python -m pytest tests/export/test_runtimes.py
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedlearn.export.int8 import calibration, quantised, write_int8
from fedlearn.export.onnx import graph_of, write
from fedlearn.export.parity import TOLERANCE
from fedlearn.export.session import scorer
from tests.export.models import ALL, IDS, untrained

ROOT = Path(__file__).parents[2]
NAMED = os.environ.get("FEDLEARN_RUNTIMES", "")
PYTHONS = [path for path in NAMED.split(os.pathsep) if path]
# This one is always there: what the child does is itself tested by it.
SAMPLES = 32


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return a folder with every shipped model, as a device would have it."""
    folder = tmp_path_factory.mktemp("models")
    chosen = zip(ALL, IDS, strict=True)
    for (name, changes), label in chosen:
        trained = untrained(name, *changes)
        exported = graph_of(trained)
        int8 = quantised(trained, exported)
        place = folder / label
        write(exported, place)
        write_int8(int8, place)
        np.save(place / "inputs.npy", calibration(trained)[:SAMPLES])
        tensors: dict = dict(exported.tensors)
        np.savez(place / "tensors.npz", **tensors)
        recipe = {**int8.recipe, "order": list(exported.tensors)}
        (place / "recipe.json").write_text(json.dumps(recipe))
    return folder


@pytest.mark.parametrize("python", [sys.executable, *PYTHONS])
def test_every_model_loads_and_says_the_same(python, models):
    script = Path(__file__).with_name("other_runtime.py")
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    shown = subprocess.check_output(
        [python, script, models], env=environment, text=True
    )
    print(shown)
    assert shown.strip().endswith("[]")
    for model in sorted(models.iterdir()):
        x = np.load(model / "inputs.npy")
        theirs = np.load(model / "scores.npz")
        ours = scorer(model / "graph.onnx")(x)
        assert np.abs(theirs["plain"] - ours).max() <= TOLERANCE, model.name
        assert (theirs["plain"].argmax(-1) == ours.argmax(-1)).all(), model.name
        int8 = scorer(model / "int8.onnx")(x)
        assert np.abs(theirs["int8"] - int8).max() <= 0.01 * np.abs(int8).max(), (
            model.name
        )
        rebuilt = (model / "rebuilt.bin").read_bytes()
        assert rebuilt == (model / "int8.bin").read_bytes(), model.name
