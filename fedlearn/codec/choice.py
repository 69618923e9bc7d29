"""What `codec.up = "auto"` and `codec.down = "auto"` mean: a codec by what is known before a run, and why.

The rules are what docs/compression.md measures, on the side of accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

QUICK_S = 0.05
"""Seconds in which a link may carry the whole model as float32, so that compressing it is not worth the work."""

TINY = 2000
"""Parameters below which headers and scales outweigh what the coarse codecs save."""

SLOW_MBPS = 1.0
"""A link so slow that a third of the bytes is worth up to a point of accuracy: what the coarsest pair costs."""

SMALL = 50_000
"""Parameters below which `uvq` has so few blocks that its noise is uneven: on 13,706 of them trainings diverged."""

FEW_CONTACTS = 10
"""Times that a client takes part, below which there is little time to mend what a coarse difference leaves out."""

FEW_CLIENTS = 10
"""Updates in a round below which the noise of `uvq` is not averaged out: with six, at a high learning rate, training diverged."""


@dataclass(frozen=True)
class Situation:
    """What is known before a run."""

    parameters: int
    clients: int
    cohort: int  # clients in a round
    rounds: int
    averages: bool = True  # whether the strategy is known to average updates, so that unbiased noise cancels
    whole_models: bool = False  # whether whole models are sent, whatever the codec
    link_mbps: float = 0.0  # of a client's link, in 10**6 bits per second; 0: not known


@dataclass(frozen=True)
class Choice:
    """A codec for each way, and the reason in words."""

    up: str
    down: str
    why: str


def choose(known: Situation) -> Choice:
    """Return the codecs for a situation."""
    made = _choose(known)
    if known.whole_models and made.down != "f16":
        return replace(
            made,
            down="f16",
            why=f'{made.why}; downlink = "snapshot" sends whole models',
        )
    return made


def _choose(known: Situation) -> Choice:
    seconds = (
        32 * known.parameters / (1e6 * known.link_mbps)
        if known.link_mbps
        else float("inf")
    )
    if seconds <= QUICK_S:
        return Choice(
            "f16", "f16", f"the link carries the whole model in {1000 * seconds:.0f} ms"
        )
    if known.parameters < TINY:
        return Choice(
            "q8",
            "f16",
            f"{known.parameters:,} parameters: headers outweigh what coarser codecs save",
        )
    up, down, why = (
        "eden1",
        "pred+cvq(1,1)",
        "a bit a value each way costs next to no accuracy",
    )
    if 0 < known.link_mbps < SLOW_MBPS:
        why = f"a link of {known.link_mbps:g} Mbit/s"
        if lacks := _lacks(known):
            why += f", but {lacks}, so that less than a bit a value would show"
        else:
            up, down, why = "uvq(0.1)", "pred+cvq(0.5,1)", f"{why}: every byte counts"
    if not known.averages:
        return Choice(
            "q4",
            down,
            f"{why}; updates in 4 bits: the strategy may compare them one by one, which noise would drown",
        )
    return Choice(up, down, why)


def _lacks(known: Situation) -> str:
    """Return what a run lacks for the coarsest pair; "" when nothing."""
    contacts = known.rounds * known.cohort / known.clients
    if known.parameters < SMALL:
        return f"the model has {known.parameters:,} parameters"
    if contacts < FEW_CONTACTS:
        return f"a client takes part {contacts:.3g} times"
    return (
        f"{known.cohort} clients answer in a round"
        if known.cohort < FEW_CLIENTS
        else ""
    )
