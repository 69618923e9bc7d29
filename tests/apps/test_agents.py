"""An app's nodes as agents: what the journal says, and what a lying agent can do to a run."""

import json
from dataclasses import replace
from typing import Any

import pytest

from fedlearn.apps import start, strict
from fedlearn.apps.agents import AcknowledgedReplies, AgentNodes
from fedlearn.apps.api import run_app
from fedlearn.apps.orders import EchoedAnswer, key_of, request_of
from fedlearn.apps.pool import AppNodes
from fedlearn.apps.replies import NodeRequest
from fedlearn.apps.running import local_nodes
from fedlearn.apps.work import NOT_LOADED, TOO_LATE, NodeAnswer, Work
from fedlearn.errors import ConfigError, RunError
from fedlearn.records.names import APP_FILE
from fedlearn.server.journal import Journal
from fedlearn.server.work import ModelMissing, WorkResult, journal_key
from tests.apps.plain import SAMPLES

DIGESTS = {"arrays": "0123456789abcdef" * 2}
REQUEST = NodeRequest(5, 1002, "train", "1", DIGESTS)
WORK = Work(5, 1002, 2, 3, "train", "1", "id", 60.0, b"records", DIGESTS, {})
ANSWER = NodeAnswer(5, b"reply", changed=True)


@pytest.fixture
def journal(tmp_path):
    opened = Journal(tmp_path / "journal")
    yield opened
    opened.close()


def acknowledge(journal, answer=ANSWER, work=WORK):
    """Do what the exchange does before it tells an agent that its answer is stored."""
    data = EchoedAnswer(request_of(work), answer).pack()
    meta = {"kind": "answer", "key": journal_key(work.partition, key_of(work))}
    journal.append(meta, data).result()
    return data


def test_an_acknowledged_answer_is_the_reply_and_its_agent_is_told_so(journal):
    recalled = []
    replies = AcknowledgedReplies(journal, lambda *answer: recalled.append(answer))
    assert replies.find(REQUEST) is None
    data = acknowledge(journal)
    assert replies.find(REQUEST) == ANSWER
    assert recalled == [(2, (5, "app", 0), data)]
    # It is on disk: nothing is written again.
    before = len(list(journal.records()))
    replies.add(REQUEST, ANSWER).result()
    assert len(list(journal.records())) == before


def test_what_had_no_answer_has_none_later_either(journal):
    replies = AcknowledgedReplies(journal, lambda *answer: None)
    late = NodeAnswer(5, b"", TOO_LATE, "late: no answer in time", unanswered=True)
    replies.add(REQUEST, late).result()
    # It came a moment after its time, and the journal has it.
    acknowledge(journal)
    assert replies.find(REQUEST) == late


@pytest.mark.parametrize(
    ("request_now", "difference"),
    [
        (replace(REQUEST, digests={"arrays": "f" * 32}), "its record 'arrays' differs"),
        (replace(REQUEST, kind="query"), "its node, type or group differs"),
        (replace(REQUEST, group="2"), "its node, type or group differs"),
    ],
)
@pytest.mark.parametrize("is_answered", [True, False])
def test_another_message_than_was_answered_is_named(
    request_now, difference, is_answered, journal
):
    replies = AcknowledgedReplies(journal, lambda *answer: None)
    if is_answered:
        acknowledge(journal)
    else:
        refused = NodeAnswer(5, b"", NOT_LOADED, "declined: no", unanswered=True)
        replies.add(REQUEST, refused).result()
    with pytest.raises(RunError, match=difference):
        replies.find(request_now)


class Exchange:
    """Takes what a run asks, and gives what a test puts there."""

    def __init__(self):
        self.orders, self.repairs, self.events, self.forgotten = [], [], [], []

    def ask(self, orders, deadline_s, enough):
        self.orders += [(order, deadline_s, enough) for order in orders]

    def attending(self):
        return [0]

    def next(self):
        return self.events.pop(0)

    def repair(self, client, key, task, payloads):
        self.repairs.append((client, key, task, payloads))

    def forget(self, before):
        self.forgotten.append(before)


def test_messages_of_a_node_go_out_one_after_another_with_its_state(tmp_path):
    exchange: Any = Exchange()
    notes: list[str] = []
    nodes = AgentNodes(exchange, tmp_path, 30.0, notes.append)
    later = replace(WORK, number=6, turn=4)
    other = replace(WORK, number=7, node=1000, partition=0)
    for work in (WORK, later, other):
        nodes.push(work)
    keys = [(order.client, order.key) for order, _, _ in exchange.orders]
    assert keys == [(2, (5, "app", 0)), (0, (7, "app", 0))]
    # The shorter of a message's own time and the run's.
    assert {deadline_s for _, deadline_s, _ in exchange.orders} == {30.0}
    data = EchoedAnswer(request_of(WORK), ANSWER).pack()
    # Of a batch that is over, before the one that counts.
    exchange.events = [
        WorkResult(2, (4, "app", 0), data),
        WorkResult(2, (5, "app", 0), data),
    ]
    assert list(nodes.answers()) == []
    assert list(nodes.answers()) == [ANSWER]
    nodes.done(1002, 3)
    order = exchange.orders[-1][0]
    assert json.loads(order.task.plan)["state"] == 3
    assert order.key == (6, "app", 0)
    assert order.check(data) == "it answers another message than number 6"
    # All that was there before the first message is on this disk.
    assert exchange.forgotten == [5]
    assert notes == ["waiting for the agents of clients 2"]


@pytest.mark.parametrize(
    ("failure", "code"),
    [("late: no answer in time", TOO_LATE), ("declined: hot", NOT_LOADED)],
)
def test_a_piece_of_work_without_an_answer_is_an_error_by_its_reason(
    failure, code, tmp_path
):
    exchange: Any = Exchange()
    nodes = AgentNodes(exchange, tmp_path, 30.0)
    nodes.push(WORK)
    exchange.events = [WorkResult(2, (5, "app", 0), failure=failure)]
    expected = NodeAnswer(5, b"", code, failure, unanswered=True)
    assert list(nodes.answers()) == [expected]


def test_an_agent_that_lacks_a_record_is_sent_it_with_the_message(tmp_path):
    exchange: Any = Exchange()
    nodes = AgentNodes(exchange, tmp_path, 30.0)
    digest = DIGESTS["arrays"]
    (tmp_path / digest).write_bytes(b"arrays\0record")
    nodes.push(replace(WORK, bases={"arrays": digest}))
    exchange.events = [ModelMissing(2, (5, "app", 0))]
    assert list(nodes.answers()) == []
    ((client, key, task, payloads),) = exchange.repairs
    assert (client, key, payloads) == (
        2,
        (5, "app", 0),
        (b"records", b"arrays\0record"),
    )
    assert task.repair
    assert list(task.sizes) == [7, 13]


class Liar:
    """Answerers of which one node sends something else than its app made."""

    def __init__(self, answerers, payload):
        self.answerers, self.payload = answerers, payload
        self.push, self.done = answerers.push, answerers.done
        self.ready = answerers.ready

    def answers(self):
        for answer in self.answerers.answers():
            # Node 1001's first message, and its last.
            lies = answer.number in (2, 14)
            yield replace(answer, payload=self.payload) if lies else answer


@pytest.mark.parametrize("payload", [b"", b"\xff" * 50, b"\x03\x0a\x01x"])
def test_a_lying_agent_is_that_clients_failure_and_the_run_goes_on(payload, tmp_path):
    def open_nodes(started, folder, log):
        nodes = local_nodes(started, folder, log)
        liar: Any = Liar(nodes.answerers, payload)
        return AppNodes(liar, nodes.replies, strict.unpack, nodes.close)

    started = replace(start.of_options(SAMPLES / "regression"), agents=True)
    run = run_app(started, tmp_path / "run", quiet=True, open_nodes=open_nodes)
    texts = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    failures = [json.loads(text)["failures"] for text in texts]
    assert failures[0]["1001"].startswith("its reply cannot be used: ")
    assert run.summary["failed"] == 2
    assert run.summary["model_sha256"]


def test_a_run_of_one_kind_of_nodes_does_not_go_on_with_the_other(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    started = start.of_options(SAMPLES / "regression")
    for agents, command in ((True, "serve"), (False, "run")):
        plain = replace(started, agents=agents).plain()
        (out / APP_FILE).write_text(json.dumps(plain))
        with pytest.raises(ConfigError, match=f"holds a run of 'fedlearn {command}'"):
            start.check_same(out, replace(started, agents=not agents))
    # Without an app's folder, too.
    (out / APP_FILE).write_text(json.dumps(replace(started, agents=True).plain()))
    with pytest.raises(ConfigError, match="fedlearn serve --resume --out"):
        run_app(start.of_folder(out), out, resume=True, quiet=True)
