"""What a coordinator and an agent say of an app's messages: read strictly at both ends."""

import json
import struct
from dataclasses import replace

import pytest

from fedlearn.apps.orders import (
    AppBrief,
    EchoedAnswer,
    objection,
    plan_of,
    request_of,
    work_of,
)
from fedlearn.apps.work import LATE, UNAVAILABLE, Limit, NodeAnswer, Work
from fedlearn.brief import Brief
from fedlearn.errors import FormatError

DIGEST = "0123456789abcdef" * 2
BRIEF = AppBrief("demo", "1.0", "demo.client_app:app", {"lr": 0.1, "on": True}, 4, 7)
WORK = Work(
    number=5,
    node=1002,
    partition=2,
    turn=3,
    kind="train",
    group="1",
    message_id="ab" * 32,
    ttl=43200.0,
    payload=b"records",
    digests={"arrays": DIGEST},
    bases={"arrays": DIGEST},
    keep=(DIGEST,),
    state=2,
    up="eden1",
)
ANSWER = EchoedAnswer(request_of(WORK), NodeAnswer(5, b"reply", changed=True))


def test_what_is_said_is_what_arrives():
    assert AppBrief.of_json(BRIEF.to_json()) == BRIEF
    assert work_of(plan_of(WORK), WORK.payload) == WORK
    assert EchoedAnswer.of(ANSWER.pack()) == ANSWER
    assert objection(ANSWER.pack(), WORK) is None


@pytest.mark.parametrize("code", [LATE, UNAVAILABLE])
def test_a_limit_of_time_travels_with_its_message(code):
    limited = replace(WORK, limit=Limit(2.5, code, "engine.client_timeout_s"))
    assert work_of(plan_of(limited), WORK.payload) == limited
    late = EchoedAnswer(request_of(limited), NodeAnswer(5, b"", code, "no answer"))
    assert EchoedAnswer.of(late.pack()) == late
    assert objection(late.pack(), limited) is None


def test_an_agent_that_knows_no_apps_refuses_the_description():
    """Agents of before build a model from it: theirs is the client's failure."""
    with pytest.raises(FormatError, match="description of the experiment is not one"):
        Brief.from_json(BRIEF.to_json())


def changed(text, **values):
    return json.dumps({**json.loads(text), **values})


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"number": -1}, "number"),
        ({"number": True}, "number"),
        ({"partition": 2**40}, "partition"),
        ({"kind": 7}, "kind"),
        ({"ttl": "long"}, "ttl"),
        ({"ttl": float("nan")}, "ttl"),
        ({"keep": {"a": DIGEST}}, "keep"),
        # A digest is a file's name at the agent.
        ({"keep": ["../../identity.json"]}, "keep"),
        ({"bases": {"arrays": "../../../etc/passwd"}}, "bases"),
        ({"bases": [DIGEST]}, "bases"),
        ({"digests": {"arrays": 1}}, "digests"),
        ({"state": None}, "state"),
        ({"limit": {"seconds": 0, "code": 5, "name": "a"}}, "seconds"),
        ({"limit": {"seconds": float("inf"), "code": 5, "name": "a"}}, "seconds"),
        ({"limit": {"seconds": 10**400, "code": 5, "name": "a"}}, "seconds"),
        # In time or late, it would be a reply.
        ({"limit": {"seconds": 1, "code": 0, "name": "a"}}, "code"),
        ({"limit": {"seconds": 1, "code": 5}}, "name"),
    ],
)
def test_a_message_that_is_none_is_refused_by_the_field(values, name):
    with pytest.raises(FormatError, match=f"'{name}' is missing or odd"):
        work_of(changed(plan_of(WORK), **values), b"")


@pytest.mark.parametrize("text", ["", "[1]", "7", "{", "[" * 100_000])
def test_a_text_that_is_no_object_is_refused(text):
    with pytest.raises(FormatError, match="is no JSON"):
        work_of(text, b"")
    with pytest.raises(FormatError, match="description of the app is no JSON"):
        AppBrief.of_json(text)


def test_a_brief_of_another_kind_is_refused():
    with pytest.raises(FormatError, match="it is no object"):
        AppBrief.of_json('{"model": {"name": "cnn"}}')
    table = json.loads(BRIEF.to_json())["app"]
    with pytest.raises(FormatError, match="'run_config' is missing or odd"):
        AppBrief.of_json(json.dumps({"app": {**table, "run_config": {"a": [1]}}}))
    with pytest.raises(FormatError, match="in a newer way; upgrade fedlearn here"):
        AppBrief.of_json(json.dumps({"app": {**table, "format": 2}}))


def packed(payload=b"", **values):
    head = {**ANSWER.request, "code": 0, "reason": "", "changed": False, **values}
    text = json.dumps(head).encode()
    return struct.pack("<I", len(text)) + text + payload


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the answer has no head"),
        (b"\0\0\0", "the answer has no head"),
        (struct.pack("<I", 9) + b"{}", "has a head of 9 bytes, and not that many"),
        (struct.pack("<I", 2**32 - 1) + b"{}", "has a head of 4294967295 bytes"),
        (struct.pack("<I", 2) + b"\xff\xfe", "the answer's head is no JSON"),
        (packed(code=2**31), "'code' is missing or odd"),
        (packed(code=-2), "'code' is missing or odd"),
        # It would be left out without a word.
        (packed(code=-1), "says that message 5 is late, which has no such limit"),
        (packed(code=2, payload=b"x"), "is an error with 1 bytes of records"),
        (packed(reason=None), "'reason' is missing or odd"),
        (packed(changed=1), "'changed' is missing or odd"),
        # To another message, of another node, or to another content.
        (packed(number=4), "it answers another message than number 5"),
        (packed(node=1000), "it answers another message than number 5"),
        (packed(digests={}), "it answers another message than number 5"),
    ],
)
def test_an_answer_that_is_none_is_objected_to(data, reason):
    assert reason in (objection(data, WORK) or "")


def test_a_reason_of_any_length_becomes_a_line():
    long = EchoedAnswer.of(packed(code=2, reason="a\nb" + "x" * 10_000)).answer.reason
    assert len(long) <= 500
    assert "\n" not in long
