"""What `codec.up = "auto"` and `codec.down = "auto"` mean: codecs chosen before a run.

The choice rests on what is known then, and says its reason. The rules are what
docs/compression.md measures, on the side of accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

# Seconds in which a link may carry the whole model as float32, so that compressing it
# is not worth the work.
QUICK_S = 0.05

# Parameters below which headers and scales outweigh what the coarse codecs save.
TINY = 2000

# Mbit/s of a link so slow that a third of the bytes is worth up to a point of accuracy:
# what the coarsest pair costs.
SLOW_MBPS = 1.0

# Parameters below which `uvq` has so few blocks that its noise is uneven: on 13,706 of
# them trainings diverged.
SMALL = 50_000

# Times that a client takes part, below which there is little time to mend what a coarse
# difference leaves out.
FEW_CONTACTS = 10

# Updates in a round below which the noise of `uvq` is not averaged out: with six, at a
# high learning rate, training diverged.
FEW_CLIENTS = 10


@dataclass(frozen=True)
class Situation:
    """What is known before a run."""

    parameters: int
    clients: int
    # Clients in a round.
    cohort: int
    rounds: int
    # Whether the strategy is known to average updates, so that unbiased noise cancels.
    averages: bool = True
    # Whether whole models are sent, whatever the codec.
    whole_models: bool = False
    # Of a client's link, in 10**6 bits per second; 0: not known.
    link_mbps: float = 0.0

    @property
    def model_s(self) -> float:
        """Return the seconds for the model as float32; infinite for an unknown link."""
        if not self.link_mbps:
            return float("inf")
        return 32 * self.parameters / (1e6 * self.link_mbps)


@dataclass(frozen=True)
class CodecChoice:
    """A codec for each way, and the reason in words."""

    up: str
    down: str
    why: str


def choose(situation: Situation) -> CodecChoice:
    """Return the codecs for a situation."""
    choice = _choose(situation)
    if not situation.whole_models or choice.down == "f16":
        return choice
    # The other codecs are too coarse for a whole model.
    why = f'{choice.why}; downlink = "snapshot" sends whole models'
    return replace(choice, down="f16", why=why)


def _choose(situation: Situation) -> CodecChoice:
    """Return the codecs where the downlink may send differences."""
    parameters = situation.parameters
    if situation.model_s <= QUICK_S:
        milliseconds = f"{1000 * situation.model_s:.0f} ms"
        return CodecChoice(
            "f16", "f16", f"the link carries the whole model in {milliseconds}"
        )

    if parameters < TINY:
        why = f"{parameters:,} parameters: headers outweigh what coarser codecs save"
        return CodecChoice("q8", "f16", why)

    choice = _by_link(situation)
    if situation.averages:
        return choice
    # An unknown strategy, such as a median, may depend on single updates.
    why = (
        f"{choice.why}; updates in 4 bits: the strategy may compare them one by one, "
        "which noise would drown"
    )
    return replace(choice, up="q4", why=why)


def _by_link(situation: Situation) -> CodecChoice:
    """Return the codecs of a strategy that averages, by the speed of the links."""
    one_bit = CodecChoice(
        "eden1",
        "pred+cvq(1,1)",
        "a bit a value each way costs next to no accuracy",
    )
    # 0 is an unknown link, which is taken for a usual one.
    mbps = situation.link_mbps
    if not 0 < mbps < SLOW_MBPS:
        return one_bit
    why = f"a link of {mbps:g} Mbit/s"
    obstacle = _obstacle(situation)
    if obstacle:
        reason = f"{why}, but {obstacle}, so that less than a bit a value would show"
        return replace(one_bit, why=reason)
    return CodecChoice("uvq(0.1)", "pred+cvq(0.5,1)", f"{why}: every byte counts")


def _obstacle(situation: Situation) -> str:
    """Return why a run is too small for the coarsest pair; "" where it is not."""
    if situation.parameters < SMALL:
        return f"the model has {situation.parameters:,} parameters"
    contacts = situation.rounds * situation.cohort / situation.clients
    if contacts < FEW_CONTACTS:
        return f"a client takes part {contacts:.3g} times"
    if situation.cohort < FEW_CLIENTS:
        return f"{situation.cohort} clients answer in a round"
    return ""
