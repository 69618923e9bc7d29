"""Learning again: looks at a fleet, does the step that is due, and writes down what came of it.

What is decided is in `fedlearn.release.learning`; who does it is a `LearnWork`. A process that
is killed anywhere goes on: the record is replaced by one rename, and every step may be done twice.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import IO, Protocol

from fedlearn.errors import FedlearnError, RecordError, UserError, reason_of
from fedlearn.exchange.releases import ReleaseId
from fedlearn.release.learning import (
    FleetSight,
    LearnRecord,
    LearnStep,
    LearnTriggers,
    StepResult,
    TrainedWeights,
    begins,
    begun,
    ended,
    failed,
    followed,
    is_due,
    is_stale,
    trigger,
)
from fedlearn.system import files
from fedlearn.system.failpoints import reach

RECORD_FILE = "learning.json"
_LOCK_FILE = ".lock"


class LearnWork(Protocol):
    """Does what learning takes. Each method may be called again after a crash.

    All raise UserError for what its user has to mend, FedlearnError for what may pass.
    """

    def look(self) -> FleetSight:
        """Return what is seen of the fleet now."""

    def train(self, record: LearnRecord) -> TrainedWeights:
        """Run from the weights of the record's base; a run that began before goes on."""

    def release(self, record: LearnRecord) -> ReleaseId:
        """Make the run's model a signed candidate; one that is there already is that one."""

    def roll_out(self, record: LearnRecord) -> int:
        """Begin the record's rollout, if it has not begun; returns its number."""


class LearnRecords(Protocol):
    """Where the record is; see `RecordFile`."""

    def read(self) -> LearnRecord | None:
        """Return the record, None before the first. Raises RecordError."""

    def write(self, record: LearnRecord) -> None:
        """Replace the record, on disk when the call returns. Raises RecordError."""


class RecordFile:
    """The record on disk, and the lock of the one process that learns."""

    def __init__(self, folder: Path) -> None:
        """Take the folder, made if need be. Raises RecordError."""
        self.path = folder / RECORD_FILE
        self._lock: IO[str]
        try:
            files.make_folder(folder)
            # Held as long as the process.
            self._lock = open(folder / _LOCK_FILE, "w", opener=files.private)  # noqa: SIM115
        except OSError as error:
            text = f"'{folder}' cannot be used: {reason_of(error)}"
            raise RecordError(text) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise RecordError(
                f"another process learns in '{folder}'; wait for it, or end it"
            ) from None

    def close(self) -> None:
        """Let others learn."""
        self._lock.close()

    def read(self) -> LearnRecord | None:
        """Return the record, None before the first. Raises RecordError."""
        return read_record(self.path)

    def write(self, record: LearnRecord) -> None:
        """Replace the record, on disk when the call returns. Raises RecordError."""
        value = {**asdict(record), "step": record.step.name}
        try:
            reach("learn.before-record")
            files.replace(self.path, json.dumps(value, indent=1).encode())
            reach("learn.after-record")
        except OSError as error:
            raise RecordError(
                f"cannot write '{self.path}': {error.strerror or error}"
            ) from None


def read_record(path: Path) -> LearnRecord | None:
    """Return the record in a file, None where there is no file. Raises RecordError."""
    try:
        value = json.loads(path.read_bytes())
        value["step"] = LearnStep[value["step"]]
        for key in ("base", "drifted", "release"):
            if value[key] is not None:
                value[key] = ReleaseId(**value[key])
        return LearnRecord(**value)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(
            f"'{path}' cannot be read: {reason_of(error)}; without it learning begins anew"
        ) from None


class Learner:
    """See the module. ``say`` takes a line for people."""

    def __init__(
        self,
        file: LearnRecords,
        work: LearnWork,
        triggers: LearnTriggers,
        gate: float,
        rolls: bool,
        say: Callable[[str], None],
    ) -> None:
        """Take the parts; see `LearnTriggers` and `followed`."""
        self._file = file
        self._work = work
        self._triggers = triggers
        self._gate = gate
        self._rolls = rolls
        self._say = say

    def step(self) -> bool:
        """Do what is due, and return whether anything was.

        Raises UserError for what the user has to mend; the same step is due afterwards.
        """
        sight = self._work.look()
        record = self._file.read()
        if record is None:
            self._file.write(begun(sight))
            return True
        if is_stale(record, sight):
            self._end(record, f"not rolled out: the fleet runs {sight.serving}", sight)
            return True
        cause = trigger(record, self._triggers, sight)
        if cause is not None:
            record = begins(record, cause, sight)
            self._file.write(record)
            self._say(
                f"learning {record.number} begins from {record.base}: {cause.text}"
            )
            return True
        if not is_due(record, sight):
            return False
        self._do(record)
        return True

    def _do(self, record: LearnRecord) -> None:
        """Do the record's step."""
        try:
            result = self._result(record)
        except UserError:
            raise
        except FedlearnError as error:
            reason = reason_of(error)
            self._say(f"learning {record.number}, {record.step.name.lower()}: {reason}")
            self._keep(failed(record, reason, self._now_s()))
            return
        reach("learn.done")
        now_s = self._now_s()
        self._keep(followed(record, result, self._gate, self._rolls, now_s))

    def _result(self, record: LearnRecord) -> StepResult:
        match record.step:
            case LearnStep.TRAINING:
                return self._work.train(record)
            case LearnStep.RELEASING:
                return self._work.release(record)
            case _:
                return self._work.roll_out(record)

    def _now_s(self) -> float:
        # By the fleet's clock: the work took its time.
        return self._work.look().now_s

    def _end(self, record: LearnRecord, outcome: str, sight: FleetSight) -> None:
        self._keep(ended(record, outcome, sight.now_s))

    def _keep(self, record: LearnRecord) -> None:
        self._file.write(record)
        if record.step is LearnStep.IDLE:
            self._say(f"learning {record.number} ended: {record.outcome}")


def learn(learner: Learner, is_over: Callable[[], bool], pause_s: float) -> None:
    """Learn until `is_over`, or until KeyboardInterrupt; pause_s: between two looks."""
    while not is_over():
        if not learner.step():
            time.sleep(pause_s)
