"""A person's graphs made functions: what is refused, what is measured, what carries them on."""

import io
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest

from fedlearn.errors import FedlearnError, FormatError, PackageError, UserError
from fedlearn.package import content, function_golden, signature
from fedlearn.package.parts import FUNCTIONS_GOLDEN_FILE, function_file
from fedlearn.release import tar
from fedlearn.release.building import base_of, inherited, release
from fedlearn.release.functions import FunctionWish, function_of, memory_bytes
from fedlearn.release.packing import Wishes, pack
from fedlearn.release.registry import Registry
from fedlearn.release.shelf import PackageShelf
from fedlearn.server.release import make_pair
from tests.export.models import untrained
from tests.package import function_graphs as graphs
from tests.package import functional, small

PICTURE = (1, 28, 28)


def inverted():
    """Return a function before a model of pictures: 255 - x, uint8."""
    nodes = [onnx.helper.make_node("Sub", ["white", "raw"], ["dark"])]
    shape = ["n", *PICTURE]
    constants = {"white": np.array(255, np.int16)}
    cast = [
        onnx.helper.make_node("Cast", ["sent"], ["raw"], to=onnx.TensorProto.INT16),
        *nodes,
        onnx.helper.make_node("Cast", ["dark"], ["x"], to=onnx.TensorProto.UINT8),
    ]
    ports = ([("sent", graphs.UINT8, shape)], [("x", graphs.UINT8, shape)])
    return graphs.graph(cast, *ports, constants)


WISHES = (
    functional.wish("inverted", "pre", inverted()),
    functional.wish("shares", "post", graphs.shares(10)),
)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (graphs.unknown(), "'places' whose size is not known before it runs"),
        (graphs.swelling(), "needs 41 MB for 32 samples, and its limit is 4"),
        (graphs.mixing(), "gives a sample another answer with others than alone"),
        (graphs.endless(), "has Loop: a function goes straight through"),
        (graphs.custom(), "'my.own.Thing', which is none of ONNX's own"),
        (b"no graph", "functions/f.onnx"),
    ],
    ids=["unknown", "swelling", "mixing", "endless", "custom", "garbage"],
)
def test_what_cannot_be_a_function_is_refused_with_its_name(data, text):
    with pytest.raises(FedlearnError, match=text):
        functional.made((functional.wish("f", "post", data, memory_mb=4),), None)


def test_numbers_that_are_none_are_refused():
    nodes = [onnx.helper.make_node("Log", ["negative"], ["answer"])]
    nodes.insert(0, onnx.helper.make_node("Neg", ["square"], ["negative"]))
    nodes.insert(0, onnx.helper.make_node("Mul", ["scores", "scores"], ["square"]))
    ports = ([("scores", 1, ["n", 3])], [("answer", 1, ["n", 3])])
    wish = functional.wish("log", "post", graphs.graph(nodes, *ports))
    with pytest.raises(PackageError, match="'log' gives values that are no numbers"):
        functional.made((wish,), None)


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ([("x", 1, [4, 3])], "takes 4 samples in 'x'"),
        ([("x", 11, ["n", 3])], "has 'x' as float64, not float32"),
        ([("x", 8, ["n", 3])], "has 'x' as texts"),
        ([("x", 1, ["n", 3]), ("z", 1, ["n", 3])], "has 2 inputs; it has to take one"),
    ],
)
def test_tensors_that_no_function_takes(inputs, text):
    nodes = [onnx.helper.make_node("Identity", ["x"], ["y"])]
    data = graphs.graph(nodes, inputs, [("y", *inputs[0][1:])])
    with pytest.raises(UserError, match=text):
        function_of(FunctionWish("f", "post", data))


def test_samples_as_clients_send_them_are_needed_where_the_tests_are_not_like_them():
    wish = functional.wish("single", "pre", graphs.doubled())
    with pytest.raises(UserError, match=r"give some as clients send them: --samples"):
        functional.made((wish,), None)
    with pytest.raises(UserError, match=r"--samples are uint8 \[40, 6\], and function"):
        functional.made((wish,), small.SAMPLES)
    # What the model takes does, too: here float32.
    half = functional.wish("half", "pre", graphs.halved())
    _, files = functional.made((half,), None)
    assert function_file("half") in files


def peak_by_running(data, rows):
    """Return the bytes that are alive at once, of shapes that onnxruntime gives back."""
    model = onnx.load_model_from_string(data)
    names = [name for node in model.graph.node for name in node.output]
    outputs = [value.name for value in model.graph.output]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    port = session.get_inputs()[0]
    dtype = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}[port.type]
    x = np.zeros((rows, *port.shape[1:]), dtype)
    arrays = dict(zip(names, session.run(names, {port.name: x}), strict=True))
    sizes = {name: array.nbytes for name, array in {**arrays, port.name: x}.items()}
    constants = {tensor.name for tensor in model.graph.initializer}
    peak = 0
    for place, node in enumerate(model.graph.node):
        later = {name for other in model.graph.node[place:] for name in other.input}
        alive = set(node.output)
        for name in sizes:
            is_there = name == port.name or any(
                name in earlier.output for earlier in model.graph.node[:place]
            )
            if is_there and (name in later or name in outputs):
                alive.add(name)
        peak = max(peak, sum(sizes[name] for name in alive))
    whole = onnx.load_model_from_string(data).graph.initializer
    return peak + sum(onnx.numpy_helper.to_array(t).nbytes for t in whole if constants)


@pytest.mark.parametrize(
    "data",
    [
        graphs.doubled(),
        graphs.halved(),
        graphs.shares(),
        graphs.best(),
        graphs.slow(count=5),
        graphs.swelling(1),
        inverted(),
    ],
    ids=["doubled", "halved", "shares", "best", "slow", "swelling", "inverted"],
)
@pytest.mark.parametrize("rows", [1, 32])
def test_memory_is_known_before_a_graph_runs(data, rows):
    assert memory_bytes(data, rows) == peak_by_running(data, rows)


def test_a_size_that_nobody_knows_is_told():
    with pytest.raises(FormatError, match="'places' whose size is not known"):
        memory_bytes(graphs.unknown())


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages") / "p"
    return pack(untrained("logistic"), folder, Wishes(functions=WISHES))


def test_a_run_becomes_a_package_with_functions(package, tmp_path):
    manifest = package.manifest
    assert [function.name for function in manifest.functions] == ["inverted", "shares"]
    plain = pack(untrained("logistic"), tmp_path / "plain", Wishes())
    assert "functions" not in plain.manifest.to_bytes().decode()
    # All else is as without them.
    for path, listed in plain.manifest.files.items():
        assert manifest.files[path] == listed
    arrays = function_golden.read(package)
    np.testing.assert_array_equal(arrays["inputs"], 255 - arrays["prepared"])


def test_the_next_release_has_the_functions_of_the_one_before(package, tmp_path):
    with Registry(tmp_path / "registry", create=True) as registry:
        registry.add(package)
        base = base_of(registry, package.manifest.name)
    assert base is not None and base.functions == WISHES
    wishes = inherited(Wishes(name=package.manifest.name), base)
    moved = untrained("logistic", seed=1)
    built = release(moved, tmp_path / "q", wishes, base, gate=100)
    assert built.package.manifest.functions == package.manifest.functions
    for wish in WISHES:
        path = function_file(wish.name)
        assert built.package.file(path) == wish.data
    check = function_golden.check(built.package)
    assert check is not None and check.names == ("inverted", "shares")
    # Others that are wished for take their place.
    others = inherited(Wishes(functions=WISHES[1:]), base)
    assert others.functions == WISHES[1:] and others.samples is None


def test_registry_tar_and_shelf_carry_them(package, tmp_path):
    with Registry(tmp_path / "registry", create=True) as registry:
        version = registry.add(package)
        exported = registry.export(version, tmp_path / "exported")
        stored = {
            path: registry.file(version, path) for path in registry.paths(version)
        }
    assert exported.sha256 == package.sha256
    (tmp_path / "unpacked").mkdir()
    tar.unpack(io.BytesIO(tar.packed(stored)), tmp_path / "unpacked")
    assert content.read(tmp_path / "unpacked").sha256 == package.sha256
    key = make_pair(tmp_path / "keys")
    signed = signature.sign(exported, key.sign, key.public_pem)
    content.write_signatures(exported.folder, [signed])
    shelf = PackageShelf(tmp_path)
    name = shelf.add(exported.folder, None)
    paths = sorted(package.manifest.listed)
    for place, path in enumerate(paths):
        assert shelf.file(name, place) == package.file(path)
    assert FUNCTIONS_GOLDEN_FILE in paths


@pytest.mark.parametrize(
    ("path", "size", "kind"),
    [
        ("functions/../x.onnx", 4, "path"),
        ("functions/x.so", 4, "path"),
        ("functions/deep/x.onnx", 4, "path"),
        ("functions/x.onnx", (8 << 20) + 1, "limits"),
    ],
)
def test_a_hostile_file_of_a_tar_is_refused_by_name(tmp_path, path, size, kind):
    data = tar.packed({path: bytes(size)})
    with pytest.raises(PackageError) as caught:
        tar.unpack(io.BytesIO(data), tmp_path)
    assert caught.value.name == kind
    assert not list(tmp_path.iterdir())


def test_functions_that_fit_another_model_are_refused(tmp_path):
    wishes = Wishes(functions=(replace(WISHES[1], data=graphs.shares(3)),))
    with pytest.raises(PackageError, match=r"takes float32 \(any, 3\), and the model"):
        pack(untrained("logistic"), tmp_path / "p", wishes)
    assert not (tmp_path / "p").exists()
