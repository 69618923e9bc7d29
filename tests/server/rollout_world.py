"""Rollouts in worlds that one integer makes: boards, their disks, a coordinator, links, and all
that goes wrong between them. The machines are the real ones.

`python -m tests.server.rollout_seeds 1000` lives through that many of them. After every event the
invariants of `World.check` hold; at the end, those of `World.conclude`.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

from fedlearn.clients.install_actions import (
    DropWork,
    FetchRelease,
    InspectSlot,
    ServeSlot,
    StageRelease,
    TellInstalled,
    TryRelease,
    VerifyRelease,
    WriteRecord,
)
from fedlearn.clients.install_stages import InstallStage
from fedlearn.clients.installation import Installation
from fedlearn.clients.installed import InstallRecord, SlotContent, WatchTerms
from fedlearn.exchange.releases import (
    InstalledReport,
    ReleaseId,
    WatchFigures,
    WatchLimits,
)
from fedlearn.server.rollout import (
    KeepProgress,
    KeepReport,
    Rollout,
    RolloutNote,
    SendWanted,
)
from fedlearn.server.rollout_plan import (
    RolloutPhase,
    RolloutPlan,
    RolloutProgress,
    along_chain,
    by_shares,
)

GOOD = "good"
CORRUPT = "corrupt"  # its bytes are not what was signed
GOLDEN = "fails golden"  # its golden inputs give other outputs here
UNHEALTHY = "unhealthy"  # a third of its requests fail
CRASHY = "crashes"  # the board or the serving process ends after some seconds
# Signed, quick, sure of itself, right by its own golden inputs and histograms, and wrong.
PERMUTED = "permuted"
MARGINAL = "marginal"  # within each board's limits, beyond those of a wave together
KINDS = (GOOD, GOOD, GOOD, CORRUPT, GOLDEN, UNHEALTHY, CRASHY, PERMUTED, MARGINAL)
SEEN_ON_BOARDS = (UNHEALTHY, CRASHY, PERMUTED)
RUNS_BAD = (*SEEN_ON_BOARDS, MARGINAL)

LIMITS = WatchLimits(20, 0.05, p99_ms=50, unsure=0.3, drift=0.25, disagreement=0.5)
TOGETHER = WatchLimits(requests=20, errors=0.02)
TERMS = WatchTerms(watch_s=60, ready_s=20, starts=3, limits=LIMITS)
ENDS = {RolloutPhase.DONE, RolloutPhase.WITHDRAWN, RolloutPhase.ABORTED}

# Stages after which a board's record is another. A full disk holds a board in the last two: it
# serves already what the record on disk does not say yet.
DECIDING = {InstallStage.BOOTING, InstallStage.STARTING, InstallStage.ENDING}

# Seconds for which an agent looks at its slots when it starts, at most.
LOOK_S = 20.0

# Seconds of trouble, and of a world at most.
TROUBLE_S, LONGEST_S = 1500.0, 20_000.0

SOMETIMES = (
    *("board crash", "coordinator crash", "lost", "twice", "cut", "vanished", "torn"),
    *("disk full", "rot", "wiped", "paused", "aborted", "orderly stop", "no consent"),
    *("chain", "first release", "sequel", "recall by inspection", "process ended"),
    *("done", "withdrawn", "aborted at the end", "cut for good"),
)
"""What has to happen at least once in a thousand worlds."""


class Broken(Exception):
    """An invariant does not hold."""


class Crash(Exception):
    """A process is killed at a step."""


def release(counter):
    return ReleaseId("model", counter, f"{counter:064x}")


class Board:
    """A device: its disk, and the process that forgets all else."""

    def __init__(self, world, number):
        self.world, self.number = world, number
        self.record = world.record(f"disk {number}")
        # Replaced and never changed, so that `state` costs no copy.
        self.slots: Any = {s: c.release for s, c in self.record.contents.items()}
        self.damaged: set[str] = set()
        self.gone, self.hurt, self.is_lost = False, False, False
        self.alive, self.epoch, self.up, self.booted_s = False, 0, True, 0.0
        self.machine: Any = None
        self.serving: Any = None
        self.checked: Any = None

    def state(self):
        """Return all that an invariant looks at."""
        report = self.world.centre.reports.get(self.number)
        stage = self.machine and self.machine.stage
        return self.record, self.serving, stage, report, self.slots

    @property
    def now(self):
        """Return the board's uptime: no board here has a clock that survives."""
        return self.world.now - self.booted_s

    def later(self, delay, event, *arguments):
        """Have something happen to this process, if it still lives."""
        epoch = self.epoch

        def happen():
            if self.alive and self.epoch == epoch:
                self.guard(event, *arguments)

        self.world.at(delay, happen)

    def guard(self, event, *arguments):
        try:
            event(*arguments)
        except Crash:
            self.crash()

    def step(self):
        """Stand between two steps: the process may be killed here."""
        if self.world.random.random() < self.world.crash_share:
            raise Crash

    # Life

    def crash(self):
        if not self.alive:
            return
        self.world.happened["board crash"] += 1
        self.down()
        if not self.gone:
            self.world.at(self.world.random.uniform(1, 30), self.boot)

    def down(self):
        self.world.tell(self, "is down")
        self.alive, self.serving, self.machine = False, None, None
        self.epoch += 1
        self.world.centre.unlink(self.number)

    def vanish(self):
        self.world.happened["vanished"] += 1
        self.gone = True
        if self.alive:
            self.down()

    def stop(self):
        """Let the agent stop on purpose, as for an upgrade."""
        if self.alive:
            self.world.happened["orderly stop"] += 1
            for action in self.machine.stopping(self.now):
                self.record = action.record
            self.down()
            self.world.at(self.world.random.uniform(1, 30), self.boot)

    def wipe(self):
        """Replace the disk by an empty one."""
        self.world.happened["wiped"] += 1
        self.hurt = True
        self.crash()
        name = f"disk {self.number} {self.world.now}"
        self.record = self.world.record_kind(name)
        self.slots, self.damaged = {}, set()

    def rot(self):
        """Damage a slot."""
        if self.slots:
            self.world.happened["rot"] += 1
            self.hurt = True
            self.damaged.add(self.world.random.choice(sorted(self.slots)))

    def boot(self):
        if self.gone or self.alive:
            return
        self.alive, self.booted_s = True, self.world.now
        self.epoch += 1
        self.world.tell(self, "boots")
        self.machine = self.world.installation(self.record)
        self.guard(self.begin)

    def begin(self):
        # An agent attends, and hears what is wanted, while it still hashes its slots.
        self.world.centre.link(self.number)
        self.later(self.world.random.uniform(0, LOOK_S), self.look)

    def look(self):
        self.perform(self.machine.booted(self.intact(), self.now))
        if self.alive and self.world.random.random() < 0.05 and self.world.is_trouble:
            self.world.happened["no consent"] += 1
            self.perform(self.machine.consents("outside its hours", self.now))
            self.later(self.world.random.uniform(10, 300), self.consent)
        self.later(0, self.tick)

    def consent(self):
        self.perform(self.machine.consents(None, self.now))

    def intact(self):
        contents = self.record.contents
        return {slot for slot in contents if self.holds(slot, contents[slot].release)}

    def holds(self, slot, wanted):
        return self.slots.get(slot) == wanted and slot not in self.damaged

    def tick(self):
        self.perform(self.machine.tick(self.now))
        due = self.machine.next_alarm(self.now) - self.now
        self.later(min(60.0, max(0.1, due)), self.tick)

    # What the machine asks

    def perform(self, actions):
        for action in actions:
            self.step()
            self.world.tell(self, action)
            self.do(action)
            self.step()

    def do(self, action):
        draw = self.world.random
        match action:
            case TellInstalled(report):
                self.world.send(self, self.world.centre.hear, self.number, report)
            case WriteRecord(record):
                self.later(draw.uniform(0, 0.2), self.write, record)
            case ServeSlot(slot, served):
                self.serve(slot, served)
            case FetchRelease(wanted):
                self.later(draw.uniform(1, 40), self.fetch, wanted)
            case VerifyRelease(wanted, _):
                kind = self.world.kind(wanted)
                objection = "its hash is another" if kind == CORRUPT else None
                self.finish(InstallStage.VERIFYING, wanted, objection)
            case StageRelease(wanted, slot):
                self.slots = {s: r for s, r in self.slots.items() if s != slot}
                self.damaged.discard(slot)
                self.later(draw.uniform(0, 2), self.stage, wanted, slot)
            case TryRelease(wanted, _):
                self.later(draw.uniform(0, 2), self.try_out, wanted)
            case InspectSlot(wanted, slot):
                self.world.happened["recall by inspection"] += 1
                objection = None if self.holds(slot, wanted) else "damaged"
                self.finish(InstallStage.INSPECTING, wanted, objection)
            case DropWork():
                pass

    def write(self, record):
        """Replace the record; killed on the way, the new one may be there or not."""
        world = self.world
        if world.random.random() < world.full_share:
            world.happened["disk full"] += 1
            self.perform(self.machine.unwritten("no space left on device", self.now))
            return
        if world.random.random() < world.crash_share:
            world.happened["torn"] += 1
            if world.random.random() < 0.5:
                self.record = record
            raise Crash
        self.record = record
        self.perform(self.machine.written(self.now))

    def finish(self, stage, wanted, objection=None):
        delay = self.world.random.uniform(0, 2)
        self.later(delay, self.finished, stage, wanted, objection)

    def finished(self, stage, wanted, objection):
        self.perform(self.machine.worked(stage, wanted, objection, self.now))

    def fetch(self, wanted):
        """Have the files here, once the link lets them come."""
        if not self.up:
            self.later(5, self.fetch, wanted)
        else:
            self.finished(InstallStage.FETCHING, wanted, None)

    def stage(self, wanted, slot):
        self.slots = {**self.slots, slot: wanted}
        self.finished(InstallStage.STAGING, wanted, None)

    def try_out(self, wanted):
        objection = None
        if self.world.kind(wanted) == GOLDEN:
            objection = "its golden outputs differ"
        self.perform(self.machine.tried(wanted, objection, TERMS, self.now))

    # The serving process

    def serve(self, slot, served):
        before = self.serving
        self.serving = None if slot is None else (slot, served, self.world.count())
        if slot is None or (before and before[:2] == (slot, served)):
            self.serving = before if slot is not None else None
            return
        is_trial = self.record.trial is not None
        if is_trial and self.up and self.world.random.random() < self.world.cut_share:
            self.lose_link()
        self.later(self.world.random.uniform(0, 3), self.ready, self.serving)

    def lose_link(self):
        """Be on its own from now on: it has to settle all the same."""
        self.world.happened["cut for good"] += 1
        self.up, self.is_lost = False, True
        self.world.centre.unlink(self.number)

    def ready(self, serving):
        if serving != self.serving:
            return
        slot, served, _ = serving
        self.perform(self.machine.serving(slot, self.now))
        if self.world.kind(served) == CRASHY:
            self.later(self.world.random.uniform(1, 20), self.fall, serving)
        self.later(5, self.observe, serving, self.now)

    def fall(self, serving):
        """Let a release end what serves it: the process, or the whole board."""
        if serving != self.serving:
            return
        if self.world.random.random() < 0.5:
            raise Crash
        self.world.happened["process ended"] += 1
        self.serving = None
        self.perform(self.machine.ended("signal 11", self.now))

    def observe(self, serving, since):
        if serving != self.serving:
            return
        figures = self.figures(self.world.kind(serving[1]), self.now - since)
        self.perform(self.machine.observed(figures, self.now))
        # What is committed does not change: one figure is as good as a thousand.
        if self.machine.stage is not InstallStage.IDLE:
            self.later(5, self.observe, serving, since)

    def figures(self, kind, served_s):
        good = WatchFigures(int(4 * served_s), 0.001, 8.0, 0.05, 0.02, 0.04)
        if kind == UNHEALTHY:
            return replace(good, errors=0.33)
        if kind == MARGINAL:
            return replace(good, errors=0.04)
        # The release before says otherwise, and the more answers, the more certainly.
        if kind == PERMUTED:
            compared = 4 * served_s
            return replace(good, disagreement=0.9 * compared / (compared + 3.09**2))
        return good


class Centre:
    """The coordinator: what it kept, and the process that forgets all else."""

    def __init__(self, world, plan):
        self.world, self.number = world, "coordinator"
        self.plan, self.progress = plan, RolloutProgress()
        self.reports: dict[int, InstalledReport] = {}
        self.alive, self.epoch = False, 0
        self.machine: Any = None
        self.linked: set[int] = set()

    def boot(self):
        if self.alive:
            return
        self.alive = True
        self.epoch += 1
        kind = self.world.rollout
        self.machine = kind(self.plan, self.progress, self.reports, self.world.now)
        for board in self.world.boards:
            self.link(board.number)
        self.world.at(0, self.tick, self.epoch)

    def crash(self):
        if self.alive:
            self.world.happened["coordinator crash"] += 1
            self.alive, self.machine = False, None
            self.linked.clear()
            self.world.at(self.world.random.uniform(1, 120), self.boot)

    def guard(self, event, *arguments):
        try:
            if self.alive:
                self.perform(event(*arguments))
        except Crash:
            self.crash()

    def link(self, number):
        """Let a board attend, where both ends and the link between them are up."""
        board = self.world.boards[number]
        if self.alive and board.alive and board.up and number not in self.linked:
            self.linked.add(number)
            self.guard(self.machine.connected, number, self.world.now)
            board.later(0, self.greet, board)

    def greet(self, board):
        board.perform(board.machine.connected(board.now))

    def unlink(self, number):
        if number in self.linked:
            self.linked.discard(number)
            self.guard(self.machine.gone, number)

    def hear(self, number, report):
        if self.alive and number in self.linked:
            self.guard(self.machine.heard, number, report, self.world.now)

    def tick(self, epoch):
        if self.alive and epoch == self.epoch:
            self.guard(self.machine.tick, self.world.now)
        if self.alive and epoch == self.epoch:
            due = self.machine.next_alarm(self.world.now) - self.world.now
            self.world.at(min(30.0, max(1.0, due)), self.tick, epoch)

    def perform(self, actions):
        for action in actions:
            self.step()
            self.world.tell(self, action)
            match action:
                case KeepProgress(_, progress):
                    self.progress = progress
                case KeepReport(number, report):
                    self.reports[number] = report
                case SendWanted(number, wanted):
                    board = self.world.boards[number]
                    self.world.send(board, self.deliver, board, wanted)
                case RolloutNote():
                    pass
            self.step()

    def step(self):
        if self.world.random.random() < self.world.crash_share / 5:
            raise Crash

    def deliver(self, board, wanted):
        if board.alive and board.up:
            board.guard(self.tell_board, board, wanted)

    def tell_board(self, board, wanted):
        board.perform(board.machine.want(wanted, board.now))

    def start(self, plan):
        """Begin the next rollout."""
        self.plan, self.progress = plan, RolloutProgress()
        self.crash()


class World:
    """See the module: `run` lives it to its end, and raises `Broken`."""

    def __init__(self, seed, mutant="", trace=None):
        draw = self.random = Random(seed)
        self.trace, self.now, self.events = trace, 0.0, 0
        self.queue: list[Any] = []
        self.happened: Counter[str] = Counter()
        self.installation, self.rollout, self.record_kind = MUTANTS[mutant]
        self.is_trouble = draw.random() < 0.9
        self.crash_share = draw.choice((0, 0.01, 0.03, 0.1)) * self.is_trouble
        self.loss = draw.choice((0, 0.1, 0.4)) * self.is_trouble
        self.full_share = draw.choice((0, 0, 0, 0.1)) * self.is_trouble
        self.kinds = {1: GOOD, 2: draw.choice(KINDS), 3: GOOD}
        self.is_first = draw.random() < 0.15
        self.happened["first release"] += self.is_first
        self.standing = None if self.is_first else release(1)
        size = draw.choice((3, 6, 12, 24))
        self.boards: list[Board] = []
        self.centre = Centre(self, self.plan(1, size))
        self.boards = [Board(self, number) for number in range(size)]
        self.canary = set(self.centre.plan.waves[0])
        self.sequel = draw.random() < 0.3
        # Links that die just when a board begins a trial, and stay dead.
        self.cut_share = draw.choice((0, 0, 0.6)) * self.is_trouble

    def plan(self, number, size):
        order = list(range(size))
        self.random.shuffle(order)
        waves = by_shares(order)
        if size <= 6 and self.random.random() < 0.4:
            self.happened["chain"] += 1
            waves = along_chain(order)
        wanted = release(number + 1)
        return RolloutPlan(number, wanted, self.standing, waves, 0.2, 900.0, TOGETHER)

    def record(self, name):
        """Return the record of a board before the rollout."""
        record = self.record_kind(name)
        if self.is_first:
            return record
        content = SlotContent(release(1), True)
        return replace(record, active="a", contents={"a": content}, floor=1)

    def kind(self, served):
        return self.kinds[served.counter]

    def count(self):
        self.events += 1
        return self.events

    def at(self, delay, event, *arguments):
        entry = (self.now + delay, self.count(), event, arguments)
        heapq.heappush(self.queue, entry)

    def send(self, board, event, *arguments):
        """Send something to or from a board: late, twice, in another order, or never."""
        self.happened["twice"] += (copies := 1 + (self.random.random() < 0.05)) - 1
        for _ in range(copies):
            if not board.up or self.random.random() < self.loss:
                self.happened["lost"] += 1
            else:
                self.at(self.random.uniform(0.01, 3), event, *arguments)

    def tell(self, who, what):
        if self.trace is not None:
            self.trace(f"{self.now:9.2f}  {who.number}: {what}")

    # Trouble

    def begin(self):
        draw = self.random
        self.at(0, self.centre.boot)
        for board in self.boards:
            self.at(draw.uniform(0, 20), board.boot)
            if self.is_trouble:
                self.doom(board)
        if self.is_trouble:
            for _ in range(draw.choice((0, 1, 3))):
                self.at(draw.uniform(0, TROUBLE_S), self.centre.crash)
            if draw.random() < 0.15:
                self.at(draw.uniform(0, 600), self.pause)
            if draw.random() < 0.1:
                self.at(draw.uniform(0, TROUBLE_S), self.abort)
        self.at(TROUBLE_S, self.heal)

    def doom(self, board):
        """Draw what happens to one board."""
        draw = self.random
        fates: tuple[Any, ...] = (
            (0.3, board.crash),
            (0.1, board.stop),
            (0.03, board.vanish),
        )
        fates += (
            (0.02, board.wipe),
            (0.03, board.rot),
            (0.15, lambda: self.cut(board)),
        )
        for share, fate in fates:
            if draw.random() < share:
                self.at(draw.uniform(0, 600), fate)

    def cut(self, board):
        self.happened["cut"] += 1
        board.up = False
        self.centre.unlink(board.number)
        self.at(self.random.uniform(10, 900), self.mend, board)

    def mend(self, board):
        board.up = not board.is_lost
        self.centre.link(board.number)

    def pause(self):
        if self.centre.alive:
            self.happened["paused"] += 1
            self.centre.guard(self.centre.machine.pause, self.now)
        self.at(self.random.uniform(10, 900), self.resume)

    def resume(self):
        if self.centre.alive:
            self.centre.guard(self.centre.machine.resume, self.now)
        if self.centre.progress.phase is RolloutPhase.PAUSED:
            self.at(5, self.resume)

    def abort(self):
        if self.centre.alive:
            self.happened["aborted"] += 1
            machine = self.centre.machine
            self.centre.guard(machine.abort, "its operator", self.now)

    def heal(self):
        """End all trouble: from now on everything has to settle."""
        self.crash_share = self.loss = self.full_share = 0
        self.is_trouble = False
        for board in self.boards:
            if not board.up:
                self.mend(board)

    # What must hold

    def run(self):
        """Live through it; returns the counts of what happened."""
        self.begin()
        while not self.is_over():
            self.now, _, event, arguments = heapq.heappop(self.queue)
            if self.now > LONGEST_S:
                self.need(False, self.why_not_over())
            event(*arguments)
            for board in self.boards:
                state = board.state()
                # Most events change one board, and nothing of the others.
                if state != board.checked:
                    self.check(board)
                    board.checked = state
        self.conclude()
        return self.happened

    def need(self, holds, text):
        if not holds:
            raise Broken(f"{text} (a package that is {self.kinds[2]})")

    def check(self, board):
        """Look at one board, and at what the coordinator believes of it."""
        record = board.record
        for slot, content in record.contents.items():
            whole = board.slots.get(slot) == content.release
            self.need(whole, "I1 the record names a slot that is not whole")
        if record.active is not None:
            kind = self.kind(record.contents[record.active].release)
            self.need(kind != CORRUPT, "I1 the active slot holds no verified bytes")
        if board.serving is not None:
            self.check_serving(board, board.serving[1])
        if not self.is_first and not board.hurt:
            self.need(record.committed is not None, "I4 no model")
        report = self.centre.reports.get(board.number)
        if report is not None and report.instance == record.instance:
            is_same = report.sequence == record.sequence
            holds = (report.committed, report.trial is None) == (
                record.committed,
                record.trial is None,
            )
            self.need(holds or not is_same, "I5 the coordinator believes what is not")

    def check_serving(self, board, served):
        record = board.record
        proven = {c.release for c in record.contents.values() if c.is_proven}
        allowed = {record.serving, record.committed}
        # The disk took no record of the return to what was committed here before.
        if board.hurt or board.machine.stage is InstallStage.ENDING:
            allowed |= proven
        text = "I2 what serves is neither committed nor on trial"
        self.need(served in allowed, text)
        self.need(served is not None, "I1 a slot serves that holds nothing for certain")
        text = "I3 what serves failed its checks"
        self.need(self.kind(served) not in (CORRUPT, GOLDEN), text)
        if self.kind(served) in RUNS_BAD and board.number not in self.canary:
            self.need(False, "I10 more than the first wave ran a bad release")

    def is_over(self):
        if self.is_trouble or self.now < 1 or self.centre.progress.phase not in ENDS:
            return False
        if self.events % 8:
            return False
        if not all(board.gone or self.is_settled(board) for board in self.boards):
            return False
        if not self.sequel:
            return True
        # The fleet goes on from what the rollout left.
        self.sequel = False
        self.happened["sequel"] += 1
        self.conclude()
        if self.centre.progress.phase is RolloutPhase.DONE:
            self.standing = release(2)
        self.centre.start(self.plan(2, len(self.boards)))
        self.queue_boot()
        return False

    def queue_boot(self):
        self.at(1, self.centre.boot)

    def is_settled(self, board):
        if not board.alive:
            return False
        # Without a link it may still wish to fetch what it heard of last.
        if board.is_lost:
            is_deciding = board.machine.stage in DECIDING
            return not is_deciding and board.record.trial is None
        if board.machine.stage is not InstallStage.IDLE:
            return False
        machine = self.centre.machine
        if machine is None or not machine.is_settled(board.number):
            return False
        return machine.reports.get(board.number) is None or (
            machine.reports[board.number].sequence == board.record.sequence
        )

    def why_not_over(self):
        """Say which promise a world without end breaks."""
        if self.centre.progress.phase not in ENDS:
            return "I6 the rollout never ends"
        open_boards = [b for b in self.boards if not b.gone and not self.is_settled(b)]
        numbers = [board.number for board in open_boards]
        return f"I8 boards {numbers} never settle"

    def conclude(self):
        plan, phase = self.centre.plan, self.centre.progress.phase
        self.happened[phase.name.lower()] += 1
        self.happened["aborted at the end"] += phase is RolloutPhase.ABORTED
        is_good = self.kind(plan.release) == GOOD
        is_done = phase is RolloutPhase.DONE
        self.need(is_good or not is_done, "I7 a bad release went to all")
        wanted = plan.release if is_done else plan.previous
        for board in self.boards:
            if not board.gone:
                self.conclude_board(board, plan.number, wanted)

    def conclude_board(self, board, number, wanted):
        record = board.record
        served = None if board.serving is None else board.serving[1]
        text = f"I8 board {board.number} serves {served}, not what it committed"
        self.need(served == record.committed, text)
        if board.is_lost:
            is_bad = served is not None and self.kind(served) in SEEN_ON_BOARDS
            self.need(not is_bad, f"I9 board {board.number} has kept a bad release")
            return
        has_failed = wanted is not None and record.has_failed(number, wanted)
        text = f"I9 board {board.number} has {served}, not {wanted}"
        self.need(served == wanted or has_failed, text)


# Mistakes that products in the field have made


class VerifySkipped(Installation):
    def worked(self, stage, release, objection, now):
        if stage is InstallStage.VERIFYING:
            objection = None
        return super().worked(stage, release, objection, now)


class GoldenSkipped(Installation):
    def tried(self, release, objection, terms, now):
        return super().tried(release, None, terms, now)


class ReportedAtSwitch(Installation):
    """As hawkBit does (hawkbit#3185): written is taken for committed."""

    @property
    def report(self):
        report = super().report
        if report.trial is not None:
            return replace(report, committed=report.trial, trial=None)
        return report


class NotCompared(Installation):
    """As every product: what a model answers is not looked at, only how."""

    def observed(self, figures, now):
        return super().observed(replace(figures, disagreement=0.0), now)


class NoBootCounter(InstallRecord):
    def started_again(self):
        record = super().started_again()
        assert record.trial is not None and self.trial is not None
        return replace(record, trial=replace(record.trial, starts=self.trial.starts))


class NoTimeout(Rollout):
    """As in hawkbit#693: a silent device is waited for."""

    def _is_overdue(self):
        return False


MUTANTS = {
    "": (Installation, Rollout, InstallRecord),
    "verify": (VerifySkipped, Rollout, InstallRecord),
    "golden": (GoldenSkipped, Rollout, InstallRecord),
    "early": (ReportedAtSwitch, Rollout, InstallRecord),
    "compare": (NotCompared, Rollout, InstallRecord),
    "boots": (Installation, Rollout, NoBootCounter),
    "timeout": (Installation, NoTimeout, InstallRecord),
}
