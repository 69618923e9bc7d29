"""The rotation: orthogonal, exact on whole numbers, and the same in numpy and torch."""

import numpy as np
import pytest
import torch

from fedlearn.codec import rotation, torch_rotation


def hadamard(size: int) -> np.ndarray:
    """The slow twin: Sylvester's construction, entry by entry."""
    return np.array(
        [
            [1.0 - 2.0 * (bin(i & j).count("1") % 2) for j in range(size)]
            for i in range(size)
        ]
    )


def butterfly(rows: np.ndarray) -> np.ndarray:
    """The transform of each row in whole numbers: other additions in another order."""
    for step in range(rows.shape[1].bit_length() - 1):
        pairs = rows.reshape(len(rows), -1, 2, 2**step)
        rows = np.stack(
            [pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], 2
        ).reshape(len(rows), -1)
    return rows


def in_numpy(rows: np.ndarray, between=None) -> np.ndarray:
    """What decoders do."""
    if between is None:
        return rotation.transform(rows)
    return rotation.mix(rows, between)


def in_torch(rows: np.ndarray, between=None) -> np.ndarray:
    """What encoders do."""
    given = torch.from_numpy(rows)
    if between is None:
        return torch_rotation.transform(given).numpy()
    return torch_rotation.mix(given, torch.from_numpy(between)).numpy()


both = pytest.mark.parametrize("rotate", [in_numpy, in_torch])


def normal(rows: int, size: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, size), dtype=np.float32)


@both
def test_equals_the_readable_twin(rotate):
    x = normal(3, 512)
    assert np.allclose(rotate(x), x @ hadamard(512), atol=1e-4)


@both
@pytest.mark.parametrize("size", [512, 4096])
def test_twice_gives_the_input_back_and_energy_stays(rotate, size):
    x = normal(2, size)
    y = rotate(x)
    assert np.allclose(rotate(y) / size, x, atol=1e-5)
    lengths = np.linalg.norm(y, axis=1) / size**0.5
    assert np.allclose(lengths, np.linalg.norm(x, axis=1), rtol=1e-5)


@both
@pytest.mark.parametrize("size", [512, 1024, 4096])
def test_whole_numbers_are_exact_in_any_order_of_additions(rotate, size):
    x = np.random.default_rng(2).integers(-15, 16, (4, size)).astype(np.float32)
    exact = butterfly(x.astype(np.int64)).astype(np.float32)
    assert np.array_equal(rotate(x), exact)


@both
@pytest.mark.parametrize("size", [1024, 4096])
def test_mixing_twice_gives_the_input_back(rotate, size):
    x = normal(2, size)
    between = rotation.signs([4, 2])[:size]
    y = rotate(x, between)
    assert np.allclose(rotate(y, between) / size, x, atol=1e-5)
    lengths = np.linalg.norm(y, axis=1) / size**0.5
    assert np.allclose(lengths, np.linalg.norm(x, axis=1), rtol=1e-5)


@both
def test_mixing_makes_a_single_value_look_normal(rotate):
    x = np.zeros((1, 4096), np.float32)
    x[0, 77] = 1
    assert (np.abs(rotate(x)) == 1).all()
    y = rotate(x, rotation.signs(3)).astype(np.float64)
    assert (
        abs(float((y**4).mean() / (y**2).mean() ** 2) - 3) < 0.5
    )  # the kurtosis of the normal distribution


@both
def test_mixing_whole_numbers_is_exact(rotate):
    odd = np.arange(-15, 16, 2)
    x = np.random.default_rng(2).choice(odd, (2, 4096)).astype(np.float32)
    between = rotation.signs(9)
    halfway = butterfly(x.astype(np.int64)) * between.astype(np.int64)
    exact = butterfly(halfway)
    assert np.array_equal(rotate(x, between).astype(np.float64) * 64, exact)


@pytest.mark.parametrize("size", [1024, 4096])
@pytest.mark.parametrize("share", [0.002, 0.1, 1])
def test_numpy_and_torch_agree_on_whole_numbers_to_the_sign_of_a_zero(size, share):
    """Few values that are not 0, as the lowest grades have them, cancel to many zeros."""
    random = np.random.default_rng(5)
    x = random.integers(-15, 16, (40, size)).astype(np.float32)
    x[random.random(x.shape) >= share] = 0
    between = rotation.signs(6)[:size]
    assert in_numpy(x).tobytes() == in_torch(x).tobytes()
    assert in_numpy(x, between).tobytes() == in_torch(x, between).tobytes()


@pytest.mark.parametrize(
    ("size", "shapes"),
    [
        (0, []),
        (1, [(1, 512)]),
        (512, [(1, 512)]),
        (513, [(2, 512)]),
        (4096, [(1, 4096)]),
        (4097, [(1, 4096), (1, 512)]),
    ],
)
def test_blocks_hold_every_value_once(size, shapes):
    values = np.arange(1, size + 1, dtype=np.float32)
    blocks = list(rotation.blocks(values, size))
    assert [block.shape for block in blocks] == shapes
    assert sum(block.size for block in blocks) == rotation.padded(size)
    assert sum(len(block) for block in blocks) == rotation.count(size)
    joined = np.concatenate([values[:0], *(block.ravel() for block in blocks)])
    assert np.array_equal(joined[:size], values) and not joined[size:].any()
