"""Clients of a device's model: they ask without a pause, and note who answered and how."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import RunError, reason_of

# Seconds between two questions of one client: 25 a second.
PAUSE_S = 0.04

_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class DeviceAnswer:
    """One answer of a device.

    at_s: of `time.monotonic`. version: of the release that answered. is_right: whether the
    label is the sample's own. status: of HTTP; 200 is an answer.
    """

    at_s: float
    device: int
    version: str
    is_right: bool
    status: int


@dataclass(frozen=True)
class QuestionSet:
    """Samples (N, …) float32 that are asked one after another, and the names of their classes."""

    samples: NDArray[np.float32]
    labels: Sequence[str]


class Asker:
    """A thread that asks one device, from `start` to `stop`."""

    def __init__(
        self, device: int, port: int, model: str, questions: QuestionSet
    ) -> None:
        """Take whom to ask, and what. model: the name that the device serves it by."""
        self.device = device
        self.port = port
        self.answers: list[DeviceAnswer] = []
        self._model = model
        self._questions = questions
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._trouble: BaseException | None = None

    def start(self) -> None:
        """Begin to ask; the device answers already."""
        self._thread.start()

    def change(self, questions: QuestionSet) -> None:
        """Ask something else from now on."""
        self._questions = questions

    def stop(self) -> None:
        """Ask no more. Raises RunError where the device broke a connection off."""
        self._is_over.set()
        # It may never have started: the scenario failed before.
        if self._thread.ident is not None:
            self._thread.join()
        if self._trouble is not None:
            reason = reason_of(self._trouble)
            raise RunError(f"device {self.device} left a question unanswered: {reason}")

    def status(self) -> Mapping[str, Any]:
        """Return the device's page of status; {} while nothing serves there."""
        return status(self.port)

    def _run(self) -> None:
        try:
            with contextlib.closing(_connection(self.port)) as connection:
                for turn in itertools.count():
                    if self._is_over.wait(PAUSE_S):
                        return
                    self._ask(connection, turn)
        # Told by `stop`: an exception of a thread reaches nobody.
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            self._trouble = error

    def _ask(self, connection: http.client.HTTPConnection, turn: int) -> None:
        questions = self._questions
        place = turn % len(questions.samples)
        body = _question(questions.samples[place])
        connection.request("POST", f"/v2/models/{self._model}/infer", body)
        reply = connection.getresponse()
        value = json.loads(reply.read())
        version = ""
        label = ""
        if reply.status == http.HTTPStatus.OK:
            version = value["model_version"]
            # The protocol's class extension: score, index and name in one text.
            label = value["outputs"][0]["data"][0].split(":", 2)[2]
        is_right = label == questions.labels[place]
        now = time.monotonic()
        self.answers.append(
            DeviceAnswer(now, self.device, version, is_right, reply.status)
        )


def status(port: int) -> Mapping[str, Any]:
    """Return the page of status of what serves at a port of this machine; {} for nothing."""
    connection = _connection(port)
    try:
        connection.request("GET", "/status")
        value: dict[str, Any] = json.loads(connection.getresponse().read())
        return value
    # A server that starts is asked again.
    except (OSError, http.client.HTTPException, ValueError):
        return {}
    finally:
        connection.close()


def accuracy(answers: Sequence[DeviceAnswer]) -> float:
    """Return the share of answers that are right; NaN for none."""
    if not answers:
        return float("nan")
    return sum(answer.is_right for answer in answers) / len(answers)


def _connection(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)


def _question(sample: NDArray[np.float32]) -> str:
    """Return a request for the label of one sample, by the Open Inference Protocol."""
    entry = {
        "name": "input",
        "datatype": "FP32",
        "shape": [1, *sample.shape],
        "data": [float(value) for value in sample.reshape(-1)],
    }
    output = {"name": "output", "parameters": {"classification": 1}}
    return json.dumps({"inputs": [entry], "outputs": [output]})
