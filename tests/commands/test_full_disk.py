"""A disk that is full, under each command of a model's life: one line that names the path."""

import errno
import os
import shutil

import pytest

import fedlearn as fl
from fedlearn.commands import compress, export, package, registry, release, sign
from fedlearn.release.registry import Registry
from fedlearn.system import files
from tests.package import small

CONFIG = {
    "experiment": {"name": "digits", "rounds": 1},
    "data": {"name": "digits", "partition": {"kind": "iid", "clients": 3}},
    "model": {"name": "cnn-small"},
    "strategy": {"name": "fedavg", "fraction_train": 1.0},
    "engine": {"kind": "serial"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full") / "run"
    return fl.run(CONFIG, out=folder, quiet=True).folder


@pytest.fixture
def full(monkeypatch):
    """Return a function after which every disk is full: what is written is not kept."""

    def fill():
        def refuse(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", refuse)

    return fill


COMMANDS = [
    (package, "{run} --out {place}/p", "{place}/p/graph.onnx"),
    (release, "{run} --registry {place}/r --out {place}/p", "{place}/p/graph.onnx"),
    (release, "{run} --registry {place}/r", "{place}/r/.building-"),
    (release, "{package} --registry {place}/r", "{place}/r/objects"),
    (export, "{run} --out {place}/e", "{place}/e"),
    (
        compress,
        "{run} --prune 0.5 --rounds 0 --out {place}/c",
        "{place}/c/settings.json",
    ),
    (sign, "--new-key {place}/k", "{place}/k/release.key"),
    (registry, "token ci --token-file {place}/t", "{place}/t"),
]


@pytest.mark.parametrize(("command", "words", "path"), COMMANDS)
def test_a_command_names_what_it_could_not_write(
    command, words, path, run, full, tmp_path, capsys
):
    small.written(tmp_path / "package")
    names = {"run": run, "package": tmp_path / "package", "place": tmp_path}
    full()
    assert command.main(words.format(**names).split()) in (2, 3)
    error = capsys.readouterr().err
    assert path.format(**names) in error
    assert "No space left on device" in error
    assert error.startswith("fedlearn: ")
    assert error.count("\n") == 1


def test_a_compression_advises_what_it_has(run, full, tmp_path, capsys):
    words = [str(run), "--prune", "0.5", "--rounds", "1", "--gate", "99"]
    words += ["--quiet", "--out", str(tmp_path / "c")]
    assert compress.main(words) in (0, 4)
    # The fine-tuning's own run is begun again, in its own folder.
    shutil.rmtree(tmp_path / "c" / "prune-0.5" / "tuning")
    (tmp_path / "c" / "prune-0.5" / "variant.json").unlink()
    full()
    assert compress.main(words) == 3
    error = capsys.readouterr().err
    assert "the same command goes on from there" in error
    assert "--resume" not in error


def test_a_fetched_version_and_a_damaged_disk_are_named(full, tmp_path):
    with Registry(tmp_path / "r", create=True) as opened:
        version = opened.add(small.written(tmp_path / "package"))
        full()
        with pytest.raises(OSError, match="No space left") as caught:
            opened.export(version, tmp_path / "out")
    assert caught.value.filename.startswith(str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_path_that_an_error_names_stays():
    with pytest.raises(FileNotFoundError) as caught, files.named("elsewhere"):
        os.stat("/nowhere/at/all")
    assert caught.value.filename == "/nowhere/at/all"
    with pytest.raises(OSError, match="of Python's own") as plain, files.named("x"):
        raise OSError("of Python's own")
    assert plain.value.filename is None
