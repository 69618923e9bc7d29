"""How places become bytes: exact round trips, sizes, and decoders that trust nothing."""

import numpy as np
import pytest

from fedlearn.codec import Context
from fedlearn.codec.bits import Reader, deflate, inflate, pack_bits, unpack_bits
from fedlearn.codec.gaps import read_rice, write_rice
from fedlearn.codec.grid import read_grid, write_grid
from fedlearn.codec.pack import AUTO, Pack, gapz, grid, lzma_range, rice
from fedlearn.errors import FormatError
from fedlearn.system.varint import varint

RANDOM = np.random.default_rng(11)
PACKS = {
    "rice": rice(),
    "gapz": gapz(),
    "range": lzma_range(),
    "grid": grid(),
    "auto": AUTO,
}


def places(size, count):
    return np.sort(RANDOM.choice(size, count, replace=False)).astype(np.int64)


SHAPES = ((120, 130), (130,), (20, 12, 3, 3), (7, 50), (3,), (), (0, 5), (9, 9))
SIZE = Context(SHAPES).size
STREAMS = {
    "none": places(SIZE, 0),
    "first": np.array([0]),
    "last": np.array([SIZE - 1]),
    "all": np.arange(SIZE),
    "all but one": np.delete(np.arange(SIZE), 500),
    "half": places(SIZE, SIZE // 2),
    "few": places(SIZE, 40),
    "some": places(SIZE, 900),
    "many": places(SIZE, SIZE * 4 // 5),
    "periodic": np.arange(0, SIZE, 64),
    "one row": np.arange(1300, 1430),
    "one column": np.arange(7, 120 * 130, 130),
    "clustered": np.unique(
        np.concatenate(
            [RANDOM.integers(0, SIZE - 99, 15)[:, None] + np.arange(60)[None]]
        )
    ).astype(np.int64),
}


@pytest.mark.parametrize("width", [0, 1, 3, 4, 7, 8, 9, 13, 16, 24, 31, 32])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 1000])
def test_bits_come_back_and_are_as_few_as_documented(width, count):
    values = RANDOM.integers(0, 2**width, count)
    data = pack_bits(values, width)
    assert len(data) == sum(
        -(-count * min(8, width - w) // 8) for w in range(0, width, 8)
    )
    assert np.array_equal(unpack_bits(Reader(data), count, width), values)
    as_text = (
        "".join(format(v % 2**8, f"0{min(width, 8)}b")[::-1] for v in values)
        if 0 < width <= 8
        else ""
    )
    assert data[: -(-len(as_text) // 8)] == bytes(
        int(as_text[i : i + 8][::-1], 2) for i in range(0, len(as_text), 8)
    )


def test_numbers_come_back():
    for value in (0, 1, 127, 128, 16_383, 16_384, 2**40):
        source = Reader(varint(value) + b"x")
        assert source.number(2**41) == value and source.rest() == b"x"
    with pytest.raises(FormatError, match="at most 5"):
        Reader(varint(6)).number(5)
    with pytest.raises(FormatError, match="does not end"):
        Reader(b"\x80" * 50).number(5)
    with pytest.raises(FormatError, match="ends early"):
        Reader(b"\x80").number(5)


@pytest.mark.parametrize("way", PACKS)
@pytest.mark.parametrize("name", STREAMS)
def test_places_come_back(way, name):
    at, body = STREAMS[name].astype(np.int64), RANDOM.bytes(20)
    data = PACKS[way].write(at, body, Context(SHAPES))
    back, rest = PACKS[way].read(data, SIZE, Context(SHAPES))
    assert np.array_equal(back, at) and back.dtype == np.int64
    assert rest.body(20) == body


def rice_twin(at, width):
    """The slow, readable twin: one gap at a time, as text."""
    before, unary, low = -1, "", ""
    for place in at.tolist():
        gap = place - before - 1
        unary += "0" * (gap >> width) + "1"
        low += format(gap & (2**width - 1), f"0{width}b")[::-1] if width else ""
        before = place
    parts = [
        bytes(int(t[i : i + 8][::-1], 2) for i in range(0, len(t), 8))
        for t in (unary, low)
    ]
    return bytes([width]) + varint(len(parts[0])) + parts[0] + parts[1]


@pytest.mark.parametrize("name", ["first", "few", "some", "periodic", "clustered"])
def test_rice_equals_its_readable_twin_with_the_best_width(name):
    data = write_rice(STREAMS[name], SIZE)
    twins = [
        rice_twin(STREAMS[name], width) for width in range(15)
    ]  # 2**14 is beyond half of the places: wider ones only cost
    assert SIZE < 2**15 and data[0] < 15 and data == twins[data[0]]
    assert len(data) == min(map(len, twins))
    assert np.array_equal(
        read_rice(Reader(data), STREAMS[name].size, SIZE), STREAMS[name]
    )


def entropy_bytes(count, size):
    """Return the order-0 entropy of ``count`` random places, and of as many signs."""
    p = count / size
    return (-size * (p * np.log2(p) + (1 - p) * np.log2(1 - p)) + count) / 8


@pytest.mark.parametrize(
    "share", [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99]
)
def test_random_places_cost_at_most_5_percent_more_than_their_entropy(share):
    shapes = ((1000, 600),)
    at = places(600_000, round(share * 600_000))
    body = RANDOM.bytes(-(-at.size // 8))
    for pack in (rice(), AUTO):
        assert (
            len(pack.write(at, body, Context(shapes)))
            < 1.05 * entropy_bytes(at.size, 600_000) + 8
        )


def test_busy_rows_and_columns_make_places_cheaper():
    """Rows and columns of log-normal activity.

    The grid is 20 % below the entropy, gaps alone are not.
    """
    activity = np.exp(RANDOM.normal(size=(600, 1)) * 1.3) * np.exp(
        RANDOM.normal(size=(1, 500)) * 1.3
    )
    at = np.flatnonzero(
        RANDOM.random((600, 500)) < np.minimum(1, activity / activity.mean() * 0.02)
    ).astype(np.int64)
    context, body = Context(((600, 500),)), RANDOM.bytes(-(-at.size // 8))
    limit = entropy_bytes(at.size, 300_000)
    assert (
        len(grid().write(at, body, context))
        < 0.8 * limit
        < len(rice().write(at, body, context))
    )
    assert len(AUTO.write(at, body, context)) == len(grid().write(at, body, context))


@pytest.mark.parametrize("way", PACKS)
def test_damaged_places_are_refused_or_increase_within_the_model(way):
    context = Context(SHAPES)
    data = PACKS[way].write(STREAMS["some"], b"", context)
    with pytest.raises(FormatError):
        PACKS[way].read(data[:-1], SIZE, context)[1].body(0)
    for _ in range(1500):
        damaged = bytearray(data)
        for _ in range(RANDOM.integers(1, 4)):
            damaged[RANDOM.integers(len(data))] = RANDOM.integers(256)
        try:
            at, _ = PACKS[way].read(bytes(damaged), SIZE, context)
        except FormatError:
            continue
        assert (
            at.size <= SIZE
            and (np.diff(at) > 0).all()
            and (at.size == 0 or 0 <= at[0] <= at[-1] < SIZE)
        )


def test_a_bomb_is_not_inflated():
    bomb = deflate(bytes(10**6))
    assert len(bomb) < 5000
    with pytest.raises(FormatError, match="not of 10 to 20 bytes"):
        inflate(bomb, 10, 20)
    with pytest.raises(FormatError, match="damaged"):
        inflate(b"\xff" * 9, 0, 9)
    with pytest.raises(FormatError, match="not of"):
        inflate(deflate(b"abc") + b"x", 3, 3)


def test_a_way_or_a_count_that_the_codec_does_not_use_is_refused():
    data = rice().write(STREAMS["some"], b"", Context(SHAPES))
    with pytest.raises(FormatError, match="mode 0"):
        gapz().read(data, SIZE, Context(SHAPES))
    with pytest.raises(FormatError, match="at most 899"):
        rice().read(data, 899, Context(SHAPES))
    with pytest.raises(FormatError, match="mode 64"):
        AUTO.read(b"\x40" + data[1:], SIZE, Context(SHAPES))
    with pytest.raises(FormatError, match="mode 16"):
        Pack((0,), shrink=False).read(b"\x10" + data[1:], SIZE, Context(SHAPES))


def test_classes_of_more_places_than_cells_are_refused():
    shapes = ((9, 9),)
    data = bytearray(b"".join(bytes([c]) * 9 for c in (2, 2)))
    for classes, fine in ((bytes(data), True), (bytes([6]) + bytes(data[1:]), False)):
        sent = deflate(classes)
        with pytest.raises(
            FormatError, match="missing" if fine else "more positions than cells"
        ):
            read_grid(Reader(varint(len(sent)) + sent + bytes(50)), 4, shapes)
    assert read_grid(
        Reader(write_grid(np.array([3, 40]), shapes)), 2, shapes
    ).tolist() == [3, 40]
