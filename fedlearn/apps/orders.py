"""What a coordinator and an agent say to each other of an app's messages, without flwr.

An app's run travels in the frames of any run (docs/exchange.md): the welcome describes the
app (`AppBrief`), a task's plan is a message without its records' bytes, its payload has
these, and the answer is an `EchoedAnswer`. All texts are JSON, and all are read strictly:

    answer   4 length of head, little-endian · head (JSON) · payload of the reply
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from fedlearn.apps.work import LATE, Limit, NodeAnswer, Work
from fedlearn.errors import FormatError
from fedlearn.exchange.keys import Key
from fedlearn.text import shortened

# The kind of a piece of work that is an app's message.
KIND = "app"

# The key of a welcome's description that says it is of an app.
APP_KEY = "app"

_LENGTH = struct.Struct("<I")

# Of an answer's head: the echo of a request with thousands of records.
_MOST_HEAD_BYTES = 1 << 20

# Of an error: an app may choose one of its own.
_MOST_CODE = (1 << 31) - 1

# A digest is a file's name where it is looked up.
_DIGEST = re.compile(r"[0-9a-f]{32}")

_VALUES = (bool, int, float, str)

# Seconds: of a time to live that never ends as good as any.
_MOST_REAL = 1e18


@dataclass(frozen=True)
class AppBrief:
    """What an agent is told of an app's run.

    clientapp: "module:attribute" of a package that is installed at the agent.
    """

    name: str
    version: str
    clientapp: str
    run_config: Mapping[str, Any]
    nodes: int
    seed: int

    def to_json(self) -> str:
        """Return the brief as one line of JSON."""
        return json.dumps({APP_KEY: {**asdict(self), "format": 1}})

    @classmethod
    def of_json(cls, text: str) -> AppBrief:
        """Return the brief of a welcome; raises FormatError when it is none."""
        table = _object(text, "the coordinator's description of the app").get(APP_KEY)
        fields = _Fields(table, "the coordinator's description of the app")
        # A later fedlearn may ask for more than this one knows.
        if fields.number("format", 1 << 31) != 1:
            raise FormatError(
                "the coordinator describes its app in a newer way; upgrade fedlearn here"
            )
        config = fields.table("run_config")
        # What Flower's own UserConfig holds; an app may pass it on anywhere.
        if not all(isinstance(value, _VALUES) for value in config.values()):
            fields.refuse("run_config")
        return cls(
            fields.text("name"),
            fields.text("version"),
            fields.text("clientapp"),
            config,
            fields.number("nodes", 1 << 31),
            fields.number("seed", 1 << 63),
        )


@dataclass(frozen=True)
class EchoedAnswer:
    """A node's answer, with what it answers: number, node, kind, group, digests."""

    request: Mapping[str, Any]
    answer: NodeAnswer

    def pack(self) -> bytes:
        """Return the answer as it travels."""
        answer = self.answer
        head = {
            **self.request,
            "code": answer.code,
            "reason": answer.reason,
            "changed": answer.changed,
        }
        # Sorted: the same work done again gives the same bytes.
        text = json.dumps(head, sort_keys=True, separators=(",", ":")).encode()
        return _LENGTH.pack(len(text)) + text + answer.payload

    @classmethod
    def of(cls, data: bytes) -> EchoedAnswer:
        """Return the answer of bytes that travelled; raises FormatError."""
        what = "the answer"
        if len(data) < _LENGTH.size:
            raise FormatError(f"{what} has no head")
        (length,) = _LENGTH.unpack_from(data)
        start = _LENGTH.size + length
        # Before it is sliced: a length is what a stranger says.
        if length > _MOST_HEAD_BYTES or start > len(data):
            raise FormatError(f"{what} has a head of {length} bytes, and not that many")
        head = _object(data[_LENGTH.size : start], f"{what}'s head")
        fields = _Fields(head, f"{what}'s head")
        code = fields.number("code", _MOST_CODE, LATE)
        payload = data[start:]
        # An error has a reason and nothing else.
        if code and payload:
            raise FormatError(
                f"{what} is an error with {len(payload)} bytes of records"
            )
        answer = NodeAnswer(
            fields.number("number", 1 << 32),
            payload,
            code,
            shortened(fields.text("reason")),
            fields.truth("changed"),
        )
        return cls(_request(fields), answer)


def request_of(work: Work) -> dict[str, Any]:
    """Return what an answer repeats of the message that it answers."""
    return {
        "number": work.number,
        "node": work.node,
        "kind": work.kind,
        "group": work.group,
        "digests": dict(work.digests),
    }


def objection(data: bytes, work: Work) -> str | None:
    """Return why bytes are no answer to a message; None: they are. Decodes no records."""
    try:
        answer = EchoedAnswer.of(data)
    except FormatError as error:
        return str(error)
    if dict(answer.request) != request_of(work):
        return f"it answers another message than number {work.number}"
    # Such an answer is left out in silence: only where the ServerApp has set a time.
    if answer.answer.code == LATE and (work.limit is None or work.limit.code != LATE):
        return f"it says that message {work.number} is late, which has no such limit"
    return None


def key_of(work: Work) -> Key:
    """Return the key of a message's work: numbers rise for each node, so keys do too."""
    return work.number, KIND, 0


def plan_of(work: Work) -> str:
    """Return a message as a task's plan; its payload travels beside it."""
    fields = asdict(work)
    # In chunks beside the plan, which is one frame.
    del fields["payload"]
    # Sorted: an agent tells by these bytes whether it is the work of before.
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))


def work_of(plan: str, payload: bytes) -> Work:
    """Return the message of a task; raises FormatError for a plan that is none."""
    what = "the coordinator's message"
    fields = _Fields(_object(plan, what), what)
    keep = fields.values.get("keep")
    # Of JSON: a list, where Python had a tuple.
    if not isinstance(keep, list):
        fields.refuse("keep")
    return Work(
        number=fields.number("number", 1 << 32),
        node=fields.number("node", 1 << 63),
        partition=fields.number("partition", 1 << 32),
        turn=fields.number("turn", 1 << 32),
        kind=fields.text("kind"),
        group=fields.text("group"),
        message_id=fields.text("message_id"),
        ttl=fields.real("ttl"),
        payload=payload,
        digests=fields.digests("digests"),
        bases=fields.digests("bases"),
        keep=tuple(_digest(fields, digest, "keep") for digest in keep),
        state=fields.number("state", 1 << 32),
        up=fields.text("up"),
        limit=_limit(fields.values.get("limit"), what),
    )


def _limit(table: Any, what: str) -> Limit | None:
    if table is None:
        return None
    fields = _Fields(table, f"{what}'s limit")
    seconds = fields.real("seconds")
    # Nobody could be in time.
    if seconds <= 0:
        fields.refuse("seconds")
    code = fields.number("code", _MOST_CODE, LATE)
    # A reply would have none.
    if not code:
        fields.refuse("code")
    return Limit(seconds, code, fields.text("name"))


class _Fields:
    """The fields of a JSON object, each of the type that it has to be."""

    def __init__(self, values: Any, what: str) -> None:
        self.what = what
        if not isinstance(values, dict):
            raise FormatError(f"{what} is none: it is no object")
        self.values: dict[str, Any] = values

    def refuse(self, name: str) -> NoReturn:
        raise FormatError(f"{self.what} is none: '{name}' is missing or odd")

    def text(self, name: str) -> str:
        value = self.values.get(name)
        if not isinstance(value, str):
            self.refuse(name)
        return value

    def real(self, name: str) -> float:
        value = self.values.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(name)
        # JSON as Python writes it knows NaN and infinity too, and whole numbers of any length.
        if not abs(value) <= _MOST_REAL:
            self.refuse(name)
        return float(value)

    def number(self, name: str, most: int, least: int = 0) -> int:
        value = self.values.get(name)
        # true is a number to Python.
        if isinstance(value, bool) or not isinstance(value, int):
            self.refuse(name)
        if not least <= value <= most:
            self.refuse(name)
        return value

    def truth(self, name: str) -> bool:
        value = self.values.get(name)
        if not isinstance(value, bool):
            self.refuse(name)
        return value

    def table(self, name: str) -> dict[str, Any]:
        value = self.values.get(name)
        if not isinstance(value, dict):
            self.refuse(name)
        return value

    def digests(self, name: str) -> dict[str, str]:
        table = self.table(name)
        return {record: _digest(self, digest, name) for record, digest in table.items()}


def _digest(fields: _Fields, value: Any, name: str) -> str:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        fields.refuse(name)
    return value


def _request(fields: _Fields) -> dict[str, Any]:
    return {
        "number": fields.number("number", 1 << 32),
        "node": fields.number("node", 1 << 63),
        "kind": fields.text("kind"),
        "group": fields.text("group"),
        "digests": fields.digests("digests"),
    }


def _object(text: str | bytes, what: str) -> dict[str, Any]:
    """Return a JSON object; raises FormatError."""
    try:
        value = json.loads(text)
    # Bytes that are no UTF-8, no JSON, or nested beyond Python's stack.
    except (ValueError, RecursionError):
        raise FormatError(f"{what} is no JSON") from None
    if not isinstance(value, dict):
        raise FormatError(f"{what} is no JSON object")
    return value
