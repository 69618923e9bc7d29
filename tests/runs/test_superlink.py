"""Flower's engine without its processes: a Grid that calls ClientApps here, as SuperNodes would."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from safetensors.numpy import load_file

from fedlearn import config
from fedlearn.app import arguments
from fedlearn.clients.app import app, make, payloads
from fedlearn.errors import ConfigError, RunError
from fedlearn.records.writing import RunFolder
from fedlearn.reporting.progress import Progress
from fedlearn.runs import on_flower, superlink
from tests.jobs import CONFIG, run

STATEFUL = ("codec.up=ef+topk(0.1)+q8", "codec.down=eden1", "evaluate.clients=true")
CAST = ("codec.up=eden1", "codec.down=eden1", "codec.downlink=cast")


class Nodes(Grid):
    """SuperNodes 100, 101, … of this process; node 100 + k serves client k unless its config
    says otherwise.
    """

    def __init__(
        self, count: int, client_app: ClientApp = app, /, **node_config: Any
    ) -> None:
        self.client_app, self.count = client_app, count
        self.contexts = {
            100 + k: Context(
                1, 100 + k, {"partition-id": k} | node_config, RecordDict(), {}
            )
            for k in range(count)
        }
        self.replies: dict[str, Message] = {}
        self.asked: list[tuple[int, str]] = []  # node and kind, of each message
        self.forgetful = self.silent = False

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any:
        return None

    def create_message(self, *arguments: Any, **more: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        return [self._work(message) for message in messages]

    def _work(self, message: Message) -> str:
        node, name = message.metadata.dst_node_id, f"m{len(self.asked)}"
        self.asked.append((node, message.metadata.message_type))
        message.metadata.__dict__["_message_id"] = name
        context = self.contexts[node]
        if self.forgetful:
            context.state = RecordDict()
        first = "task" not in message.content.config_records["fedlearn"]
        if first or not self.silent:
            try:
                self.replies[name] = self.client_app(message, context)
            except Exception as error:  # as Flower does
                self.replies[name] = Message(
                    Error(0, f"{type(error).__name__}: {error}"), reply_to=message
                )
        return name

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [
            self.replies.pop(name) for name in list(message_ids) if name in self.replies
        ]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        raise NotImplementedError


def zeros(message: Message, context: Context, call_next: Any) -> Message:
    """A mod that sends zeros in the place of the model's first tensor."""
    reply = call_next(message, context)
    ((_, record),) = reply.content.array_records.items()
    name = next(iter(record))
    record[name] = Array(np.zeros_like(record[name].numpy()))
    return reply


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(superlink, "POLL_S", 0.01)


def serve(
    folder: Path, nodes: Nodes, *changes: str, text: str = CONFIG, resume: bool = False
) -> dict[str, Any]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.with_suffix(".toml")
    file.write_text(text)
    made = RunFolder(folder)
    try:
        with Progress(quiet=True) as display:
            return on_flower.serve(
                config.read(str(file), changes), made, display, resume, nodes
            )
    finally:
        made.close()


@pytest.mark.parametrize(
    "changes",
    [
        (),
        STATEFUL,
        CAST,
        ("strategy.name=minibatch-sgd",),
        ("codec.up=eden1", 'strategy.name="flwr.serverapp.strategy:FedMedian"'),
        (
            "train.optimizer=adamw",
            "train.lr=0.01",
            "train.optimizer_options={betas = [0.8, 0.9], amsgrad = true}",
        ),
    ],
    ids=["raw32", "stateful", "cast", "gradients", "a strategy of Flower's", "adamw"],
)
def test_supernodes_give_what_a_simulation_gives(changes, tmp_path):
    simulated = run(tmp_path / "simulated", *changes).summary
    served = serve(tmp_path / "flower", Nodes(12), *changes)
    assert served["engine"] == "flower"
    for key in ("model_sha256", "bytes_up", "bytes_down", "accuracy", "failed"):
        assert served[key] == simulated[key], key
    told = json.loads((tmp_path / "flower" / "clients.json").read_text())
    assert (
        sum(kinds["train"]["answered"] for kinds in told.values() if "train" in kinds)
        == 18
    )


def test_each_supernode_is_asked_once_whom_it_serves(tmp_path):
    nodes = Nodes(12)
    serve(tmp_path / "run", nodes)
    assert len(nodes.asked) == 12 + 3 * 6


def test_a_supernode_that_forgot_its_model_is_sent_it(tmp_path):
    changes = ("codec.down=eden1",)
    nodes = Nodes(12)
    nodes.forgetful = True
    served = serve(tmp_path / "flower", nodes, *changes)
    assert served["model_sha256"] == run(tmp_path / "simulated", *changes).sha256
    assert len(nodes.asked) > 12 + 3 * 6
    assert "lacking" in (tmp_path / "flower" / "fleet.log").read_text()


def test_a_run_is_resumed_by_new_supernodes(tmp_path):
    changes = ("codec.down=eden1",)
    whole = run(tmp_path / "whole", "experiment.rounds=5", *changes)
    serve(tmp_path / "run", Nodes(12), *changes)
    resumed = serve(
        tmp_path / "run", Nodes(12), "experiment.rounds=5", *changes, resume=True
    )
    assert resumed["model_sha256"] == whole.sha256


def test_a_client_app_of_the_users_own_answers_in_payloads(tmp_path):
    adds_one = ClientApp(mods=[payloads])

    @adds_one.train()
    def train(message: Message, context: Context) -> Message:
        assert message.content.config_records["config"]["lr"] == 0.5
        arrays = ArrayRecord(
            {
                name: Array(array.numpy() + 1)
                for name, array in message.content.array_records["arrays"].items()
            }
        )
        return Message(
            RecordDict({"model": arrays, "metrics": MetricRecord({"num-examples": 3})}),
            reply_to=message,
        )

    served = serve(
        tmp_path / "run",
        Nodes(12, adds_one),
        "codec.up=q8",
        "strategy.server_momentum=0",
    )
    still = run(tmp_path / "still", "experiment.rounds=1", "train.lr=1e-30")
    before, after = (
        load_file(still.folder / "model.safetensors"),
        load_file(tmp_path / "run" / "model.safetensors"),
    )
    for name in before:
        np.testing.assert_allclose(after[name] - before[name], 3, atol=0.01)
    assert served["bytes_up"] < 0.3 * still.summary["bytes_up"] * 3


def talking(metrics: dict[str, Any], others: dict[str, Any]) -> ClientApp:
    """Return an app that evaluates to these metrics, and answers other records beside."""
    client_app = ClientApp(mods=[payloads])

    @client_app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = message.content.array_records["arrays"]
        # Of one client alone: the others' updates count.
        is_first = context.node_config["partition-id"] == 0
        weight = MetricRecord({"num-examples": 3})
        records: dict[str, Any] = {"arrays": arrays, "metrics": weight}
        content = RecordDict({**records, **(others if is_first else {})})
        return Message(content, reply_to=message)

    @client_app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        content = RecordDict({"scores": MetricRecord(metrics), **others})
        return Message(content, reply_to=message)

    return client_app


def line_of(folder: Path, client_app: ClientApp) -> dict[str, Any]:
    """Return the line of one round of all clients, which evaluate too."""
    changes = ("strategy.fraction_train=1.0", "experiment.rounds=1")
    serve(folder, Nodes(12, client_app), *changes, "evaluate.clients=true")
    line: dict[str, Any] = json.loads(
        (folder / "metrics.jsonl").read_text().splitlines()[1]
    )
    return line


def test_evaluations_have_the_names_that_an_app_gives_them(tmp_path):
    client_app = talking({"num-examples": 2, "f1": 0.75, "recall": 0.5}, {})
    line = line_of(tmp_path / "run", client_app)
    assert line["metrics"]["evaluate"] == {"f1": 0.75, "recall": 0.5}
    assert line["clients_evaluation"] == {"failed": 0, "clients": 12}
    assert line["failures"] == {}


def test_what_cannot_travel_here_fails_its_client_by_name(tmp_path):
    about = {"about": ConfigRecord({"who": "x"})}
    line = line_of(tmp_path / "run", talking({"num-examples": 2, "f1": 0.75}, about))
    assert list(line["failures"]) == ["0"]
    assert "replied with 1 ArrayRecords and 1 ConfigRecords" in line["failures"]["0"]
    assert line["clients_evaluation"]["failed"] == 12


def test_a_supernode_brings_its_own_data(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "mine.npz",
        x=rng.random((15, 8, 8), np.float32),
        y=rng.integers(0, 10, 15),
    )
    changes = ("experiment.rounds=1",)
    served = serve(
        tmp_path / "run", Nodes(12, app, data=str(tmp_path / "mine.npz")), *changes
    )
    assert served["failed"] == 0
    assert served["model_sha256"] != run(tmp_path / "simulated", *changes).sha256


def test_mods_see_updates_before_they_are_encoded(tmp_path):
    changes = ("codec.up=q8", 'client.mods=["tests.runs.test_superlink:zeros"]')
    simulated = run(tmp_path / "simulated", *changes)
    served = serve(tmp_path / "flower", Nodes(12, make([zeros])), changes[0])
    assert (
        served["model_sha256"]
        == simulated.sha256
        != run(tmp_path / "plain", changes[0]).sha256
    )


def test_a_client_that_fails_is_told_of_and_the_round_goes_on(tmp_path):
    serve(
        tmp_path / "run",
        Nodes(11),
        "fleet.min_agents=11",
        "strategy.fraction_train=1.0",
        "experiment.rounds=1",
    )
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[1])
    assert line["failures"] == {
        "11": "no SuperNode serves it: start one with --node-config 'partition-id=11'"
    }


def test_a_cohort_of_those_that_attend(tmp_path):
    nodes = Nodes(7)
    served = serve(
        tmp_path / "run", nodes, "fleet.cohort=available", "fleet.min_agents=7"
    )
    assert served["failed"] == 0
    assert len(nodes.asked) == 7 + 3 * 6


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        (
            Nodes(2),
            "2 of 12 clients have a SuperNode after 0.1 s. Start one for each client",
        ),
        (
            Nodes(2, app, **{"partition-id": "x"}),
            "0 of 12 .* SuperNode 100: this SuperNode does not say which client it serves",
        ),
        (
            Nodes(2, ClientApp()),
            "0 of 12 .* SuperNode 101: ValueError: No train function registered",
        ),
    ],
)
def test_supernodes_that_do_not_come_end_the_run(nodes, reason, tmp_path):
    with pytest.raises(RunError, match=reason):
        serve(tmp_path / "run", nodes, "fleet.deadline_s=0.1")


def test_supernodes_that_do_not_answer_are_late(tmp_path):
    nodes = Nodes(12)
    nodes.silent = True
    with pytest.raises(RunError, match="late: the deadline of its round has passed"):
        serve(tmp_path / "run", nodes, "fleet.deadline_s=0.2", "experiment.attempts=1")


@pytest.mark.parametrize(
    ("changes", "resume", "reason"),
    [
        (
            ('client.app="a:b"',),
            False,
            "do not apply under 'flwr run': name your ClientApp in pyproject.toml",
        ),
        (
            ("client.run_config.steps=3",),
            False,
            "run_config and node_config do not apply under 'flwr run'",
        ),
        (
            ("codec.up=ef+q4",),
            True,
            "cannot be resumed under 'flwr run'.* leave out ef",
        ),
    ],
)
def test_what_does_not_work_there_says_what_does(changes, resume, reason, tmp_path):
    with pytest.raises(ConfigError, match=reason):
        serve(tmp_path / "run", Nodes(1), *changes, resume=resume)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"conifg": "default"}, "unknown key 'conifg'. Did you mean 'config'"),
        ({"resume": "yes"}, "resume = 'yes': it is a bool"),
        ({"resume": True}, "needs out"),
        ({"set": "train.lr='0.1"}, "set = .* quotation"),
    ],
)
def test_a_wrong_run_config_says_so(given, reason):
    with pytest.raises(ConfigError, match=reason):
        arguments(given)


def test_a_config_is_found_in_the_apps_folder(tmp_path, monkeypatch):
    (tmp_path / "mine.toml").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert arguments({"config": "mine.toml"}).config == str(tmp_path / "mine.toml")
    others = arguments({"config": "other.toml", "set": "a.b=1 c.d='x y'"})
    assert others.changes == ["a.b=1", "c.d=x y"]


def test_keys_of_the_app_are_passed_over():
    ours = {"config": "small", "set": "", "out": "", "resume": False}
    # Nearly one of ours, which is there.
    both = arguments({**ours, "seed": 3, "outs": "x", "local-epochs": 2})
    assert (both.config, both.out) == ("small", None)
