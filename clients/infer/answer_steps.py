"""Steps between a model's answers and where they go: a short list, by name, without any code.

"softmax,average:5,threshold:0.6" is three of them. Each takes answers in their order and
returns those that go on. Legend: K classes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from fedlearn.clients.infer.labels import highest
from fedlearn.errors import UserError
from fedlearn.names import nearest

Answer = dict[str, Any]
Labels = Sequence[str]

NAMES = ("softmax", "average", "threshold", "top", "count")

# Answers that an average may hold, of up to some thousand scores each.
_MOST_AVERAGED = 1000


class AnswerStep(Protocol):
    """A step that changes answers, or leaves some out."""

    def apply(self, answers: list[Answer], labels: Labels) -> list[Answer]:
        """Return what goes on; labels: the names of the K classes, if they are known."""


class Softmax:
    """Scores become shares that add up to 1."""

    def apply(self, answers: list[Answer], labels: Labels) -> list[Answer]:
        """Return the answers with shares in the place of scores."""
        for answer in answers:
            scores = scores_of(answer)
            if scores is not None:
                powers = np.exp(scores - scores.max())
                judge(answer, powers / powers.sum(), labels)
        return answers


class Average:
    """Scores become their mean over the last answers of the same version."""

    def __init__(self, count: int) -> None:
        """count: answers that a mean is over, this one included."""
        self._recent: deque[tuple[str, np.ndarray[Any, Any]]] = deque(maxlen=count)

    def apply(self, answers: list[Answer], labels: Labels) -> list[Answer]:
        """Return the answers with means in the place of scores."""
        for answer in answers:
            scores = scores_of(answer)
            if scores is None:
                continue
            form = (answer["version"], len(scores))
            # Scores of two models have no common mean.
            if self._recent and form != (self._recent[-1][0], len(self._recent[-1][1])):
                self._recent.clear()
            self._recent.append((answer["version"], scores))
            recent = np.stack([others for _, others in self._recent])
            judge(answer, recent.mean(axis=0), labels)
        return answers


class Threshold:
    """Answers whose score is lower are left out; those that could not be computed go on."""

    def __init__(self, score: float) -> None:
        """score: the lowest that goes on."""
        self._score = score

    def apply(self, answers: list[Answer], labels: Labels) -> list[Answer]:
        """Return the answers that are sure enough."""
        return [
            answer
            for answer in answers
            if "error" in answer or answer.get("score", math.inf) >= self._score
        ]


class Highest:
    """The highest classes with their scores, in the place of all outputs."""

    def __init__(self, count: int) -> None:
        """count: classes of each answer."""
        self._count = count

    def apply(self, answers: list[Answer], labels: Labels) -> list[Answer]:
        """Return the answers with ``top``, a list of labels and scores, without ``output``."""
        for answer in answers:
            scores = scores_of(answer)
            if scores is None:
                continue
            indices = highest(scores[None], self._count)[0].tolist()
            answer["top"] = [
                {"label": label_of(index, labels), "score": scores[index].item()}
                for index in indices
            ]
            del answer["output"]
        return answers


def scores_of(answer: Answer) -> np.ndarray[Any, Any] | None:
    """Return an answer's scores (K,) float64; None: it has no classes."""
    if "label" not in answer or "output" not in answer:
        return None
    return np.array(answer["output"], np.float64)


def judge(answer: Answer, scores: np.ndarray[Any, Any], labels: Labels) -> None:
    """Write other scores (K,) into an answer, and what they say."""
    index = int(highest(scores[None], 1)[0, 0])
    answer["label"] = label_of(index, labels)
    answer["score"] = scores[index].item()
    answer["output"] = scores.tolist()


def label_of(index: int, labels: Labels) -> str:
    """Return a class's name, or its number where it has none."""
    return labels[index] if index < len(labels) else str(index)


def parsed(text: str) -> tuple[list[AnswerStep], float]:
    """Return the steps of "NAME:VALUE,…", and the seconds of "count", 0 without it.

    Raises UserError for a step that is none.
    """
    steps: list[AnswerStep] = []
    count_s = 0.0
    for part in text.split(","):
        name, _, value = part.partition(":")
        if name not in NAMES:
            raise UserError(
                f"--post {part}: there is no step '{name}'.{nearest(name, NAMES)} "
                f"Known: {', '.join(NAMES)}"
            )
        if count_s:
            raise UserError(f"--post {text}: nothing comes after count")
        if name == "count":
            count_s = _number(part, value.removesuffix("s"), 1, 86400)
        else:
            steps.append(_step(part, name, value))
    return steps, count_s


def _step(part: str, name: str, value: str) -> AnswerStep:
    if name == "softmax":
        if value:
            raise UserError(f"--post {part}: softmax has no value")
        return Softmax()
    if name == "threshold":
        return Threshold(_number(part, value, -math.inf, math.inf))
    count = int(_number(part, value, 1, _MOST_AVERAGED))
    return Average(count) if name == "average" else Highest(count)


def _number(part: str, value: str, smallest: float, largest: float) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not smallest <= number <= largest or math.isinf(number):
        limits = "" if math.isinf(smallest) else f" from {smallest} to {largest}"
        name = part.partition(":")[0]
        raise UserError(f"--post {part}: give {name}:NUMBER{limits}")
    return number
