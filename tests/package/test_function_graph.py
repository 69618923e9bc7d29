"""What no function may be is refused by its name, without the package onnx."""

import pytest

from fedlearn.errors import PackageError
from fedlearn.package import content
from fedlearn.package.function_graph import check_function
from fedlearn.package.parts import MOST_FUNCTION_BYTES, Support
from tests.package import function_graphs as graphs
from tests.package import functional, small

TARGETS = (Support("onnxruntime", graphs.OPSET),)


@pytest.mark.parametrize(
    ("data", "kind", "text"),
    [
        (graphs.endless(), "function", "has Loop: a function goes straight through"),
        (graphs.drawn(), "function", "has RandomNormalLike: the same samples"),
        (graphs.custom(), "graph", "'my.own.Thing', which is none of ONNX's own"),
        (graphs.custom("com.microsoft"), "graph", "com.microsoft.Thing"),
        (
            small.model().SerializeToString(),
            "path",
            "'weights.bin'; all of it has to be",
        ),
        (b"no graph", "graph", "functions/f.onnx"),
        (bytes(MOST_FUNCTION_BYTES + 1), "limits", "more than 8,388,608"),
        (graphs.best(), "function", "other inputs or outputs than the manifest says"),
    ],
    ids=["loop", "random", "custom", "runtime", "outside", "garbage", "large", "ports"],
)
def test_a_graph_is_refused_by_name(data, kind, text):
    with pytest.raises(PackageError, match=text) as caught:
        check_function(functional.answer(), data, TARGETS)
    assert caught.value.name == kind


def test_operations_of_the_runtime_have_no_place_in_a_function():
    from onnx import helper

    nodes = [
        helper.make_node(
            "DynamicQuantizeMatMul",
            ["scores", "w", "scale", "zero"],
            ["answer"],
            domain="com.microsoft",
        )
    ]
    ports = ([("scores", 1, ["n", 3])], [("answer", 1, ["n", 3])])
    data = graphs.graph(nodes, *ports, opsets=(("", 17), ("com.microsoft", 1)))
    with pytest.raises(PackageError, match=r"has com\.microsoft\.Dynamic"):
        check_function(functional.answer(), data, TARGETS)


def test_an_opset_that_no_target_has_is_refused():
    with pytest.raises(PackageError, match="has opset 17, which no target has"):
        check_function(
            functional.answer(), graphs.swelling(), (Support("onnxruntime", 16),)
        )


def test_a_device_looks_at_the_graphs_of_a_package(tmp_path):
    functional.written(tmp_path / "sound")
    with pytest.raises(PackageError, match="has Loop"):
        functional.rewritten(tmp_path / "p", "functions/shares.onnx", graphs.endless())
    # It was never there.
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (lambda file: file.write_bytes(b"\0" + file.read_bytes()[1:]), "hash"),
        (lambda file: file.write_bytes(file.read_bytes() + b"\0"), "size"),
        (lambda file: file.unlink(), "missing"),
        (lambda file: file.with_name("more.onnx").write_bytes(b""), "extra"),
        (lambda file: (file.unlink(), file.symlink_to("/etc/passwd")), "link"),
    ],
)
def test_a_file_that_is_not_the_listed_one_is_refused(tmp_path, damage, kind):
    package = functional.written(tmp_path / "p")
    damage(package.folder / "functions" / "best.onnx")
    with pytest.raises(PackageError) as caught:
        content.read(package.folder)
    assert caught.value.name == kind
