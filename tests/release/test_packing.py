"""A run made into a package: the same bytes anywhere, and a start for other runs."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import fedlearn as fl
from fedlearn.errors import ConfigError, ModelError, PackageError, UserError
from fedlearn.export.onnx import graph_of
from fedlearn.package import content, golden
from fedlearn.package.matching import check_graph
from fedlearn.package.parts import Health
from fedlearn.release import packing
from fedlearn.release.packing import Wishes, build, pack
from fedlearn.runs.trained import load
from tests.export.models import untrained
from tests.package import small

CONFIG = {
    "experiment": {"name": "small-net", "rounds": 1},
    "data": {"name": "digits", "partition": {"kind": "iid", "clients": 3}},
    "model": {"name": "tests.release.test_packing:net"},
    "train": {"lr": 0.1},
    "strategy": {"name": "fedavg", "fraction_train": 1.0},
    "engine": {"kind": "serial"},
}


class Scaled(nn.Module):
    """A statistic, a counter, and a float that inference does without."""

    def __init__(self, classes: int, pixels: int) -> None:
        super().__init__()
        self.first = nn.Linear(pixels, 12)
        self.norm = nn.BatchNorm1d(12)
        self.last = nn.Linear(12, classes)
        self.register_buffer("unused", torch.full((2,), 0.25))

    def forward(self, x):
        return self.last(torch.relu(self.norm(self.first(x.flatten(1)))))


def net(input_shape, classes):
    return Scaled(classes, int(np.prod(input_shape)))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fl.run(CONFIG, out=tmp_path_factory.mktemp("run") / "run", quiet=True)


@pytest.fixture(scope="module")
def package(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("package") / "p"
    pack(load(str(run.folder)), folder, Wishes(health=Health(errors=0.1)))
    return content.read(folder)


def test_a_package_says_what_it_is_made_of(run, package):
    manifest = package.manifest
    assert manifest.name == "small-net"
    assert manifest.run.model_sha256 == run.summary["model_sha256"]
    assert manifest.run.codec == "raw32"
    assert manifest.labels == tuple("0123456789")
    assert manifest.health == Health(errors=0.1)
    assert manifest.preprocessing.divide == 255
    assert manifest.int8 is None
    names = [tensor.name for tensor in manifest.tensors]
    assert "norm.num_batches_tracked" not in names
    # What inference does without comes last: the graph's tensors begin the file.
    assert names[-1] == "unused"


def test_the_runtimes_outputs_are_the_models(run, package):
    trained = load(str(run.folder))
    samples = trained.population.test.x[:40]
    outputs = golden.run(golden.session(package), package.manifest, samples)
    with torch.no_grad():
        expected = trained.module(torch.from_numpy(samples).float() / 255).numpy()
    np.testing.assert_allclose(outputs, expected, atol=1e-4)
    answers = golden.read(package)
    np.testing.assert_array_equal(answers.inputs, samples[:16])
    assert answers.inputs.dtype == np.uint8
    np.testing.assert_allclose(answers.outputs, expected[:16], atol=1e-4)
    tests = trained.population.test.x
    assert answers.class_counts.sum() == min(len(tests), packing.REFERENCE)


def test_another_model_of_the_same_data_has_the_same_samples_file(run, package):
    trained = load(str(run.folder))
    with torch.no_grad():
        for value in trained.module.parameters():
            value.mul_(1.5)
    manifest, files = packing.build(trained, Wishes(counter=2))
    before = package.manifest.files
    assert manifest.files["samples.npz"] == before["samples.npz"]
    assert manifest.files["golden.npz"] != before["golden.npz"]
    # The larger part: what a device has already.
    assert len(files["samples.npz"]) > len(files["golden.npz"])


def test_arrays_of_both_files_are_refused(run, tmp_path):
    trained = load(str(run.folder))
    manifest, files = packing.build(trained, Wishes())
    # The samples once more, in the file of the answers.
    files["golden.npz"] = files["samples.npz"]
    listed = {path: content.listed(data) for path, data in files.items()}
    wrong = content.write(tmp_path / "p", replace(manifest, files=listed), files)
    with pytest.raises(PackageError, match=r"refused \(golden\)"):
        golden.read(wrong)


def test_two_processes_make_the_same_bytes(run, tmp_path):
    options = ["--set", 'model.name="tests.release.test_packing:net"']
    for name in ("a", "b"):
        subprocess.run(
            [
                *(sys.executable, "-m", "fedlearn", "package", str(run.folder)),
                *("--out", str(tmp_path / name), "--counter", "4", *options),
            ],
            check=True,
            capture_output=True,
        )
    assert small.sha256(tmp_path / "a") == small.sha256(tmp_path / "b")
    assert content.read(tmp_path / "a").manifest.counter == 4


def test_a_run_starts_from_a_package(run, package, tmp_path):
    changes = {"model.weights": str(package.folder)}
    begun = fl.run(CONFIG, changes, out=tmp_path / "out", quiet=True)
    # Inference takes no counter, so that round 0 scores as the run that it came from.
    assert begun.rounds[0]["accuracy"] == run.summary["accuracy"]
    trained = load(str(package.folder), str(run.folder / "config.toml"))
    own = load(str(run.folder))
    np.testing.assert_array_equal(trained.state.floats, own.state.floats)
    # The counter is the model's own: it has seen no batch yet.
    assert own.state.integers[0] > 0
    assert trained.state.integers[0] == 0
    with pytest.raises(UserError, match="is a package, which has no config"):
        load(str(package.folder))


def test_a_package_of_another_model_or_a_damaged_one_is_refused(run, package, tmp_path):
    config = {**CONFIG, "model": {"name": "logistic"}}
    changes = {"model.weights": str(package.folder)}
    with pytest.raises(
        ModelError, match=r"tensors that the model lacks: first\.weight"
    ):
        fl.run(config, changes, out=tmp_path / "out", quiet=True)
    folder = tmp_path / "damaged"
    pack(load(str(run.folder)), folder, Wishes())
    data = bytearray((folder / "weights.bin").read_bytes())
    data[5] ^= 1
    (folder / "weights.bin").write_bytes(data)
    with pytest.raises(ConfigError, match="another SHA-256 than is listed; fetch"):
        fl.run(CONFIG, {"model.weights": str(folder)}, out=tmp_path / "out", quiet=True)


@pytest.mark.parametrize(
    ("wishes", "text"),
    [
        (Wishes(name="Größe"), "'Größe' cannot be a package's name"),
        (Wishes(labels=("a", "b")), "names 2 classes, and the model has 10"),
        (Wishes(counter=0), "counter is not from 1"),
        (Wishes(health=Health(errors=2)), r"health\.errors is not from 0 to 1"),
        (Wishes(health=Health(p99_ms=float("nan"))), "no package can say that"),
        (Wishes(devices=("x" * 65,)), "65 characters, more than 64"),
    ],
)
def test_wishes_that_fit_no_package_are_refused(run, wishes, text):
    with pytest.raises(UserError, match=text):
        build(load(str(run.folder)), wishes)


def test_a_package_that_answers_otherwise_never_gets_its_name(
    run, tmp_path, monkeypatch
):
    trained = load(str(run.folder))
    wrong = packing.exact_outputs(trained, torch.zeros(16, 1, 8, 8))
    monkeypatch.setattr(packing, "exact_outputs", lambda trained, inputs: wrong)
    with pytest.raises(PackageError, match=r"refused \(golden\)"):
        pack(trained, tmp_path / "p", Wishes())
    assert list(tmp_path.iterdir()) == []


def test_int8_weights_are_rebuilt_from_the_float_ones(tmp_path):
    trained = untrained("cnn-small")
    package = pack(trained, tmp_path / "p", Wishes(name="net", int8=True))
    # The file of int8 weights is in no package.
    assert sorted(package.manifest.files) == [
        *("golden.npz", "graph.onnx", "int8.onnx", "samples.npz", "weights.bin"),
    ]
    check = golden.check(content.read(tmp_path / "p"), int8=True)
    assert check.agreeing == 1
    rebuilt = golden.rebuilt(package, dict(package.tensors()))
    whole = {array.dtype.name for array in rebuilt.values()}
    assert "int8" in whole
    # A recipe of another tensor is no recipe of this model.
    value = json.loads(package.manifest.to_bytes())
    value["int8"]["tensors"][0]["name"] = "elsewhere"
    from fedlearn.package.canonical import dumps
    from fedlearn.package.manifest import from_bytes

    with pytest.raises(PackageError, match="tensors of no recipe"):
        check_graph(from_bytes(dumps(value)), package.file("int8.onnx"), "int8.onnx")


@pytest.mark.parametrize("name", ["2nn", "lenet", "lstm-sensor", "resnet-small"])
def test_the_graph_of_a_shipped_model_passes_a_devices_reader(name):
    trained = untrained(name)
    exported = graph_of(trained)
    manifest, files = build(trained, Wishes(name="net"))
    check_graph(manifest, exported.graph, "graph.onnx")
    assert files["graph.onnx"] == exported.graph
