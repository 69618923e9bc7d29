"""The owner's probe: a release that labels the owner's samples wrongly is not switched to."""

import numpy as np
import pytest

from fedlearn.clients.device import probe
from fedlearn.clients.device.release_work import work
from fedlearn.clients.device.slots import InstallDisk
from fedlearn.errors import PackageError, UserError
from tests.clients.device import releases

W = np.eye(6, 3, dtype=np.float32) * 9
X = np.random.default_rng(0).integers(0, 256, (70, 6)).astype(np.uint8)
Y = (X.astype(np.float32) @ W).argmax(1)


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    good = releases.write_wide(folder / "good", 1, W)
    return good, releases.write_wide(folder / "permuted", 2, W[:, [1, 2, 0]])


def written(folder, **arrays):
    path = folder / "probe.npz"
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("y", [Y, np.array([f"class {n}" for n in Y])])
def test_a_permuted_release_fails_whatever_it_says_of_itself(packages, tmp_path, y):
    path = written(tmp_path, x=X, y=y)
    assert probe.check(packages[0], path, 1.0) == 1.0
    with pytest.raises(PackageError, match=r"0\.0% of the owner's 70 .* than 80\.0%"):
        probe.check(packages[1], path, 0.8)


def test_names_that_were_permuted_show_by_names(tmp_path):
    names = tuple(f"class {n}" for n in (1, 2, 0))
    package = releases.write_wide(tmp_path / "p", 1, W, labels=names)
    path = written(tmp_path, x=X, y=np.array([f"class {n}" for n in Y]))
    with pytest.raises(PackageError, match="rightly"):
        probe.check(package, path, 0.5)


@pytest.mark.parametrize(
    ("arrays", "line"),
    [
        ({"x": X}, "cannot be read: .*y"),
        ({"x": X[:0], "y": Y[:0]}, "has 0 samples and 0 labels"),
        ({"x": X, "y": Y[:9]}, "has 70 samples and 9 labels"),
        ({"x": X.astype(np.float32), "y": Y}, "has x as float32, not uint8"),
        ({"x": X, "y": Y.astype(float)}, "neither names nor whole numbers"),
        ({"x": X, "y": np.stack([Y, Y], 1)}, r"y of shape \(70, 2\)"),
    ],
)
def test_a_file_that_is_no_probe_is_named(packages, tmp_path, arrays, line):
    with pytest.raises(UserError, match=line):
        probe.check(packages[0], written(tmp_path, **arrays), 0.5)


def test_what_is_no_archive_is_one_line(packages, tmp_path):
    (tmp_path / "probe.npz").write_bytes(b"no archive")
    with pytest.raises(UserError, match="cannot be read"):
        probe.check(packages[0], tmp_path / "probe.npz", 0.5)


def test_the_try_of_a_release_takes_the_probe(packages, tmp_path):
    disk = InstallDisk(tmp_path / "slots")
    path = written(tmp_path, x=X, y=Y)
    for package, objection in ((packages[0], None), (packages[1], "refused (probe)")):
        release = releases.name_of(package)
        disk.stage(package, "a", release)
        reply = work(
            {
                "step": "try",
                "folder": str(disk.folder),
                "slot": "a",
                "most_megabytes": 0,
                "probe": str(path),
                "least_accuracy": 0.8,
            }
        )
        assert str(reply["objection"]).startswith(str(objection))
