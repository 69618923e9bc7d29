"""The registered names that a config can use: checked before a run starts, and listed.

Nothing here imports torch, flwr or matplotlib, so a misspelt name is refused at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from fedlearn.errors import ConfigError

if TYPE_CHECKING:
    from fedlearn.config import Experiment
    from fedlearn.names import Named

OWN_NAMES = (
    "your own: 'my_package.my_module:name' for datasets, models and strategies "
    "(any Flower strategy)"
)


class _Described(Protocol):
    @property
    def about(self) -> str: ...


def check_names(experiment: Experiment) -> None:
    """Check every name of an experiment against its registry.

    Import paths (``module:attribute``) are left to the run, which imports them.
    Raises ConfigError for an unknown name, with the nearest one, and for a codec's
    text that cannot be read or does not suit its direction.
    """
    from fedlearn.names import nearest

    for key, name, registry in _named_keys(experiment):
        # A name with a colon is an import path, which is imported when the run is
        # built.
        if name not in registry and ":" not in name:
            raise ConfigError(
                f"{key}: unknown name '{name}'.{nearest(name, registry)} "
                f"Known: {', '.join(registry)}"
            )
    _check_codecs(experiment.codec.up, experiment.codec.down)


def _named_keys(
    experiment: Experiment,
) -> Iterator[tuple[str, str, Mapping[str, Named]]]:
    """Yield (key, name, registry) for every key that takes a registered name."""
    from fedlearn.data import DATASETS
    from fedlearn.data.partition import KINDS
    from fedlearn.models import MODELS
    from fedlearn.strategies import STRATEGIES

    yield "data.name", experiment.data.name, DATASETS
    # Without a kind the data set divides itself, which needs no name.
    if experiment.data.partition.kind:
        yield "data.partition.kind", experiment.data.partition.kind, KINDS
    yield "model.name", experiment.model.name, MODELS
    yield "strategy.name", experiment.strategy.name, STRATEGIES


def _check_codecs(up: str, down: str) -> None:
    from fedlearn.codec import AUTO, feedback
    from fedlearn.codec.chain import parse
    from fedlearn.names import handed, is_handed

    if feedback(down)[0]:
        raise ConfigError(
            f'codec.down: "{down}": only updates (codec.up) have error feedback; '
            "a copy that differs is its own"
        )
    for key, text in (("codec.up", up), ("codec.down", down)):
        if text == AUTO:
            continue
        try:
            if is_handed(text):
                handed("codec", text)
            else:
                parse(text)
        except ConfigError as error:
            raise ConfigError(f"{key}: {error}") from None


def listing() -> str:
    """Return every name that a config can use, one line each, below its kind."""
    from fedlearn.config import read, shipped

    lines = []
    for title, registry in _registries():
        lines.append(f"{title}:")
        lines += [f"  {name:<22}{named.about}" for name, named in registry.items()]
        lines.append("")
    lines.append("experiments:")
    lines += [f"  {name:<22}{read(name).experiment.about}" for name in shipped()]
    return "\n".join([*lines, "", OWN_NAMES])


def _registries() -> Iterator[tuple[str, Mapping[str, _Described]]]:
    """Yield (title, registry) in the order in which the listing shows them."""
    from fedlearn.codec import STAGES
    from fedlearn.data import DATASETS
    from fedlearn.data.partition import KINDS
    from fedlearn.engine import ENGINES
    from fedlearn.models import MODELS
    from fedlearn.strategies import STRATEGIES

    yield "datasets", DATASETS
    yield "partitions", KINDS
    yield "models", MODELS
    yield "strategies", STRATEGIES
    yield "codec stages", STAGES
    yield "engines", ENGINES
