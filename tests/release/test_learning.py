"""Learning again: what starts it, and that a process which is killed anywhere acts once."""

import random
from dataclasses import replace

import pytest

from fedlearn.errors import RecordError, RunError, UserError
from fedlearn.exchange.releases import ReleaseId
from fedlearn.release.learner import RECORD_FILE, Learner, RecordFile, read_record
from fedlearn.release.learning import (
    AGAIN_S,
    TRIES,
    FleetSight,
    LearnRecord,
    LearnStep,
    LearnTriggers,
    TrainedWeights,
    begins,
    begun,
    ended,
    followed,
    is_due,
    is_stale,
    trigger,
)

ONE, TWO, THREE = (ReleaseId("model", n, f"{n:064x}") for n in (1, 2, 3))
TRIGGERS = LearnTriggers(
    every_s=1000.0, samples=500, drift=0.25, share=0.5, rest_s=100.0
)
SIGHT = FleetSight(now_s=0.0, serving=ONE)
IDLE = begun(SIGHT)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"now_s": 99.0, "served": 10**6, "drifts": (9.0,)}, None),
        ({"now_s": 100.0}, None),
        ({"now_s": 100.0, "served": 499}, None),
        ({"now_s": 100.0, "served": 500}, "samples"),
        ({"now_s": 100.0, "drifts": (0.3, 0.1, 0.1)}, None),
        ({"now_s": 100.0, "drifts": (0.3, 0.1)}, "drift"),
        ({"now_s": 100.0, "drifts": (0.25, 0.25)}, None),
        ({"now_s": 999.0}, None),
        ({"now_s": 1000.0}, "time"),
        ({"now_s": 1000.0, "serving": None}, None),
        ({"now_s": 1000.0, "rolling": TWO}, None),
    ],
)
def test_three_triggers_start_a_learning_after_a_rest(changes, kind):
    cause = trigger(IDLE, TRIGGERS, replace(SIGHT, **changes))
    assert (cause and cause.kind) == kind


def test_without_triggers_nothing_begins():
    sight = replace(SIGHT, now_s=1e12, served=10**12, drifts=(1e9,))
    assert trigger(IDLE, LearnTriggers(), sight) is None


def test_the_drift_of_a_release_is_acted_upon_once():
    sight = replace(SIGHT, now_s=100.0, drifts=(0.9,))
    cause = trigger(IDLE, TRIGGERS, sight)
    assert cause is not None
    record = ended(begins(IDLE, cause, sight), "done", 100.0)
    # Its successor waits for a person: the same drift is seen all the time.
    later = replace(sight, now_s=300.0)
    assert trigger(record, TRIGGERS, later) is None
    timed = trigger(record, TRIGGERS, replace(sight, now_s=1100.0))
    assert timed is not None and timed.kind == "time"
    # A learning for another reason forgets it not.
    record = ended(begins(record, timed, replace(sight, now_s=1100.0)), "done", 1100.0)
    assert trigger(record, TRIGGERS, replace(sight, now_s=1300.0)) is None
    successor = replace(sight, now_s=1300.0, serving=TWO)
    again = trigger(record, TRIGGERS, successor)
    assert again is not None and again.kind == "drift"


TRAINING = LearnRecord(4, LearnStep.TRAINING, "why", ONE)


def test_a_model_that_lost_more_than_the_gate_is_not_released():
    worse = followed(TRAINING, TrainedWeights(0.80, 0.79), 0.5, True, 7.0)
    assert (worse.step, worse.ended_s) == (LearnStep.IDLE, 7.0)
    assert worse.outcome == (
        "not released: 80.00 % before, 79.00 % after; 0.5 points may be lost"
    )
    better = followed(TRAINING, TrainedWeights(0.80, 0.796), 0.5, True, 7.0)
    assert better.step is LearnStep.RELEASING


def test_a_candidate_is_rolled_out_where_that_is_wanted():
    releasing = replace(TRAINING, step=LearnStep.RELEASING)
    assert followed(releasing, TWO, 0.5, False, 7.0).outcome == f"{TWO} is a candidate"
    rolling = followed(releasing, TWO, 0.5, True, 7.0)
    assert (rolling.step, rolling.release) == (LearnStep.ROLLING, TWO)
    assert is_due(rolling, SIGHT)
    # Rollouts wait for one another; its own is no other.
    assert not is_due(rolling, replace(SIGHT, rolling=THREE))
    assert is_due(rolling, replace(SIGHT, rolling=TWO))
    assert not is_stale(rolling, SIGHT)
    assert is_stale(rolling, replace(SIGHT, serving=THREE))
    assert followed(rolling, 9, 0.5, True, 8.0).outcome == f"{TWO} is in rollout 9"


# A world with kills


class Killed(BaseException):
    """This process is no more."""


class World:
    """A fleet, a disk and work that can be killed before and after each effect.

    What is done for a number is there once, as folders are.
    """

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.record: LearnRecord | None = None
        self.now_s = 0.0
        self.served = 0
        self.serving = ONE
        self.drift = 0.0
        self.deaths = self.random.choice((0.0, 0.05, 0.3))
        self.failures = self.random.choice((0.0, 0.0, 0.3))
        # Where nothing drifts and nobody asks, time alone remains.
        self.is_calm = self.random.random() < 0.3
        self.runs: dict[int, ReleaseId] = {}
        self.packages: dict[int, ReleaseId] = {}
        self.rollouts: list[ReleaseId] = []
        self.finished: dict[int, int] = {}
        self.begun: list[LearnRecord] = []

    def maybe_die(self):
        if self.random.random() < self.deaths:
            raise Killed

    def maybe_fail(self):
        if self.random.random() < self.failures:
            raise RunError("a cable was pulled")

    # LearnWork

    def look(self):
        return FleetSight(self.now_s, self.serving, self.served, (self.drift,) * 3)

    def train(self, record):
        self.maybe_die()
        assert record.base is not None
        # The run goes on from what it began with.
        assert self.runs.setdefault(record.number, record.base) == record.base
        self.maybe_fail()
        self.maybe_die()
        self.finished[record.number] = self.finished.get(record.number, 0) + 1
        loss = 0.1 if record.number % 5 == 4 else 0.0
        self.now_s += 5.0
        return TrainedWeights(0.8, 0.8 - loss)

    def release(self, record):
        self.maybe_die()
        self.maybe_fail()
        number = record.number
        counter = 1 + len(self.packages) + 1
        made = ReleaseId("model", counter, f"{number:064x}")
        release = self.packages.setdefault(number, made)
        self.maybe_die()
        return release

    def roll_out(self, record):
        self.maybe_die()
        self.maybe_fail()
        if record.release not in self.rollouts:
            self.rollouts.append(record.release)
        self.maybe_die()
        return 1 + self.rollouts.index(record.release)

    # The fleet

    def passes(self):
        """Let some time pass."""
        self.now_s += self.random.choice((1.0, 20.0, 200.0))
        if self.random.random() < 0.5 and self.rollouts:
            # Most rollouts end well.
            self.serving = self.rollouts[-1]
        if self.is_calm:
            return
        self.served += self.random.choice((0, 10, 300))
        self.drift = self.random.choice((0.0, 0.0, 0.9))


class KilledFile:
    """The record of a process that dies around its rename."""

    def __init__(self, world):
        self.world = world

    def read(self):
        return self.world.record

    def write(self, record):
        self.world.maybe_die()
        before = self.world.record
        self.world.record = record
        # Only what is on disk has begun.
        if before is not None and record.number > before.number:
            self.world.begun.append(record)
        self.world.maybe_die()


def learner(world, rolls=True):
    return Learner(KilledFile(world), world, TRIGGERS, 0.5, rolls, lambda text: None)


def live(world, steps):
    """Live through some steps, over as many deaths as there are."""
    machine = learner(world)
    for _ in range(steps):
        world.passes()
        try:
            machine.step()
        except Killed:
            machine = learner(world)
    # The trouble ends: all that is under way comes to its end.
    world.deaths = 0.0
    world.failures = 0.0
    for _ in range(12):
        world.now_s += AGAIN_S + 1
        if world.record is not None and world.record.step is LearnStep.IDLE:
            break
        machine.step()


@pytest.mark.parametrize("seed", range(200))
def test_whatever_is_killed_a_trigger_is_acted_upon_once(seed):
    world = World(seed)
    live(world, 120)
    record = world.record
    assert record is not None and record.step is LearnStep.IDLE
    # Each learning begins once, one after another, and nothing is done without one.
    numbers = [one.number for one in world.begun]
    assert numbers == list(range(1, record.number + 1))
    assert set(world.runs) <= set(numbers)
    assert set(world.packages) <= set(world.finished)
    # A release drifts once, and each sample counts once.
    drifted = [one.base for one in world.begun if " drift " in one.why]
    assert len(set(drifted)) == len(drifted)
    served = [0, *(one.served for one in world.begun)]
    for one, before in zip(world.begun, served, strict=False):
        if "requests" in one.why:
            assert one.served - before >= TRIGGERS.samples
    # What lost accuracy is never released, and a release is rolled out once.
    assert not any(number % 5 == 4 for number in world.packages)
    assert len(set(world.rollouts)) == len(world.rollouts)
    assert set(world.rollouts) <= set(world.packages.values())
    # Each number has a release of its own.
    assert len(set(world.packages.values())) == len(world.packages)


def test_worlds_have_learnings_of_each_kind_kills_and_failures():
    worlds = [World(seed) for seed in range(50)]
    for world in worlds:
        live(world, 120)
    texts = [record.why for world in worlds for record in world.begun]
    for word in (" drift ", "requests", " h since"):
        assert sum(word in text for text in texts) > 20, word
    assert sum(len(world.rollouts) for world in worlds) > 100
    # A run that was finished twice was killed before the record said so.
    assert any(count > 1 for world in worlds for count in world.finished.values())


def due(world):
    """Return a machine whose learning has begun."""
    world.deaths = 0.0
    machine = learner(world)
    machine.step()
    world.now_s = 1000.0
    assert machine.step()
    return machine


def test_what_fails_is_tried_again_and_given_up():
    world = World(0)
    machine = due(world)
    world.failures = 1.0
    for attempt in range(1, TRIES):
        assert machine.step()
        assert world.record is not None and world.record.tries == attempt
        # Not at once.
        assert not machine.step()
        world.now_s += AGAIN_S
    machine.step()
    assert world.record is not None
    assert world.record.step is LearnStep.IDLE
    assert world.record.outcome == "given up after 3 tries: a cable was pulled"


def test_what_its_user_has_to_mend_is_told_and_stays_due(monkeypatch):
    world = World(0)
    machine = due(world)

    def wrong(record):
        raise UserError("mend it")

    monkeypatch.setattr(world, "train", wrong)
    with pytest.raises(UserError, match="mend it"):
        machine.step()
    assert world.record is not None
    assert (world.record.step, world.record.tries) == (LearnStep.TRAINING, 0)


# The record


def test_a_record_is_read_as_it_was_written(tmp_path):
    file = RecordFile(tmp_path)
    assert file.read() is None
    record = replace(TRAINING, release=TWO, drifted=ONE, served=5, outcome="x", tries=1)
    file.write(record)
    assert file.read() == record
    with pytest.raises(RecordError, match="another process learns in"):
        RecordFile(tmp_path)
    file.close()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"step": "SLEEPING"}'])
def test_a_damaged_record_is_named(tmp_path, text):
    (tmp_path / RECORD_FILE).write_text(text)
    with pytest.raises(RecordError, match=r"learning\.json' cannot be read"):
        read_record(tmp_path / RECORD_FILE)
