"""Messages are more than a model: every record arrives as it was sent, or an error says so."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests import messengers
from tests.jobs import run, strategy
from tests.strategies.test_start import loud

ONE = "experiment.rounds=1"


@pytest.fixture(autouse=True)
def seen():
    messengers.SEEN.clear()
    return messengers.SEEN


def config(name, app, clients=3, **options):
    """Return the config of a strategy and an app of tests/messengers.py."""
    path = name if "." in name else f"tests.messengers:{name}"
    text = strategy(path, **options).replace("clients = 12", f"clients = {clients}")
    return text + f'[client]\napp = "tests.messengers:{app}"\n'


def values(ran):
    """Return a model's values by name, as flat lists."""
    model = load_file(ran.folder / "model.safetensors")
    return {name: array.ravel() for name, array in model.items()}


def test_an_app_is_told_what_its_config_says(tmp_path, seen):
    text = config("Base", "configured", fraction_evaluate=1.0)
    text += 'run_config = {deep = {step = 0.25}, name = "x"}\n'
    text += 'node_config = {place = ["a", "b", "c"], rack = 4}\n'
    text += "train_config = {mu = 0.125}\nevaluate_config = {share = 0.75}\n"
    ran = run(tmp_path / "run", ONE, "evaluate.clients=true", config=text)
    assert ran.code == 0
    assert seen == [(i, 0.25, place, 0.125) for i, place in enumerate("abc")]
    assert ran.lines[1]["metrics"]["evaluate"] == {"share": 0.75}
    again = run(tmp_path / "again", ONE, "client.run_config.deep.step=0.5", config=text)
    assert seen[-1] == (2, 0.5, "c", 0.125)
    assert again.sha256 != ran.sha256


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("node_config = {place = [1, 2]}", "'place' lists 2 values for 3 clients"),
        (
            "run_config = {steps = [1, 2]}",
            "run_config has 'steps' = [1, 2]; a value is",
        ),
        ("train_config = {a = [1, 'x']}", "train_config has 'a' = [1, 'x']"),
    ],
)
def test_a_config_that_no_app_can_be_told_is_one_line(lines, message, tmp_path, capsys):
    text = config("Base", "configured") + lines + "\n"
    assert run(tmp_path / "run", config=text).code == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_a_run_config_without_an_app_is_refused(tmp_path, capsys):
    text = strategy("fedavg") + "[client]\nrun_config = {a = 1}\n"
    assert run(tmp_path / "run", config=text).code == 2
    assert "[client] run_config is read by app and mods" in capsys.readouterr().err


@pytest.mark.parametrize("engine", ["serial", "pool"])
def test_a_question_without_a_model_is_answered_with_any_record(engine, tmp_path, seen):
    text = config("Asks", "talker")
    ran = run(tmp_path / "run", ONE, config=text, engine=engine)
    assert ran.code == 0
    counts = [[0.0, 1.0 * i, 2.0 * i] for i in range(3)]
    assert seen == [(count, 7, b"\x00\xff", True) for count in counts]
    # Three questions and three trainings, both ways.
    line = ran.lines[1]
    assert (line["messages_up"], line["messages_down"]) == (6, 6)


def test_records_beside_the_model_go_both_ways_and_are_counted(tmp_path, seen):
    ran = run(tmp_path / "run", ONE, config=config("Controls", "talker"))
    assert ran.code == 0
    names = ["arrays", "metrics", "about", "control"]
    assert seen == [(i, names, {float(i)}, "blue") for i in range(3)]
    plain = run(tmp_path / "plain", ONE, config=config("Base", "stepper"))
    # 1,000 letters of each client's, and a second model both ways, which is not encoded.
    model_bytes = 4 * sum(array.size for array in values(ran).values())
    for key, least in (("bytes_up", 1000 + model_bytes), ("bytes_down", model_bytes)):
        beside = ran.lines[1][key] - plain.lines[1][key]
        assert 3 * least < beside < 3 * (least + 1000)


def test_a_part_of_a_model_leaves_the_others_as_they_were(tmp_path):
    start = values(run(tmp_path / "zero", ONE, config=config("Base", "stepper")))
    ran = run(tmp_path / "run", "experiment.rounds=3", config=config("Parts", "talker"))
    assert ran.code == 0
    # `stepper` moves all by 0.5 in its one round, `Parts` the first one by 2 in three.
    moves = {name: end - start[name] + 0.5 for name, end in values(ran).items()}
    assert sorted(round(float(move.mean()), 3) for move in moves.values()) == [0, 6]
    for move in moves.values():
        assert np.ptp(move) < 1e-5


def test_a_part_of_a_model_is_nothing_that_ours_could_add(tmp_path, capsys):
    text = config("tests.messengers:OursInParts", "talker")
    assert run(tmp_path / "run", config=text).code == 3
    assert "replied with 1 ArrayRecords and 0 ConfigRecords" in capsys.readouterr().err


def test_evaluations_bring_arrays_under_the_names_of_their_records(tmp_path, seen):
    text = config("Looks", "talker", fraction_evaluate=1.0)
    ran = run(tmp_path / "run", ONE, "evaluate.clients=true", config=text)
    assert ran.code == 0
    scores = {"num-examples": 3, "auc": 0.25}
    assert seen == [("int16", 4 * i, scores) for i in range(3)]
    assert ran.lines[1]["metrics"]["evaluate"] == {"auc": 0.25}
    assert ran.lines[1]["metrics"]["unusable"] == {"bad": 3}


def test_messages_are_pulled_by_their_ids_and_a_client_may_have_several(tmp_path, seen):
    ran = run(tmp_path / "run", ONE, config=config("Pushes", "stepper"))
    assert ran.code == 0
    # Each reply once.
    assert seen == [([1.0, 5.0, 3.0, 5.0], 4, [])]


def test_a_client_does_two_different_things_in_a_round(tmp_path):
    # tests.askers: client 3 by two learning rates, client 0 in between.
    ran = run(tmp_path / "run", ONE, config=strategy("tests.askers:TwiceOtherwise"))
    assert ran.code == 0
    assert ran.lines[1]["messages_up"] == 3
    pool = run(
        tmp_path / "pool",
        ONE,
        config=strategy("tests.askers:TwiceOtherwise"),
        engine="pool",
    )
    assert pool.sha256 == ran.sha256
    alike = run(tmp_path / "alike", ONE, config=strategy("tests.askers:Twice"))
    assert alike.sha256 != ran.sha256


def test_two_tasks_of_a_round_carry_errors_over_one_after_the_other(tmp_path):
    sets = ("experiment.rounds=3", "codec.up=ef+topk(0.1)+q8")
    text = strategy("tests.askers:TwiceOtherwise")
    ran = run(tmp_path / "run", *sets, config=text)
    assert ran.code == 0
    assert [line["failed"] for line in ran.lines] == [0, 0, 0, 0]
    assert run(tmp_path / "again", *sets, config=text).sha256 == ran.sha256


def test_what_only_an_app_answers_needs_one(tmp_path, capsys):
    text = strategy("tests.messengers:Queries")
    assert run(tmp_path / "run", config=text).code == 3
    error = capsys.readouterr().err
    assert "a message of type 'query' in round 1, which only an app" in error


def test_a_strategy_of_ones_own_may_make_no_model_of_a_round(tmp_path, capsys):
    text = config("EverySecond", "stepper")
    code, output, folder = loud(tmp_path, capsys, text, "experiment.rounds=4")
    assert code == 0
    lines = [json.loads(t) for t in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["attempts"] for line in lines[1:]] == [1, 1, 1, 1]
    # Two steps of 0.5 in four rounds.
    moves = [line["loss"] for line in lines]
    assert moves[0] == moves[1] and moves[2] == moves[3] != moves[1]
    assert output.count("made no model of 3 updates; the model stays") == 1


def test_a_strategy_that_never_makes_a_model_has_learned_nothing(tmp_path, capsys):
    assert run(tmp_path / "run", config=config("Never", "stepper")).code == 3
    assert "made no model in 3 rounds: nothing was learned" in capsys.readouterr().err


def test_a_state_may_hold_text_and_complex_numbers(tmp_path, seen):
    ran = run(
        tmp_path / "run", "experiment.rounds=2", config=config("Base", "keeper", 2)
    )
    assert ran.code == 0
    assert seen == [[["ä", "bc"], [1 + 2j]]] * 2


def test_a_state_that_cannot_be_kept_costs_its_client(tmp_path):
    ran = run(tmp_path / "run", config=config("Base", "broken_state"))
    assert ran.code == 0
    for line in ran.lines[1:]:
        assert list(line["failures"]) == ["1"]
        assert "its context.state cannot be kept" in line["failures"]["1"]


def test_what_mods_log_is_heard_and_what_flowers_loop_logs_is_not(tmp_path, caplog):
    text = strategy("flwr.serverapp.strategy:FedAvg").replace(
        "clients = 12", "clients = 3"
    )
    text += '[client]\nmods = ["tests.messengers:logs"]\n'
    assert run(tmp_path / "run", ONE, config=text).code == 0
    assert "a mod of client 2 says so" in caplog.text
    # What its loop logs at the same level.
    assert "Starting FedAvg" not in caplog.text


@pytest.mark.parametrize(
    ("mod", "message"),
    [
        ("flwr.clientapp.mod:AdaptiveMod", "has no 'AdaptiveMod'"),
        ("flwr.clientapp.mod:LocalDpMod", "is a class; name an object of it"),
        ("tests.messengers:makes_a_mod", "does not take (message, context, call_next)"),
    ],
)
def test_a_mod_that_is_none_is_refused_at_the_start(mod, message, tmp_path, capsys):
    text = strategy("fedavg") + f'[client]\nmods = ["{mod}"]\n'
    ran = run(tmp_path / "run", config=text)
    assert ran.code == 2
    assert message in capsys.readouterr().err
    assert not ran.folder.exists()
