"""The codes of a block: the nearest vector, the energy they catch, bits without gaps."""

import numpy as np
import pytest

from fedlearn.codec import eights, groups
from fedlearn.codec.groups import GRADES

RANDOM = np.random.default_rng(0)
NORMAL = RANDOM.normal(size=(64, 4096)).astype(np.float32)
USED = range(1, len(GRADES))


@pytest.mark.parametrize("grade", USED)
def test_captures_are_those_of_normal_values(grade):
    symbols, inner, squares = groups.choose(NORMAL, GRADES[grade])
    decoded = groups.expand(symbols, GRADES[grade], 4096)
    assert np.allclose(inner, (NORMAL * decoded).sum(axis=1), rtol=1e-4)
    assert np.allclose(squares, np.square(decoded).sum(axis=1))
    caught = inner.sum(dtype=np.float64) ** 2 / (
        squares.sum(dtype=np.float64) * np.square(NORMAL, dtype=np.float64).sum()
    )
    assert caught == pytest.approx(
        GRADES[grade].capture, rel=4 / symbols.size**0.5 + 1e-3
    )


@pytest.mark.parametrize("grade", USED)
def test_every_symbol_decodes_to_whole_numbers_and_fits_its_width(grade):
    g = GRADES[grade]
    symbols, _, _ = groups.choose(NORMAL[:3], g)
    assert symbols.shape == (3, 4096 // g.group) and symbols.max() < 2**g.width
    every = np.resize(
        np.arange(2**g.width, dtype=np.uint16),
        (2**g.width // (4096 // g.group) + 1, 4096 // g.group),
    )
    decoded = groups.expand(every, g, 4096)
    assert np.array_equal(decoded, np.rint(decoded)) and np.abs(decoded).max() <= 15


def test_largest_finds_the_largest_of_each_group():
    symbols, _, _ = groups.choose(NORMAL[:2], GRADES[8])  # M = 32, G = 128
    assert GRADES[8].group == 32
    for block, row in zip(NORMAL[:2], symbols, strict=True):
        for g, symbol in enumerate(row.tolist()):
            group = block[g::128]
            place, negative = symbol >> 1, symbol & 1
            assert abs(group[place]) >= np.abs(group).max() * (1 - 2**-10)
            assert (group[place] < 0) == bool(negative)


def test_eights_are_256_vectors_and_the_nearest_is_found():
    table = eights.vectors(np.arange(256, dtype=np.uint16)[None]).reshape(8, 256).T
    assert len(np.unique(table, axis=0)) == 256
    lattice = table[np.square(table).sum(axis=1) == 8]
    assert len(lattice) == 240
    assert set(np.unique(lattice @ lattice.T)) == {
        -8,
        -4,
        0,
        4,
        8,
    }  # at least 60 degrees apart: E8's 240 neighbours
    values = NORMAL[:1].reshape(8, 512).T
    fits = values @ (table / np.linalg.norm(table, axis=1, keepdims=True)).T
    chosen = eights.nearest(NORMAL[:1])[0]
    assert np.allclose(fits[np.arange(512), chosen], fits.max(axis=1), atol=1e-5)


def test_bits_stand_without_gaps_highest_first():
    parts = [
        (np.array([5, 1], np.uint16), 3),
        (np.array([4097], np.uint16), 13),
        (np.array([2, 3], np.uint16), 2),
    ]
    text = "101" + "001" + "1000000000001" + "10" + "11"
    want = int(text.ljust(24, "0"), 2).to_bytes(3, "big")
    assert groups.pack(parts) == want
    assert [s.tolist() for s in groups.unpack(want, [(2, 3), (1, 13), (2, 2)])] == [
        [5, 1],
        [4097],
        [2, 3],
    ]


@pytest.mark.parametrize("width", range(1, 14))
@pytest.mark.parametrize("count", [0, 1, 7, 64])
def test_packing_and_unpacking_agree(width, count):
    symbols = RANDOM.integers(0, 2**width, count).astype(np.uint16)
    packed = groups.pack([(symbols[:1], width), (symbols[1:], width)])
    assert len(packed) == (count * width + 7) // 8
    assert np.array_equal(groups.unpack(packed, [(count, width)])[0], symbols)
