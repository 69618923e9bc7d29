"""Augmentation: what may change changes, per sample, and the generator alone decides how."""

from __future__ import annotations

import pytest
import torch

from fedlearn.clients.augment import KINDS, augment
from fedlearn.errors import ConfigError

SHAPES = {"image": (6, 2, 8, 8), "series": (6, 5, 3)}
CASES = [(modality, kind) for modality, kinds in KINDS.items() for kind in kinds]


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("modality", "kind"), CASES)
def test_the_generator_alone_decides(modality: str, kind: str) -> None:
    x = torch.rand(SHAPES[modality], generator=random(9))
    kept, state = x.clone(), torch.get_rng_state()
    one, two, other = (augment(kind, x, random(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert one.shape == x.shape and one.dtype == x.dtype
    assert torch.equal(x, kept) and torch.equal(torch.get_rng_state(), state)


def test_flip_mirrors_about_half_of_the_samples() -> None:
    x = torch.tensor([1.0, 2.0, 3.0]).repeat(1000, 1, 2, 1)
    rows = augment("flip", x, random())[:, 0].tolist()
    mirrored = [row == [[3, 2, 1], [3, 2, 1]] for row in rows]
    assert all(
        m or row == [[1, 2, 3], [1, 2, 3]]
        for m, row in zip(mirrored, rows, strict=True)
    )
    assert 430 < sum(mirrored) < 570  # more than 4 standard deviations either way


@pytest.mark.parametrize(("side", "pad"), [(8, 2), (28, 2), (32, 4)])
def test_shift_moves_a_dot_by_up_to_the_padding(side: int, pad: int) -> None:
    x = torch.zeros(800, 2, side, side)
    x[:, 0, 4, 5] = 1.0
    x[:, 1, 4, 5] = 0.5
    moved = augment("shift", x, random())
    assert moved.sum(dim=(1, 2, 3)).tolist() == [1.5] * 800
    assert torch.equal(moved[:, 1], moved[:, 0] / 2)  # both channels move together
    _, rows, columns = moved[:, 0].nonzero(as_tuple=True)
    assert (
        sorted(set((rows - 4).tolist()))
        == sorted(set((columns - 5).tolist()))
        == list(range(-pad, pad + 1))
    )
    assert (
        len({*zip(rows.tolist(), columns.tolist(), strict=True)}) == (2 * pad + 1) ** 2
    )


def test_shift_fills_with_zeros() -> None:
    lost = augment("shift", torch.ones(50, 1, 4, 6), random()).mean(dim=(1, 2, 3))
    assert lost.max() == 1 and lost.min() == pytest.approx((4 - 2) * (6 - 2) / 24)


def test_jitter_adds_small_independent_noise() -> None:
    noise = augment("jitter", torch.full((50, 40, 10), 3.0), random()) - 3
    assert float(noise.mean()) == pytest.approx(0, abs=0.002)
    assert float(noise.std()) == pytest.approx(0.05, rel=0.03)


def test_scale_is_one_factor_per_sample_and_channel() -> None:
    x = torch.rand(2000, 4, 3, generator=random()) + 1
    factors = augment("scale", x, random(1)) / x
    torch.testing.assert_close(factors, factors[:, :1].expand_as(factors))
    assert float(factors[:, 0].mean()) == pytest.approx(1, abs=0.005)
    assert float(factors[:, 0].std()) == pytest.approx(0.1, rel=0.05)


def test_two_parts_are_applied_in_order() -> None:
    x = torch.rand(5, 1, 8, 8, generator=random(9))
    one = random(3)
    assert torch.equal(
        augment("flip-shift", x, random(3)),
        augment("shift", augment("flip", x, one), one),
    )


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown augmentation 'flips'\. Did you mean 'flip'"
    ):
        augment("flips", torch.zeros(1, 1, 2, 2), random())
