"""The parties of a simulated world: agents, strangers, and the coordinator with its run;
around the real machines.
"""

from __future__ import annotations

import zlib
from collections import deque
from typing import Any

from fedlearn.clients.agent import attendance
from fedlearn.clients.agent.actions import (
    Begin,
    Certificate,
    Connect,
    Discard,
    Enter,
    Leave,
    SendFrame,
)
from fedlearn.clients.agent.pieces import PieceStage
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.keys import of
from fedlearn.exchange.transfer import packed
from fedlearn.server.actions import DeviceFacts, SendToAgent, StoreAnswer
from fedlearn.server.rounds import Rounds
from fedlearn.server.work import ModelMissing, WorkResult

RUN, LIMIT = b"run", 6000
END = b""
"""What a peer reads last from a connection that the other side ended; no frame is empty here."""


class Broken(AssertionError):
    """Something that must hold does not."""


def holds(fact, *told):
    if not fact:
        raise Broken(" ".join(map(str, told)))


class Link:
    """One connection: two queues that keep their order, until it breaks."""

    def __init__(self, number, peer, certificate, life, latency, since):
        self.number, self.peer, self.life, self.latency, self.since = (
            number,
            peer,
            life,
            latency,
            since,
        )
        self.broken, self.certificate = False, certificate
        self.frames: dict = {"up": deque(), "down": deque()}
        self.free = {"up": 0.0, "down": 0.0}
        self.kept = self.task = None  # earlier frames, which may be sent again


class Party:
    """What both ends share: a clock that only grows, and an alarm."""

    machine: Any

    def __init__(self, world):
        self.world, self.alive, self.ahead, self.armed = world, True, 0.0, float("inf")

    def clock(self):
        return self.world.now + self.ahead

    def arm(self):
        at = max(
            self.world.now, self.due() - self.ahead + (0.001 if self.ahead else 0.0)
        )
        if self.alive and at < self.armed:
            self.armed = at
            self.world.at(at - self.world.now, self.rung, at)

    def due(self):
        raise NotImplementedError

    def perform(self, actions):
        raise NotImplementedError

    def rung(self, at):
        if self.alive and self.armed == at:
            self.armed = float("inf")
            self.perform(self.machine.tick(self.clock()))


class Agent(Party):
    """A client's process and its disk; a crash makes another one with the same disk."""

    def __init__(self, world, client, disk):
        super().__init__(world)
        self.client, self.disk = client, disk  # key → task, answer
        self.ahead = world.random.choice([0.0, world.random.random() * 1e6])
        self.machine = attendance.Attendance(client, "simulated", world.random.random)
        self.link, self.left, self.entered, self.newest = None, False, False, 0
        self.jobs, self.dials = {}, 0
        self.forgot = bool(disk) and world.random.random() < 0.2
        self.again(world.random.random())

    def due(self):
        return self.machine.next_alarm(self.clock())

    def again(self, after):
        self.dials += 1
        self.world.at(after, self.dial, self.dials)

    def dial(self, number):
        if self.alive and not self.left and number == self.dials:
            certificate = self.client if self.world.secure else None
            self.link = self.world.connect(self, certificate)
            if self.link is None:
                self.world.at(self.world.random.random() * 0.1, self.refused, number)
            else:
                self.perform(self.machine.opened(self.clock()))

    def refused(self, number):
        if self.alive and number == self.dials:
            self.perform(self.machine.lost("refused"))

    def receive(self, link, data):
        if not self.alive or link is not self.link:
            return
        if data == END:
            self.link = None
            self.perform(self.machine.lost("ended"))
        else:
            frame = pb.CoordinatorFrame.FromString(data)
            if frame.WhichOneof("frame") == "task":
                self.newest = max(self.newest, frame.task.key.round)
                piece = self.machine.pieces.get(of(frame.task.key))
                if (
                    piece
                    and piece.stage is PieceStage.ANSWERED
                    and piece.text != frame.task.SerializeToString()
                ):  # a repaired task, and a coordinator that forgot the repair
                    self.world.written.discard((self.client, piece.text))
            self.perform(self.machine.heard(frame, self.clock()))

    def perform(self, actions):
        world = self.world
        for action in actions:
            if not self.alive:
                return
            if world.chance(world.kill_agents):
                world.fired["agent_killed_at_action"] += 1
                return self.crash()
            world.tell(f"agent {self.client}", action)
            if isinstance(action, SendFrame):
                self.send(
                    pb.AgentFrame.FromString(packed(action.frame, action.data))
                    if action.data
                    else action.frame
                )
            elif isinstance(action, Begin):
                self.begin(action)
            elif isinstance(action, Discard):
                self.jobs.pop(action.key, None)
                self.disk.pop(action.key, None)
            elif isinstance(action, Enter):
                holds(action.welcome.run == RUN, "another run")
                if not self.entered:
                    self.entered = True
                    for key, (task, answer) in list(self.disk.items()):
                        world.fired["answer_recalled_by_agent"] += 1
                        if self.machine.recall(key, task, answer):
                            world.fired["old_answer_discarded"] += 1
                            del self.disk[key]
            elif isinstance(action, Connect):
                self.close()
                self.again(action.after_s)
            elif isinstance(action, Certificate):
                world.certified(self, action)
            elif isinstance(action, Leave):
                self.close()
                self.left = True
                if not action.done and self.client == world.rogue:
                    world.at(1 + world.random.random(), self.crash)
                else:
                    holds(
                        action.done or self.client in world.doubted,
                        f"agent {self.client} leaves: {action.reason}",
                    )
        self.arm()

    def send(self, frame):
        world = self.world
        if self.link is None:
            return
        if frame.chunk.offset:
            upload = self.machine.pieces[of(frame.chunk.key)].upload
            if not upload.transfer._known:
                world.fired["upload_resumed"] += 1
        frames = [frame]
        if self.client == world.rogue and world.chaos and world.chance(0.3):
            world.fired["rogue_frame"] += 1
            frames = world.wrong(frame, self.client)
        for each in frames:
            chunk = each.WhichOneof("frame") == "chunk"
            world.send(
                self.link,
                "up",
                each.SerializeToString(),
                chunk or each.WhichOneof("frame") in ("heartbeat", "failure", "ack"),
            )
        if self.link is not None and self.link.broken and world.chance(0.3):
            world.at(
                0.01, self.receive, self.link, END
            )  # its machine learns that nobody is there

    def begin(self, action):
        world = self.world
        holds(action.key not in self.jobs, "begun twice", self.client, action.key)
        holds(
            (self.client, action.task.SerializeToString()) not in world.written,
            "done already, and begun again",
            self.client,
            action.key,
        )
        holds(
            action.payloads
            == world.payloads(self.client, action.key, action.task.repair),
            "wrong payloads",
            action.key,
        )
        job = self.jobs[action.key] = object()
        world.at(world.work_s * world.random.random(), self.finish, action, job)

    def finish(self, action, job):
        """Write an answer to this disk, and tell of it a little later."""
        key, task, world = action.key, action.task, self.world
        if not self.alive or self.jobs.get(key) is not job:
            return
        fate, reason = world.fate(self.client, key), None
        if fate == "fail":
            reason = pb.Failure.FAILED
        elif fate == "decline":
            reason = pb.Failure.DECLINED
        elif fate == "hopeless" or (
            not task.repair and (fate == "lack" or self.forgot)
        ):
            reason = pb.Failure.LACKING
        if reason is not None:
            del self.jobs[key]
            self.forgot = False
            return self.perform(self.machine.failed(key, reason, "it broke"))
        answer = world.answer(self.client, key)
        self.disk[key] = task.SerializeToString(deterministic=True), answer
        deadline_s, enough = world.limits[key[0], key[1]]
        if (
            self.client != world.rogue
            and fate in ("ok", "lack", "refused")
            and deadline_s > 99
            and enough > 98
        ):
            world.written.add((self.client, task.SerializeToString()))
        world.at(world.random.random() * 0.05, self.tell, key, job, answer)

    def tell(self, key, job, answer):
        if self.alive and self.jobs.get(key) is job:
            del self.jobs[key]
            self.perform(self.machine.answered(key, answer, self.clock()))

    def close(self):
        if self.link is not None:
            self.world.close(self.link, "up")
            self.link = None

    def crash(self):
        if self.alive:
            self.alive = False
            self.world.tell(f"agent {self.client}", "crashes")
            if self.link is not None:
                (self.world.cut if self.world.chance(0.3) else self.world.close)(
                    self.link, "up"
                )
            self.world.agents.remove(self)
            self.world.at(
                self.world.random.random() * 3,
                self.world.start_agent,
                self.client,
                self.disk,
            )

    def check(self):
        machine = self.machine
        keys = machine.pieces.keys()
        holds(
            all(key[0] >= self.newest for key in keys),
            f"agent {self.client} keeps work of earlier rounds",
            keys,
        )
        holds(uploads(machine) <= at(machine, PieceStage.ANSWERED), "uploads")
        working = at(machine, PieceStage.WORKING)
        holds(working == self.jobs.keys(), "jobs", working, self.jobs)
        holds(
            machine.connected or not requested(machine),
            "a connection's state outlives it",
        )
        holds(
            machine.connected == (self.link is not None), "connected", machine.connected
        )
        link, world = self.link, self.world
        holds(
            machine._welcomed
            or link is None
            or world.now - link.since < machine.patience_s + 0.5,
            "no welcome, and it waits",
        )
        quiet = (
            not world.chaos
            and link
            and not link.broken
            and world.now - link.since > 5
            and self.client not in world.rates
        )
        if (
            quiet
            and machine._welcomed
            and world.coordinator
            and self.client != world.rogue
        ):
            told = {
                k
                for (c, k), result in world.coordinator.results.items()
                if c == self.client and isinstance(result, bytes)
            }
            holds(
                not told & at(machine, PieceStage.ANSWERED)
                or world.now - world.counted_at < 5,
                "an agent does not learn that it is done",
                told,
            )


def at(machine, stage):
    """Return the keys of the agent's pieces of work that are at a stage."""
    return {key for key, piece in machine.pieces.items() if piece.stage is stage}


def uploads(machine):
    """Return the keys of the agent's pieces of work whose answers are on their way."""
    return {key for key, piece in machine.pieces.items() if piece.upload}


def requested(machine):
    """Return the keys of the agent's pieces of work that its connection asked for."""
    return {key for key, piece in machine.pieces.items() if piece.requested}


class Stranger:
    """A peer that says anything: with a certificate of its own, of nobody, or of a client
    that attends already.
    """

    alive = True

    def __init__(self, world, client, certificate, hello):
        self.world, self.client = world, client
        self.link = world.connect(self, certificate)
        if hello and self.link:
            self.say(pb.AgentFrame(hello=pb.Hello(oldest=1, newest=1, client=client)))

    def say(self, frame):
        if self.link:
            self.world.send(
                self.link, "up", frame.SerializeToString() or b"\x7a\x00"
            )  # field 15: of a later version

    def receive(self, link, data):
        if data == END:
            self.link = None

    def close(self):
        if self.link:
            self.world.close(self.link, "up")
            self.link = None


class Coordinator(Party):
    """One life of the coordinator: it begins with what the disk has, and ends with a
    crash, a restart or the run.
    """

    def __init__(self, world):
        super().__init__(world)
        self.machine = Rounds(RUN, "{}", world.clients, LIMIT)
        self.ahead = world.random.choice([0.0, world.random.random() * 1e6])
        self.links, self.round, self.step, self.turn = (
            {},
            len(world.checkpoints) + 1,
            0,
            0,
        )
        (
            self.waiting,
            self.results,
            self.stored,
            self.finished,
            self.most,
            self.claim,
        ) = set(), {}, set(), False, 0, None
        self.recalled = {
            at: data for at, data in world.durable.items() if at[1][0] >= self.round
        }
        for (client, key), data in self.recalled.items():
            self.perform(self.machine.recall(client, key, data))
        world.at(world.think_s * world.random.random(), self.begin)

    def due(self):
        return self.machine.next_alarm()

    # The run: rounds of one or two steps, each a batch

    def begin(self):
        if not self.alive:
            return
        world = self.world
        if self.round > world.rounds:
            self.finished = True
            return self.perform(self.machine.drain(None))
        kind, cohort = world.steps[self.round][self.step]
        if self.turn:
            cohort = [
                c
                for c in cohort
                if isinstance(self.results[c, (self.round, kind, self.turn - 1)], str)
            ]
            world.fired["repeated_round"] += 1
        world.fired["evaluation"] += kind == "evaluate"
        works = []
        deadline_s, enough = world.limits[self.round, kind]
        for client in cohort:
            key = self.round, kind, self.turn
            if (client, key) in self.recalled:
                world.fired["answer_recalled_by_coordinator"] += 1
                self.results[client, key] = self.recalled[client, key]
                self.judge(client, key)
            else:
                works.append(world.work(client, key, False))
        self.waiting = {(work.client, work.key) for work in works}
        world.tell(
            "run", f"round {self.round} {kind} {self.turn}: {sorted(self.waiting)}"
        )
        if works:
            self.perform(
                self.machine.ask(
                    works, self.clock(), deadline_s, min(enough, len(works))
                )
            )
        if self.alive:
            self.perform(self.machine.revoke(world.shut_out()))
        if self.alive and not works:
            self.advance()

    def answered(self, answer):
        """Count an answer, which has to be the client's own, or a failure that has a reason."""
        world, at = self.world, (answer.client, answer.key)
        holds(at in self.waiting, "an answer that nobody waits for", answer)
        self.waiting.remove(at)
        holds(
            (answer.data is None) != (answer.failure is None),
            "an answer is data or a failure",
            answer,
        )
        if answer.data is not None:
            holds(
                world.durable.get(at) == answer.data,
                "an answer that is not on disk",
                answer,
            )
        self.results[at] = answer.failure if answer.data is None else answer.data
        world.counted_at = world.now
        self.judge(*at)
        if not self.waiting:
            world.at(world.random.random() * 0.1, self.advance)

    def judge(self, client, key):
        world, result, fate = (
            self.world,
            self.results[client, key],
            self.world.fate(client, key),
        )
        if client == world.rogue:
            return
        if isinstance(result, bytes):
            holds(
                result == world.answer(client, key)
                and fate in ("ok", "lack", "refused"),
                "not the client's answer",
                client,
                key,
            )
            if fate == "refused":
                self.results[client, key] = "refused"
                self.perform(self.machine.refuse(client, key, "it is not finite"))
            return
        deadline_s, enough = world.limits[key[0], key[1]]
        limited = deadline_s < float("inf") or enough < 99
        words = {
            "fail": "it broke",
            "decline": "declined: it broke",
            "hopeless": "it broke",
            "malformed": "malformed",
        }
        reason = words.get(fate, "its answer has" if fate == "oversized" else "-")
        late, revoked = (
            limited and result.startswith("late: "),
            client in world.doubted and "revoked" in result,
        )
        holds(
            result.startswith(reason) or late or revoked,
            "a failure without a cause",
            client,
            key,
            fate,
            result,
        )

    def advance(self):
        if not self.alive:
            return
        world = self.world
        kind, _ = world.steps[self.round][self.step]
        failed = any(
            isinstance(result, str)
            for (_, key), result in self.results.items()
            if key == (self.round, kind, self.turn)
        )
        if failed and self.turn < world.turns:
            self.turn += 1
        elif self.step + 1 < len(world.steps[self.round]):
            self.step, self.turn = self.step + 1, 0
        else:
            return world.at(world.random.random() * 0.5, self.checkpoint)
        self.begin()

    def checkpoint(self):
        if not self.alive:
            return
        if self.world.chance(20 * self.world.kill_coordinator):
            self.world.fired["killed_before_checkpoint"] += 1
            return self.crash()
        self.world.checkpoints.append(self.results)
        self.machine.forget(self.round + 1)
        self.round, self.step, self.turn, self.results = self.round + 1, 0, 0, {}
        self.world.at(self.world.think_s * self.world.random.random(), self.begin)

    # The service

    def receive(self, link, data):
        if not self.alive or link.number not in self.links:
            return
        if data == END:
            del self.links[link.number]
            self.perform(self.machine.gone(link.number))
        else:
            frame = pb.AgentFrame.FromString(data)
            if frame.WhichOneof("frame") == "chunk":
                self.claim = (
                    link.number,
                    of(frame.chunk.key),
                    frame.chunk.total,
                    frame.chunk.checksum,
                )
            if frame.HasField("renewal") and self.world.renews(self, link, frame):
                return
            self.perform(self.machine.heard(link.number, frame, self.clock()))
            self.claim = None
            wrong = frame.WhichOneof("frame") == "hello" and link.certificate not in (
                None,
                frame.hello.client,
            )
            holds(
                not (wrong and self.alive and link.number in self.links),
                "a hello of another client is welcome",
            )

    def perform(self, actions):
        world = self.world
        for action in actions:
            if not self.alive:
                return
            if world.chance(world.kill_coordinator):
                world.fired["coordinator_killed_at_action"] += 1
                return self.crash()
            world.tell("coordinator", action)
            if isinstance(action, SendToAgent):
                self.send(action)
            elif isinstance(action, StoreAnswer):
                self.store(action)
            elif isinstance(action, WorkResult):
                self.answered(action)
            elif isinstance(action, ModelMissing):
                wait = world.random.random() * world.repair_s
                world.fired["slow_repair"] += wait > 5
                world.at(wait, self.repair, action)
            elif isinstance(action, DeviceFacts):
                world.fired["facts"] += 1
            elif action.session in self.links:
                world.close(self.links.pop(action.session), "down")
        self.arm()

    def send(self, action):
        world, link = self.world, self.links.get(action.session)
        if link is None:
            raise Broken(f"a frame for a connection that ended: {action}")
        frame, kind = action.frame, action.frame.WhichOneof("frame")
        if action.data:
            frame = pb.CoordinatorFrame.FromString(packed(frame, action.data))
        if kind == "ack" and frame.ack.stored:
            at = link.peer.client, of(frame.ack.key)
            holds(at in world.durable, "acknowledged before it is on disk", at)
            if self.claim and self.claim[:2] == (link.number, at[1]):
                holds(
                    self.claim[2:]
                    == (len(world.durable[at]), zlib.crc32(world.durable[at])),
                    "another answer is acknowledged",
                    at,
                )
        if kind == "ack":
            holds(frame.ack.offset <= LIMIT, "an offset beyond the limit")
        if kind == "task":
            link.task = frame
        if (
            kind == "chunk"
            and frame.chunk.offset
            and not self.machine.book.open_work[link.peer.client][
                of(frame.chunk.key)
            ].down._known
        ):
            world.fired["download_resumed"] += 1
        world.send(
            link,
            "down",
            frame.SerializeToString(),
            kind in ("task", "ack", "cancel", "refusal", "heartbeat", "chunk"),
        )
        if (
            kind == "chunk"
            and world.chance(world.twice)
            and of(link.task.task.key) == of(frame.chunk.key)
        ):
            world.fired["task_twice"] += 1
            world.send(link, "down", link.task.SerializeToString())

    def store(self, action):
        world, at = self.world, (action.client, action.key)
        holds(at not in self.stored, "stored twice", at)
        holds(
            self.claim
            and self.claim[2:] == (len(action.data), zlib.crc32(action.data)),
            "not what the agent sent",
            at,
        )
        self.stored.add(at)
        if world.full:
            world.full = False
            world.fired["disk_full"] += 1
            world.tell("disk", "full")
            return self.crash()
        world.unsynced.append((at, action.data))
        if not world.syncing:
            self.sync()

    def sync(self):
        world = self.world
        world.syncing = True
        slow = 15.0 if world.now < world.slow_disk_until else 0.05
        world.at(slow * world.random.random(), self.synced, len(world.unsynced))

    def synced(self, count):
        world = self.world
        if not self.alive:
            return
        done, world.unsynced, world.syncing = (
            world.unsynced[:count],
            world.unsynced[count:],
            False,
        )
        world.durable.update(done)
        if world.unsynced:
            self.sync()
        for (client, key), _ in done:
            if self.alive and world.chance(10 * world.kill_coordinator):
                world.fired["killed_before_stored"] += 1
                self.crash()
            if self.alive:
                world.fired["late_answer_stored"] += (client, key) not in self.waiting
                self.perform(self.machine.stored(client, key))

    def repair(self, action):
        if self.alive:
            work = self.world.work(action.client, action.key, True)
            self.perform(
                self.machine.repair(
                    work.client, work.key, work.task, work.payloads, self.clock()
                )
            )

    def crash(self, after=None):
        """Lose all but the disk: what was synced, and perhaps the first of what was not."""
        world = self.world
        if not self.alive:
            return
        self.alive = False
        world.tell("coordinator", "crashes")
        world.durable.update(
            world.unsynced[: world.random.randint(0, len(world.unsynced))]
        )
        world.unsynced, world.syncing = [], False
        for link in self.links.values():
            world.cut(link, "down")
        world.counted.update(self.machine.counters)
        world.coordinator = None
        world.at(after or world.random.random() * 4, world.start_coordinator)

    def check(self):
        machine = self.machine
        holds(
            machine.sessions.keys() == self.links.keys(),
            "sessions",
            machine.sessions.keys(),
            self.links.keys(),
        )
        holds(
            all(
                machine.sessions[s].client == client
                for client, s in machine.attending.items()
            ),
            "attending",
        )
        open = {
            (client, key)
            for client, keys in machine.book.open_work.items()
            for key in keys
        }
        holds(open == self.waiting, "open work", open, self.waiting)
        for client, keys in machine.book.open_work.items():
            holds(
                all(
                    work.received.length <= work.total <= LIMIT
                    for work in keys.values()
                ),
                "more bytes than an answer may have",
            )
            session = machine.sessions.get(machine.attending.get(client, -1))
            if (
                session
                and not all(work.is_repairing for work in keys.values())
                and self.armed > self.world.now
            ):
                holds(
                    self.clock() - session.heard <= 4.6,
                    "a silent agent keeps its connection",
                    client,
                )
        holds(
            all(machine.book.open_work.values())
            and all(machine.book.answered.values()),
            "empty entries stay",
        )
        self.most = max(self.most, len(machine.sessions))
        holds(
            len(machine._table._alarms) <= 2 * self.most + 101,
            "alarms grow",
            len(machine._table._alarms),
        )
        holds(
            all(
                key[0] >= self.round
                for told in machine.book.answered.values()
                for key in told
            ),
            "answers of earlier rounds",
        )
