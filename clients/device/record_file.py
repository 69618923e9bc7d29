"""The record of a device's two slots as a file: canonical JSON with its own hash.

A record is read whole or not at all: what another program, another version or a failing disk
made of it is refused by name, and never half believed.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any

from fedlearn.clients.installed import (
    SLOTS,
    InstallRecord,
    OnTrial,
    Slot,
    SlotContent,
    WatchTerms,
)
from fedlearn.errors import PackageError
from fedlearn.exchange.releases import (
    InstallFailure,
    ReleaseId,
    WatchFigures,
    WatchLimits,
)
from fedlearn.package import canonical
from fedlearn.package.fields import Fields

FORMAT = 1

# Many times a record's own size.
MOST_BYTES = 64 << 10

# Characters of a reason that are kept.
MOST_REASON = 1000

_LARGEST = 1e18

# Figures that agents of before did not write: a device that is upgraded reads its record.
LATER = ("disagreement",)


def dumps(record: InstallRecord) -> bytes:
    """Return a record as its file's bytes."""
    value = _finite(asdict(record))
    if record.failure is not None:
        value["failure"]["reason"] = record.failure.reason[:MOST_REASON]
    data = canonical.dumps(value)
    digest = hashlib.sha256(data).hexdigest()
    return canonical.dumps({"format": FORMAT, "record": value, "sha256": digest})


def loads(data: bytes) -> InstallRecord:
    """Return the record of a file's bytes. Raises PackageError for any others."""
    fields = Fields(canonical.loads(data, "the record", MOST_BYTES), "record")
    number = fields.whole("format", least=1)
    if number != FORMAT:
        text = f"the record has format {number}, and this fedlearn reads {FORMAT}"
        raise PackageError("format", text)
    value = fields.value("record")
    if fields.sha256("sha256") != hashlib.sha256(canonical.dumps(value)).hexdigest():
        raise PackageError("hash", "the record has another SHA-256 than it says")
    fields.end()
    return _record(Fields(value, "record"))


def _record(fields: Fields) -> InstallRecord:
    trial = None if fields.is_null("trial") else _trial(fields.table("trial"))
    failure = None if fields.is_null("failure") else _failure(fields.table("failure"))
    record = InstallRecord(
        instance=fields.text("instance", 64),
        sequence=fields.whole("sequence"),
        active=_slot(fields, "active"),
        contents=_contents(fields),
        trial=trial,
        floor=fields.whole("floor"),
        failure=failure,
        figures=_figures(fields.table("figures")),
    )
    fields.end()
    return record


def _contents(fields: Fields) -> dict[Slot, SlotContent]:
    names = fields.names("contents", len(SLOTS))
    contents: dict[Slot, SlotContent] = {}
    for slot in SLOTS:
        if slot in names:
            content = Fields(names.pop(slot), f"record.contents.{slot}")
            release = _release(content.table("release"))
            contents[slot] = SlotContent(release, _flag(content, "is_proven"))
            content.end()
    if names:
        raise PackageError("manifest", "record.contents names a slot that is none")
    return contents


def _trial(fields: Fields) -> OnTrial:
    trial = OnTrial(
        rollout=fields.whole("rollout"),
        back=_slot(fields, "back"),
        terms=_terms(fields.table("terms")),
        starts=fields.whole("starts"),
        spent_s=fields.number("spent_s", 0, _LARGEST),
        is_orderly=_flag(fields, "is_orderly"),
    )
    fields.end()
    return trial


def _terms(fields: Fields) -> WatchTerms:
    terms = WatchTerms(
        watch_s=fields.number("watch_s", 0, _LARGEST),
        ready_s=fields.number("ready_s", 0, _LARGEST),
        starts=fields.whole("starts"),
        limits=_limits(fields.table("limits")),
        floor=fields.whole("floor"),
    )
    fields.end()
    return terms


def _limits(fields: Fields) -> WatchLimits:
    requests = fields.whole("requests")
    bounds = {}
    for name in ("errors", "p99_ms", "unsure", "drift", "disagreement"):
        if name in LATER and not fields.has(name):
            continue
        bound = fields.optional_number(name, 0, _LARGEST)
        bounds[name] = float("inf") if bound is None else bound
    fields.end()
    return WatchLimits(requests, **bounds)


def _figures(fields: Fields) -> WatchFigures:
    requests = fields.whole("requests")
    numbers = {}
    for name in ("errors", "p99_ms", "unsure", "drift", "disagreement"):
        if name in LATER and not fields.has(name):
            continue
        numbers[name] = fields.number(name, 0, _LARGEST)
    fields.end()
    return WatchFigures(requests, **numbers)


def _failure(fields: Fields) -> InstallFailure:
    failure = InstallFailure(
        rollout=fields.whole("rollout"),
        release=_release(fields.table("release")),
        reason=fields.text("reason", MOST_REASON),
    )
    fields.end()
    return failure


def _release(fields: Fields) -> ReleaseId:
    release = ReleaseId(
        fields.text("name", 64), fields.whole("counter"), fields.sha256("digest")
    )
    fields.end()
    return release


def _slot(fields: Fields, key: str) -> Slot | None:
    if fields.is_null(key):
        return None
    name = fields.text(key, 1)
    for slot in SLOTS:
        if name == slot:
            return slot
    raise PackageError("manifest", f"record.{key} is no slot: {name!r}")


def _flag(fields: Fields, key: str) -> bool:
    value = fields.value(key)
    if not isinstance(value, bool):
        raise PackageError("manifest", f"record.{key} is neither true nor false")
    return value


def _finite(value: Any) -> Any:
    """Return a value for JSON, which has no infinity: null is no limit."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if value == float("inf") else value
