"""What functions must give, on this board, before they serve."""

from dataclasses import replace

import numpy as np
import pytest

from fedlearn.errors import PackageError
from fedlearn.package import content, function_golden, golden, npz
from fedlearn.package.parts import FUNCTIONS_GOLDEN_FILE
from tests.package import function_graphs as graphs
from tests.package import functional, small


def checked(package):
    """Return the check of a package that has functions."""
    check = function_golden.check(package)
    assert check is not None
    return check


def test_both_sides_of_the_model_have_their_samples(tmp_path):
    package = functional.written(tmp_path / "p")
    arrays = function_golden.read(package)
    assert list(arrays) == ["inputs", "prepared", "output_0", "output_1"]
    np.testing.assert_array_equal(arrays["inputs"], functional.PAIRS[:16])
    np.testing.assert_array_equal(arrays["prepared"], small.SAMPLES[:16])
    shares, classes = functional.expected(small.SAMPLES[:16])
    np.testing.assert_allclose(arrays["output_0"], shares, atol=1e-6)
    np.testing.assert_array_equal(arrays["output_1"], classes)
    # The model's own golden file is what it would be without functions.
    assert package.file("golden.npz") == small.files()["golden.npz"]
    assert golden.check(package).difference < 1e-5


def test_a_board_that_computes_the_same_is_fine(tmp_path):
    check = checked(functional.written(tmp_path / "p"))
    assert check.names == ("single", "shares", "best")
    assert check.difference == 0
    assert function_golden.check(small.written(tmp_path / "q")) is None


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("prepared", lambda a: a + 2, "are 2.0e.00 off"),
        ("output_0", lambda a: a + np.float32(0.01), "within 1.0e-04"),
        ("output_1", lambda a: a + 1, "are 1.0e.00 off"),
        ("output_1", lambda a: a[1:], "has 15 values for 16 samples"),
        ("output_0", lambda a: a * np.float32("nan"), "has output_0"),
        ("prepared", lambda a: a[1:], "has 15 values for 16 samples"),
        ("inputs", lambda a: a[:, :-1], "has inputs"),
        ("inputs", lambda a: a.astype(np.float32), "has inputs"),
    ],
)
def test_other_values_than_a_package_asks_for_are_refused(tmp_path, name, change, text):
    _, files = functional.made()
    arrays = npz.loads(files[FUNCTIONS_GOLDEN_FILE], FUNCTIONS_GOLDEN_FILE)
    arrays = {**arrays, name: np.ascontiguousarray(change(arrays[name]))}
    package = functional.rewritten(
        tmp_path / "p", FUNCTIONS_GOLDEN_FILE, npz.dumps(arrays)
    )
    with pytest.raises(PackageError, match=text) as caught:
        function_golden.check(package)
    assert caught.value.name == "function"


def test_a_pixel_that_rounds_otherwise_is_no_fault(tmp_path):
    _, files = functional.made()
    arrays = npz.loads(files[FUNCTIONS_GOLDEN_FILE], FUNCTIONS_GOLDEN_FILE)
    arrays = {**arrays, "prepared": np.add(arrays["prepared"], np.uint8(1))}
    package = functional.rewritten(
        tmp_path / "p", FUNCTIONS_GOLDEN_FILE, npz.dumps(arrays)
    )
    assert checked(package).difference == 1


def test_a_board_on_which_a_function_is_too_slow_is_found_at_the_trial(tmp_path):
    wishes = (functional.wish("slow", "post", graphs.slow()),)
    package = functional.written(tmp_path / "p", wishes, None)
    assert checked(package).names == ("slow",)
    manifest = package.manifest
    hurried = replace(manifest, functions=(replace(manifest.functions[0], time_ms=1),))
    files = {path: package.file(path) for path in manifest.files}
    package = content.write(tmp_path / "q", hurried, files)
    with pytest.raises(PackageError, match="took more than its 1 ms"):
        function_golden.check(package)
