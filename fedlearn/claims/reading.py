"""Files of claims: one small TOML says what is run, and what must come of it.

Such a file is an ordinary config (its run is called "plain") with four kinds of tables more::

    [reproduce]              # about, paper, base: the experiment whose keys hold where this file does not change them
    [seeds]                  # by tier: ci = [0], nightly = [0, 1, 2]
    [variant.NAME]           # a further run: what it changes, as codec.up = "eden1"
    [[claim]]                # one thing that must hold
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from fedlearn import config
from fedlearn.config import Experiment, Section
from fedlearn.errors import ConfigError
from fedlearn.names import nearest

SHIPPED = config.SHIPPED / "reproduce"

TIERS = ("ci", "nightly", "release")
"""From the shortest to the longest; each has what the shorter ones have."""

PLAIN = "plain"
"""The run that a file describes without its variants."""

OPEN = {
    ("data",): "name",
    ("data", "partition"): "kind",
    ("model",): "name",
    ("strategy",): "name",
}
"""Tables that name a thing and hold its arguments: another name needs other arguments, so it starts such a table anew."""

_S = TypeVar("_S", bound=Section)
_Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63)]


class AboutSection(Section):
    """``[reproduce]``: what the claims are about."""

    about: str = Field(min_length=1)
    paper: str = ""  # who published the figures, and where
    base: str = ""  # a shipped experiment, or a file beside this one


class SeedsSection(Section):
    """``[seeds]``: tier → the seeds that each run is made with there, and in every longer tier that has none of its own."""

    ci: tuple[_Seed, ...] = Field((), strict=False)
    nightly: tuple[_Seed, ...] = Field((), strict=False)
    release: tuple[_Seed, ...] = Field((), strict=False)

    @model_validator(mode="after")
    def _some(self) -> SeedsSection:
        if not (self.ci or self.nightly or self.release):
            raise ValueError("name the seeds of at least one tier, such as ci = [0]")
        return self


class Claim(Section):
    """``[[claim]]``: one thing that must hold. Accuracies are shares of 1, bytes those of both directions.

    rounds: to the target, counted as by `fedlearn.reporting.results.crossing`, so in fractions. bytes: to the target, or of the
    whole run. accuracy, loss: of the final model, after a round, or the median of the last evaluations. best_accuracy: of the run, or up
    to a round. hash: of the final model.
    """

    what: Literal["rounds", "bytes", "accuracy", "best_accuracy", "loss", "hash"]
    of: str = PLAIN
    target: float | None = Field(None, gt=0, le=1)
    round: int | None = Field(None, ge=1)
    last: int = Field(1, ge=1)  # accuracy, loss: how many evaluations the median is of
    minus: str = ""  # a variant whose figure is taken away, seed by seed
    over: str = ""  # a variant whose figure is divided by
    at_least: float | None = None
    at_most: float | None = None
    by: Literal["median", "mean", "each"] = (
        "median"  # of the seeds: what the limits are for
    )
    same_as: str = ""  # hash: a variant that has the same, for each seed
    sha256: dict[str, _Sha256] = Field(
        default_factory=dict
    )  # hash: platform → that of the first seed
    paper: float | str = ""
    figure: str = ""  # of the paper: its table or figure
    known: str = ""  # why the claim is known not to hold: it is told, and fails nothing

    @model_validator(mode="after")
    def _together(self) -> Claim:
        for wrong, why in self._mistakes():
            if wrong:
                raise ValueError(why)
        return self

    def _mistakes(self) -> list[tuple[bool, str]]:
        limits, hashed = (
            self.at_least is not None or self.at_most is not None,
            self.what == "hash",
        )
        return [
            (
                self.what == "rounds" and self.target is None,
                'what = "rounds" needs target, the accuracy to count them to',
            ),
            (
                self.what not in ("rounds", "bytes") and self.target is not None,
                'target is for what = "rounds" or "bytes"',
            ),
            (
                self.what not in ("accuracy", "best_accuracy", "loss")
                and self.round is not None,
                'round is for what = "accuracy", "best_accuracy" or "loss"',
            ),
            (
                self.last > 1 and self.what not in ("accuracy", "loss"),
                'last is for what = "accuracy" or "loss"',
            ),
            (
                self.last > 1 and self.round is not None,
                "round and last exclude each other",
            ),
            (bool(self.minus and self.over), "minus and over exclude each other"),
            (
                hashed and (limits or bool(self.minus or self.over)),
                'what = "hash" is compared by same_as or sha256 alone',
            ),
            (
                hashed and bool(self.same_as) == bool(self.sha256),
                'what = "hash" needs either same_as or sha256',
            ),
            (
                not hashed and bool(self.same_as or self.sha256),
                'same_as and sha256 are for what = "hash"',
            ),
            (
                not hashed and not limits,
                "a claim needs at_least or at_most: what must hold",
            ),
        ]

    @property
    def variants(self) -> tuple[str, ...]:
        """Return the variants that it is about."""
        return tuple(
            name for name in (self.of, self.minus, self.over, self.same_as) if name
        )


@dataclass(frozen=True)
class Variant:
    """A run to be made, but for its seed. agents: above 0, of `fedlearn serve --local-agents`, in a simulation's place."""

    experiment: Experiment
    agents: int = 0


@dataclass(frozen=True)
class Reproduction:
    """A file of claims. variants: those that its claims are about, name → run."""

    name: str
    about: AboutSection
    seeds: Mapping[str, tuple[int, ...]]
    claims: tuple[Claim, ...]
    variants: Mapping[str, Variant]

    @property
    def tier(self) -> str:
        """Return the shortest tier that it belongs to."""
        return next(tier for tier in TIERS if self.seeds.get(tier))

    def seeds_in(self, tier: str) -> tuple[int, ...]:
        """Return the seeds that it is run with in a tier: its own ones, or those of the next shorter tier; none: it is not in it."""
        return next(
            (
                self.seeds[t]
                for t in reversed(TIERS[: TIERS.index(tier) + 1])
                if self.seeds.get(t)
            ),
            (),
        )


def shipped() -> dict[str, Path]:
    """Return the files of claims that come with fedlearn: name → file."""
    return {
        path.stem: path
        for path in sorted(SHIPPED.glob("*.toml"), key=lambda path: path.stem)
    }


def read(name: str, overrides: Sequence[str] = ()) -> Reproduction:
    """Return the claims of a file or a shipped name; ``section.key=value`` overrides change every run.

    Raises ConfigError naming the file, the place and the fix.
    """
    known = shipped()
    if name not in known and not Path(name).is_file():
        raise ConfigError(
            f"no file '{name}', and no claims of that name.{nearest(name, known)} Known: {', '.join(known)}"
        )
    source = config.load(
        str(known[name] if name in known and not Path(name).is_file() else name)
    )
    table, where = dict(source.table), str(source.path)
    about = _section(AboutSection, table.pop("reproduce", {}), f"{where}: [reproduce]")
    seeds = _section(SeedsSection, table.pop("seeds", {}), f"{where}: [seeds]")
    claims = _claims(table.pop("claim", []), where)
    changes = _tables(table.pop("variant", {}), f"{where}: [variant]")
    if about.base:
        table = merged(_base(about.base, source.path), table)
    names = dict.fromkeys(variant for claim in claims for variant in claim.variants)
    variants = {}
    for variant in names:
        if variant != PLAIN and variant not in changes:
            known_here = (PLAIN, *changes)
            raise ConfigError(
                f"{where}: there is no variant '{variant}'.{nearest(variant, known_here)} Known: {', '.join(known_here)}"
            )
        variants[variant] = _variant(
            variant, table, changes.get(variant, {}), claims, source, overrides
        )
    if unused := set(changes) - set(names):
        raise ConfigError(
            f"{where}: [variant.{sorted(unused)[0]}]: no claim is about it"
        )
    for position, claim in enumerate(claims, 1):
        _check_round(claim, variants, f"{where}: claim {position}")
    return Reproduction(source.path.stem, about, seeds.model_dump(), claims, variants)


def _variant(
    name: str,
    table: Mapping[str, Any],
    change: Mapping[str, Any],
    claims: Sequence[Claim],
    source: config.Source,
    overrides: Sequence[str],
) -> Variant:
    """Return a variant's run, without its base's [expect], which its claims stand for, and ended where no claim needs more of it."""
    where = str(source.path) if name == PLAIN else f"{source.path}: [variant.{name}]"
    agents = change.get("agents", 0)
    if (
        not isinstance(agents, int)
        or isinstance(agents, bool)
        or not 0 <= agents <= 1000
    ):
        raise ConfigError(
            f"{where}: agents = {agents!r}: a whole number up to 1000, of processes of this machine"
        )
    full = merged(
        table, {key: value for key, value in change.items() if key != "agents"}
    )
    full.pop("expect", None)
    made = config.checked(full, where, source.text, overrides)
    targets = [claim.target for claim in claims if name in claim.variants]
    if not made.experiment.stop_at and None not in targets:
        stop_at = max(target for target in targets if target is not None)
        made = made.model_copy(
            update={
                "experiment": made.experiment.model_copy(update={"stop_at": stop_at})
            }
        )
    return Variant(made, agents)


def merged(
    base: Mapping[str, Any], change: Mapping[str, Any], path: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return tables with changes; one of `OPEN` that names another thing than its base starts anew."""
    out = dict(base)
    for key, value in change.items():
        here, before = (*path, key), out.get(key)
        if not isinstance(value, Mapping) or not isinstance(before, Mapping):
            out[key] = value
        elif (
            here in OPEN
            and OPEN[here] in value
            and value[OPEN[here]] != before.get(OPEN[here])
        ):
            out[key] = dict(value)
        else:
            out[key] = merged(before, value, here)
    return out


def _base(base: str, path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return a base's config. One that has claims itself stands on its own base; its claims, seeds and variants stay with it."""
    beside = path.parent / base
    try:
        source = config.load(str(beside) if beside.is_file() else base)
    except ConfigError as error:
        raise ConfigError(f"{path}: [reproduce] base: {error}") from None
    table = dict(source.table)
    about = _section(
        AboutSection,
        table.pop("reproduce", {"about": "a config"}),
        f"{source.path}: [reproduce]",
    )
    for key in ("seeds", "variant", "claim"):
        table.pop(key, None)
    above = (*above, path.resolve())
    if source.path.resolve() in above:
        raise ConfigError(
            f"{path}: [reproduce] base: '{base}' stands on this file itself"
        )
    return merged(_base(about.base, source.path, above), table) if about.base else table


def _claims(found: Any, where: str) -> tuple[Claim, ...]:
    if not isinstance(found, list) or not found:
        raise ConfigError(
            f"{where}: no claims; write one as [[claim]], with what and at_least or at_most"
        )
    return tuple(
        _section(Claim, table, f"{where}: claim {position}")
        for position, table in enumerate(found, 1)
    )


def _tables(found: Any, where: str) -> dict[str, Mapping[str, Any]]:
    if not isinstance(found, Mapping) or not all(
        isinstance(table, Mapping) for table in found.values()
    ):
        raise ConfigError(
            f"{where}: write [variant.NAME], and below it what this run changes"
        )
    if PLAIN in found:
        raise ConfigError(
            f"{where}: '{PLAIN}' is the run without changes; give this one another name"
        )
    return dict(found)


def _check_round(claim: Claim, variants: Mapping[str, Variant], where: str) -> None:
    for name in claim.variants:
        settings = variants[name].experiment.experiment
        if claim.round and (
            claim.round > settings.rounds
            or (
                claim.round % settings.evaluate_every and claim.round != settings.rounds
            )
        ):
            raise ConfigError(
                f"{where}: '{name}' has no accuracy after round {claim.round}: it has {settings.rounds} rounds, evaluated every "
                f"{settings.evaluate_every}"
            )


def _section(kind: type[_S], table: Any, where: str) -> _S:
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            fields = list(kind.model_fields)
            raise ConfigError(
                f"{where}: unknown key '{key}'.{nearest(key, fields)} Known here: {', '.join(fields)}"
            ) from None
        message = str(first["msg"]).removeprefix("Value error, ")
        raise ConfigError(
            f"{where}: {f'{key!r}: ' if key else ''}{message[0].lower()}{message[1:]}"
        ) from None
