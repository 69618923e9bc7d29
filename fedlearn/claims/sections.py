"""The tables of a file of claims besides those of a config, and what they may hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from fedlearn.config import Section
from fedlearn.errors import ConfigError
from fedlearn.names import nearest

# The run that a file describes without its variants.
PLAIN = "plain"

_S = TypeVar("_S", bound=Section)
_Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63)]


class AboutSection(Section):
    """``[reproduce]``: what the claims are about."""

    about: str = Field(min_length=1)
    # Who published the figures, and where.
    paper: str = ""
    # A shipped experiment, or a file beside this one.
    base: str = ""


class SeedsSection(Section):
    """``[seeds]``: tier → the seeds of each run there.

    They hold in every longer tier that has none of its own, too.
    """

    ci: tuple[_Seed, ...] = Field((), strict=False)
    nightly: tuple[_Seed, ...] = Field((), strict=False)
    release: tuple[_Seed, ...] = Field((), strict=False)

    @model_validator(mode="after")
    def _some(self) -> SeedsSection:
        if not (self.ci or self.nightly or self.release):
            raise ValueError("name the seeds of at least one tier, such as ci = [0]")
        return self


class Claim(Section):
    """``[[claim]]``: one thing that must hold.

    Accuracies are shares of 1, bytes those of both directions. By ``what``:

    rounds: to the target, counted as by `fedlearn.reporting.results.crossing`, so in
    fractions. bytes: to the target, or of the whole run. accuracy, loss: of the final
    model, after a round, or the median of the last evaluations. best_accuracy: of the
    run, or up to a round. hash: of the final model.
    """

    what: Literal["rounds", "bytes", "accuracy", "best_accuracy", "loss", "hash"]
    of: str = PLAIN
    target: float | None = Field(None, gt=0, le=1)
    round: int | None = Field(None, ge=1)
    # Accuracy, loss: how many evaluations the median is of.
    last: int = Field(1, ge=1)
    # A variant whose figure is subtracted, seed by seed; or one that is divided by.
    minus: str = ""
    over: str = ""
    at_least: float | None = None
    at_most: float | None = None
    # What of the seeds' figures the limits are for.
    by: Literal["median", "mean", "each"] = "median"
    # Hash: a variant that has the same, for each seed.
    same_as: str = ""
    # Hash: platform → that of the first seed.
    sha256: dict[str, _Sha256] = Field(default_factory=dict)
    paper: float | str = ""
    # The paper's table or figure.
    figure: str = ""
    # Why the claim is known not to hold: this is reported, and fails nothing.
    known: str = ""

    @model_validator(mode="after")
    def _together(self) -> Claim:
        mistakes = [*self._key_mistakes(), *self._limit_mistakes()]
        if mistakes:
            raise ValueError(mistakes[0])
        return self

    def _key_mistakes(self) -> Iterator[str]:
        """Yield what is wrong with the keys that say what is measured."""
        measure = self.what
        if measure == "rounds" and self.target is None:
            yield 'what = "rounds" needs target, the accuracy to count them to'
        if measure not in ("rounds", "bytes") and self.target is not None:
            yield 'target is for what = "rounds" or "bytes"'
        of_a_round = measure in ("accuracy", "best_accuracy", "loss")
        if not of_a_round and self.round is not None:
            yield 'round is for what = "accuracy", "best_accuracy" or "loss"'
        if self.last > 1 and measure not in ("accuracy", "loss"):
            yield 'last is for what = "accuracy" or "loss"'
        if self.last > 1 and self.round is not None:
            yield "round and last exclude each other"
        if self.minus and self.over:
            yield "minus and over exclude each other"

    def _limit_mistakes(self) -> Iterator[str]:
        """Yield what is wrong with the keys that say what must hold."""
        limited = self.at_least is not None or self.at_most is not None
        if self.what != "hash":
            if self.same_as or self.sha256:
                yield 'same_as and sha256 are for what = "hash"'
            if not limited:
                yield "a claim needs at_least or at_most: what must hold"
            return
        if limited or self.minus or self.over:
            yield 'what = "hash" is compared by same_as or sha256 alone'
        if bool(self.same_as) == bool(self.sha256):
            yield 'what = "hash" needs either same_as or sha256'

    @property
    def variants(self) -> tuple[str, ...]:
        """Return the variants that it is about."""
        names = (self.of, self.minus, self.over, self.same_as)
        return tuple(name for name in names if name)


def checked_section(kind: type[_S], table: Any, where: str) -> _S:
    """Return a table as a section; raises ConfigError for its first mistake."""
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        mistake = error.errors()[0]
    key = ".".join(str(part) for part in mistake["loc"])
    if mistake["type"] == "extra_forbidden":
        fields = list(kind.model_fields)
        raise ConfigError(
            f"{where}: unknown key '{key}'.{nearest(key, fields)} "
            f"Known here: {', '.join(fields)}"
        )
    # What pydantic says of a ValueError of ours begins with this.
    message = str(mistake["msg"]).removeprefix("Value error, ")
    message = f"{message[0].lower()}{message[1:]}"
    if key:
        # Mistakes of keys together have no key.
        message = f"{key!r}: {message}"
    raise ConfigError(f"{where}: {message}")
