"""What clients report: weights are numbers, and a metric never costs or bends an update."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedlearn.arrays import Change
from fedlearn.errors import PayloadError
from fedlearn.strategies.aggregate import ExactSum
from fedlearn.strategies.means import LOSS, Means
from fedlearn.wire import UPDATE, Header
from tests.jobs import run, strategy
from tests.strategies.test_start import loud

FEDAVG = "flwr.serverapp.strategy:FedAvg"
ONE = "experiment.rounds=1"


def config(app, name=FEDAVG, **options):
    """Return the config of three clients, each of which moves by its number."""
    text = strategy(name, **options).replace("clients = 12", "clients = 3")
    return text + f'[client]\napp = "tests.reporters:{app}"\n'


def bias(folder):
    """Return one value of a run's model."""
    model = load_file(folder / "model.safetensors")
    return float(next(iter(model.values())).ravel()[0])


def bias_of_equal_weights(tmp_path):
    """Return the value where all three clients count alike: it has moved by 1."""
    ran = run(tmp_path / "equal", ONE, config=config("without_auc"))
    return bias(ran.folder)


@pytest.mark.parametrize("name", [FEDAVG, "fedavg"])
def test_fractions_weigh_as_they_are(name, tmp_path):
    options = {"fraction_train": 1.0}
    if name == "fedavg":
        options["server_momentum"] = 0.0
    ran = run(tmp_path / "run", ONE, config=config("by_fractions", name, **options))
    assert ran.code == 0
    mean = 0.3 * 1 + 0.5 * 2
    assert bias(ran.folder) - bias_of_equal_weights(tmp_path) == pytest.approx(
        mean - 1, abs=1e-5
    )


def test_a_strategy_weighs_by_the_metric_that_it_names(tmp_path):
    text = config("by_size", weighted_by_key='"size"')
    ran = run(tmp_path / "run", ONE, "evaluate.clients=true", config=text)
    assert ran.code == 0
    mean = (1.5 * 1 + 2.5 * 2) / 4.5
    assert bias(ran.folder) - bias_of_equal_weights(tmp_path) == pytest.approx(
        mean - 1, abs=1e-5
    )
    # What is called otherwise than the usual names is recorded.
    metrics = ran.lines[1]["metrics"]
    assert metrics["train"]["gain"] == 2.5
    assert "evaluate" not in metrics
    assert ran.lines[1]["clients_evaluation"]["failed"] == 3


def test_a_metric_that_is_no_number_costs_itself(tmp_path, capsys):
    text = config("without_auc")
    code, output, folder = loud(tmp_path, capsys, text, ONE, "evaluate.clients=true")
    assert code == 0
    line = json.loads((folder / "metrics.jsonl").read_text().splitlines()[1])
    assert line["failed"] == 0
    assert line["train_loss"] == 2.0
    assert line["metrics"] == {
        "train": {"auc": 0.75},
        "evaluate": {"eval_f1": 0.5},
        "unusable": {"auc": 1},
    }
    assert output.count("the metric 'auc' of 1 clients is no finite number") == 1
    assert output.count("not all clients report the metric 'auc'") == 1
    assert "evaluations report no 'loss' and no 'accuracy'" in output


@pytest.mark.parametrize("name", [FEDAVG, "fedavg"])
@pytest.mark.parametrize(
    ("app", "unusable", "loss"),
    [
        ("beyond", {"perplexity": 3, "train_loss": 3}, None),
        ("with_lists", {"train_loss": 1}, 0.5),
    ],
)
def test_no_metric_costs_an_update(app, unusable, loss, name, tmp_path):
    text = config(app, name, fraction_train=1.0)
    ran = run(tmp_path / "run", ONE, config=text)
    assert ran.code == 0
    line = ran.lines[1]
    assert (line["failed"], line["train_loss"]) == (0, loss)
    assert line["metrics"] == {"unusable": unusable}


@pytest.mark.parametrize("name", [FEDAVG, "fedavg"])
def test_a_loss_beyond_belief_is_left_out_and_told(name, tmp_path, capsys):
    text = config("with_a_boaster", name, fraction_train=1.0)
    text = text.replace("clients = 3", "clients = 5")
    code, output, folder = loud(tmp_path, capsys, text, ONE)
    assert code == 0
    line = json.loads((folder / "metrics.jsonl").read_text().splitlines()[1])
    assert line["failed"] == 0
    # Of clients 0, 2, 3 and 4.
    assert line["train_loss"] == pytest.approx((0.5 + 2.5 + 3.5 + 4.5) / 4)
    assert line["metrics"] == {"train": {"odd_train_losses": 1}}
    assert output.count("the training loss that 1 clients report is far above") == 1


def test_losses_of_unlike_clients_all_count():
    means = Means()
    # A new client far from a model that fits all others.
    for loss in (0.01, 0.02, 0.02, 0.03, 9.0):
        means.add_metrics({LOSS: loss}, 1)
    assert means.record() == {"num-examples": 5, LOSS: pytest.approx(1.816)}
    # In a regression all losses may be large.
    large = Means()
    for loss in (2e5, 3e5, 4e5, 9e6):
        large.add_metrics({LOSS: loss}, 1)
    assert large.record()[LOSS] == pytest.approx(2.475e6)


def test_evaluations_that_all_fail_are_told_and_recorded(tmp_path, capsys):
    text = config("by_fractions")
    code, output, folder = loud(tmp_path, capsys, text, "evaluate.clients=true")
    assert code == 0
    told = "none of 3 clients could evaluate; client 0: "
    assert output.count(told) == 1
    assert "no validation data" in output
    line = json.loads((folder / "metrics.jsonl").read_text().splitlines()[1])
    assert line["clients_evaluation"] == {"failed": 3, "clients": 0}


def test_records_and_whole_numbers_reach_the_strategy_as_they_were(tmp_path, capsys):
    text = config("in_records", "tests.reporters:SeesRecords")
    code, output, folder = loud(tmp_path, capsys, text, ONE)
    assert code == 0
    assert f"['model', 'more', 'shape'] {2**62 + 3} [1, {2**60 + 1}]" in output
    line = json.loads((folder / "metrics.jsonl").read_text().splitlines()[1])
    assert line["metrics"]["train"]["mine"] == 0.125


@pytest.mark.parametrize(
    ("app", "code", "message"),
    [
        ("negative", 3, "client 0 reports num-examples = -1.5"),
        ("in_list", 3, "client 0 reports num-examples = [4]"),
        ("tiny", 3, "an update of weight 1e-07 cannot be added"),
        ("forgets", 3, "train function returned NoneType; it must return a Message"),
        ("old_style", 2, "is a ClientApp(client_fn=…), of Client or NumPyClient"),
    ],
)
def test_a_report_that_no_strategy_could_use_is_one_line(
    app, code, message, tmp_path, capsys
):
    assert run(tmp_path / "run", ONE, config=config(app)).code == code
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_arrays_are_matched_by_their_names(tmp_path):
    assert run(tmp_path / "run", ONE, config=config("backwards")).code == 0


def change(floats, integers):
    return Change(np.array(floats, np.float32), np.array(integers, np.int64))


def test_a_sum_by_fractions_is_exact_in_any_order():
    updates = [
        (change([i / 7], [10 * i]), weight) for i, weight in enumerate((0.2, 0.3, 2))
    ]
    results = []
    for order in (updates, updates[::-1]):
        total = ExactSum(1, 1, 3)
        for update, weight in order:
            total.add(update, weight)
        floats, integers = total.mean()
        results.append((floats.tobytes(), integers.tobytes(), total.weight))
    assert results[0] == results[1]
    assert floats[0] == pytest.approx((0.3 / 7 + 2 * 2 / 7) / 2.5, abs=1e-7)
    assert integers[0] == round((0.3 * 10 + 2 * 20) / 2.5)


def test_a_weight_below_what_can_be_rounded_is_refused():
    with pytest.raises(PayloadError, match="weights are"):
        ExactSum(1, 0, 1).add(change([1.0], []), 2.0**-17)


def test_metrics_that_are_no_finite_numbers_are_named_and_left_out():
    from fedlearn.wire import payload_pb2

    header = Header(
        UPDATE,
        3,
        bytes(8),
        "raw32",
        metrics={"a": float("nan"), "b": [1.0, float("inf")], "c": -(2**60) - 1},
        records={"more": {"a": 1.5}},
    )
    message = payload_pb2.Payload()
    header.fill(message)
    arrived = Header.of(message)
    assert arrived.metrics == {"c": -(2**60) - 1}
    assert arrived.records == {"more": {"a": 1.5}}
    assert arrived.unusable == ("a", "b")
