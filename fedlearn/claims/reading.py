"""Files of claims: one small TOML says what is run, and what must come of it.

Such a file is an ordinary config (its run is called "plain") with four more tables::

    [reproduce]       # about, paper; base: the experiment that this file changes
    [seeds]           # by tier: ci = [0], nightly = [0, 1, 2]
    [variant.NAME]    # a further run: what it changes, as codec.up = "eden1"
    [[claim]]         # one thing that must hold
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlearn import config
from fedlearn.claims.sections import (
    PLAIN,
    AboutSection,
    Claim,
    SeedsSection,
    checked_section,
)
from fedlearn.config import Experiment
from fedlearn.errors import ConfigError
from fedlearn.names import nearest

SHIPPED = config.SHIPPED / "reproduce"

# From the shortest to the longest; each has what the shorter ones have.
TIERS = ("ci", "nightly", "release")

# Tables that name a thing and hold its arguments, and the key of the name. Another name
# needs other arguments, so that it starts the table anew.
NAMING_TABLES = {
    ("data",): "name",
    ("data", "partition"): "kind",
    ("model",): "name",
    ("strategy",): "name",
}

# Agents share this machine: more processes than this are a typing mistake.
_MAX_AGENTS = 1000


@dataclass(frozen=True)
class Variant:
    """A run to be made, but for its seed.

    agents: above 0, it is a run of `fedlearn serve --local-agents` with so many, in place
    of a simulation.
    """

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
        # `SeedsSection` sees to it that there is one.
        tiers = (tier for tier in TIERS if self.seeds.get(tier))
        return next(tiers)

    def seeds_in(self, tier: str) -> tuple[int, ...]:
        """Return the seeds of its runs in a tier; none where it is not in the tier.

        They are the tier's own seeds, or those of the next shorter tier that has some.
        """
        not_longer = TIERS[: TIERS.index(tier) + 1]
        # The tier itself first, then the next shorter one.
        for name in reversed(not_longer):
            if seeds := self.seeds.get(name):
                return seeds
        return ()


def shipped() -> dict[str, Path]:
    """Return the files of claims that come with fedlearn: name → file, by name."""
    by_name = {path.stem: path for path in SHIPPED.glob("*.toml")}
    # By name: as files, "a-b.toml" would go before "a.toml".
    return dict(sorted(by_name.items()))


def read(name: str, overrides: Sequence[str] = ()) -> Reproduction:
    """Return the claims of a file or a shipped name.

    overrides: ``section.key=value``, for every run. Raises ConfigError naming the file,
    the place and the fix.
    """
    source = config.load(_path(name))
    # What these leave of the table is an ordinary config.
    table = dict(source.table)
    where = str(source.path)
    about = checked_section(
        AboutSection, table.pop("reproduce", {}), f"{where}: [reproduce]"
    )
    seeds = checked_section(SeedsSection, table.pop("seeds", {}), f"{where}: [seeds]")
    claims = _claims(table.pop("claim", []), where)
    changes = _changes(table.pop("variant", {}), f"{where}: [variant]")
    if about.base:
        table = merged(_base(about.base, source.path), table)
    names = _claimed(claims, changes, where)
    variants: dict[str, Variant] = {}
    for variant in names:
        change = changes.get(variant, {})
        run = _variant(variant, table, change, source, overrides)
        about_it = [claim for claim in claims if variant in claim.variants]
        variants[variant] = _shortened(run, about_it)
    for position, claim in enumerate(claims, 1):
        _check_round(claim, variants, f"{where}: claim {position}")
    return Reproduction(source.path.stem, about, seeds.model_dump(), claims, variants)


def _path(name: str) -> str:
    """Return the file that a name stands for; raises ConfigError when there is none.

    A file here goes before a shipped one of the same name.
    """
    if Path(name).is_file():
        return name
    files = shipped()
    if name not in files:
        raise ConfigError(
            f"no file '{name}', and no claims of that name.{nearest(name, files)} "
            f"Known: {', '.join(files)}"
        )
    return str(files[name])


def _claimed(
    claims: Sequence[Claim], changes: Mapping[str, Any], where: str
) -> list[str]:
    """Return the variants that claims are about, each once, in the claims' order.

    Raises ConfigError for a variant that is not in the file, and for one without a claim.
    """
    names = list(
        dict.fromkeys(variant for claim in claims for variant in claim.variants)
    )
    variants = (PLAIN, *changes)
    for name in names:
        if name not in variants:
            raise ConfigError(
                f"{where}: there is no variant '{name}'.{nearest(name, variants)} "
                f"Known: {', '.join(variants)}"
            )
    # Its run would cost time and show nothing.
    if unclaimed := set(changes) - set(names):
        raise ConfigError(f"{where}: [variant.{min(unclaimed)}]: no claim is about it")
    return names


def _variant(
    name: str,
    table: Mapping[str, Any],
    change: Mapping[str, Any],
    source: config.Source,
    overrides: Sequence[str],
) -> Variant:
    """Return a variant's run, without its base's [expect]: claims stand for that."""
    where = str(source.path)
    if name != PLAIN:
        where = f"{where}: [variant.{name}]"
    change = dict(change)
    agents = change.pop("agents", 0)
    # To Python, true is an integer.
    is_number = isinstance(agents, int) and not isinstance(agents, bool)
    if not is_number or not 0 <= agents <= _MAX_AGENTS:
        raise ConfigError(
            f"{where}: agents = {agents!r}: a whole number up to {_MAX_AGENTS}, "
            "of processes of this machine"
        )
    full = merged(table, change)
    # Of the whole run: a claim may end it earlier.
    full.pop("expect", None)
    return Variant(config.checked(full, where, source.text, overrides), agents)


def _shortened(variant: Variant, claims: Sequence[Claim]) -> Variant:
    """Return the run of a variant, ended where none of its claims needs more of it."""
    # A claim without a target is about the end of the whole run.
    settings = variant.experiment.experiment
    targets = [claim.target for claim in claims if claim.target is not None]
    # A config that stops by itself knows why.
    if settings.stop_at or len(targets) < len(claims):
        return variant
    settings = settings.model_copy(update={"stop_at": max(targets)})
    experiment = variant.experiment.model_copy(update={"experiment": settings})
    return Variant(experiment, variant.agents)


def merged(
    base: Mapping[str, Any], change: Mapping[str, Any], path: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return tables with changes, at a path of keys.

    One of `NAMING_TABLES` that names another thing than its base starts anew.
    """
    tables = dict(base)
    for key, value in change.items():
        before = tables.get(key)
        # A value takes the place of a value, and of a table.
        if not isinstance(value, Mapping) or not isinstance(before, Mapping):
            tables[key] = value
            continue
        naming = NAMING_TABLES.get((*path, key))
        if naming and naming in value and value[naming] != before.get(naming):
            tables[key] = dict(value)
        else:
            tables[key] = merged(before, value, (*path, key))
    return tables


def _base(base: str, path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return the config of the base of the file ``path``.

    A base that is a file of claims stands on its own base; its claims, seeds and variants
    stay with it. above: the files that stand on ``path``. Raises ConfigError for a base
    that cannot be read or that stands on itself.
    """
    # A file beside this one goes before a shipped experiment of that name.
    beside = path.parent / base
    try:
        source = config.load(str(beside) if beside.is_file() else base)
    except ConfigError as error:
        raise ConfigError(f"{path}: [reproduce] base: {error}") from None
    table = dict(source.table)
    # An ordinary config has no [reproduce], and needs none here.
    reproduce = table.pop("reproduce", {"about": "a config"})
    about = checked_section(AboutSection, reproduce, f"{source.path}: [reproduce]")
    for key in ("seeds", "variant", "claim"):
        table.pop(key, None)
    above = (*above, path.resolve())
    # Without this, two files that name each other would be read for ever.
    if source.path.resolve() in above:
        raise ConfigError(
            f"{path}: [reproduce] base: '{base}' stands on this file itself"
        )
    if not about.base:
        return table
    return merged(_base(about.base, source.path, above), table)


def _claims(tables: Any, where: str) -> tuple[Claim, ...]:
    """Return the claims of ``[[claim]]``; raises ConfigError for none."""
    if not isinstance(tables, list) or not tables:
        raise ConfigError(
            f"{where}: no claims; write one as [[claim]], with what and at_least or "
            "at_most"
        )
    return tuple(
        checked_section(Claim, table, f"{where}: claim {position}")
        for position, table in enumerate(tables, 1)
    )


def _changes(tables: Any, where: str) -> dict[str, Mapping[str, Any]]:
    """Return what each variant changes; raises ConfigError for what is no table."""
    named = isinstance(tables, Mapping)
    if not named or not all(isinstance(table, Mapping) for table in tables.values()):
        raise ConfigError(
            f"{where}: write [variant.NAME], and below it what this run changes"
        )
    if PLAIN in tables:
        raise ConfigError(
            f"{where}: '{PLAIN}' is the run without changes; give this one another name"
        )
    return dict(tables)


def _check_round(claim: Claim, variants: Mapping[str, Variant], where: str) -> None:
    """Raise ConfigError for a claim about a round that is not evaluated."""
    if not claim.round:
        return
    for name in claim.variants:
        settings = variants[name].experiment.experiment
        # The last round is evaluated in any case.
        last = claim.round == settings.rounds
        evaluated = claim.round % settings.evaluate_every == 0
        if not last and (claim.round > settings.rounds or not evaluated):
            raise ConfigError(
                f"{where}: '{name}' has no accuracy after round {claim.round}: it has "
                f"{settings.rounds} rounds, evaluated every {settings.evaluate_every}"
            )
