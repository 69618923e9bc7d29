"""What `fedlearn doctor` says of a stream's answers that go to a broker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedlearn.clients.device.findings import FAILS, NOTE, SKIPPED, WELL, Finding, size
from fedlearn.clients.infer.stream_state import OUTBOX, facts_of
from fedlearn.clients.messages.outbox import OutboxLook, look
from fedlearn.clients.messages.publisher import Until
from fedlearn.errors import RecordError, reason_of

NAME = "outbox"

# Share of the outbox from which on somebody should look after it.
_NEARLY_FULL = 0.8

_COLLECT = (
    "run fedlearn collect where the answers are wanted, and leave --until puback out: a "
    "broker forgets what it has acknowledged when it is killed (docs/sources.md)"
)


def check(state: Path) -> Finding:
    """Return the finding about a stream's folder, which its process may be using."""
    try:
        facts = facts_of(state)
        outbox = look(state / OUTBOX) if facts else None
    except (OSError, RecordError) as error:
        return Finding(NAME, FAILS, reason_of(error), f"look at '{state}'")
    if facts is None:
        fix = "give --stream the folder that fedlearn infer has as --state"
        return Finding(NAME, FAILS, f"'{state}' is no stream's folder", fix)
    if outbox is None or "until" not in facts:
        return Finding(NAME, SKIPPED, f"'{state}' sends nothing to a broker")
    return _judged(facts, outbox)


def _judged(facts: dict[str, Any], outbox: OutboxLook) -> Finding:
    limit = int(facts.get("outbox_bytes", 0))
    text = (
        f"{outbox.count} answers wait, {size(outbox.bytes)} of {size(limit)}, for "
        f"{facts.get('broker')}"
    )
    figures = {
        "waiting": outbox.count,
        "bytes": outbox.bytes,
        "dropped": outbox.dropped,
        "damaged": outbox.damaged,
        "until": facts["until"],
    }
    lost = outbox.dropped + outbox.damaged
    if lost:
        text = f"{lost} answers are lost: the outbox was full, or damaged; {text}"
        fix = "see that fedlearn collect runs; a larger --outbox-mb bridges longer gaps"
        return Finding(NAME, FAILS, text, fix, figures)
    if facts["until"] == Until.PUBACK.value:
        text = f"answers stay only until the broker has taken them; {text}"
        return Finding(NAME, NOTE, text, _COLLECT, figures)
    if limit and outbox.bytes > _NEARLY_FULL * limit:
        fix = "see that fedlearn collect runs, before the oldest are dropped"
        return Finding(NAME, NOTE, f"nearly full: {text}", fix, figures)
    return Finding(NAME, WELL, f"{text}, until they are collected", figures=figures)
