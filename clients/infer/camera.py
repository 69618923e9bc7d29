"""A camera as a source: the latest frame wins, and a model that is slow misses the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fedlearn.clients.infer.arrivals import Arrival, Kind
from fedlearn.clients.infer.pictures import opencv, planes
from fedlearn.clients.infer.tensors import Array
from fedlearn.errors import UserError

# Seconds that a frame is waited for, before the stream looks whether it should end.
WAIT_S = 0.5

# Seconds between two tries to open a camera that has gone: doubled up to the second.
_RETRY_S = 1.0
_LONGEST_RETRY_S = 30.0

# Frames a second of a file that does not say it.
_RATE = 25.0

Say = Callable[[str], None]
Frame = tuple[int, Array]


class LatestFrame:
    """The newest frame of a camera: a thread reads them all, whoever asks gets the last.

    A camera that is not read hands out old frames: drivers and OpenCV hold some.
    """

    def __init__(self, read: Callable[[], Array | None]) -> None:
        """read: returns the next frame, or None at the end of all."""
        self._read = read
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._is_stopping = False
        self.count = 0
        self.missed = 0
        self.is_over = False
        self._thread = threading.Thread(
            target=self._work, name="fedlearn-camera", daemon=True
        )
        self._thread.start()

    def take(self, wait_s: float) -> Frame | None:
        """Return the newest frame with its number; None: none came for ``wait_s``."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._frame is not None or self.is_over, wait_s
            )
            frame = self._frame
            self._frame = None
            return frame

    def stop(self) -> bool:
        """End the thread once its frame has come; returns whether it has ended."""
        self._is_stopping = True
        # A driver that hangs must not hang the whole stream.
        self._thread.join(5.0)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while not self._is_stopping:
            array = self._read()
            with self._changed:
                if array is None:
                    self.is_over = True
                    self._changed.notify()
                    return
                self.count += 1
                self.missed += self._frame is not None
                self._frame = (self.count, array)
                self._changed.notify()


class Camera:
    """A camera of this machine, by its number, which comes back when it was away."""

    def __init__(
        self, number: int, every_s: float, stopping: threading.Event, say: Say
    ) -> None:
        """Open a camera; every_s: seconds between two samples, 0: as fast as they come.

        Raises UserError without OpenCV, and where there is no such camera.
        """
        self._cv2 = opencv("a camera")
        self._number = number
        self._every_s = every_s
        self._next = 0.0
        self._stopping = stopping
        self._say = say
        self._capture = self._cv2.VideoCapture(number)
        if not self._capture.isOpened():
            raise UserError(
                f"camera:{number} cannot be opened; is there a /dev/video{number}, and may "
                "this user read it? (sudo usermod -aG video USER)"
            )
        self._latest = LatestFrame(self._frame)

    @property
    def is_over(self) -> bool:
        """Tell whether nothing more will come."""
        return self._latest.is_over

    @property
    def missed(self) -> int:
        """Return how many frames came and went."""
        return self._latest.missed

    def take(self, most: int) -> list[Arrival]:
        """Return the newest frame, if it is time for one."""
        pause_s = self._next - time.monotonic()
        if pause_s > 0 and self._stopping.wait(min(pause_s, WAIT_S)):
            return []
        if pause_s > WAIT_S:
            return []
        frame = self._latest.take(WAIT_S)
        if frame is None:
            return []
        self._next = max(self._next + self._every_s, time.monotonic())
        return [arrival_of(*frame)]

    def note(self, arrivals: Sequence[Arrival]) -> None:
        """Nothing is to be noted: a frame never comes again."""

    def is_noted(self, key: str) -> bool:
        """Tell that nothing that was answered comes again."""
        return True

    def close(self) -> None:
        """Let go of the camera."""
        # Not under a thread that still reads it.
        if self._latest.stop():
            self._capture.release()

    def _frame(self) -> Array | None:
        """Return the next frame; a camera that has gone is opened again."""
        pause_s = _RETRY_S
        while not self._stopping.is_set():
            is_frame, frame = self._capture.read()
            if is_frame:
                return planes(frame)
            if pause_s == _RETRY_S:
                self._say(f"camera:{self._number} gives no frames; it is opened again")
            self._capture.release()
            self._stopping.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_RETRY_S)
            self._capture = self._cv2.VideoCapture(self._number)
        return None


class Film:
    """A video file, or numbered pictures such as ``frame-%03d.png``, in place of a camera.

    Every frame is a sample, in order; with a pace, those that lie so far apart in the film.
    """

    def __init__(self, path: Path, every_s: float) -> None:
        """Open a file; every_s: seconds of the film between two samples, 0: every frame.

        Raises UserError without OpenCV, and for a file that has no frames.
        """
        cv2 = opencv("a video")
        self._capture: Any = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise UserError(f"'{path}' is no video, and no pattern of pictures")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self._step = max(1, round(every_s * (rate if rate > 0 else _RATE)))
        self._count = 0
        self.is_over = False

    def take(self, most: int) -> list[Arrival]:
        """Return the next frame of the film."""
        while True:
            is_frame, frame = self._capture.read()
            if not is_frame:
                self.is_over = True
                return []
            self._count += 1
            if (self._count - 1) % self._step == 0:
                return [arrival_of(self._count, planes(frame))]

    def note(self, arrivals: Sequence[Arrival]) -> None:
        """Nothing is noted: a film begins anew."""

    def is_noted(self, key: str) -> bool:
        """Tell that nothing of another run is left out."""
        return True

    def close(self) -> None:
        """Close the file."""
        self._capture.release()


def arrival_of(number: int, picture: Array) -> Arrival:
    """Return a frame (3, H, W) as a sample, named by its number, from 1."""
    return Arrival(
        f"frame-{number}",
        "",
        time.time(),
        Kind.PICTURE,
        lambda: picture,
        may_be_again=False,
    )
