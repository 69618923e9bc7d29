"""``fedlearn package --pre|--post``: a run with functions, and one line for each mistake."""

import numpy as np
import pytest

import fedlearn as fl
from fedlearn.commands import package
from tests.package import function_graphs as graphs
from tests.package import functional, small
from tests.release.test_packing import CONFIG

PIXELS = (1, 8, 8)


def pooled():
    """Return a function before a model of digits: the mean of each four pixels."""
    from onnx import helper

    nodes = [
        helper.make_node(
            "AveragePool", ["sent"], ["mean"], kernel_shape=[2, 2], strides=[2, 2]
        ),
    ]
    sent = ("sent", graphs.FLOAT, ["n", 1, 16, 16])
    return graphs.graph(nodes, [sent], [("mean", graphs.FLOAT, ["n", *PIXELS])])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("functions")
    (folder / "half.onnx").write_bytes(pooled())
    (folder / "shares.onnx").write_bytes(graphs.shares(10))
    (folder / "loop.onnx").write_bytes(graphs.endless())
    draw = np.random.default_rng(0)
    np.save(folder / "sent.npy", draw.random((20, 1, 16, 16), np.float32))
    fl.run({**CONFIG, "model": {"name": "logistic"}}, out=folder / "run", quiet=True)
    return folder


def test_a_run_becomes_a_package_with_functions(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    options = ["--pre", "half=half.onnx", "--post", "shares=shares.onnx"]
    limits = ["--limits", "half=60000,16", "--limits", "shares=60000,8"]
    made = package.main(
        ["run", "--out", "p", *options, *limits, "--samples", "sent.npy"]
    )
    assert made == 0, capsys.readouterr().err
    capsys.readouterr()
    assert package.main(["verify", "p"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("functions     half, shares: at most ")
    assert package.main(["show", "p"]) == 0
    out = capsys.readouterr().out
    assert (
        "pre           half: 'sent' (any, 1, 16, 16) float32 → 'mean' (any, 1, 8, 8) "
        "float32, up to 60000 ms and 16 MB" in out
    )
    assert "file          functions/shares.onnx, " in out
    assert package.main(["run", "--out", "q"]) == 0
    capsys.readouterr()
    assert package.main(["diff", "q", "p"]) == 0
    out = capsys.readouterr().out
    assert "functions     null → [" in out
    assert "differs       functions/half.onnx, " in out
    assert "same          graph.onnx" in out
    assert package.main(["diff", "p", "q"]) == 0
    assert "gone          functions/half.onnx" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--pre", "half"], "--pre half: give NAME=FILE.onnx"),
        (["--pre", "../x=half.onnx"], "--pre ../x=half.onnx: give NAME=FILE.onnx"),
        (["--pre", "half=no.onnx"], "--pre half: 'no.onnx' cannot be read"),
        (["--limits", "half=1,1"], "--limits goes with --pre or --post"),
        (["--samples", "sent.npy"], "--samples goes with --pre or --post"),
        (["--post", "a=shares.onnx", "--limits", "b=1,1"], "there is no function 'b'"),
        (["--post", "a=shares.onnx", "--limits", "a=1"], "give NAME=MS,MB"),
        (["--post", "a=shares.onnx", "--limits", "a=0,1"], "milliseconds from 1"),
        (
            ["--pre", "a=half.onnx", "--post", "a=shares.onnx"],
            "two functions are called 'a'",
        ),
        (
            ["--pre", "half=half.onnx", "--samples", "half.onnx"],
            "--samples half.onnx cannot be read",
        ),
    ],
)
def test_a_mistake_is_one_line(folder, monkeypatch, capsys, options, text):
    monkeypatch.chdir(folder)
    assert package.main(["run", "--out", "new", *options]) == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1
    assert not (folder / "new").exists()


def test_a_graph_that_may_not_be_is_refused_before_torch_is_loaded(
    folder, monkeypatch, capsys
):
    import fedlearn.runs.trained

    monkeypatch.chdir(folder)
    # Whoever asks for the run has gone too far.
    monkeypatch.setattr(fedlearn.runs.trained, "load", None)
    assert package.main(["run", "--out", "new", "--post", "loop=loop.onnx"]) == 3
    error = capsys.readouterr().err
    assert error.startswith(
        "fedlearn: refused (function): functions/loop.onnx has Loop"
    )


def test_verify_refuses_a_package_that_was_touched(tmp_path, capsys):
    functional.written(tmp_path / "p")
    file = tmp_path / "p" / "functions" / "best.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert package.main(["verify", str(tmp_path / "p")]) == 3
    error = capsys.readouterr().err
    assert "refused (hash): 'functions/best.onnx' has another SHA-256" in error
    small.written(tmp_path / "q")
    assert package.main(["verify", str(tmp_path / "q")]) == 0
