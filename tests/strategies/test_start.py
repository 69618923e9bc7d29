"""A strategy's own ``start`` runs on the strategy, and its rounds are done and recorded."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import fedlearn as fl
from fedlearn.commands.simulate import main
from tests.jobs import run, strategy

FEDAVG = "flwr.serverapp.strategy:FedAvg"


def config(name, **options):
    return strategy(name, fraction_train=0.5, **options)


def loud(tmp_path, capsys, text, *sets):
    """Run a config with its output; return code, output and the run's folder."""
    file = tmp_path / "c.toml"
    file.write_text(text)
    arguments = [str(file), "--out", str(tmp_path / "run")]
    for key in ("engine.kind=serial", *sets):
        arguments += ["--set", key]
    code = main(arguments)
    output = capsys.readouterr()
    return code, " ".join((output.out + output.err).split()), tmp_path / "run"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Return the hash of Flower's FedAvg."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    return run(folder, config=config(FEDAVG)).sha256


@pytest.mark.parametrize(
    "name", ["Prepared", "Slotted", "Closed", "Frozen", "Shadowed", "Loop", "Catches"]
)
def test_a_start_of_its_own_runs_on_the_strategy_itself(name, plain, tmp_path):
    ran = run(tmp_path / "run", config=config(f"tests.starts:{name}"))
    assert ran.code == 0
    assert [line["round"] for line in ran.lines] == [0, 1, 2, 3]
    assert ran.sha256 == plain


def test_a_strategy_is_itself_again_after_its_run(tmp_path):
    from tests.starts import VERBS, Prepared

    mine = Prepared(fraction_train=0.5)
    experiment = {"experiment": {"name": "s", "rounds": 1}, "data": {"name": "digits"}}
    changes = {"model.name": "logistic", "engine.kind": "serial"}
    fl.run(experiment, changes, strategy=mine, out=tmp_path / "run", quiet=True)
    assert not VERBS & set(vars(mine))


def test_a_loop_sees_the_scores_of_the_run_also_where_the_record_leaves_them_out(
    plain, tmp_path, capsys
):
    text = config("tests.starts:Scores")
    code, output, folder = loud(tmp_path, capsys, text, "experiment.evaluate_every=2")
    assert code == 0
    scores = [float(word) for word in output.split("scores ")[1].split()[:4]]
    lines = [json.loads(t) for t in (folder / "metrics.jsonl").read_text().splitlines()]
    recorded = [line["accuracy"] for line in lines]
    assert recorded[1] is None
    assert [scores[0], *scores[2:]] == [recorded[0], *recorded[2:]]
    assert scores[0] < scores[1]
    assert json.loads((folder / "summary.json").read_text())["model_sha256"] == plain
    # It forgets to return its result, whose model the record has.
    assert "Scores.start returned NoneType without a model" in output


def test_a_loop_that_saw_the_score_may_end_early(tmp_path, capsys):
    code, output, folder = loud(tmp_path, capsys, config("tests.starts:StopsEarly"))
    assert code == 0
    assert "StopsEarly.start ended after round 2 of 3" in output
    assert json.loads((folder / "summary.json").read_text())["rounds"] == 2


def test_a_verb_may_end_the_rounds_by_raising_what_its_start_awaits(tmp_path, capsys):
    code, output, folder = loud(tmp_path, capsys, config("tests.starts:StopsByItself"))
    assert code == 0
    assert (
        "StopsByItself.start ended after round 2 of 3: StopsByItself.aggregate_train "
        "raised StopIteration in round 3: enough"
    ) in output
    two = run(tmp_path / "two", "experiment.rounds=2", config=config(FEDAVG))
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["rounds"], summary["model_sha256"]) == (2, two.sha256)


def test_the_model_that_a_loop_returns_is_the_runs(tmp_path, capsys):
    code, output, folder = loud(tmp_path, capsys, config("tests.starts:KeepsFirst"))
    assert code == 0
    assert "KeepsFirst.start returned another model than that of round 3" in output
    first = run(tmp_path / "first", "experiment.rounds=1", config=config(FEDAVG))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["model_sha256"] == first.sha256
    assert summary["accuracy"] == first.summary["accuracy"]
    models = [load_file(f / "model.safetensors") for f in (folder, first.folder)]
    assert all(np.array_equal(models[0][name], models[1][name]) for name in models[1])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("DoesNothing", "DoesNothing.start ended and did no round"),
        ("FromZero", "FromZero.start began round 0 after round 0 of 3"),
        ("TooFew", "TooFew.start ended after round 2 of 3; it does num_rounds of them"),
        ("NeverAggregates", "went on from round 1 without its aggregate_train"),
        (
            "NeverConfigures",
            "called aggregate_train for round 1, which configure_train",
        ),
        ("Typo", "Typo.start raised KeyError in round 0: 'arays'"),
        ("StopsAtOnce", "aggregate_train raised StopIteration in round 1: enough"),
        ("LetsPass", "LetsPass.configure_train raised KeyError in round 1: 'stage'"),
        ("NoMessages", "NoMessages.configure_train returned None in round 1"),
        ("NotMessages", "configure_train returned an iterable of int in round 1"),
        (
            "NoAggregate",
            "NoAggregate.aggregate_train returned None in round 1; it must ",
        ),
        ("OnlyArrays", "OnlyArrays.aggregate_train returned ArrayRecord in round 1"),
        ("PlainMetrics", "returned a tuple (ArrayRecord, dict) in round 1; it must"),
        ("NoEvaluators", "NoEvaluators.configure_evaluate returned None in round 1"),
        ("LossOnly", "LossOnly.aggregate_evaluate returned float in round 1"),
    ],
)
def test_a_run_that_is_not_done_is_one_line(name, message, tmp_path, capsys):
    ran = run(
        tmp_path / "run",
        "evaluate.clients=true",
        config=config(f"tests.starts:{name}"),
    )
    assert ran.code == 3
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (ran.folder / "summary.json").exists()


def test_a_loop_that_catches_everything_does_not_hide_why_a_run_ends(tmp_path, capsys):
    text = config("tests.starts:Catches")
    ran = run(
        tmp_path / "run", config=text + '[client]\napp = "tests.faults:all_fail"\n'
    )
    assert ran.code == 3
    assert "round 1 learned nothing in 3 attempts" in capsys.readouterr().err

    class Raises(fl.Callback):
        def after_round(self, line, weights):
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fl.run(
            tmp_path / "run.toml",
            {"client.app": "", "engine.kind": "serial"},
            callbacks=[Raises()],
            out=tmp_path / "called",
            quiet=True,
        )


def test_a_loop_that_catches_everything_ends_where_a_callback_ends_it(tmp_path):
    class Second(fl.Callback):
        def after_round(self, line, weights):
            return line["round"] == 2

    file = tmp_path / "c.toml"
    file.write_text(config("tests.starts:Catches"))
    ran = fl.run(
        file,
        {"engine.kind": "serial"},
        callbacks=[Second()],
        out=tmp_path / "run",
        quiet=True,
    )
    assert [line["round"] for line in ran.rounds] == [0, 1, 2]


def test_a_share_of_zero_asks_nobody_and_names_the_key(tmp_path, capsys):
    text = strategy(FEDAVG, fraction_train=0.0)
    assert run(tmp_path / "run", config=text).code == 3
    assert "FedAvg.configure_train asked no client (fraction_train = 0.0" in (
        capsys.readouterr().err
    )


def test_what_a_strategy_writes_into_its_config_holds_and_survives_a_resume(tmp_path):
    text = config("tests.starts:Slows")
    half = '"step"\nstep_every = 1\nstep_factor = 0.5'
    stepped = config(FEDAVG).replace("lr = 0.5", f"lr = 0.5\nschedule = {half}")
    two = run(tmp_path / "parts", "experiment.rounds=2", config=text)
    by_schedule = run(tmp_path / "two", "experiment.rounds=2", config=stepped)
    assert two.sha256 == by_schedule.sha256
    whole = run(tmp_path / "whole", config=text)
    # In round 3 the schedule would halve it again.
    assert whole.sha256 != run(tmp_path / "two", config=stepped, resume=True).sha256
    assert run(tmp_path / "parts", config=text, resume=True).sha256 == whole.sha256
