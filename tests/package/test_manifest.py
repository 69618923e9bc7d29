"""The manifest: one form in bytes, and a refusal with a name for all others."""

import json
from dataclasses import replace

import pytest

from fedlearn.errors import FormatError, PackageError
from fedlearn.package import canonical
from fedlearn.package.manifest import MOST_BYTES, from_bytes, moment
from fedlearn.package.parts import Delta, Health, ListedTensor, Support, delta_file
from tests.package import manifests, small

BASE = "ab" * 32


def refusal(data):
    with pytest.raises(PackageError) as caught:
        from_bytes(data)
    return caught.value


def changed(**values):
    """Return the sound manifest with other values, keys written as a__b for a["b"]."""
    value = json.loads(small.manifest().to_bytes())
    for path, new in values.items():
        *keys, last = path.split("__")
        table = value
        for key in keys:
            table = table[key]
        table[last] = new
    return canonical.dumps(value)


def test_a_manifest_has_one_form():
    delta = Delta(BASE, delta_file(BASE), "c" * 64, 17)
    manifest = small.manifest(
        deltas=(delta,), expires="2030-01-31T12:30:00Z", labels=("é", "b", "c")
    )
    data = manifest.to_bytes()
    assert from_bytes(data) == manifest
    assert data.startswith(b'{"counter":3,"deltas":[{"base_sha256":"abab')
    assert '"é"'.encode() in data
    assert b" " not in data and b"\n" not in data
    assert manifest.expiry == moment("2030-01-31T12:30:00Z")
    assert manifest.listed[delta.file].bytes == 17
    assert manifest.with_deltas([]) == replace(manifest, deltas=())


@pytest.mark.parametrize(
    "other",
    [
        lambda data: data + b"\n",
        lambda data: data.replace(b":3,", b": 3,", 1),
        lambda data: data.replace(b'"low"', b'"\\u006cow"'),
        lambda data: json.dumps(json.loads(data), indent=1).encode(),
        lambda data: data.replace(b"255.0", b"255"),
        lambda data: data.replace(b"0.25", b"2.5e-1"),
        lambda data: data.replace(b"0.25", b"0.250"),
    ],
)
def test_another_form_of_the_same_is_refused(other):
    data = other(small.manifest().to_bytes())
    assert data != small.manifest().to_bytes()
    assert refusal(data).name == "canonical"


@pytest.mark.parametrize(
    ("data", "name", "text"),
    [
        (b"", "json", "no JSON"),
        (b"\xff", "json", "no JSON"),
        (b'{"a":1,"a":2}', "json", "no JSON"),
        (b'{"a":NaN}', "json", "no JSON"),
        (b'{"a":1e999}', "json", "no JSON"),
        (b'{"a":"\\ud800"}', "json", "no JSON"),
        (b"[" * 100_000, "limits", "more than 16 levels"),
        (b'{"a":' * 30 + b"1" + b"}" * 30, "limits", "more than 16 levels"),
        (b" " * (MOST_BYTES + 1), "limits", "more than 4,194,304"),
        (b"[]", "manifest", "is no object"),
        (b"{}", "manifest", "lacks 'format'"),
        (changed(format=2), "format", "reads 1: update fedlearn"),
        (changed(extra=1), "manifest", "unknown fields: 'extra'"),
        (changed(counter=0), "manifest", "counter is not from 1"),
        (changed(counter=True), "manifest", "counter is no whole number: true"),
        (changed(counter=2**53), "manifest", "counter is not from 1"),
        (changed(counter=10**400), "manifest", "a number of more than 60 digits"),
        (changed(name="../x"), "manifest", "name is not of its form: '../x'"),
        (changed(name="a" * 65), "manifest", "65 characters, more than 64"),
        (changed(expires="2030-02-30T00:00:00Z"), "manifest", "expires is no time"),
        (changed(expires="2030-01-01"), "manifest", "expires is not of its form"),
        (changed(targets=[]), "manifest", "targets has 0 values, not 1 to 64"),
        (changed(weights_sha256="0" * 64), "manifest", "is not that of weights.bin"),
        (changed(health__errors=1.5), "manifest", "health.errors is not from 0 to 1"),
        (changed(health__unsure=2), "manifest", "health.unsure is not from 0 to 1"),
        # A limit that came later stands there only with a number.
        (changed(health__disagreement=None), "manifest", "disagreement is no number"),
        (changed(keys=["x"]), "manifest", "keys[0] is not of its form"),
        (changed(rollback=0), "manifest", "rollback is not from 1"),
        (changed(int8={"tensors": []}), "manifest", "come together"),
        (changed(input__dtype="object"), "manifest", "dtype is not of its form"),
        (changed(input__shape=[None] * 9), "manifest", "no shape of at most 8 axes"),
        (changed(tensors=[]), "tensor", "have 0 bytes and weights.bin 84"),
    ],
)
def test_what_is_wrong_is_named(data, name, text):
    error = refusal(data)
    assert error.name == name
    assert text in str(error)
    assert isinstance(error, FormatError)


def test_a_package_of_before_has_the_bytes_that_it_had():
    # As manifests were before `unsure`, `disagreement` and `confidence`.
    health = b'"health":{"drift":0.25,"errors":0.01,"p99_ms":20.0}'
    data = small.manifest().to_bytes()
    assert health in data
    assert from_bytes(data).health.least_confidence == 0.5
    limits = Health(unsure=0.2, disagreement=0.3, confidence=0.7)
    later = small.manifest(health=limits).to_bytes()
    assert from_bytes(later).health == limits


@pytest.mark.parametrize(
    "path",
    [
        *("../weights.bin", "/etc/passwd", "a/../../b", "a\\b", "a//b", "./a", "a/.."),
        *(
            "",
            "a\x00b",
            "a b",
            "C:a",
            ".hidden",
            "manifest.json",
            "model.sig",
            "x/y/z/u/v",
        ),
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(path):
    value = json.loads(small.manifest().to_bytes())
    value["files"][path] = value["files"]["graph.onnx"]
    assert refusal(canonical.dumps(value)).name == "path"


def test_a_file_that_nothing_reads_is_refused():
    value = json.loads(small.manifest().to_bytes())
    value["files"]["setup.py"] = value["files"]["graph.onnx"]
    assert "has 'setup.py'" in str(refusal(canonical.dumps(value)))


def test_an_oversized_tensor_is_refused_before_anything_is_allocated():
    huge = ListedTensor("w", (2**31 - 1,) * 8)
    with pytest.raises(
        PackageError, match=r"refused \(tensor\): the tensors have"
    ) as caught:
        small.manifest(tensors=(huge,)).to_bytes()
    assert caught.value.name == "tensor"
    # Lengths whose product is right, and one of them is not.
    assert (
        refusal(changed(tensors=[{"name": "w", "shape": [-3, -7]}])).name == "manifest"
    )


def test_differences_stand_at_their_own_place_in_one_order():
    entry = {"base_sha256": BASE, "file": delta_file(BASE), "sha256": BASE, "bytes": 1}
    assert refusal(changed(deltas=[{**entry, "file": "deltas/x.fl"}])).name == "path"
    assert "order" in str(refusal(changed(deltas=[entry, entry])))
    assert (
        from_bytes(changed(deltas=[entry])).deltas[0].file == f"deltas/{BASE[:16]}.fl"
    )


def test_a_manifest_that_nobody_could_read_is_never_written():
    with pytest.raises(PackageError, match="counter"):
        small.manifest(counter=0).to_bytes()
    with pytest.raises(PackageError, match="opset"):
        small.manifest(targets=(Support("onnxruntime", 0),)).to_bytes()


def test_mutated_manifests_are_sound_or_refused_by_name():
    verdicts = manifests.fuzz(3000, seed=7)
    # Each kind was met, so that the driver reaches every check.
    assert {
        "sound",
        "json",
        "canonical",
        "manifest",
        "path",
        "tensor",
        "limits",
    } <= set(verdicts)
