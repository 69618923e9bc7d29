"""Bodies decoded, and digests made, by what docs/wire.md says alone, one value at a time:
the page is complete, and true.
"""

import hashlib
from math import ceil, frexp, log2, prod

import numpy as np
import pytest

from fedlearn.arrays import Sparse
from fedlearn.codec import Context, codec
from fedlearn.codec.graded import _FRACTIONS
from fedlearn.wire import digest
from tests.wire.corpus import values

MODELS = {
    "small": ((40, 30), (30,), (7, 5, 3), (), (9, 8)),
    "no matrix": ((2500,), (3, 3)),
    "blocks of 4,096": ((300, 230), (300,)),
}
GROUPS = {grade: 2 ** (13 - grade) for grade in range(1, 12)} | {
    12: 8,
    13: 1,
    14: 1,
    15: 1,
}
WIDTHS = {grade: 14 - grade for grade in range(1, 12)} | {12: 8, 13: 2, 14: 3, 15: 4}


def signs(seed, count):
    drawn = np.random.PCG64(seed).random_raw(64).astype("<u8").tobytes()
    return np.array(
        [2 * (byte >> bit & 1) - 1 for byte in drawn for bit in range(7, -1, -1)][
            :count
        ],
        np.float64,
    )


def hadamard(vector):
    if vector.size == 1:
        return vector
    upper, lower = (
        hadamard(vector[: vector.size // 2]),
        hadamard(vector[vector.size // 2 :]),
    )
    return np.concatenate([upper + lower, upper - lower])


def eight(byte):
    if byte < 128:
        minus = [byte >> k & 1 for k in range(7)]
        return [1 - 2 * m for m in [*minus, sum(minus) % 2]]
    out, p, q, s = [0] * 8, byte - 128 >> 4, byte >> 1 & 7, byte & 1
    out[p] = (3 if p == q else 2) * (1 - 2 * s)
    if p != q:
        out[q] = out[p] if p < q else -out[p]
    return out


def block_of(grade, symbols, size):
    group, width = GROUPS[grade], WIDTHS[grade]
    out, groups = np.zeros(size), size // group
    for g, symbol in enumerate(symbols):
        if grade <= 11:
            out[g + groups * (symbol >> 1)] = 1 - 2 * (symbol & 1)
        elif grade == 12:
            out[g::groups] = eight(symbol)
        else:
            out[g] = 2 * symbol + 1 - 2**width
    return out


def falling(keys):
    coarse = np.array(keys, np.float64).view(np.int64) >> 47
    return sorted(range(len(keys)), key=lambda i: -int(coarse[i]))


def tiles_by_movement(shapes, moved):
    """Return, tile by tile, the places of its 64 values; None for a zero."""
    start = 0
    tiles, keys = [], []
    loose: list[int] = []
    loose_keys: list[float] = []
    for shape in shapes:
        rows = shape[0] if len(shape) > 1 else 1
        columns = prod(shape) // rows
        m = moved[start : start + rows * columns].reshape(rows, columns)
        p = min(
            24 - ceil(log2(max(rows, columns))) - frexp(float(np.abs(m).max()))[1], 126
        )
        whole = np.abs(np.rint(m.astype(np.float64) * 2.0**p))
        r, c = whole.sum(axis=1), whole.sum(axis=0)
        w = 2.0**-p / max(r.sum(), 1)
        up = [-(-n // 8) * 8 for n in (rows, columns)]
        if len(shape) > 1 and up[0] * up[1] <= 1.13 * rows * columns:
            by_row, by_column = (
                sorted(range(rows), key=lambda i: -r[i]),
                sorted(range(columns), key=lambda j: -c[j]),
            )
            for top in range(0, rows, 8):
                for left in range(0, columns, 8):
                    i, j = (
                        (by_row[top : top + 8] + [None] * 8)[:8],
                        (by_column[left : left + 8] + [None] * 8)[:8],
                    )
                    tiles.append(
                        [
                            None if a is None or b is None else start + a * columns + b
                            for a in i
                            for b in j
                        ]
                    )
                    keys.append(
                        (
                            r[by_row[top : top + 8]].sum()
                            * c[by_column[left : left + 8]].sum()
                        )
                        * (w / 64)
                    )
        else:
            loose += range(start, start + rows * columns)
            loose_keys += [(a * b) * w for a in r for b in c]
        start += rows * columns
    order = falling(loose_keys)
    for at in range(0, len(order), 64):
        tiles.append(([loose[i] for i in order[at : at + 64]] + [None] * 64)[:64])
        keys.append(loose_keys[order[at]])
    return [tiles[i] for i in falling(keys)]


def decoded(body, seed, shapes, moved):
    size = sum(map(prod, shapes))
    block = 4096 if size > 65_536 else 1024
    head = int.from_bytes(body[:2], "little", signed=True)
    places = (
        [place for tile in tiles_by_movement(shapes, moved) for place in tile]
        if head % 2
        else list(range(size))
    )
    count = -(-len(places) // block)
    places += [None] * (count * block - len(places))
    half = -(-count // 2)
    grades = [body[2 + i // 2] >> 4 * (i % 2) & 15 for i in range(count)]
    below = dict(
        zip([i for i in range(count) if grades[i]], body[2 + half :], strict=False)
    )
    bits, at = "".join(f"{byte:08b}" for byte in body[2 + half + len(below) :]), 0
    out, first, second = (
        np.zeros(size, np.float32),
        signs(seed, block),
        signs([seed, 2], block),
    )
    for i in sorted(below, key=lambda i: grades[i]):
        width, groups = WIDTHS[grades[i]], block // GROUPS[grades[i]]
        symbols = [
            int(bits[at + width * g : at + width * (g + 1)], 2) for g in range(groups)
        ]
        at += width * groups
        step = head // 2 - below[i]
        scale = np.ldexp(_FRACTIONS[step % 8], step // 8)
        rotated = hadamard(
            second * hadamard(block_of(grades[i], symbols, block)) / block**0.5
        )
        told = first.astype(np.float32) * (rotated.astype(np.float32) * scale)
        for place, value in zip(places[i * block : (i + 1) * block], told, strict=True):
            if place is not None:
                out[place] = value
    assert set(bits[at:]) <= {"0"} and len(bits) - at < 8
    return out


def found_by(text, body, context):
    back = codec(text).decode(body, 9, context)
    assert isinstance(back, np.ndarray)
    return back.tobytes()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "text", ["uvq(0.05)", "uvq(2)", "cvq(0.1)", "cvq(1,1)", "cvq(4)"]
)
@pytest.mark.parametrize("known", [False, True])
def test_graded_blocks_are_as_the_page_says(text, model, known):
    shapes = MODELS[model]
    size = sum(map(prod, shapes))
    uneven = (
        4.0 ** -(np.arange(size) % 10) if known else np.ones(size)
    )  # columns unlike one another; blocks as they stand alike
    moved, sent = (
        (values(size, seed, 2.0**-20) * uneven).astype(np.float32) for seed in (3, 4)
    )
    context = Context(shapes, moved if known else None)
    body = codec(text).encode(sent, 9, context)
    assert known == body[0] % 2  # whether the order is tested too
    assert found_by(text, body, context) == decoded(body, 9, shapes, moved).tobytes()


def test_one_bit_blocks_are_as_the_page_says():
    sent = values(5000, 4)
    body = codec("eden1").encode(sent, 9, Context(((5000,),)))
    scales, bits = (
        np.frombuffer(body, "<f4", 3),
        np.unpackbits(np.frombuffer(body, np.uint8, offset=12)),
    )
    found = [
        signs(9, b) * scale * hadamard(2.0 * part - 1)
        for scale, part, b in zip(
            scales, np.split(bits, [4096, 4608]), (4096, 512, 512), strict=True
        )
    ]
    assert np.concatenate(found)[:5000].astype(np.float32).tobytes() == found_by(
        "eden1", body, Context(((5000,),))
    )


def test_a_digest_is_as_the_page_says():
    sent = values(5000, 4).astype("<f4")
    factors = [int(raw) | 1 for raw in np.random.PCG64(2_605_361).random_raw(1024)]
    rows = [[int(x) for x in row] for row in sent[:4096].view("<u8").reshape(2, 1024)]
    hashes = [
        sum(a * x for a, x in zip(factors, row, strict=True)) % 2**64 for row in rows
    ]
    told = (
        b"".join(h.to_bytes(8, "little") for h in hashes)
        + sent[4096:].tobytes()
        + (5000).to_bytes(8, "little")
    )
    assert digest(sent) == hashlib.sha256(told).digest()[:8]


def test_random_places_are_as_the_page_says():
    decoded = codec("randk(0.3)+raw32").decode(
        np.ones(31, "<f4").tobytes(), 9, Context(((103,),))
    )
    drawn = [int(raw) >> 11 for raw in np.random.PCG64([9, 31]).random_raw(31)]
    edges = [i * 103 // 31 for i in range(32)]
    assert isinstance(decoded, Sparse)
    assert decoded.indices.tolist() == [
        a + (u * (b - a) >> 53)
        for u, a, b in zip(drawn, edges, edges[1:], strict=False)
    ]
