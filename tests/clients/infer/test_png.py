"""PNG pictures: every kind that is read, against Pillow, and what is damaged."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from fedlearn.clients.infer import png
from fedlearn.errors import DataError

RANDOM = np.random.default_rng(5)


def picture(mode, shape, smooth=True):
    """Return a picture of a mode; smooth ones make Pillow use every filter."""
    if mode == "1":
        return Image.fromarray(RANDOM.random(shape[:2]) > 0.5)
    values = RANDOM.integers(0, 256, shape, dtype=np.uint8)
    if smooth:
        ramp = np.arange(shape[0])[:, None] * 3 + np.arange(shape[1])[None] * 2
        ramp = ramp.reshape(*ramp.shape, *[1] * (len(shape) - 2))
        values = (ramp + values // 16).astype(np.uint8)
    return Image.fromarray(values, None if mode == "P" else mode)


def saved(image, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "png", **options)
    return stream.getvalue()


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize(
    ("mode", "channels"), [("L", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4)]
)
@pytest.mark.parametrize("size", [(1, 1), (28, 28), (33, 17)])
def test_pictures_are_read_as_pillow_reads_them(mode, channels, size, smooth):
    shape = size if channels == 1 else (*size, channels)
    image = picture(mode, shape, smooth)
    pixels = png.read(saved(image), "a.png")
    np.testing.assert_array_equal(pixels, np.asarray(image).reshape(*size, channels))


@pytest.mark.parametrize("colours", [2, 4, 16, 200])
def test_palettes_and_few_bits(colours):
    image = picture("RGB", (21, 13, 3)).quantize(colours)
    bits = {2: 1, 4: 2, 16: 4, 200: 8}[colours]
    pixels = png.read(saved(image, bits=bits), "a.png")
    np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")))
    image = picture("1", (9, 11))
    np.testing.assert_array_equal(
        png.read(saved(image), "a.png")[..., 0], 255 * np.asarray(image)
    )


def test_every_filter_was_met():
    """A smooth picture in colours has lines of all five filters."""
    import zlib

    image = picture("RGB", (200, 200, 3))
    data = saved(image)
    chunks = dict(png._chunks(data))
    lines = zlib.decompress(
        b"".join(part for kind, part in png._chunks(data) if kind == b"IDAT")
    )
    assert chunks[b"IHDR"][8:10] == b"\x08\x02"
    kinds = set(lines[:: 1 + 3 * 200])
    # Those that Pillow does not choose are tried by hand.
    for kind in {0, 1, 2, 3, 4} - kinds:
        line = bytes([kind]) + bytes(range(3, 33))
        rows = png._unfiltered(np.frombuffer(line * 3, np.uint8).reshape(3, -1), 3)
        assert rows.shape == (3, 30)
    np.testing.assert_array_equal(png.read(data, "a"), np.asarray(image))


def test_average_and_paeth_by_hand():
    lines = np.array([[0, 10, 20], [3, 1, 1], [4, 1, 1]], np.uint8)
    # Average: 1 + 10//2 = 6, 1 + (6 + 20)//2 = 14. Paeth: 1 + 6; then 1 + 14.
    assert png._unfiltered(lines, 1).tolist() == [[10, 20], [6, 14], [7, 15]]


def test_a_damaged_picture_is_an_error_and_never_a_crash():
    draw = random.Random(2)
    data = saved(picture("RGB", (8, 8, 3)))
    refused = 0
    for _ in range(3000):
        damaged = bytearray(data)
        for _ in range(draw.randrange(1, 4)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        damaged = damaged[: draw.randrange(len(damaged) + 1)]
        try:
            png.read(bytes(damaged), "a.png")
        except DataError:
            refused += 1
    assert refused > 2900


def test_a_bomb_is_refused_before_it_is_unpacked():
    image = Image.fromarray(np.zeros((6000, 6000), np.uint8))
    with pytest.raises(DataError, match="6000 x 6000 pixels are too many"):
        png.read(saved(image), "a.png")
    with pytest.raises(DataError, match="16 bits a channel"):
        png.read(saved(Image.fromarray(np.zeros((4, 4), np.uint16))), "a.png")


def test_names_go_as_people_count():
    names = ["10.png", "9.png", "a2.png", "a10.png", "1.png"]
    assert sorted(names, key=png.natural_order) == [
        *("1.png", "9.png", "10.png", "a2.png", "a10.png")
    ]
