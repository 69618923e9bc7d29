"""What a user should know of a round besides its figures: one sentence for each thing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedlearn.records.line import Line
from fedlearn.runs.tally import RoundTally


def lost_lines(lines: Sequence[Line], done: int) -> str:
    """Return that a resumed record lacks lines; "": it has all of the rounds done."""
    lost = done + 1 - len({line["round"] for line in lines})
    if not lost:
        return ""
    return (
        f"metrics.jsonl lacks {lost} of its lines: "
        "the sums of bytes and seconds are too small"
    )


def is_mostly_whole(tally: RoundTally) -> bool:
    """Return whether most models were sent whole where differences were meant.

    Half: single clients that come back after long are sent whole models by design.
    """
    return 2 * tally.whole_models > tally.messages_down


def of_models(round: int, tally: RoundTally, codec: str, noted: bool) -> Iterator[str]:
    """Yield what a user should know of the models sent. noted: whole ones were told before."""
    if tally.damaged:
        yield (
            f"round {round}: what the disk held of {tally.damaged} clients was "
            "damaged; they began anew, and the result is not that of an undisturbed run"
        )
    if is_mostly_whole(tally) and not noted:
        yield (
            f"{tally.whole_models} of {tally.messages_down} models were sent whole: "
            f"what {codec} makes of a difference brings a "
            "client's copy no nearer; choose a finer codec.down"
        )
