"""Every shipped model becomes an ONNX graph of its own tensors, with torch's scores."""

import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from fedlearn.clients.batches import tensors
from fedlearn.errors import ModelError, UserError
from fedlearn.export import extras
from fedlearn.export.onnx import graph_of, write
from fedlearn.export.parity import check, check_graph, compare
from fedlearn.export.session import scorer
from fedlearn.models import layout, read_state
from tests.export.models import ALL, IDS, untrained
from tests.export.short import short

FEW = ((1, 2), (2, 4), (8, None))


@pytest.mark.parametrize(("name", "changes"), ALL, ids=IDS)
def test_a_model_scores_as_torch_does_at_every_batch_size(name, changes, tmp_path):
    trained = short(name, *changes)
    exported = graph_of(trained)
    write(exported, tmp_path)
    check_graph(tmp_path / "graph.onnx")
    parity = compare(trained, scorer(tmp_path / "graph.onnx"), FEW)
    check(parity, name)
    # The initialisers are the state's own floats, in its order, with its bits.
    arrays = trained.layout.split(trained.state)
    floats = [entry.name for entry in trained.layout.entries if entry.is_float]
    assert list(exported.tensors) == floats
    assert all((exported.tensors[key] == arrays[key]).all() for key in floats)
    assert exported.tensors.keys() | exported.unused.keys() == arrays.keys()


@pytest.mark.parametrize(("name", "changes"), ALL, ids=IDS)
def test_the_graph_of_two_trainings_is_the_same_bytes(name, changes):
    first = graph_of(untrained(name, *changes))
    second = graph_of(untrained(name, *changes, seed=1))
    assert first.graph == second.graph
    assert first.weights != second.weights


def test_equal_tensors_stay_apart():
    # torch's exporter would join scales that are all 1.
    trained = untrained("resnet-small")
    ones = trained.state.copy()
    ones.floats[:] = 1
    exported = graph_of(replace(trained, state=ones))
    assert exported.graph == graph_of(trained).graph
    assert {exported.weights[i : i + 4] for i in range(0, 400, 4)} == {b"\0\0\x80?"}


def test_another_process_gives_the_same_bytes():
    code = (
        "import hashlib\nfrom tests.export.models import untrained\n"
        "from fedlearn.export.onnx import graph_of\n"
        "exported = graph_of(untrained('resnet-small', 'model.norm=batch'))\n"
        "print(hashlib.sha256(exported.graph + exported.weights).hexdigest())"
    )
    exported = graph_of(untrained("resnet-small", "model.norm=batch"))
    ours = hashlib.sha256(exported.graph + exported.weights).hexdigest()
    theirs = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert theirs.strip() == ours


def test_the_files_have_the_weights_one_after_another(tmp_path):
    trained = untrained("cnn-small")
    write(graph_of(trained), tmp_path)
    content = (tmp_path / "weights.bin").read_bytes()
    assert content == trained.state.floats.astype("<f4").tobytes()
    graph = onnx.load(tmp_path / "graph.onnx", load_external_data=False)
    end = 0
    for initializer in graph.graph.initializer:
        place = {item.key: item.value for item in initializer.external_data}
        assert place["location"] == "weights.bin"
        assert int(place["offset"]) == end
        end += int(place["length"])
    assert end == len(content)
    assert graph.opset_import[0].version == 18
    # Neither a path nor a text of this machine.
    assert b"/tmp" not in graph.SerializeToString()


def test_the_graph_says_how_raw_samples_become_inputs():
    trained = untrained("cnn-small")
    exported = graph_of(trained)
    model = onnx.load_from_string(exported.graph)
    props = {item.key: item.value for item in model.metadata_props}
    assert props == exported.metadata
    assert props["fedlearn.labels"] == '["0","1","2","3","4","5","6","7","8","9"]'
    assert props["fedlearn.modality"] == "image"
    steps = '{"cast":"float32","divide":255,"dtype":"uint8"}'
    assert props["fedlearn.preprocessing"] == steps
    raw = trained.population.test.x[:3]
    ours = tensors(trained.population.test, "image").x[:3].numpy()
    assert (raw.astype(np.float32) / np.float32(255) == ours).all()
    text = graph_of(untrained("lstm-char")).metadata
    assert text["fedlearn.preprocessing"] == '{"cast":"int64","dtype":"uint8"}'


@pytest.mark.parametrize("name", ["lstm-char", "transformer-char"])
@pytest.mark.parametrize("length", [1, 7, 95])
def test_texts_may_be_of_any_length(name, length, tmp_path):
    trained = untrained(name)
    exported = graph_of(trained)
    write(exported, tmp_path)
    assert exported.input_shape == ("batch", "time")
    x = torch.randint(0, 256, (3, length), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = trained.module(x).numpy()
    scores = scorer(tmp_path / "graph.onnx")(x.numpy())
    assert np.abs(scores - expected).max() < 1e-5


class Odd(torch.nn.Module):
    """Tied weights, a buffer that no state holds, one that no score needs, and integers."""

    def __init__(self, input_shape, classes):
        super().__init__()
        self.first = torch.nn.Linear(64, 64)
        self.second = torch.nn.Linear(64, 64)
        self.second.weight = self.first.weight
        self.output = torch.nn.Linear(64, classes)
        self.register_buffer("fixed", torch.arange(64.0) / 64, persistent=False)
        self.register_buffer("unused", torch.ones(3))
        self.register_buffer("order", torch.arange(63, -1, -1))

    def forward(self, x):
        hidden = self.first(x.flatten(1)) + self.fixed
        return self.output(self.second(hidden)[:, self.order])


def of_module(module):
    """Return a module of digits as `load` would."""
    trained = short("logistic", "data.name=digits")
    order = layout(module)
    return replace(
        trained, module=module.eval(), layout=order, state=read_state(module, order)
    )


def test_what_a_users_model_has_besides_weights_is_exported(tmp_path):
    module = Odd((1, 8, 8), 10)
    trained = of_module(module)
    exported = graph_of(trained)
    write(exported, tmp_path)
    check(compare(trained, scorer(tmp_path / "graph.onnx"), FEW), "odd")
    assert "fixed" not in exported.tensors
    assert exported.unused.keys() >= {"unused"}
    model = onnx.load(tmp_path / "graph.onnx")
    inside = {
        item.name: numpy_helper.to_array(item) for item in model.graph.initializer
    }
    assert (inside["order"] == np.arange(63, -1, -1)).all()


def test_a_model_of_half_floats_is_exported_in_float32(tmp_path):
    trained = of_module(Odd((1, 8, 8), 10).half())
    exported = graph_of(trained)
    assert {tensor.dtype for tensor in exported.tensors.values()} == {
        np.dtype(np.float32)
    }
    write(exported, tmp_path)
    check(compare(trained, scorer(tmp_path / "graph.onnx"), FEW), "half")
    # The caller's module is as it was.
    assert trained.module.first.weight.dtype == torch.float16


class Untraceable(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)

    def forward(self, x):
        return (
            torch.linalg.eigvals(self.layer.weight @ self.layer.weight.T).real + 0 * x
        )


def test_a_model_that_cannot_be_exported_is_named_with_the_reason():
    with pytest.raises(
        ModelError, match="model 'logistic' cannot be exported to ONNX: "
    ):
        graph_of(of_module(Untraceable()))


class Leaving(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)

    def forward(self, x):
        scores = self.layer(x.flatten(1)).detach().numpy()
        return torch.tensor(scores) + 0 * self.layer.weight.sum()


class Deaf(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)

    def forward(self, x):
        return self.layer.bias + self.layer.weight.sum(1)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Deaf, "do not follow from its input"),
        # What numpy has seen is out of torch's sight.
        (Leaving, "reads values of tensors in Python"),
    ],
)
def test_scores_that_do_not_follow_from_the_input_are_told(model, words):
    with pytest.raises(ModelError, match=words):
        graph_of(of_module(model()))


def test_a_package_that_is_missing_is_one_line():
    with pytest.raises(
        UserError, match=r"ONNX needs onyx: pip install 'fedlearn\[export\]'"
    ):
        extras.required("onyx.sub", "export", "ONNX")
