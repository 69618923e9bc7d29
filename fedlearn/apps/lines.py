"""The lines of an app's run, summed up: what its summary, page, report and status share.

Nothing of flwr is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedlearn.text import shortened

Line = Mapping[str, Any]

# Whose metrics a line has: the strategy's sums over nodes, twice, and `evaluate_fn`'s.
KINDS = ("train", "evaluate", "server")

_SUMMED = ("messages", "failed", "bytes_up", "bytes_down", "bytes_raw", "seconds")


def sums(lines: Sequence[Line]) -> dict[str, Any]:
    """Return the sums over lines, the last metrics of each kind, and the first failure."""
    totals: dict[str, Any] = {
        name: sum(line.get(name, 0) for line in lines) for name in _SUMMED
    }
    totals["rounds"] = max((line["round"] for line in lines), default=0)
    for kind in KINDS:
        measured = [line[kind] for line in lines if line.get(kind)]
        totals[kind] = measured[-1] if measured else None
    totals["first_failure"] = first_failure(lines)
    return totals


def first_failure(lines: Sequence[Line]) -> dict[str, Any] | None:
    """Return round, node and reason of the first message that failed; None: none did."""
    for line in lines:
        for node, reason in (line.get("failures") or {}).items():
            return {"round": line["round"], "node": int(node), "reason": reason}
    return None


def failed_text(totals: Mapping[str, Any]) -> str:
    """Return how many of a run's messages failed, and why the first; "": none did."""
    if not totals.get("failed"):
        return ""
    text = f"{totals['failed']} of {totals['messages']} messages failed"
    first = totals.get("first_failure")
    # Runs of before have only their numbers.
    if not first:
        return text
    return f"{text}; the first: node {first['node']} in round {first['round']}: " + (
        shortened(str(first["reason"]))
    )


def lost_text(lines: Sequence[Line]) -> str:
    """Return what became of the last round, if all its messages failed; else ""."""
    # A round of none has lost nothing.
    asked = [line for line in lines if line["messages"]]
    if not asked or asked[-1]["failed"] < asked[-1]["messages"]:
        return ""
    last = asked[-1]
    first = first_failure([last])
    reason = f"; the first: node {first['node']}: {first['reason']}" if first else ""
    return f"all {last['messages']} messages of round {last['round']} failed{reason}"
