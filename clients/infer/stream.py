"""A stream in place of a server: samples as they come, answers to where they are wanted.

The order makes each answer come once: it is stored first, then its sample is noted. After a
crash between the two, what is stored tells which samples are not to be computed again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedlearn.clients.infer import record
from fedlearn.clients.infer.answer_steps import AnswerStep
from fedlearn.clients.infer.arrivals import Arrival, ArrivalSource, Kind
from fedlearn.clients.infer.fitting import SampleForm, form_of
from fedlearn.clients.infer.model import ServedModel, load
from fedlearn.clients.infer.once import answered
from fedlearn.clients.infer.outlets import Outlet
from fedlearn.clients.infer.picture_steps import PictureStep, fitted_to
from fedlearn.clients.infer.samples import NamedSample
from fedlearn.clients.infer.tally import Tally, moment
from fedlearn.errors import DataError, FedlearnError, RunError, one_line, reason_of

# Seconds between two lines of progress.
PROGRESS_S = 10.0

Answer = dict[str, Any]
Say = Callable[[str], None]


@dataclass(frozen=True)
class StreamSettings:
    """What lies between samples and answers.

    batch: samples that are computed together at most. fits: frames of a camera are made as
    large as the model wants them, where ``before`` is empty.
    """

    batch: int = 32
    before: Sequence[PictureStep] = ()
    after: Sequence[AnswerStep] = ()
    fits: bool = False


class WatchedModel:
    """The model of a path, which a record may change while the stream goes on."""

    def __init__(self, path: Path, int8: bool, say: Say) -> None:
        """Load the model; raises what `load` raises."""
        self._path = path
        self._int8 = int8
        self._say = say
        # Before it is read: what changes meanwhile is seen as a change.
        self._stamp = record.stamp(path)
        self.is_asked_again = False
        self.model: ServedModel = self._load()

    def look(self) -> None:
        """Take what the path names now; what cannot be loaded leaves the old version."""
        stamp = (
            record.stamp(self._path) if record.is_record(self._path) else self._stamp
        )
        # A record that is away for a moment is being replaced by hand.
        if (stamp is None or stamp == self._stamp) and not self.is_asked_again:
            return
        self._stamp = stamp
        self.is_asked_again = False
        before = self.model.version
        try:
            self.model = self._load()
            self._say(f"version {self.model.version} answers in the place of {before}")
        except (FedlearnError, OSError, MemoryError) as error:
            self._say(f"version {before} goes on: {one_line(error)}")

    def _load(self) -> ServedModel:
        model = load(record.target(self._path), self._int8)
        # One that takes no samples must not take the place of one that does.
        form_of(model)
        return model


@dataclass
class Stream:
    """One source, one model, one place for answers; `run` is all of it.

    tally: counts in the place of answers. stopping: ends it after the group at hand.
    """

    watched: WatchedModel
    source: ArrivalSource
    outlet: Outlet
    settings: StreamSettings
    say: Say
    stopping: threading.Event
    tally: Tally | None = None
    count: int = 0
    failed: int = 0
    _stored: set[str] = field(default_factory=set)

    def run(self) -> None:
        """Answer until the source is over, or until `stopping`.

        Raises RunError for a disk that takes no more, and what the source raises.
        """
        self._stored = self.outlet.recent(self.source.is_noted)
        if self.tally is not None:
            self._stored |= self.tally.keys
        shown = time.monotonic()
        while not self.stopping.is_set() and not self.source.is_over:
            arrivals = self.source.take(self.settings.batch)
            self.outlet.check()
            self.watched.look()
            try:
                if arrivals:
                    self._take(arrivals)
                self._count(is_end=False)
            except OSError as error:
                raise RunError(
                    f"an answer cannot be stored: {reason_of(error)}"
                ) from None
            if time.monotonic() - shown >= PROGRESS_S:
                shown = time.monotonic()
                self.say(self.described())
        if self.source.is_over:
            self._count(is_end=True)

    def described(self) -> str:
        """Return how the stream does, for a log."""
        facts = [f"{self.count} samples, version {self.watched.model.version}"]
        if self.failed:
            facts.append(f"{self.failed} could not be computed")
        missed = getattr(self.source, "missed", 0)
        if missed:
            facts.append(f"{missed} frames were passed over")
        facts.append(self.outlet.describe())
        return ", ".join(fact for fact in facts if fact)

    def _take(self, arrivals: Sequence[Arrival]) -> None:
        """Answer a group, store it, and only then note its samples."""
        fresh = [arrival for arrival in arrivals if not self._is_stored(arrival)]
        if fresh:
            self._store(fresh)
        self.source.note(arrivals)
        self.count += len(fresh)

    def _is_stored(self, arrival: Arrival) -> bool:
        """Tell whether a sample's answer is stored already, by the run before."""
        if not arrival.may_be_again:
            return False
        # Once: with a key from a message's content, another one may have it later.
        if arrival.key in self._stored:
            self._stored.discard(arrival.key)
            return True
        return self.source.is_noted(arrival.key)

    def _store(self, arrivals: Sequence[Arrival]) -> None:
        model = self.watched.model
        answers = self._answers(model, arrivals)
        # A step may leave some out, so each carries its key along.
        keys = {
            id(answer): item.key for answer, item in zip(answers, arrivals, strict=True)
        }
        self.failed += sum("error" in answer for answer in answers)
        for step in self.settings.after:
            answers = step.apply(answers, model.labels)
        if self.tally is not None:
            self.tally.add(answers, keys.values(), model.version)
        elif answers:
            self.outlet.put([(keys[id(answer)], answer) for answer in answers])

    def _answers(self, model: ServedModel, arrivals: Sequence[Arrival]) -> list[Answer]:
        """Return the answers to samples, in their order, with the time that they came."""
        form = form_of(model)
        before = self.settings.before
        if not before and self.settings.fits:
            before = fitted_to(form)
        samples = [_sample(arrival, form, before) for arrival in arrivals]
        answers: list[Answer] = []
        for group in answered(model, iter(samples), self.settings.batch):
            answers += group
        for answer, arrival in zip(answers, arrivals, strict=True):
            answer["time"] = moment(arrival.time_s)
        return answers

    def _count(self, is_end: bool) -> None:
        """Store the counts of a window that is over."""
        tally = self.tally
        if tally is None or tally.is_empty or not (is_end or tally.is_due()):
            return
        key, answer = tally.answer()
        # Stored, and not begun anew, when the run before was killed.
        if key not in self._stored:
            self.outlet.put([(key, answer)])
        tally.begin()


def _sample(
    arrival: Arrival, form: SampleForm, before: Sequence[PictureStep]
) -> NamedSample:
    """Return a sample as the model takes it; of one that cannot be read, why."""
    try:
        array = arrival.read()
        if arrival.kind is Kind.NUMBERS:
            return NamedSample(arrival.name, form.of_numbers(array))
        if arrival.kind is Kind.PICTURE:
            for step in before:
                array = step(array)
            array = form.of_picture(array)
        return NamedSample(arrival.name, form.checked(array, arrival.name))
    except (DataError, OSError) as error:
        return NamedSample(arrival.name, None, reason_of(error))
