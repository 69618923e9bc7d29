"""Both ends of the exchange in a world that one integer makes: its network, clocks, disks
and everything that goes wrong.

`python -m tests.exchange.world 100000` runs that many seeds (two numbers: from, to),
`--seed N --trace` tells one of them. The machines are the real ones. Of the rest stands
here what can be observed of it: a connection keeps the order of its frames and loses what
is under way when it breaks, a record is durable once it is synced, a process forgets all
but its disk.
"""

from __future__ import annotations

import argparse
import heapq
import re
import signal
import sys
import time
import traceback
import zlib
from collections import Counter, deque
from random import Random
from typing import Any

from fedlearn.clients.agent.pieces import PieceStage
from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange import transfer
from fedlearn.exchange.keys import proto
from fedlearn.server.work import WorkOrder
from tests.exchange.parties import (
    END,
    LIMIT,
    Agent,
    Broken,
    Coordinator,
    Link,
    Stranger,
    at,
    holds,
    requested,
    uploads,
)

FAULTS = (
    *(
        "cut",
        "half_open",
        "partition",
        "slow_link",
        "agent_crash",
        "coordinator_crash",
        "disk_slow",
        "disk_full",
    ),
    *(
        "agent_clock",
        "coordinator_clock",
        "second_connection",
        "hostile",
        "restart",
        "revoke",
    ),
)
"""What happens at random moments; each world draws which of them it knows."""

SOMETIMES = (
    *FAULTS,
    *(
        "agent_killed_at_action",
        "coordinator_killed_at_action",
        "killed_before_stored",
        "killed_before_checkpoint",
    ),
    *(
        "chunk_twice",
        "task_twice",
        "frame_later_again",
        "rogue_frame",
        "deadline",
        "enough",
        "empty_answer",
        "calm",
        "insecure",
    ),
    *(
        "fail",
        "decline",
        "lack",
        "hopeless",
        "malformed",
        "oversized",
        "refused",
        "answer_recalled_by_agent",
    ),
    *(
        "answer_recalled_by_coordinator",
        "upload_resumed",
        "download_resumed",
        "late_answer_stored",
        "repeated_round",
        "evaluation",
        "slow_repair",
    ),
)
"""What has to happen at least once in a thousand worlds, and the machine's counters that
have to count.
"""

COUNTERS = (
    *(
        "attended",
        "left",
        "replaced",
        "silent",
        "draining",
        "revoked",
        "wrong_identity",
        "unknown_client",
        "no_hello",
    ),
    *(
        "hello_again",
        "wrong_version",
        "unknown_frame",
        "again",
        "differs",
        "late",
        "oversized",
        "chunks_again",
        "damaged",
    ),
    *("malformed", "lacking", "declined", "failed", "refused", "wrong_facts"),
)


class World:
    """See the module: `run` lives it to its end, and raises what should not be."""

    def __init__(self, seed, trace=None):
        self.random, self.trace, self.seed = Random(seed), trace, seed
        draw = self.random
        self.now, self.queue, self.events, self.links = 0.0, [], 0, 0
        self.fired: Counter[str] = Counter()
        self.counted: Counter[str] = Counter()
        self.durable, self.unsynced, self.syncing, self.full, self.slow_disk_until = (
            {},
            [],
            False,
            False,
            0.0,
        )
        self.coordinator: Any = None  # None while it is down
        self.checkpoints, self.agents = [], []
        self.refused: set[int] = set()
        self.doubted = self.refused  # who was refused at any time
        self.fates, self.parted, self.rates, self.written, self.counted_at = (
            {},
            {},
            {},
            set(),
            0.0,
        )
        self.size = draw.randint(1, 6)
        self.clients = self.size + 1  # the last one is never asked
        self.rounds = draw.randint(1, 5)
        calm = draw.random() < 0.1
        self.fired["calm"] += calm
        self.chaos = not calm
        rare = {"revoke": 0.05, "disk_full": 0.05}
        self.known = [
            fault
            for fault in FAULTS
            if self.chaos and draw.random() < rare.get(fault, 0.4)
        ]
        self.secure = draw.random() < 0.7
        self.fired["insecure"] += not self.secure
        self.pause_s = draw.choice([0.1, 0.5, 2.0])
        self.end = draw.uniform(5, 40) if self.chaos else 0.0
        self.kill_agents = draw.choice([0, 0, 0.003, 0.02]) * self.chaos
        self.kill_coordinator = draw.choice([0, 0, 0.0005, 0.005]) * self.chaos
        self.twice = draw.choice([0, 0, 0.02, 0.2]) * self.chaos
        self.rogue = (
            draw.randrange(self.size) if self.chaos and draw.random() < 0.15 else None
        )
        self.work_s = draw.choice([0.0, 0.5, 3.0, 20.0])
        self.think_s = draw.choice([0.0, 0.5, 5.0, 700.0 if calm else 20.0])
        self.repair_s = draw.choice([0.1, 20.0])
        self.faithful = draw.random() < 0.5  # no fate but to answer
        self.turns = draw.choice([0, 0, 1])
        self.sizes = draw.choice([[0, 1, 40], [0, 40, 600], [40, 600, 3000]])
        self.small, self.first, self.large = draw.choice(
            [(32, 64, 256), (32, 512, 2048), (4, 4, 4), (64, 256, 1024)]
        )
        if self.small == 4:
            self.sizes = [0, 1, 40]
        self.steps, self.limits = {}, {}
        for number in range(1, self.rounds + 1):
            kinds = ["train", "evaluate"] if draw.random() < 0.3 else ["train"]
            self.steps[number] = [
                (
                    kind,
                    sorted(draw.sample(range(self.size), draw.randint(1, self.size))),
                )
                for kind in kinds
            ]
            for kind, cohort in self.steps[number]:
                deadline_s = (
                    draw.uniform(0.5, 15) if draw.random() < 0.1 else float("inf")
                )
                enough = draw.randint(1, len(cohort)) if draw.random() < 0.1 else 99
                self.limits[number, kind] = deadline_s, enough
                self.fired["deadline"] += deadline_s < 99
                self.fired["enough"] += enough < len(cohort)

    # What certificates are for; `tests.exchange.trust` has an authority for it

    def shut_out(self):
        """Return whose certificates are revoked, as a coordinator that asks knows it."""
        return self.refused

    def renews(self, coordinator, link, frame):
        """Take an agent's request for a certificate; tells whether somebody signs here."""
        return False

    def certified(self, agent, action):
        raise Broken("a certificate, and nobody who signs")

    # What is true

    def fate(self, client, key):
        """Return what becomes of a client's work, however often it is done."""
        at = self.seed, client, key
        if at not in self.fates:
            draw = Random(f"fate {at}")
            kinds = [
                "fail",
                "decline",
                "lack",
                "lack",
                "hopeless",
                "malformed",
                "oversized",
                "refused",
            ]
            self.fates[at] = (
                "ok" if self.faithful or draw.random() < 0.75 else draw.choice(kinds)
            )
            self.fired[self.fates[at]] += 1
        return self.fates[at]

    def answer(self, client, key):
        draw = Random(f"answer {self.seed} {client} {key}")
        fate = self.fate(client, key)
        size = LIMIT + 1 if fate == "oversized" else draw.choice(self.sizes)
        self.fired["empty_answer"] += not size
        return b"bad" if fate == "malformed" else draw.randbytes(size)

    def payloads(self, client, key, repair):
        draw = Random(f"payloads {self.seed} {key} {client if repair else ''}")
        return tuple(
            draw.randbytes(draw.choice(self.sizes)) for _ in range(draw.randint(0, 3))
        )

    def work(self, client, key, repair):
        payloads = self.payloads(client, key, repair)
        task = pb.Task(
            key=proto(key),
            plan="{}",
            sizes=[len(data) for data in payloads],
            repair=repair,
        )
        return WorkOrder(
            client,
            key,
            task,
            payloads,
            lambda data: "malformed" if data == b"bad" else None,
        )

    # The network

    def connect(self, peer, certificate):
        """Return a connection, or None."""
        coordinator = self.coordinator
        if (
            coordinator is None
            or self.now < self.parted.get(peer.client, 0)
            or (certificate in self.refused)
        ):
            return None
        self.links += 1
        latency = self.random.choice([0.0005, 0.01, 0.2]) * (0.5 + self.random.random())
        link = Link(self.links, peer, certificate, coordinator, latency, self.now)
        coordinator.links[link.number] = link
        coordinator.perform(
            coordinator.machine.connected(link.number, certificate, coordinator.clock())
        )
        return link

    def send(self, link, way, data, repeatable=False):
        """Bring bytes on their way: once, or as a peer with a bug would."""
        if link.broken:
            return
        copies = [data]
        if repeatable and self.chance(self.twice):
            self.fired["chunk_twice"] += 1
            copies.append(data)
        if way == "up" and repeatable and self.chance(self.twice):
            if link.kept is not None:
                self.fired["frame_later_again"] += 1
                copies.append(link.kept)
            link.kept = data
        for copy in copies:
            start = max(self.now, link.free[way])
            link.free[way] = start + len(copy) / self.rates.get(link.peer.client, 1e6)
            link.frames[way].append(copy)
            self.at(link.free[way] + link.latency - self.now, self.arrive, link, way)

    def arrive(self, link, way):
        if link.broken:
            return
        parted = self.parted.get(link.peer.client, 0)
        if self.now < parted:
            return self.at(parted - self.now, self.arrive, link, way)
        data = link.frames[way].popleft()
        (link.life if way == "up" else link.peer).receive(link, data)

    def close(self, link, way):
        """End a connection in order: what was sent before arrives before."""
        self.send(link, way, END)

    def cut(self, link, way=None):
        """Break a connection and lose what is under way; each end may notice, or not
        until its lease is over.
        """
        link.broken = True
        for party, its_way in ((link.life, "down"), (link.peer, "up")):
            if its_way != way and self.random.random() < 0.6:
                self.at(self.random.random(), party.receive, link, END)

    # What goes wrong

    def chance(self, probability):
        return self.chaos and probability > 0 and self.random.random() < probability

    def trouble(self):
        """Do something that this world knows, and see to the next."""
        if not self.chaos:
            return
        if self.known:
            fault = self.random.choice(self.known)
            self.tell("fault", fault)
            if getattr(self, "do_" + fault)() is not False:
                self.fired[fault] += 1
        for agent in self.agents:
            if agent.client == self.rogue:
                agent.send(pb.AgentFrame(heartbeat=pb.Heartbeat()))
        self.at(self.random.expovariate(1 / self.pause_s), self.trouble)

    def some_link(self):
        links = list(self.coordinator.links.values()) if self.coordinator else []
        return self.random.choice(links) if links else None

    def do_cut(self):
        link = self.some_link()
        if link is None:
            return False
        link.broken = True
        self.at(self.random.random() * 0.1, link.life.receive, link, END)
        self.at(self.random.random() * 0.1, link.peer.receive, link, END)

    def do_half_open(self):
        if (link := self.some_link()) is None:
            return False
        self.cut(link)

    def do_partition(self):
        self.parted[self.random.randrange(self.size)] = (
            self.now + self.random.choice([0.5, 2.0, 5.0, 20.0]) * self.random.random()
        )

    def do_slow_link(self):
        self.rates[self.random.randrange(self.size)] = self.random.choice(
            [120.0, 400.0, 5000.0]
        )

    def do_agent_crash(self):
        if not self.agents:
            return False
        self.random.choice(self.agents).crash()

    def do_coordinator_crash(self):
        if self.coordinator is None:
            return False
        self.coordinator.crash()

    def do_disk_slow(self):
        self.slow_disk_until = self.now + 10

    def do_disk_full(self):
        self.full = True
        return False  # it counts once it is met

    def do_agent_clock(self):
        if not self.agents:
            return False
        self.jump(self.random.choice(self.agents))

    def do_coordinator_clock(self):
        if self.coordinator is None:
            return False
        self.jump(self.coordinator)

    def jump(self, party):
        party.ahead += self.random.choice([1.0, 10.0, 86400.0])
        party.armed = float("inf")
        party.arm()

    def do_second_connection(self):
        if not self.coordinator:
            return False
        client = self.random.randrange(self.size)
        if client not in self.refused:
            ghost = Stranger(self, client, client if self.secure else None, True)
            self.at(self.random.random() * 3, ghost.close)

    def do_hostile(self):
        """A peer that is no client of any round: its frames must change nothing for the others."""
        own = self.random.choice([self.clients - 1, self.clients, 10**6])
        peer = Stranger(
            self, own, own if self.secure else None, self.random.random() < 0.5
        )
        for _ in range(self.random.randint(0, 6)):
            frame = self.any_frame(own if not self.secure else None)
            self.at(self.random.random() * 2, peer.say, frame)
        if self.random.random() < 0.7:
            self.at(2 + self.random.random(), peer.close)

    def do_restart(self):
        """A coordinator that is updated: everybody is told to come back."""
        if self.coordinator is None or self.coordinator.machine.farewell:
            return False
        coordinator = self.coordinator
        coordinator.perform(
            coordinator.machine.drain(self.random.choice([(0.0, 0.0001), (0.5, 3.0)]))
        )
        self.at(1.0, coordinator.crash, 0.5)

    def do_revoke(self):
        if self.refused or not self.secure:
            return False
        self.refused.add(self.random.randrange(self.size))
        if self.coordinator:
            self.coordinator.perform(self.coordinator.machine.revoke(self.refused))

    def any_frame(self, client):
        """Return a frame that fits nothing; client: the only one that a hello may name,
        None: any.
        """
        draw = self.random
        name = draw.choice(["train", "evaluate", "", "x" * 99])
        key = pb.Key(
            round=draw.choice([0, 1, 2, 2**32 - 1]), kind=name, turn=draw.choice([0, 1])
        )
        kind = draw.randrange(9)
        if kind == 0:
            named = draw.randrange(self.clients + 2) if client is None else client
            return pb.AgentFrame(
                hello=pb.Hello(
                    oldest=draw.choice([0, 1, 2]),
                    newest=draw.choice([0, 1, 9]),
                    client=named,
                )
            )
        if kind == 1:
            return pb.AgentFrame(heartbeat=pb.Heartbeat())
        if kind == 2:
            return pb.AgentFrame(
                failure=pb.Failure(
                    key=key,
                    reason=draw.randrange(9),  # type: ignore[arg-type]
                    text="no" * draw.choice([0, 9999]),
                )
            )
        if kind == 3:
            return pb.AgentFrame(renewal=pb.Renewal(request=b"?"))
        if kind == 4:
            return pb.AgentFrame()
        if kind == 5:
            return pb.AgentFrame(
                ack=pb.Ack(
                    key=key,
                    offset=draw.choice([0, 1, 50, 2**64 - 1]),
                    stored=draw.random() < 0.5,
                )
            )
        if kind == 6:
            texts = [
                '{"board": "Jetson", "watts": 7.5}',
                "{}",
                "[1]",
                '{"a": [1]}',
                '{"a": NaN}',
                "x" * 5000,
                "[" * 4000,
            ]
            return pb.AgentFrame(facts=pb.Facts(json=draw.choice(texts)))
        total = draw.choice([0, 1, 50, LIMIT, LIMIT + 1, 2**64 - 1])
        data = draw.randbytes(draw.choice([0, 1, 50, 500]))
        checksum = draw.choice([0, zlib.crc32(data), draw.getrandbits(32)])
        offset = draw.choice([0, 0, 1, 50, 2**64 - 1])
        return pb.AgentFrame(
            chunk=pb.Chunk(
                key=key, offset=offset, total=total, data=data, checksum=checksum
            )
        )

    def wrong(self, frame, client):
        """Return what a rogue agent sends in a frame's place."""
        draw, kind = self.random, frame.WhichOneof("frame")
        other = self.any_frame(client)
        if other.WhichOneof("frame") in ("chunk", "failure", "ack"):
            getattr(other, other.WhichOneof("frame")).key.round = draw.randint(
                1, self.rounds
            )
        data = draw.randbytes(30)
        whole = pb.Chunk(
            key=pb.Key(round=draw.randint(1, self.rounds), kind="train"),
            total=30,
            data=data,
            checksum=zlib.crc32(data),
        )
        if kind != "chunk":
            return draw.choice(
                [
                    [],
                    [frame, frame],
                    [frame, other],
                    [other, frame],
                    [frame, pb.AgentFrame(chunk=whole)],
                ]
            )
        changed = pb.AgentFrame.FromString(frame.SerializeToString())
        field = draw.choice(
            [
                "offset",
                "total",
                "checksum",
                "checksum",
                "data",
                "data",
                "answer",
                "nothing",
            ]
        )
        if field == "data":
            changed.chunk.data = draw.randbytes(len(frame.chunk.data))
        elif field == "answer":
            whole.key.CopyFrom(frame.chunk.key)
            changed.chunk.CopyFrom(whole)
        elif field == "nothing":
            return []
        else:
            setattr(changed.chunk, field, draw.choice([0, 1, 50, LIMIT + 1, 2**32 - 1]))
        return [changed] if draw.random() < 0.5 else [frame, changed]

    # Time

    def at(self, delay, event, *arguments):
        self.events += 1
        heapq.heappush(
            self.queue, (self.now + max(0.0, delay), self.events, event, arguments)
        )

    def tell(self, who, what):
        if self.trace is not None:
            told = re.sub(r"<memory at \w+>", "…", str(what))  # an address says nothing
            self.trace(f"{self.now:10.4f}  {who}: {' '.join(told.split())[:300]}")

    def start_agent(self, client, disk):
        self.agents.append(Agent(self, client, disk))

    def start_coordinator(self):
        self.tell("coordinator", "starts")
        self.coordinator = Coordinator(self)
        if self.coordinator.alive:
            self.coordinator.perform([])

    def heal(self):
        """End all trouble: from now on everything has to come to its end."""
        self.tell("world", "heals")
        self.chaos, self.full, self.slow_disk_until = False, False, 0.0
        self.parted.clear()
        for agent in [agent for agent in self.agents if agent.client == self.rogue]:
            agent.crash()

    def over(self):
        """Tell whether the run is over and everybody who may know it does."""
        if self.chaos or self.coordinator is None or not self.coordinator.finished:
            return False
        left = {agent.client for agent in self.agents if agent.left}
        return (
            left | self.refused >= set(range(self.size))
            and len(self.agents) == self.size
        )

    def run(self):
        """Live through it; returns what happened how often."""
        sizes = transfer.SMALLEST, transfer.FIRST, transfer.LARGEST
        transfer.SMALLEST, transfer.FIRST, transfer.LARGEST = (
            self.small,
            self.first,
            self.large,
        )
        try:
            self.live()
        finally:
            transfer.SMALLEST, transfer.FIRST, transfer.LARGEST = sizes
        return self.fired + Counter(
            {f"counter {name}": count for name, count in self.counted.items()}
        )

    def live(self):
        self.start_coordinator()
        for client in range(self.size):
            self.start_agent(client, {})
        if self.chaos:
            self.at(self.random.random(), self.trouble)
            self.at(self.end, self.heal)
        calm, bound = (
            not self.chaos,
            self.end + 2500.0 + 200 * self.rounds + 2 * self.think_s * self.rounds,
        )
        while not self.over():
            self.now, _, event, arguments = heapq.heappop(self.queue)
            holds(
                self.now <= bound and self.events < 300_000,
                f"not over after {self.now:.0f} s and {self.events} events",
            )
            event(*arguments)
            if self.coordinator:
                self.coordinator.check()
            for agent in self.agents:
                agent.check()
        self.conclude(calm)

    def conclude(self, calm):
        """Compare what was counted with what is true, and look for what is left in memory."""
        holds(len(self.checkpoints) == self.rounds, "rounds", len(self.checkpoints))
        for number, results in enumerate(self.checkpoints, 1):
            for kind, cohort in self.steps[number]:
                deadline_s, enough = self.limits[number, kind]
                first = {
                    client: results[client, (number, kind, 0)] for client in cohort
                }
                sure = [
                    c
                    for c in cohort
                    if c != self.rogue
                    and c not in self.doubted
                    and deadline_s > 99
                    and enough > 98
                ]
                for client in sure:
                    truth = self.fate(client, (number, kind, 0)) in ("ok", "lack")
                    holds(
                        isinstance(first[client], bytes) == truth,
                        "counted",
                        client,
                        number,
                        kind,
                        first[client],
                    )
                total = sum(
                    zlib.crc32(first[c]) for c in sure if isinstance(first[c], bytes)
                )
                truths = [
                    c for c in sure if self.fate(c, (number, kind, 0)) in ("ok", "lack")
                ]
                holds(
                    total
                    == sum(
                        zlib.crc32(self.answer(c, (number, kind, 0))) for c in truths
                    ),
                    "the sum is not the truth",
                )
        machine = self.coordinator.machine
        self.counted.update(machine.counters)
        for link in list(self.coordinator.links.values()):
            machine.gone(link.number)
        holds(
            not (
                machine.book.open_work
                or machine.book.answered
                or machine.sessions
                or machine.attending
            ),
            "the coordinator keeps something",
        )
        for agent in self.agents:
            state = agent.machine
            answered = at(state, PieceStage.ANSWERED)
            holds(
                not requested(state) and uploads(state) <= answered,
                "an agent keeps a connection's state",
            )
            holds(
                agent.disk.keys()
                == answered | (agent.disk.keys() & at(state, PieceStage.WORKING))
                or not agent.entered,
                "disk",
            )
        if calm:
            wrong = {
                name: self.counted[name]
                for name in (
                    "silent",
                    "replaced",
                    "damaged",
                    "again",
                    "chunks_again",
                    "differs",
                )
            }
            holds(
                not any(wrong.values()) and self.counted["attended"] <= self.size,
                "trouble in a calm world",
                self.counted,
            )


def make(seed, trace=None):
    """Return a seed's world: each sixteenth has an authority, and dates that are wrong."""
    from tests.exchange.trust import TrustedWorld

    kind = TrustedWorld if seed % 16 == 15 else World
    return kind(seed, trace)


def fail(number, frame):
    raise TimeoutError("a machine does not come to an end")


def main(arguments=None):
    """Run seeds, or one with its trace."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.exchange.world", description=__doc__
    )
    parser.add_argument("seeds", nargs="*", type=int, help="how many, or from and to")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--trace", action="store_true", help="tell what happens in it")
    given = parser.parse_args(arguments)
    first, last = (0, *given.seeds)[-2:] if given.seeds else (0, 1000)
    seeds = range(first, last) if given.seed is None else [given.seed]
    signal.signal(signal.SIGALRM, fail)
    fired: Counter[str] = Counter()
    began = time.monotonic()
    for seed in seeds:
        signal.alarm(60)
        try:
            fired += make(seed, print if given.trace else None).run()
        except Exception:
            traceback.print_exc()
            lines: deque[str] = deque(maxlen=60)
            if not given.trace:
                try:
                    make(seed, lines.append).run()
                except Exception:
                    print(*lines, sep="\n")
            print(
                f"seed {seed} fails: python -m tests.exchange.world --seed {seed} --trace"
            )
            return 1
        finally:
            signal.alarm(0)
    print(
        f"{len(seeds)} seeds in {time.monotonic() - began:.1f} s",
        *(f"{n:9} {name}" for name, n in sorted(fired.items())),
        sep="\n",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
