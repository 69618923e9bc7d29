"""A package's folder: whole or not there, and every byte of it as listed."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from fedlearn.errors import PackageError, UserError
from fedlearn.package import content
from fedlearn.package.content import read, tensors, write
from fedlearn.package.parts import Delta, Port, Support, delta_file
from tests.package import small

BASE = "5a" * 32
DELTA = Delta(BASE, delta_file(BASE), content.listed(b"difference").sha256, 10)


@pytest.fixture
def folder(tmp_path):
    small.written(tmp_path / "p")
    return tmp_path / "p"


def refusal(folder, **options):
    with pytest.raises(PackageError) as caught:
        read(folder, **options)
    return caught.value


def test_what_was_written_is_read(folder):
    package = read(folder)
    assert package.manifest == small.manifest()
    arrays = package.tensors()
    assert list(arrays) == ["w", "b"]
    assert arrays["w"].dtype == np.float32
    np.testing.assert_array_equal(arrays["w"], small.W)
    np.testing.assert_array_equal(tensors(folder)["b"], small.B)
    assert package.sha256 == small.sha256(folder)["manifest.json"]
    assert oct(folder.stat().st_mode)[-3:] == "700"
    assert os.listdir(folder.parent) == ["p"]


def test_the_same_content_is_the_same_bytes(tmp_path):
    small.written(tmp_path / "a")
    small.written(tmp_path / "b")
    assert small.sha256(tmp_path / "a") == small.sha256(tmp_path / "b")


def test_a_flipped_bit_of_any_listed_file_is_refused(folder):
    # The manifest's own bits are the signature's matter.
    for name in ("graph.onnx", "weights.bin", "golden.npz"):
        path = folder / name
        data = path.read_bytes()
        # All of a small file, and a bit here and there of others.
        for position in range(0, len(data), max(1, len(data) // 60)):
            damaged = bytearray(data)
            damaged[position] ^= 1 << position % 8
            path.write_bytes(damaged)
            assert refusal(folder).name
        path.write_bytes(data)
    assert read(folder)


def test_a_file_too_few_and_one_too_many(folder):
    (folder / "extra.py").write_text("")
    assert "extra.py" in str(refusal(folder))
    assert refusal(folder).name == "extra"
    (folder / "extra.py").unlink()
    (folder / "golden.npz").unlink()
    assert "lacks golden.npz" in str(refusal(folder))
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(UserError, match=r"has no manifest\.json"):
        read(folder)
    with pytest.raises(UserError, match="is no folder"):
        read(folder / "nowhere")


def test_links_and_other_things_are_refused(folder, tmp_path):
    outside = tmp_path / "weights"
    shutil.move(folder / "weights.bin", outside)
    (folder / "weights.bin").symlink_to(outside)
    assert refusal(folder).name == "link"
    (folder / "weights.bin").unlink()
    # A pipe would wait for a writer for ever.
    os.mkfifo(folder / "weights.bin")
    assert refusal(folder).name == "extra"
    (folder / "weights.bin").unlink()
    (folder / "weights.bin").mkdir()
    assert refusal(folder).name == "extra"
    (folder / "weights.bin").rmdir()
    shutil.move(outside, folder / "weights.bin")
    (folder / "deltas").symlink_to("/etc")
    assert refusal(folder).name == "link"
    (folder / "deltas").unlink()
    assert read(folder)


def test_a_file_of_another_size_is_refused_before_it_is_read(folder):
    with open(folder / "weights.bin", "r+b") as file:
        # A terabyte of nothing, without its blocks.
        file.truncate(1 << 40)
    assert refusal(folder).name == "size"
    with open(folder / "manifest.json", "r+b") as file:
        file.truncate(1 << 40)
    assert refusal(folder).name == "size"


def test_what_changes_after_the_check_is_refused_when_it_is_used(folder):
    package = read(folder)
    (folder / "weights.bin").write_bytes(bytes(84))
    with pytest.raises(PackageError, match="another SHA-256"):
        package.tensors()


def test_differences_may_be_missing_where_nobody_needs_them(tmp_path):
    files = {**small.files(), DELTA.file: b"difference"}
    manifest = small.manifest(deltas=(DELTA,))
    folder = tmp_path / "p"
    write(folder, manifest, files)
    assert read(folder, needs_deltas=True).file(DELTA.file) == b"difference"
    (folder / DELTA.file).write_bytes(b"differencf")
    assert refusal(folder).name == "hash"
    (folder / DELTA.file).unlink()
    assert read(folder)
    assert refusal(folder, needs_deltas=True).name == "missing"
    (folder / "deltas" / "x.fl").write_bytes(b"")
    assert refusal(folder).name == "extra"


def test_a_graph_with_weights_at_other_places_than_the_manifest(tmp_path):
    swapped = small.model(
        initializers=[small.outside("w", (6, 3), 12), small.outside("b", (3,), 0)]
    )
    files = {**small.files(), "graph.onnx": swapped.SerializeToString()}
    with pytest.raises(PackageError, match="at another place of weights") as caught:
        write(tmp_path / "p", small.manifest(files), files)
    assert caught.value.name == "tensor"
    # Nothing is left of it.
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "change",
    [
        {"input": Port("z", (None, 6), "float32")},
        {"output": Port("y", (None, 3), "int64")},
        {"targets": (Support("onnxruntime", small.OPSET - 1),)},
    ],
)
def test_a_graph_of_other_ports_or_opset_than_the_manifest(tmp_path, change):
    with pytest.raises(PackageError, match="graph") as caught:
        small.written(tmp_path / "p", **change)
    assert caught.value.name == "graph"


def test_a_place_that_is_taken_stays_as_it_is(folder):
    before = small.sha256(folder)
    with pytest.raises(UserError, match="is there already"):
        small.written(folder, counter=9)
    assert small.sha256(folder) == before
    with pytest.raises(PackageError, match=r"graph\.onnx"):
        write(folder.parent / "q", small.manifest(), {})
    files = {**small.files(), "weights.bin": bytes(84)}
    with pytest.raises(PackageError, match="not the file that is listed"):
        write(folder.parent / "q", small.manifest(), files)
    assert os.listdir(folder.parent) == ["p"]


def test_a_killed_writer_leaves_nothing_at_the_place(tmp_path):
    code = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from tests.package import small\n"
        "from fedlearn.package import content\n"
        "die = lambda package: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"content.write(Path({str(tmp_path / 'p')!r}), small.manifest(), small.files(),"
        " proof=die)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=False)
    assert ended.returncode == -9
    assert not (tmp_path / "p").exists()
    # The next writer clears what it left.
    small.written(tmp_path / "p")
    assert os.listdir(tmp_path) == ["p"]


def test_two_writers_of_one_package_do_not_meet(tmp_path):
    def second(package):
        with pytest.raises(UserError, match="another process is writing"):
            small.written(tmp_path / "p")

    write(tmp_path / "p", small.manifest(), small.files(), proof=second)
    assert read(tmp_path / "p")
