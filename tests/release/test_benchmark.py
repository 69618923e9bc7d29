"""The benchmark of releases: pairs of runs, and a device of its own process."""

import pytest

from fedlearn.experiments.benchmarks import releases
from tests.release.test_building import NAME, Releases, moved, trained

assert trained


def test_runs_come_in_pairs(capsys):
    assert releases.main(["runs/a"]) == 2
    assert "name runs in pairs" in capsys.readouterr().err


def test_its_device_loads_no_torch_and_arrives(tmp_path, trained):
    made = Releases(tmp_path)
    first = made.add(trained)
    second = made.add(moved(trained, 1))
    made.registry.close()
    sha256, fetched = releases.on_a_device(first.package, second.package)
    assert sha256 == second.package.manifest.weights_sha256
    assert fetched == [second.payload_bytes]
    assert second.package.manifest.name == NAME


def test_an_onnx_file_has_the_weights_inside(tmp_path, trained):
    pytest.importorskip("onnx")
    made = Releases(tmp_path)
    built = made.add(trained)
    made.registry.close()
    data = releases.onnx_file(built.package)
    assert built.package.tensors()["last.weight"].tobytes() in data
