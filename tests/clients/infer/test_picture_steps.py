"""Steps before a model: each against a slow twin, or numbers that a reader can check."""

import numpy as np
import pytest

from fedlearn.clients.infer.fitting import SampleForm
from fedlearn.clients.infer.picture_steps import (
    cropped,
    fitted_to,
    gray,
    normalised,
    parsed,
    resized,
)
from fedlearn.errors import DataError, UserError


def weighed(picture, height, width):
    """`resized`'s twin: every old pixel with its share in every new one."""

    def shares(old, new):
        table = np.zeros((new, old))
        for place in range(new):
            begin, end = place * old / new, (place + 1) * old / new
            for pixel in range(old):
                table[place, pixel] = max(0, min(end, pixel + 1) - max(begin, pixel))
        return table / table.sum(axis=1, keepdims=True)

    rows = shares(picture.shape[1], height)
    columns = shares(picture.shape[2], width)
    return rows @ picture @ columns.T


@pytest.mark.parametrize(
    ("old", "new"),
    [((8, 8), (4, 4)), ((7, 5), (3, 2)), ((3, 2), (7, 5)), ((1, 9), (4, 1))],
)
def test_resizing_is_the_mean_of_what_a_pixel_covers(old, new):
    values = np.random.default_rng(1).integers(0, 256, (3, *old))
    expected = weighed(values.astype(float), *new)
    pixels = resized(values.astype(np.uint8), *new)
    assert pixels.dtype == np.uint8 and pixels.shape == (3, *new)
    # Half-way values may be rounded to either side.
    assert np.abs(pixels - expected).max() <= 0.5 + 1e-6
    floats = resized(values.astype(np.float32), *new)
    assert floats.dtype == np.float32
    np.testing.assert_allclose(floats, expected, rtol=1e-5, atol=1e-3)


def test_a_white_picture_stays_white():
    white = np.full((1, 1080, 1920), 255, np.uint8)
    assert (resized(white, 97, 31) == 255).all()


def test_cropping_takes_the_middle():
    picture = np.arange(20, dtype=np.uint8).reshape(1, 4, 5)
    assert cropped(picture, 2, 3).tolist() == [[[6, 7, 8], [11, 12, 13]]]
    with pytest.raises(DataError, match="crop:5x5: the picture is 4x5"):
        cropped(picture, 5, 5)


def test_gray_and_normalised():
    picture = np.array([[[255]], [[0]], [[0]]], np.uint8)
    assert gray(picture).tolist() == [[[76]]]
    assert gray(picture[:1]).tolist() == [[[255]]]
    assert normalised(picture, 127.5, 127.5).ravel().tolist() == [1.0, -1.0, -1.0]


def test_steps_by_name():
    picture = np.full((3, 10, 20), 51, np.uint8)
    for step in parsed("gray,resize:4x8,crop:2x2,normalise:0/255"):
        picture = step(picture)
    assert picture.shape == (1, 2, 2) and picture.dtype == np.float32
    assert picture.ravel() == pytest.approx([0.2] * 4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("blur", "there is no step 'blur'"),
        ("resize", "give HEIGHTxWIDTH"),
        ("resize:0x4", "give HEIGHTxWIDTH"),
        ("crop:5000x5", "of 4096 at most"),
        ("gray:1", "gray has no value"),
        ("normalise:1", "normalise:MEAN/DEVIATION"),
        ("normalise:1/0", "normalise:MEAN/DEVIATION"),
        ("normalise:nan/1", "normalise:MEAN/DEVIATION"),
        ("gray,", "there is no step ''"),
    ],
)
def test_steps_that_are_none(text, words):
    with pytest.raises(UserError, match=f"^--pre .*{words}"):
        parsed(text)


def test_frames_are_made_fit():
    frame = np.zeros((3, 48, 64), np.uint8)
    for shape in ((1, 28, 28), (3, 32, 40)):
        picture = frame
        for step in fitted_to(SampleForm("x", shape, np.dtype(np.uint8))):
            picture = step(picture)
        assert picture.shape == shape
    assert fitted_to(SampleForm("x", (10,), np.dtype(np.uint8))) == []
