"""The file that says when a fleet learns again, and how: TOML, read strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import tomllib
from pydantic import BaseModel, Field, ValidationError

from fedlearn.config.schema import Section
from fedlearn.errors import ConfigError
from fedlearn.names import nearest
from fedlearn.release.learning import LearnTriggers

_HOUR_S = 3600.0

# pydantic's words for what TOML calls otherwise.
_WORDS = {
    "missing": "is missing",
    "string_type": "should be a text",
    "float_type": "should be a number",
    "int_type": "should be a whole number",
}


class LearnSection(Section):
    """What is learned, from where, and where it goes. Paths are beside the file."""

    fleet: str = Field(min_length=1)
    config: str = Field(min_length=1)
    registry: str = Field(min_length=1)
    key: str = Field(min_length=1)
    clients: Literal["simulated", "fleet"] = "simulated"
    gate: float = Field(0.5, ge=0, le=100)
    set: list[str] = Field(default_factory=list)


class TriggersSection(Section):
    """When a learning begins; without any key it never does."""

    every_h: float | None = Field(None, gt=0)
    samples: int | None = Field(None, ge=1)
    drift: float | None = Field(None, gt=0)
    share: float = Field(0.1, gt=0, le=1)
    rest_h: float = Field(1.0, ge=0)


class RolloutSection(Section):
    """How a candidate is rolled out; the options of ``fedlearn rollout start``."""

    shares: list[float] = Field(default_factory=lambda: [0.05, 0.25, 1.0])
    most_failed: float = Field(0.2, ge=0, le=1)
    silence_s: float = Field(3600.0, ge=1)
    errors: float | None = Field(None, ge=0)
    p99_ms: float | None = Field(None, ge=0)


class LearnFile(Section):
    """The whole file."""

    learn: LearnSection
    triggers: TriggersSection
    rollout: RolloutSection = Field(default_factory=RolloutSection)

    def learn_triggers(self) -> LearnTriggers:
        """Return the triggers in the machine's units."""
        triggers = self.triggers
        never = float("inf")
        every_h = triggers.every_h
        return LearnTriggers(
            every_s=never if every_h is None else _HOUR_S * every_h,
            samples=never if triggers.samples is None else triggers.samples,
            drift=never if triggers.drift is None else triggers.drift,
            share=triggers.share,
            rest_s=_HOUR_S * triggers.rest_h,
        )


def read_learn_file(path: Path) -> LearnFile:
    """Return what a file says. Raises ConfigError, which names the file, the key and the fix."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    try:
        file = LearnFile.model_validate(table)
    except ValidationError as error:
        # One at a time: an error of a command is one line.
        raise ConfigError(f"{path}: {_explanation(error)}") from None
    triggers = file.triggers
    if triggers.every_h is None and triggers.samples is None and triggers.drift is None:
        raise ConfigError(
            f"{path}: [triggers] says nothing, so nothing would ever be learned; give "
            "every_h, samples or drift"
        )
    return file


def _explanation(error: ValidationError) -> str:
    """Return one line about the first thing that is wrong."""
    first = error.errors()[0]
    key = [str(part) for part in first["loc"]]
    dotted = ".".join(key)
    if first["type"] == "extra_forbidden":
        names = _names_in(key[:-1])
        return (
            f"unknown key '{dotted}'.{nearest(key[-1], names)} Known here: "
            f"{', '.join(names)}"
        )
    message = _WORDS.get(first["type"], str(first["msg"]))
    message = message[0].lower() + message[1:]
    if first["type"] == "missing":
        return f"'{dotted}' {message}"
    return f"'{dotted}': {message} (got {first.get('input')!r:.60})"


def _names_in(table: list[str]) -> list[str]:
    """Return the keys that a table knows."""
    model: Any = LearnFile
    for name in table:
        field = model.model_fields.get(name)
        model = None if field is None else field.annotation
    if not isinstance(model, type) or not issubclass(model, BaseModel):
        return []
    return list(model.model_fields)
