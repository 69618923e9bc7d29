"""A camera's loop over films: the latest frame wins, and none is taken twice."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from fedlearn.clients.infer import camera, pictures
from fedlearn.clients.infer.camera import Camera, Film, LatestFrame
from fedlearn.commands.infer import main
from fedlearn.errors import DataError, UserError
from tests.clients.infer import graphs

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")

FRAMES = 40


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Frames of 32 x 48 pixels, each of one gray: frame N has 5 N."""
    path = tmp_path_factory.mktemp("film") / "film.avi"
    code = cv2.VideoWriter_fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(path), code, 10.0, (48, 32))
    assert writer.isOpened()
    for number in range(1, FRAMES + 1):
        writer.write(np.full((32, 48, 3), 5 * number, np.uint8))
    writer.release()
    return path


def number_of(picture):
    """Return the frame's number that a picture (3, H, W) shows."""
    return round(float(picture.mean()) / 5)


def taken(source):
    names = []
    while not source.is_over:
        for arrival in source.take(9):
            picture = arrival.read()
            assert picture.shape == (3, 32, 48) and picture.dtype == np.uint8
            assert arrival.name == f"frame-{number_of(picture)}"
            names.append(number_of(picture))
        source.note([])
    source.close()
    return names


def test_every_frame_of_a_film(film):
    assert taken(Film(film, 0.0)) == [*range(1, FRAMES + 1)]


def test_a_film_by_its_own_time(film):
    # Ten frames a second: every fifth.
    assert taken(Film(film, 0.5)) == [*range(1, FRAMES + 1, 5)]


def test_numbered_pictures_are_a_film(tmp_path):
    for number in range(3):
        picture = np.full((32, 48, 3), 5 * (number + 1), np.uint8)
        cv2.imwrite(str(tmp_path / f"{number:03}.png"), picture)
    assert taken(Film(tmp_path / "%03d.png", 0.0)) == [1, 2, 3]


def test_the_latest_frame_wins(film):
    capture = cv2.VideoCapture(str(film))
    may_read = threading.Semaphore(0)
    has_read = threading.Semaphore(0)

    def read():
        may_read.acquire()
        is_frame, frame = capture.read()
        # Of the frame before: it stands ready by now.
        has_read.release()
        return pictures.planes(frame) if is_frame else None

    latest = LatestFrame(read)

    def number(frame):
        assert frame is not None
        return frame[0]

    def let_pass(count):
        may_read.release(count)
        for _ in range(count):
            has_read.acquire()

    # The reader is one frame ahead, so five reads make four frames ready for certain.
    let_pass(5)
    numbers = [number(latest.take(30.0))]
    assert numbers[0] in (4, 5)
    let_pass(10)
    numbers.append(number(latest.take(30.0)))
    assert numbers[1] >= 14
    may_read.release(FRAMES)
    while not latest.is_over:
        frame = latest.take(30.0)
        if frame is not None:
            numbers.append(frame[0])
            assert number_of(frame[1]) == frame[0]
    frame = latest.take(0.0)
    if frame is not None:
        numbers.append(frame[0])
    latest.stop()
    capture.release()
    assert numbers == sorted(set(numbers)) and numbers[-1] == FRAMES
    assert latest.count == FRAMES
    assert latest.missed == FRAMES - len(numbers)


def test_a_camera_that_goes_away_comes_back(film, monkeypatch):
    """The real class and its threads over films: the first one ends, as if unplugged."""
    opened = []

    def plugged(number):
        assert number == 0
        opened.append(cv2.VideoCapture(str(film)))
        return opened[-1]

    class Plugged:
        VideoCapture = staticmethod(plugged)

    monkeypatch.setattr(camera, "opencv", lambda needed: Plugged)
    monkeypatch.setattr(camera, "_RETRY_S", 0.01)
    said: list[str] = []
    stopping = threading.Event()
    source = Camera(0, 0.0, stopping, said.append)
    names: list[str] = []
    while len(opened) < 3 or len(names) < 3:
        names += [arrival.name for arrival in source.take(1)]
    stopping.set()
    source.close()
    assert "camera:0 gives no frames" in said[0]
    assert len(names) == len(set(names))
    assert source.missed == source._latest.count - len(names) - (
        source._latest._frame is not None
    )


def test_a_camera_that_is_not_there_is_one_line(capfd):
    with pytest.raises(UserError, match=r"camera:99 cannot be opened.*/dev/video99"):
        Camera(99, 0.0, threading.Event(), lambda text: None)
    with pytest.raises(UserError, match="is no video"):
        Film(Path("absent.avi"), 0.0)


def test_without_opencv_the_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(UserError, match=r"a camera needs.*'fedlearn\[camera\]'"):
        Camera(0, 0.0, threading.Event(), lambda text: None)


def test_jpeg_pictures(tmp_path):
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 2] = 200
    _, data = cv2.imencode(".jpg", red)
    (tmp_path / "a.jpg").write_bytes(data.tobytes())
    picture = pictures.read_picture(tmp_path / "a.jpg")
    assert picture.shape == (3, 16, 16) and picture[0].mean() > 190 > picture[1].mean()
    with pytest.raises(DataError, match="damaged JPEG"):
        pictures.decoded(data.tobytes()[:30], "b.jpg")


def test_the_command_answers_a_film(film, tmp_path):
    """Frames are made as large as the model wants them, by their mean: the same gray."""
    from onnx import helper

    x = helper.make_tensor_value_info("x", graphs.FLOAT, ["batch", 1, 2, 2])
    y = helper.make_tensor_value_info("y", graphs.FLOAT, ["batch", 4])
    facts = {
        "fedlearn.preprocessing": '{"dtype":"uint8","cast":"float32","divide":255}'
    }
    node = helper.make_node("Flatten", ["x"], ["y"])
    model = graphs._write(tmp_path / "m.onnx", [node], [x], [y], [], facts)
    out = tmp_path / "out"
    code = main(
        [
            *(str(model), "--source", f"camera:{film}", "--to", f"file:{out}"),
            *("--state", str(tmp_path / "s"), "--every", "1", "--quiet"),
        ]
    )
    assert code == 0
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert [answer["sample"] for answer in answers] == [
        *(f"frame-{number}" for number in range(1, FRAMES + 1, 10))
    ]
    for place, answer in enumerate(answers):
        shown = 5 * (10 * place + 1) / 255
        assert answer["score"] == pytest.approx(shown, abs=2 / 255)
