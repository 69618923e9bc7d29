"""The golden file: what onnxruntime has to answer on this machine, and a form of one kind."""

import io
import random
import subprocess
import sys
import warnings
import zipfile
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedlearn.errors import PackageError
from fedlearn.package import content, golden, histograms, npz
from fedlearn.package.parts import Preprocessing
from tests.package import small


def answers(**changes):
    inputs = small.SAMPLES.astype(np.float32) / np.float32(255)
    scores: Any = inputs @ small.W + small.B
    return replace(golden.golden(small.SAMPLES, scores, scores[:16]), **changes)


def refusal(call):
    with pytest.raises(PackageError) as caught:
        call()
    return caught.value


def test_this_machine_gives_the_golden_outputs(tmp_path):
    small.written(tmp_path / "p")
    check = golden.check(content.read(tmp_path / "p"))
    assert check.difference <= check.tolerance == pytest.approx(1e-4)
    assert check.agreeing == 1
    assert check.runtime.startswith("onnxruntime ")


def test_other_outputs_are_refused_with_their_figure(tmp_path):
    wrong = answers().outputs.copy()
    wrong[7, 1] += 0.01
    files = {**small.files(), "golden.npz": answers(outputs=wrong).to_bytes()}
    with pytest.raises(
        PackageError, match=r"within 1\.0e-04; .* is 1\.0e-02 off"
    ) as caught:
        content.write(tmp_path / "p", small.manifest(files), files, proof=golden.check)
    assert caught.value.name == "golden"
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_the_runtime_refuses_is_one_line(tmp_path):
    from onnx import helper

    nodes = [helper.make_node("Gemm", ["x"], ["y"])]
    files = {**small.files(), "graph.onnx": small.model(nodes).SerializeToString()}
    package = content.write(tmp_path / "p", small.manifest(files), files)
    error = refusal(lambda: golden.check(package))
    assert error.name == "runtime"
    assert "does not load the graph" in str(error)


def test_weights_come_from_the_checked_bytes_and_not_from_the_folder(tmp_path):
    """A session that read weights.bin itself could be given others after the check."""
    package = small.written(tmp_path / "p")
    model = golden.session(package)
    (tmp_path / "p" / "weights.bin").unlink()
    outputs = golden.run(model, package.manifest, small.SAMPLES[:16])
    np.testing.assert_allclose(outputs, answers().outputs, atol=1e-5)


def test_samples_are_prepared_as_clients_prepare_them():
    import torch

    from fedlearn.clients.batches import tensors
    from fedlearn.data.samples import Samples

    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    samples = Samples(pixels, np.zeros(1, np.int64))
    ours = golden.prepared(pixels, Preprocessing("uint8", "float32", 255.0))
    assert torch.equal(torch.from_numpy(ours), tensors(samples, "image").x)
    assert golden.prepared(pixels, Preprocessing("uint8", "int64")).dtype == np.int64


def test_histograms_count_what_was_seen():
    scores = np.array([[0, 0], [100, 0], [0, 1]], np.float32)
    # e^0 / (e^0 + e^1) is 0.27, the other one 0.73.
    assert histograms.confidence_histogram(scores).tolist() == [
        0,
        0,
        0,
        0,
        0,
        1,
        0,
        1,
        0,
        1,
    ]
    edges = np.array([1, 5], np.float32)
    assert histograms.input_histogram(np.array([0, 1, 4, 5, 9]), edges).tolist() == [
        1,
        2,
        2,
    ]
    content_file = answers()
    assert content_file.class_counts.sum() == 40
    assert content_file.input_counts.sum() == small.SAMPLES.size
    assert (np.diff(content_file.input_edges) > 0).all()


def test_the_file_has_one_form_in_any_process():
    code = (
        "import hashlib\nfrom tests.package.test_golden import answers\n"
        "print(hashlib.sha256(answers().to_bytes()).hexdigest())"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for _ in range(2)
    }
    assert len(hashes) == 1
    read = golden.from_bytes(answers().to_bytes(), small.manifest())
    for name, array in read.arrays().items():
        np.testing.assert_array_equal(array, answers().arrays()[name])
    # Any tool reads it.
    assert np.load(io.BytesIO(answers().to_bytes()))["inputs"].shape == (16, 6)


def channels():
    """Return the histograms of the small package's six features."""
    scores: Any = np.zeros((40, 3), np.float32)
    arrays = golden.golden(small.SAMPLES, scores, scores[:16], 1).arrays()
    return {name: arrays[name] for name in arrays if name.startswith("channel")}


def test_each_feature_has_a_histogram_of_its_own():
    # Feature 2 of 40 samples: 2, 8, 14, …, 236.
    six = channels()
    assert int(six["channel_axis"]) == 1
    assert six["channel_counts"].sum(1).tolist() == [40] * 6
    values = sorted(small.SAMPLES[:, 2].tolist())
    for edge, count in zip(
        six["channel_edges"][2], np.cumsum(six["channel_counts"][2]), strict=False
    ):
        assert sum(value < edge for value in values) == count
    read = golden.from_bytes(answers(**six).to_bytes(), small.manifest())
    np.testing.assert_array_equal(read.channel_counts, six["channel_counts"])


def test_one_channel_or_too_many_have_the_one_of_all():
    for width in (1, golden.MOST_CHANNELS + 1):
        samples = np.arange(3 * width, dtype=np.float32).reshape(3, width)
        scores: Any = np.zeros((3, 2), np.float32)
        assert golden.golden(samples, scores, scores, 1).channel_counts is None


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"inputs": answers().inputs.astype(np.int64)}, "inputs as int64"),
        ({"inputs": answers().inputs[:, :5]}, "other shapes"),
        ({"outputs": answers().outputs[:3]}, "other shapes"),
        ({"outputs": answers().outputs * np.nan}, "no numbers"),
        ({"tolerance": np.array(np.inf, np.float32)}, "no numbers"),
        ({"tolerance": np.zeros(2, np.float32)}, "other shapes"),
        ({"class_counts": np.zeros(4, np.int64)}, "other shapes"),
        ({"int8_outputs": answers().outputs}, "other arrays"),
        ({"class_counts": np.array([-1, 0, 9])}, "class_counts below 0"),
        ({"channel_axis": np.array(1)}, "other arrays"),
        ({**channels(), "channel_axis": np.array(2)}, "other shapes"),
        ({**channels(), "channel_axis": np.array(0)}, "other shapes"),
        ({**channels(), "channel_counts": np.ones((6, 9), np.int64)}, "other shapes"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changes, text):
    data = answers(**changes).to_bytes()
    error = refusal(lambda: golden.from_bytes(data, small.manifest()))
    assert error.name == "golden"
    assert text in str(error)


def zipped(name, data, **options):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", **options) as archive:
        archive.writestr(name, data)
    return stream.getvalue()


def npy(array, **options):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK",
        # A bomb, pickle, a size that is not there, and kinds that no model has.
        zipped("a.npy", npy(np.zeros(9_000_000)), compression=zipfile.ZIP_DEFLATED),
        zipped("a.npy", npy(np.array([{}, 1], object), allow_pickle=True)),
        zipped("a.npy", npy(np.zeros(3)).replace(b"(3,)", b"(9,)")),
        zipped("a.npy", npy(np.zeros(3, np.complex64))),
        zipped("a.txt", b"x"),
        zipped("a.npy", b"x"),
    ],
)
def test_other_zip_files_are_refused(data):
    assert refusal(lambda: npz.loads(data, "golden.npz")).name == "golden"


def test_mutated_files_never_end_the_reader():
    draw = random.Random(5)
    data = answers().to_bytes()
    refused = 0
    for _ in range(1500):
        out = bytearray(data)
        for _ in range(draw.choice((1, 3))):
            out[draw.randrange(len(out))] = draw.randrange(256)
        if draw.random() < 0.2:
            del out[draw.randrange(len(out)) :]
        # numpy warns of headers of Python 2.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                golden.from_bytes(bytes(out), small.manifest())
            except PackageError:
                refused += 1
    assert refused > 1000
