"""Functions in a manifest: read strictly, fitting together, and no byte where there are none."""

import hashlib
import json
from dataclasses import replace

import pytest

from fedlearn.errors import PackageError
from fedlearn.package import canonical, manifest
from fedlearn.package.functions import POST, PRE, check_chain
from fedlearn.package.parts import ListedFile, Port, function_file
from tests.package import functional, small

# Of `small.manifest` with the files below, by the commit before functions were known.
BEFORE = "631b4213ed3884f30ccb86916ca6bb28c6032a1952bb4c0c51e8206eb9695ada"


def test_a_package_without_functions_has_the_bytes_that_it_had():
    sizes = {"golden.npz": 100, "graph.onnx": 200, "weights.bin": 84}
    files = {
        path: ListedFile(f"{number}" * 64, size)
        for number, (path, size) in enumerate(sizes.items())
    }
    data = small.manifest(files=files).to_bytes()
    assert hashlib.sha256(data).hexdigest() == BEFORE


def test_functions_are_read_as_they_were_written():
    written, _ = functional.made()
    again = manifest.from_bytes(written.to_bytes())
    assert again == written
    assert [(each.name, each.role) for each in again.functions] == [
        *(("single", PRE), ("shares", POST), ("best", POST)),
    ]
    assert again.functions[2].outputs[1] == Port("class", (None, 1), "int64")
    assert {function_file("single"), "functions/golden.npz"} < set(again.files)


def changed(change):
    """Return the manifest's bytes after a change of its JSON."""
    written, _ = functional.made()
    value = json.loads(written.to_bytes())
    change(value)
    return canonical.dumps(value)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda v: v["functions"].clear(), r"manifest.functions has 0 values"),
        (lambda v: v["functions"][0].update(role="on"), "roles are not 'pre' first"),
        (lambda v: v["functions"].reverse(), "roles are not 'pre' first"),
        (lambda v: v["functions"][0].update(name="../x"), "is not of its form"),
        (lambda v: v["functions"][0].update(time_ms=0), "time_ms is not from 1"),
        (
            lambda v: v["functions"][0].update(memory_mb=1 << 40),
            "memory_mb is not from",
        ),
        (lambda v: v["functions"][0].update(more=1), "unknown fields: 'more'"),
        (lambda v: v["functions"][0].pop("input"), "lacks 'input'"),
        (lambda v: v["functions"].pop(1), "differ in: functions/shares.onnx"),
        (
            lambda v: v["files"].pop("functions/golden.npz"),
            "differ in: functions/golden",
        ),
        (
            lambda v: v["files"].update(
                {"functions/../../x.onnx": v["files"]["functions/best.onnx"]}
            ),
            "refused .path.*no plain path",
        ),
        (
            lambda v: v["files"]["functions/best.onnx"].update(bytes=1 << 30),
            "is not from 0 to 8388608",
        ),
        (
            lambda v: v["files"].update(
                {"functions/best.so": v["files"]["functions/best.onnx"]}
            ),
            "manifest.files has 'functions/best.so'",
        ),
    ],
)
def test_what_no_manifest_says_of_functions_is_refused_by_name(change, text):
    with pytest.raises(PackageError, match=text):
        manifest.from_bytes(changed(change))


X = Port("x", (None, 6), "float32")
Y = Port("y", (None, 3), "float32")


@pytest.mark.parametrize(
    ("number", "changes", "text"),
    [
        (0, {"outputs": (Port("a", (None, 5), "uint8"),)}, "the model takes uint8 or"),
        (0, {"outputs": (Port("a", (None, 6), "int64"),)}, "the model takes uint8 or"),
        (0, {"input": Port("a", (1, 12), "uint8")}, "the first axis has to be of any"),
        (0, {"input": Port("a", (None, None), "uint8")}, "and all others of one"),
        (
            0,
            {"input": Port("a", (None, 1 << 22), "uint8")},
            "more than its limit of 64",
        ),
        (0, {"input": Port("single", (None, 12), "uint8")}, "two tensors of one name"),
        (1, {"input": Port("a", (None, 4), "float32")}, "and the model gives float32"),
        (
            1,
            {"outputs": (Port("a", (None, 2), "float32"),)},
            "'best' takes|'shares' gives",
        ),
        (
            1,
            {"outputs": (Y, replace(Y, name="z"))},
            "which the last one alone may have",
        ),
        (2, {"name": "shares"}, "two functions have one name"),
    ],
)
def test_functions_that_lead_nowhere_are_refused(number, changes, text):
    written, _ = functional.made()
    functions = list(written.functions)
    functions[number] = replace(functions[number], **changes)
    with pytest.raises(PackageError, match=text):
        check_chain(functions, X, "uint8", Y)
    check_chain(written.functions, X, "uint8", Y)
