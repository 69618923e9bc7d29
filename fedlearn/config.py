"""An experiment: one TOML file, read into strict, frozen models.

Unknown and mistyped keys are errors that name the nearest key, the file and the line. The tables ``[data]``,
``[data.partition]``, ``[model]`` and ``[strategy]`` are open: what stands beside ``name`` (``kind``) is passed to
the thing named, which checks it when it is built.
"""

from __future__ import annotations

import copy
import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import tomllib
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedlearn.errors import ConfigError
from fedlearn.names import nearest

SHIPPED = Path(__file__).parents[0] / "experiments"

Cohort = Literal["all", "available", "fastest"]

# Words of earlier versions: (table, key) → former word → today's word.
FORMER_WORDS: dict[tuple[str, ...], dict[str, str]] = {
    ("fleet", "cohort"): {"connected": "available"},
    ("devices", "cohort"): {"any": "all", "present": "available"},
}


class Section(BaseModel):
    """A table of the config: its keys only, each of its own type only, never changed after reading."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False
    )


class OpenSection(Section):
    """A table whose further keys are arguments of the thing that it names."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    @property
    def options(self) -> dict[str, Any]:
        """Return the further keys."""
        return dict(self.model_extra or {})


class ExperimentSection(Section):
    """``[experiment]``: what the run is called and how long it is."""

    name: str = Field("experiment", min_length=1, pattern=r"^[\w.+-]+$")
    about: str = ""
    seed: int = Field(
        0, ge=0, lt=2**63
    )  # every random number of the run derives from it
    rounds: int = Field(10, ge=1)
    stop_at: float = Field(
        0.0, ge=0, le=1
    )  # accuracy with which the run ends before its rounds are over; 0 = never
    evaluate_every: int = Field(
        1, ge=1
    )  # rounds between evaluations; the last round is always evaluated
    min_clients: int = Field(
        1, ge=1
    )  # a round with fewer usable updates is repeated with a new cohort
    attempts: int = Field(3, ge=1)  # how often a round is tried before the run fails
    checkpoint_every: int = Field(
        0, ge=0
    )  # rounds between checkpoints, which a kill can cost; 0: each round, or half a second of quick ones


class PartitionSection(OpenSection):
    """``[data.partition]``: how the samples are divided among clients; empty means the data set's own way."""

    kind: str | None = None


class DataSection(OpenSection):
    """``[data]``: a data set's name or import path, and its options."""

    name: str = Field("fashion-mini", min_length=1)
    partition: PartitionSection = PartitionSection()


class ModelSection(OpenSection):
    """``[model]``: a model's name or import path, and its options."""

    name: str = Field("cnn-small", min_length=1)


class TrainSection(Section):
    """``[train]``: what a client does in a round."""

    epochs: int = Field(1, ge=1)  # passes over the client's samples
    steps: int = Field(0, ge=0)  # optimiser steps; above 0 it replaces epochs
    batch_size: int = Field(10, ge=0)  # samples; 0 = all of the client's
    lr: float = Field(0.1, gt=0)
    momentum: float = Field(0.0, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float = Field(
        0.0, ge=0
    )  # largest L2 norm of a step's gradient; 0 = no clipping
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    augment: str = ""
    stragglers: float = Field(
        0.0, ge=0, le=1
    )  # share of a cohort that has time for a part of its epochs alone
    straggler_work: Literal["partial", "none"] = (
        "partial"  # what comes of them: the part, or a failed client
    )
    schedule: Literal["constant", "step", "cosine"] = (
        "constant"  # of lr over the rounds
    )
    warmup_rounds: int = Field(
        0, ge=0
    )  # lr rises linearly to its value over these rounds
    step_every: int = Field(
        0, ge=0
    )  # schedule "step": rounds between two multiplications
    step_factor: float = Field(0.1, gt=0, le=1)  # schedule "step": the multiplier
    lr_min: float = Field(0.0, ge=0)  # schedule "cosine": where lr ends

    @model_validator(mode="after")
    def _together(self) -> TrainSection:
        if self.schedule == "step" and not self.step_every:
            raise ValueError(
                'schedule = "step" needs step_every, the rounds between two steps'
            )
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov = true needs momentum above 0")
        if self.lr_min > self.lr:
            raise ValueError("lr_min is above lr")
        if self.straggler_work == "none" and self.stragglers == 1:
            raise ValueError(
                'stragglers = 1 with straggler_work = "none" leaves nobody to learn from; lower stragglers'
            )
        return self


class StrategySection(OpenSection):
    """``[strategy]``: ``fedavg``, ``minibatch-sgd`` or any Flower strategy by import path, and its arguments."""

    name: str = Field("fedavg", min_length=1)


class ClientSection(Section):
    """``[client]``: a Flower ``ClientApp`` in place of our local training, or Flower mods around ours."""

    app: str = ""
    mods: tuple[str, ...] = Field((), strict=False)


class CodecSection(Section):
    """``[codec]``: how updates (up) and models (down) are encoded."""

    up: str = "raw32"  # of updates: a codec's text, or "auto"
    down: str = "raw32"  # of models: likewise
    link_mbps: float = Field(
        0.0, ge=0
    )  # of a client's link, for "auto": 10**6 bits per second; 0 = not known
    downlink: Literal["auto", "snapshot", "shadow", "cast"] = (
        "auto"  # whole models, or differences: from each client's copy, or one series
    )
    copies_gb: float = Field(
        8.0, gt=0
    )  # most room on disk for the clients' copies, and as much for their residuals


class EngineSection(Section):
    """``[engine]``: how the clients of this process are run; of the result it changes at most the last bits."""

    kind: Literal["serial", "pool", "stacked", "ray", "auto"] = "pool"
    workers: int = Field(
        0, ge=0, le=1024
    )  # processes; 0 = one per core, and of "ray" one per CPU of the cluster
    address: str = ""  # of a Ray cluster, as in ray.init: "auto", "HOST:6379"; empty starts one of this machine alone
    chunk: int = Field(
        0, ge=0, le=10_000
    )  # clients in a stack; 0 = 5 on a CPU, else the cohort
    device: str = (
        "cpu"  # a torch device; others than cpu need kind = "serial" or "stacked"
    )
    collapse: bool = False  # clients that take one step each take it as one batch; changes the result's last bits

    @model_validator(mode="after")
    def _device(self) -> EngineSection:
        if self.device != "cpu" and self.kind not in ("serial", "stacked", "auto"):
            raise ValueError(
                f'device = "{self.device}" needs kind = "stacked" or "serial": processes cannot share it'
            )
        if self.chunk and self.kind != "stacked":
            raise ValueError(
                f'chunk is for kind = "stacked"; kind = "{self.kind}" trains one client at a time'
            )
        if self.address and self.kind != "ray":
            raise ValueError(
                f'address = "{self.address}" is of a Ray cluster, and needs kind = "ray"'
            )
        if self.address.startswith("ray://"):
            raise ValueError(
                'a run is no Ray Client: start it on a machine of the cluster, with address = "auto"'
            )
        return self


class FleetSection(Section):
    """``[fleet]``: rounds over real agents; a simulation has no use for it."""

    deadline_s: float = Field(
        600.0, gt=0
    )  # seconds that a round waits for answers; those that come later are refused
    enough: float = Field(
        1.0, gt=0, le=1
    )  # share of a cohort with whose answers a round ends before its deadline
    min_agents: int = Field(
        0, ge=0
    )  # agents that must attend before the first round; 0 = the local ones, or one
    # Among whom a strategy chooses: every client, those that attend, the fastest of these.
    cohort: Cohort = "all"
    fairness: float = Field(
        0.2, ge=0, le=1
    )  # cohort "fastest": share of the places that speed does not decide


class ProfileSection(Section):
    """``[devices.profile.NAME]``: a device of one's own, or a built-in one with some figures changed."""

    like: str = ""  # the built-in profile that gives what is left out here; for a built-in name, that one
    flops: float | None = Field(None, gt=0)  # per second, effective, of training
    up_mbps: float | None = Field(None, gt=0)  # 10**6 bits per second
    down_mbps: float | None = Field(None, gt=0)
    latency_ms: float | None = Field(None, ge=0)  # of one transfer, each way
    available: float | None = Field(
        None, gt=0, le=1
    )  # share of each period in which it may be asked
    period_h: float | None = Field(None, gt=0)
    idle_w: float | None = Field(None, ge=0)
    train_w: float | None = Field(None, ge=0)
    radio_w: float | None = Field(None, ge=0)


class DevicesSection(Section):
    """``[devices]``: what the clients of a simulation run on; without mix and profiles there is no virtual clock."""

    mix: str = ""  # named shares: "edge", "boards", "phones"
    profiles: dict[
        str, Annotated[float, Field(gt=0)]
    ] = {}  # profile → its share of the clients, in proportion
    profile: dict[str, ProfileSection] = {}
    up_mbps: float = Field(
        0.0, ge=0
    )  # of every device, in place of its profile's; 0 = as the profile says
    down_mbps: float = Field(0.0, ge=0)
    deadline_s: float = Field(
        0.0, ge=0
    )  # simulated seconds of a round, after which clients are late; 0 = none
    # Among whom a strategy chooses: every client, those that may be asked, the fastest of these.
    cohort: Cohort = "all"
    fairness: float = Field(
        0.2, ge=0, le=1
    )  # cohort "fastest": share of the places that speed does not decide
    target: float = Field(0.8, gt=0, le=1)  # accuracy whose simulated time is reported
    cloud: str = "server"  # profile that answers in the place of a device, for the delay of inference

    @model_validator(mode="after")
    def _one_of(self) -> DevicesSection:
        if self.mix and self.profiles:
            raise ValueError(
                "mix and profiles both say what the clients run on; give one of them"
            )
        return self

    @property
    def given(self) -> bool:
        """Tell whether the clients have simulated devices."""
        return bool(self.mix or self.profiles)


class EvaluateSection(Section):
    """``[evaluate]``: on the server's held-out samples always; on clients when asked."""

    clients: bool = False
    holdout: float = Field(
        0.2, gt=0, lt=1
    )  # share of each client's samples kept from training for its evaluation
    max_clients: int = Field(
        100, ge=1
    )  # clients evaluated, drawn anew each time when there are more


class ExpectSection(Section):
    """``[expect]``: what must hold at the end; otherwise the exit code is 4."""

    accuracy: float | None = Field(None, ge=0, le=1)  # of the final model, at least
    best_accuracy: float | None = Field(None, ge=0, le=1)  # at least
    loss: float | None = Field(None, ge=0)  # of the final model, at most
    by_round: int | None = Field(None, ge=1)  # best_accuracy is reached by this round
    total_bytes: int | None = Field(None, ge=0)  # both directions, at most
    model_sha256: str | None = None

    @model_validator(mode="after")
    def _together(self) -> ExpectSection:
        if self.by_round is not None and self.best_accuracy is None:
            raise ValueError(
                "by_round needs best_accuracy, the accuracy to reach by then"
            )
        return self


class TuneSection(Section):
    """``[tune]``: what ``fedlearn tune`` looks through; a run has no use for it."""

    search: dict[str, Any] = {}  # key → range, such as train.lr = "log:0.01:1"


class Experiment(Section):
    """A whole experiment; every table has defaults, so an empty file is the embedded default's skeleton."""

    experiment: ExperimentSection = ExperimentSection()
    data: DataSection = DataSection()
    model: ModelSection = ModelSection()
    train: TrainSection = TrainSection()
    strategy: StrategySection = StrategySection()
    client: ClientSection = ClientSection()
    codec: CodecSection = CodecSection()
    engine: EngineSection = EngineSection()
    fleet: FleetSection = FleetSection()
    devices: DevicesSection = DevicesSection()
    evaluate: EvaluateSection = EvaluateSection()
    expect: ExpectSection = ExpectSection()
    tune: TuneSection = TuneSection()


def shipped() -> dict[str, Path]:
    """Return the experiments that come with fedlearn: name → file."""
    return {p.stem: p for p in sorted(SHIPPED.glob("*.toml"))}


@dataclass(frozen=True)
class Source:
    """A config as it was written: its file, the text, and the tables in it."""

    path: Path
    text: str
    table: dict[str, Any]


def read(config: str | None, overrides: Sequence[str] = ()) -> Experiment:
    """Return the experiment of a file or a shipped name (None: the default), with ``section.key=value`` overrides.

    Raises ConfigError naming the file, the line and the nearest valid key.
    """
    source = load(config)
    return checked(source.table, str(source.path), source.text, overrides)


def load(config: str | None) -> Source:
    """Return what a config file, or a shipped name (None: the default), says; its keys are not looked at. Raises ConfigError."""
    path = _find(config)
    try:
        text = path.read_text(
            encoding="utf-8-sig"
        )  # some editors write a byte order mark
        return Source(path, text, tomllib.loads(text))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(
            f"{path} is not a text file (TOML in UTF-8 is expected)"
        ) from None
    except (
        ValueError,
        RecursionError,
    ) as error:  # tomllib lets a number too long, or tables too deep, through as these
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def checked(
    table: Mapping[str, Any], name: str, text: str, overrides: Sequence[str]
) -> Experiment:
    """Return the experiment of a parsed table with ``section.key=value`` overrides; ``name`` and ``text`` locate errors in the file."""
    changed = copy.deepcopy(dict(table))
    places: dict[tuple[str, ...], str] = {}
    for override in overrides:
        _override(changed, override, places)
    return validate(changed, name, text, places)


def validate(
    table: Mapping[str, Any],
    name: str,
    text: str = "",
    places: Mapping[tuple[str, ...], str] | None = None,
) -> Experiment:
    """Return the experiment of a parsed table; ``name`` and ``text`` locate errors in the file."""
    try:
        return Experiment.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        where = tuple(str(part) for part in first["loc"])
        raise ConfigError(
            f"{place(where, name, text, places or {})}: {_explain(where, first)}"
        ) from None


def place(
    where: Sequence[str], name: str, text: str, places: Mapping[tuple[str, ...], str]
) -> str:
    """Return where a key was given: ``file:line`` or the ``--set`` that gave it."""
    for keys, given in places.items():
        if keys[: len(where)] == tuple(where[: len(keys)]):
            return f"--set {_short(given)}"
    line = _line(where, text)
    return f"{name}:{line}" if line else name


def _find(config: str | None) -> Path:
    known = shipped()
    if config is None:
        return known["default"]
    if config in known and not Path(config).is_file():
        return known[config]
    if not config or not Path(config).exists():
        raise ConfigError(
            f"no file '{config}', and no shipped experiment of that name.{nearest(config, known)} Shipped: {', '.join(known)}"
        )
    if Path(config).is_dir():
        raise ConfigError(
            f"'{config}' is a folder; name a TOML file or a shipped experiment ({', '.join(known)})"
        )
    return Path(config)


def _override(
    table: dict[str, Any], override: str, places: dict[tuple[str, ...], str]
) -> None:
    if override != override.encode(errors="replace").decode():
        raise ConfigError(f"--set {override!a}: the value is not UTF-8 text")
    key, equals, value = override.partition("=")
    keys = key.strip().split(".")
    if not equals or len(keys) < 2 or not all(keys):
        raise ConfigError(
            f"--set {override}: write section.key=value, for example train.lr=0.05"
        )
    at = table
    for part in keys[:-1]:
        below = at.setdefault(part, {})
        if not isinstance(below, dict):
            raise ConfigError(f"--set {override}: '{part}' is a value, not a table")
        at = below
    try:
        at[keys[-1]] = tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        at[keys[-1]] = value.strip()  # a bare word is a string
    places[tuple(keys)] = override


def _explain(where: tuple[str, ...], error: Mapping[str, Any]) -> str:
    key = ".".join(where)
    if error["type"] == "extra_forbidden":
        fields = _fields(where[:-1])
        return f"unknown key '{key}'.{nearest(where[-1], fields)} Known here: {', '.join(fields)}"
    message = {
        "tuple_type": "Input should be a list",
        "model_type": "Input should be a table of keys",
    }.get(error["type"], str(error["msg"]).removeprefix("Value error, "))
    message = message[0].lower() + message[1:]
    given = error.get("input")
    former = FORMER_WORDS.get(where, {})
    if isinstance(given, str) and given in former:
        return f"[{where[0]}] {where[1]}: '{given}' is called '{former[given]}' now"
    shown = (
        f" (got {_short(repr(given))})" if not isinstance(given, dict | Section) else ""
    )
    return f"'{key}': {message}{shown}"


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


def _fields(where: tuple[str, ...]) -> list[str]:
    section: Any = Experiment
    for part in where:
        if get_origin(section) is dict:  # of tables, each under a name of the user's
            section = get_args(section)[1]
            continue
        field = section.model_fields.get(part)
        if field is None:
            return []
        section = field.annotation
    return list(getattr(section, "model_fields", []))


def _line(where: Sequence[str], text: str) -> int | None:
    """Return the line of a key in TOML text: the deepest part of the path that has one."""
    table: tuple[str, ...] = ()
    found: tuple[int, int] | None = None  # (depth, line)
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]", line):
            here = table = tuple(
                p.strip().strip("'\"") for p in header.group(1).split(".")
            )
        elif key := re.match(r"\s*([\w.'\"-]+)\s*=", line):
            here = (*table, *(p.strip("'\"") for p in key.group(1).split(".")))
        else:
            continue
        if tuple(where[: len(here)]) == here and (
            found is None or len(here) > found[0]
        ):
            found = (len(here), number)
    return found[1] if found else None


def to_toml(experiment: Experiment) -> str:
    """Return the experiment as TOML with every default written out; reading it gives the same experiment."""
    lines: list[str] = []
    _write(experiment.model_dump(exclude_none=True), (), lines)
    return "\n".join(lines).strip() + "\n"


def _write(table: Mapping[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    values = {
        k: v for k, v in table.items() if not (isinstance(v, dict) and len(path) < 2)
    }
    if path and (values or not table):
        lines += ["", f"[{'.'.join(path)}]"]
    lines += [f"{_key(k)} = {_value(v)}" for k, v in values.items()]
    for key, value in table.items():
        if key not in values:
            _write(value, (*path, _key(key)), lines)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[\w-]+", key) else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = re.sub(
            r'[\x00-\x1f\x7f"\\]', lambda m: f"\\u{ord(m.group()):04x}", value
        )
        return f'"{escaped}"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + "}"
        )
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return repr(value)
