"""The config's tables and keys: one strict, frozen pydantic model for each table.

Each key's meaning, its unit and the reason of its default stand once: as the string
below the key. `fedlearn.config.documented` makes the tables of docs/config.md of them,
where ``docs/x.md`` becomes a link.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from fedlearn.config.optimizers import (
    DECAYS,
    OPTIONS,
    RATES,
    WITH_MOMENTUM,
    checked_options,
)
from fedlearn.config.values import Values, flat_values
from fedlearn.names import nearest

Cohort = Literal["all", "available", "fastest"]

# Words of earlier versions: (table, key) → former word → today's word.
# Read in messages alone: a former word is an error that names today's.
FORMER_WORDS: dict[tuple[str, ...], dict[str, str]] = {
    ("fleet", "cohort"): {"connected": "available"},
    ("devices", "cohort"): {"any": "all", "present": "available"},
}


class Section(BaseModel):
    """A table of the config: known keys of exact types, never changed after reading."""

    # NaN and infinity are refused: a comparison with NaN holds for no bound at all.
    # strict: 1 is no text, and "1" no number; a config says what it means.
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
    )


class OpenSection(Section):
    """A table whose further keys are arguments of the thing that it names.

    That thing checks them when it is built.
    """

    # Not allow_inf_nan here: further keys are the named thing's to check.
    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    @property
    def options(self) -> dict[str, Any]:
        """Return the further keys."""
        return dict(self.model_extra or {})


class ExperimentSection(Section):
    """What the run is called and how long it is."""

    name: str = Field("experiment", min_length=1, pattern=r"^[\w.+-]+$")
    """names the run folder: letters, digits, `. _ + -`"""

    about: str = ""
    """one line for `--list`"""

    seed: int = Field(0, ge=0, lt=2**63)
    """every random number of the run derives from it"""

    rounds: int = Field(10, ge=1)
    """rounds of the run, counted from 1"""

    stop_at: float = Field(0.0, ge=0, le=1)
    """accuracy with which the run ends before its rounds are over; 0 = never"""

    patience: int = Field(0, ge=0)
    """evaluations in a row without a better accuracy after which the run ends; 0 = never"""

    min_delta: float = Field(0.0, ge=0, lt=1)
    """how much better an accuracy has to be to count for `patience`"""

    keep_best: bool = False
    """also keep the model of the best round, as `best.safetensors`"""

    evaluate_every: int = Field(1, ge=1)
    """rounds between evaluations; the last round is always evaluated"""

    min_clients: int = Field(1, ge=1)
    """a round with fewer usable updates is repeated with a new cohort"""

    attempts: int = Field(3, ge=1)
    """how often a round is tried before the run fails"""

    checkpoint_every: int = Field(0, ge=0)
    """rounds between checkpoints: what a kill can cost. 0 = every round; of rounds
    that take less than 0.5 s one in 0.5 s, where nothing but the checkpoint has to be
    on disk (not with error feedback, differences from clients' copies, or agents)"""


class PartitionSection(OpenSection):
    """How the samples are divided among clients; further keys are its parameters."""

    kind: str | None = None
    """a partition's name or `"my_package.my_module:name"`; left out: the data set's
    own way"""


class DataSection(OpenSection):
    """What is learned from; further keys are the data set's options: docs/data.md."""

    name: str = Field("fashion-mini", min_length=1)
    """a data set or `"my_package.my_data:load"`; the default needs no download"""

    partition: PartitionSection = PartitionSection()


class ModelSection(OpenSection):
    """What is trained; further keys are the model's arguments: docs/models.md."""

    name: str = Field("cnn-small", min_length=1)
    """a model or `"my_package.my_models:Net"`"""

    weights: str = ""
    """a run folder, a package or a safetensors file to start from; `""`: weights from the seed"""

    shapes: Literal["model", "weights"] = "model"
    """`"weights"`: layers are as wide as the tensors of `weights`, as after pruning"""

    binary: bool = False
    """layers but the first and the last compute with the signs of their weights and a scale
    for each filter: docs/compress.md"""

    @model_validator(mode="after")
    def _check_shapes(self) -> ModelSection:
        if self.shapes == "weights" and not self.weights:
            raise ValueError('shapes = "weights" needs weights = FILE or RUN')
        return self


class TrainSection(Section):
    """What a client does in a round."""

    epochs: int = Field(1, ge=1)
    """passes over the client's samples"""

    steps: int = Field(0, ge=0)
    """optimiser steps; above 0 it replaces epochs"""

    batch_size: int = Field(10, ge=0)
    """samples; 0 = all of the client's. Lines of text are batched with lines of like
    length. 10 is the batch of McMahan et al. (AISTATS 2017)"""

    optimizer: str = Field("sgd", min_length=1)
    """of the client, anew in each round: `"sgd"`, `"adam"`, `"adamw"`, `"adagrad"`,
    `"rmsprop"` or a class of torch's kind, `"my_package.my_module:Name"`:
    docs/strategies.md#optimisers"""

    optimizer_options: Values = {}
    """its further arguments, as torch.optim spells them: `{ betas = [0.9, 0.99] }`"""

    lr: float = Field(0.1, gt=0)
    """learning rate; left out: 0.001 for adam and adamw, 0.01 for adagrad and rmsprop"""

    momentum: float = Field(0.0, ge=0, lt=1)
    """of sgd and rmsprop; starts anew each round"""

    nesterov: bool = False
    """Nesterov's form of momentum, which has to be above 0"""

    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty; of adamw decoupled from the gradient, and 0.01 where it is left out"""

    clip_norm: float = Field(0.0, ge=0)
    """largest L2 norm of a step's gradient; 0 = no clipping"""

    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """share of each target that is spread evenly over all classes"""

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """of the forward pass; `"bfloat16"` and `"float16"`: autocast"""

    augment: str = ""
    """images: `flip`, `shift`, `flip-shift`; series: `jitter`, `scale`,
    `jitter-scale`"""

    stragglers: float = Field(0.0, ge=0, le=1)
    """share of clients that do 1 to all of their epochs (or steps), drawn anew each
    round: what FedProx is about"""

    straggler_work: Literal["partial", "none"] = "partial"
    """what a straggler answers with: what it did, or `"none"`: it fails, as when
    FedAvg drops it"""

    schedule: Literal["constant", "step", "cosine"] = "constant"
    """of lr over the rounds: `"constant"`, `"step"` (see `step_every`) or `"cosine"`
    (see `lr_min`)"""

    warmup_rounds: int = Field(0, ge=0)
    """lr rises linearly to its value over these rounds"""

    step_every: int = Field(0, ge=0)
    """`schedule = "step"`: rounds between two multiplications"""

    step_factor: float = Field(0.1, gt=0, le=1)
    """`schedule = "step"`: the multiplier"""

    lr_min: float = Field(0.0, ge=0)
    """`schedule = "cosine"`: where lr ends"""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        """Fill in what an optimiser needs otherwise than SGD, where the config is silent."""
        if not isinstance(values, dict):
            return values
        name = values.get("optimizer")
        if not isinstance(name, str):
            return values
        filled = dict(values)
        if name in RATES:
            filled.setdefault("lr", RATES[name])
        if name in DECAYS:
            filled.setdefault("weight_decay", DECAYS[name])
        return filled

    @field_validator("optimizer")
    @classmethod
    def _check_optimizer(cls, name: str) -> str:
        if name in OPTIONS or ":" in name:
            return name
        raise ValueError(
            f"'{name}' is no optimizer.{nearest(name, OPTIONS)} "
            f"Known: {', '.join(OPTIONS)}, or one of your own as 'my_package:Name'"
        )

    @field_validator("optimizer_options")
    @classmethod
    def _check_options(cls, options: Values, info: ValidationInfo) -> Values:
        # Absent where the optimiser itself is wrong, which is told then.
        name = info.data.get("optimizer", "")
        return flat_values(
            "optimizer_options", checked_options(name, options), with_lists=True
        )

    @model_validator(mode="after")
    def _check_momentum(self) -> TrainSection:
        known = OPTIONS.get(self.optimizer)
        # Momentum of a user's own class is the class's.
        if known is None:
            return self
        if self.momentum and self.optimizer not in WITH_MOMENTUM:
            other = ", and betas in optimizer_options" if "betas" in known else ""
            raise ValueError(
                f"momentum = {self.momentum:g} is for {' and '.join(WITH_MOMENTUM)}; "
                f"with {self.optimizer} set momentum = 0{other}"
            )
        if self.nesterov and self.optimizer != "sgd":
            raise ValueError("nesterov = true is for sgd")
        return self

    @model_validator(mode="after")
    def _check_together(self) -> TrainSection:
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
                'stragglers = 1 with straggler_work = "none" leaves nobody to learn '
                "from; lower stragglers"
            )
        return self


class StrategySection(OpenSection):
    """What becomes of the updates; further keys are arguments: docs/strategies.md.

    `[strategy.methods]` bends the clients' steps: docs/strategies.md#bend-the-clients-steps.
    """

    name: str = Field("fedavg", min_length=1)
    """`"fedavg"`, `"fedprox"`, `"minibatch-sgd"`, or any Flower strategy by import
    path"""

    max_norm: float = Field(5.0, ge=0, allow_inf_nan=False)
    """updates longer than this many times what is usual are refused; 0 = none is. Of
    honest clients none was longer than 3.7 times: docs/strategies.md#one-liar"""

    max_examples: int = Field(0, ge=0)
    """examples that a client counts with at most; 0 = its share of the partition, and ten
    times what is usual where clients may have other data (agents, a ClientApp)"""


class ClientSection(Section):
    """Code of Flower's in place of our local training, or around it: docs/flower.md."""

    app: str = ""
    """a Flower `ClientApp` by import path, in place of our local training"""

    # TOML has lists only, so this key alone takes a list for a tuple.
    mods: tuple[str, ...] = Field((), strict=False)
    """Flower mods by import path, around our local training"""

    run_config: Values = {}
    """the app's `context.run_config`, as `[tool.flwr.app.config]` has it: text, numbers,
    true and false; tables within become keys with dots"""

    node_config: Values = {}
    """more of the app's `context.node_config`; a list has one value for each client"""

    train_config: Values = {}
    """what Flower's `strategy.start(train_config=…)` takes: part of each message to train"""

    evaluate_config: Values = {}
    """what `strategy.start(evaluate_config=…)` takes: part of each message to evaluate"""

    @field_validator("run_config")
    @classmethod
    def _check_run_config(cls, values: Values) -> Values:
        return flat_values("run_config", values, with_lists=False)

    @field_validator("node_config", "train_config", "evaluate_config")
    @classmethod
    def _check_configs(cls, values: Values, info: ValidationInfo) -> Values:
        return flat_values(str(info.field_name), values, with_lists=True)


class CodecSection(Section):
    """How payloads are encoded: docs/wire.md."""

    up: str = "raw32"
    """how updates to the server are encoded: a chain of stages ([below](#codecs)), or
    `"auto"`"""

    down: str = "raw32"
    """how models to the clients are encoded, likewise"""

    link_mbps: float = Field(0.0, ge=0)
    """what a client's link carries, 10⁶ bits per second, for `"auto"`; 0 = not known"""

    downlink: Literal["auto", "snapshot", "shadow", "cast"] = "auto"
    """`"snapshot"` sends whole models, `"shadow"` differences from each client's copy,
    `"cast"` one series of differences for all; auto: snapshots for codecs of whole
    models ([below](#codecs)), otherwise shadow, or cast where the copies exceed
    `copies_gb`"""

    copies_gb: float = Field(8.0, gt=0)
    """most room on disk, 10⁹ bytes, for the copies of the clients that a run can ask,
    and as much for their residuals"""


class EngineSection(Section):
    """How clients are run: docs/performance.md.

    On the CPU it never changes the result, but for the rounding of `"stacked"` and of
    `collapse`.
    """

    kind: Literal["serial", "pool", "stacked", "ray", "auto"] = "pool"
    """`"pool"` (processes), `"serial"` (one client after another), `"stacked"` (many
    clients in one tensor), `"ray"` (many machines: docs/ray.md) or `"auto"`: pool or
    stacked, as measured at the start; `manifest.json` says which, and pinning that
    gives the same bits"""

    workers: int = Field(0, ge=0, le=1024)
    """processes; 0 = one per core, with `"ray"` one per CPU of the cluster"""

    address: str = ""
    """of a Ray cluster: `"auto"`, `"HOST:6379"`; empty starts one on this machine
    (docs/ray.md)"""

    chunk: int = Field(0, ge=0, le=10_000)
    """clients in a stack; 0 = 5 on a CPU, elsewhere the cohort. It decides what is
    summed with what, so it is part of a result's last bits; the number of workers is
    not"""

    device: str = "cpu"
    """a torch device; others than `cpu` need `kind = "stacked"` or `"serial"`"""

    client_timeout_s: float = Field(0.0, ge=0)
    """seconds after which a client's work is given up: it has failed, and the round goes
    on; 0 = never. With `"pool"` and `"stacked"` on the CPU. Who is too slow depends on the
    machine, and so does a result from which a client is missing"""

    collapse: bool = False
    """clients that take one step each take it as one batch
    (docs/performance.md#engines); refused, with the setting at fault, where each client
    has to be computed by itself"""

    @model_validator(mode="after")
    def _check_together(self) -> EngineSection:
        if self.device != "cpu" and self.kind not in ("serial", "stacked", "auto"):
            raise ValueError(
                f'device = "{self.device}" needs kind = "stacked" or "serial": '
                "processes cannot share it"
            )
        if self.chunk and self.kind != "stacked":
            raise ValueError(
                f'chunk is for kind = "stacked"; kind = "{self.kind}" trains one client '
                "at a time"
            )
        ends_clients = self.device == "cpu" and self.kind not in ("serial", "ray")
        if self.client_timeout_s and not ends_clients:
            raise ValueError(
                'client_timeout_s needs kind = "pool" or "stacked" on the CPU, whose '
                "processes can be ended one by one"
            )
        if self.address and self.kind != "ray":
            raise ValueError(
                f'address = "{self.address}" is of a Ray cluster, and needs kind = "ray"'
            )
        if self.address.startswith("ray://"):
            raise ValueError(
                "a run is no Ray Client: start it on a machine of the cluster, with "
                'address = "auto"'
            )
        return self


class FleetSection(Section):
    """Rounds over real agents (docs/exchange.md); a simulation has no use for it."""

    deadline_s: float = Field(600.0, gt=0)
    """seconds that a round waits for answers; later ones are refused"""

    enough: float = Field(1.0, gt=0, le=1)
    """share of a cohort with whose answers a round ends before its deadline"""

    min_agents: int = Field(0, ge=0)
    """agents that must attend before the first round; 0 = the local ones, or one"""

    cohort: Cohort = "all"
    """among whom a strategy chooses: every client of the experiment, who is then waited
    for, `"available"`: those that attend when the round begins, or `"fastest"`: as many
    of these as the strategy asks, by the seconds that they took before; who that was is
    in the journal"""

    fairness: float = Field(0.2, ge=0, le=1)
    """with `"fastest"`: share of the places that speed does not decide"""


class ProfileSection(Section):
    """A device of your own, or a built-in one with some figures changed.

    A figure that is left out is that of `like`: docs/devices.md.
    """

    like: str = ""
    """the built-in profile that gives what is left out here; for a built-in NAME, that
    one"""

    flops: float | None = Field(None, gt=0)
    """effective floating-point operations per second in training"""

    up_mbps: float | None = Field(None, gt=0)
    """to the server, 10⁶ bits per second"""

    down_mbps: float | None = Field(None, gt=0)
    """from the server, 10⁶ bits per second"""

    latency_ms: float | None = Field(None, ge=0)
    """milliseconds of one transfer, each way"""

    available: float | None = Field(None, gt=0, le=1)
    """share of each period in which it may be asked"""

    period_h: float | None = Field(None, gt=0)
    """hours of a period"""

    idle_w: float | None = Field(None, ge=0)
    """watts while it waits"""

    train_w: float | None = Field(None, ge=0)
    """watts while it trains"""

    radio_w: float | None = Field(None, ge=0)
    """watts while it sends or receives"""


class DevicesSection(Section):
    """What a simulation's clients run on, and the virtual clock (docs/devices.md).

    A fleet has its own devices.
    """

    mix: str = ""
    """named shares: `"edge"`, `"boards"`, `"phones"`; neither this nor `profiles`: no
    clock"""

    profiles: dict[str, Annotated[float, Field(gt=0)]] = {}
    """or shares of your own, in proportion:
    `{ "orin-nano" = 10, "pi-5" = 5, "phone" = 5 }`"""

    profile: dict[str, ProfileSection] = {}

    up_mbps: float = Field(0.0, ge=0)
    """of every device, in place of its profile's; 0 = as the profile says"""

    down_mbps: float = Field(0.0, ge=0)
    """likewise"""

    deadline_s: float = Field(0.0, ge=0)
    """simulated seconds of a round, after which clients are late and left out; 0 =
    none"""

    cohort: Cohort = "all"
    """among whom the strategy chooses: `"all"` clients, those `"available"` at the
    time, the `"fastest"` of these"""

    fairness: float = Field(0.2, ge=0, le=1)
    """with `"fastest"`: share of the places that speed does not decide"""

    target: float = Field(0.8, gt=0, le=1)
    """accuracy whose simulated time, bytes and joules are reported"""

    cloud: str = "server"
    """profile that answers in a device's place, for the delay of inference"""

    @model_validator(mode="after")
    def _check_together(self) -> DevicesSection:
        if self.mix and self.profiles:
            raise ValueError(
                "mix and profiles both say what the clients run on; give one of them"
            )
        return self

    @property
    def simulated(self) -> bool:
        """Return whether the clients have simulated devices, and the run a clock."""
        return bool(self.mix or self.profiles)


class EvaluateSection(Section):
    """On the server's held-out samples always; on clients when asked."""

    clients: bool = False
    """also on clients: mean, worst 10 %, spread"""

    holdout: float = Field(0.2, gt=0, lt=1)
    """share of each client's samples kept from training for that"""

    max_clients: int = Field(100, ge=1)
    """clients evaluated, drawn anew each time when there are more"""


class ExpectSection(Section):
    """What must hold at the end; otherwise the exit code is 4."""

    accuracy: float | None = Field(None, ge=0, le=1)
    """of the final model, at least"""

    best_accuracy: float | None = Field(None, ge=0, le=1)
    """of the best round, at least"""

    loss: float | None = Field(None, ge=0)
    """of the final model, at most"""

    by_round: int | None = Field(None, ge=1)
    """`best_accuracy` is reached by this round"""

    total_bytes: int | None = Field(None, ge=0)
    """payload bytes of both directions, at most"""

    model_sha256: str | None = None
    """of the final model, exactly"""

    @model_validator(mode="after")
    def _check_together(self) -> ExpectSection:
        if self.by_round is not None and self.best_accuracy is None:
            raise ValueError(
                "by_round needs best_accuracy, the accuracy to reach by then"
            )
        return self


class TuneSection(Section):
    """What `fedlearn tune` looks through (docs/tune.md); a run has no use for it."""

    search: dict[str, Any] = {}
    """ranges by key, such as `train.lr = "log:0.01:1"`"""


class Tables(Section):
    """All tables of a config. Each has defaults, so an empty file is an experiment."""

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
