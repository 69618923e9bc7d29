"""The earliest deadline first, and no class in the way of another one."""

import asyncio
import math
import random
from dataclasses import dataclass

import numpy as np
import pytest

from fedlearn.clients.infer.batching import Batcher, Query
from fedlearn.clients.infer.metrics import Measures
from fedlearn.clients.infer.model import load
from fedlearn.clients.infer.refusal import Refusal
from fedlearn.clients.infer.waiting import PATIENCE_S, EarliestFirst
from fedlearn.clients.placement.classes import ServiceClass, ServiceClasses
from tests.clients.infer import graphs
from tests.clients.infer.serving import serving
from tests.clients.infer.test_upstream import ask


@dataclass
class Entry:
    name: int
    deadline: float = math.inf
    rows: int = 1
    kind: str = ""
    bytes: int = 8


def test_the_order_is_that_of_a_sorted_list():
    generator = random.Random(5)
    queue: EarliestFirst[Entry] = EarliestFirst()
    twin: list[tuple[float, int, Entry]] = []
    for number in range(2000):
        if twin and generator.random() < 0.45:
            twin.sort(key=lambda item: item[:2])
            assert queue.first is twin[0][2]
            assert queue.pop() is twin.pop(0)[2]
        else:
            now_s = number / 100
            deadline = generator.choice([math.inf, now_s + generator.random()])
            entry = Entry(number, deadline, generator.randrange(1, 5), str(number % 3))
            queue.push(entry, now_s)
            twin.append((min(deadline, now_s + PATIENCE_S), number, entry))
        assert len(queue) == len(twin)
        assert queue.rows == sum(item[2].rows for item in twin)
        limit = generator.random() * 20
        before = sum(item[2].rows for item in twin if item[0] <= limit)
        assert queue.rows_before(limit) == before


def test_what_has_no_deadline_is_passed_for_its_patience_only():
    queue: EarliestFirst[Entry] = EarliestFirst()
    queue.push(Entry(0), 0.0)
    for number in range(1, 200):
        now_s = number / 10
        queue.push(Entry(number, now_s + 1.0), now_s)
    order = [queue.pop().name for _ in range(200)]
    # Those that are due by its tenth second, and no others, were before it.
    assert order.index(0) == 89


def query(model, name: str, answers: list, **more) -> Query:
    inputs = model.checked({"x": np.zeros((1, 3), np.float32)})
    return Query(
        model, inputs, lambda model, outcome: answers.append((name, outcome)), **more
    )


def test_a_flood_of_a_low_class_does_not_hold_up_a_high_one(tmp_path):
    model = load(graphs.scaled(tmp_path / "m.onnx"))
    classes = ServiceClasses(
        {"high": ServiceClass(), "low": ServiceClass(queue=0.5)}, "low"
    )
    answers: list = []

    async def flood():
        batcher = Batcher(Measures(), limit=4, queue_rows=200, classes=classes)
        refused = 0
        for _ in range(1000):
            try:
                batcher.put(query(model, "low", answers, kind="low"))
            except Refusal as refusal:
                refused += "of its class" in str(refusal)
        # The flood is on; these have a deadline, and come last.
        deadline = asyncio.get_running_loop().time() + 9.0
        for _ in range(8):
            entry = query(model, "high", answers, kind="high", deadline=deadline)
            batcher.put(entry)
        await batcher.drained()
        batcher.close()
        return refused

    assert asyncio.run(flood()) == 900
    names = [name for name, _ in answers]
    assert names == ["high"] * 8 + ["low"] * 100
    assert not any(isinstance(outcome, Refusal) for _, outcome in answers)


def test_a_class_beyond_its_rate_is_told_when_to_come_back(tmp_path):
    model = load(graphs.scaled(tmp_path / "m.onnx"))
    classes = ServiceClasses({"low": ServiceClass(rate=0.1, burst=2)}, "low")

    async def ask_often():
        batcher = Batcher(Measures(), classes=classes)
        for _ in range(2):
            batcher.put(query(model, "low", []))
        with pytest.raises(Refusal, match="its class has had its samples") as error:
            batcher.put(query(model, "low", []))
        await batcher.drained()
        batcher.close()
        return error.value

    refusal = asyncio.run(ask_often())
    assert (refusal.status, refusal.kind) == (503, "rate")
    assert 9 <= refusal.retry_s <= 10


def test_a_deadline_counts_what_is_due_before_it_only(tmp_path):
    model = load(graphs.scaled(tmp_path / "m.onnx"))
    answers: list = []

    async def go():
        loop = asyncio.get_running_loop()
        batcher = Batcher(Measures(), limit=8)
        batcher._row_s = 0.01
        for _ in range(300):
            batcher.put(query(model, "patient", answers))
        # All that waits takes 3 s; nothing of it is due within one.
        urgent = query(model, "urgent", answers, deadline=loop.time() + 1.0)
        batcher.put(urgent)
        await batcher.drained()
        batcher.close()

    asyncio.run(go())
    assert answers[0][0] == "urgent"


def test_a_server_tells_the_classes_that_it_has(tmp_path):
    async def go():
        async with serving(graphs.scaled(tmp_path / "m.onnx")) as server:
            server.served.classes = ServiceClasses({"high": ServiceClass()}, "high")
            good = await ask(server.port, **{"class": "high"})
            wrong = await ask(server.port, **{"class": "hihg"})
            return good, wrong

    good, wrong = asyncio.run(go())
    assert "outputs" in good
    assert wrong["error"] == "there is no class 'hihg' here; there are 'high'"
