"""The rotation: orthogonal, and exact on whole numbers."""

import numpy as np
import pytest
import torch

from fedlearn.codec import rotation


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


def test_equals_the_readable_twin():
    x = torch.randn(3, 512, generator=torch.Generator().manual_seed(0))
    assert np.allclose(
        rotation.transform(x).numpy(), x.numpy() @ hadamard(512), atol=1e-4
    )


@pytest.mark.parametrize("size", [512, 4096])
def test_twice_gives_the_input_back_and_energy_stays(size):
    x = torch.randn(2, size, generator=torch.Generator().manual_seed(1))
    y = rotation.transform(x)
    assert torch.allclose(rotation.transform(y) / size, x, atol=1e-5)
    assert torch.allclose(y.norm(dim=1) / size**0.5, x.norm(dim=1), rtol=1e-5)


def test_whole_numbers_are_exact_in_any_order_of_additions():
    x = torch.from_numpy(
        np.random.default_rng(2).integers(-15, 16, (4, 4096)).astype(np.float32)
    )
    assert np.array_equal(
        rotation.transform(x).numpy(),
        butterfly(x.numpy().astype(np.int64)).astype(np.float32),
    )


@pytest.mark.parametrize("size", [1024, 4096])
def test_mixing_twice_gives_the_input_back(size):
    x = torch.randn(2, size, generator=torch.Generator().manual_seed(1))
    between = rotation.signs([4, 2])[:size]
    y = rotation.mix(x, between)
    assert torch.allclose(rotation.mix(y, between) / size, x, atol=1e-5)
    assert torch.allclose(y.norm(dim=1) / size**0.5, x.norm(dim=1), rtol=1e-5)


def test_mixing_makes_a_single_value_look_normal():
    x = torch.zeros(1, 4096)
    x[0, 77] = 1
    assert (rotation.transform(x).abs() == 1).all()
    y = rotation.mix(x, rotation.signs(3)).double()
    assert (
        abs(float((y**4).mean() / (y**2).mean() ** 2) - 3) < 0.5
    )  # the kurtosis of the normal distribution


def test_mixing_whole_numbers_is_exact():
    x = torch.from_numpy(
        np.random.default_rng(2)
        .choice(np.arange(-15, 16, 2), (2, 4096))
        .astype(np.float32)
    )
    between = rotation.signs(9)
    exact = butterfly(
        butterfly(x.numpy().astype(np.int64)) * between.numpy().astype(np.int64)
    )
    assert np.array_equal(rotation.mix(x, between).double().numpy() * 64, exact)


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
    values = torch.arange(1.0, size + 1)
    blocks = list(rotation.blocks(values, size))
    assert [tuple(b.shape) for b in blocks] == shapes
    assert sum(b.numel() for b in blocks) == rotation.padded(size)
    assert sum(len(b) for b in blocks) == rotation.count(size)
    joined = torch.cat([b.reshape(-1) for b in blocks]) if blocks else values
    assert torch.equal(joined[:size], values) and not joined[size:].any()
