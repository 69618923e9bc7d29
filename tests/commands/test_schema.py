"""``fedlearn schema``, and a dry run: what a config may say, and what it comes to."""

import json

import pytest
import tomllib

from fedlearn import config
from fedlearn.__main__ import main as fedlearn_main
from fedlearn.commands.schema import main
from fedlearn.commands.simulate import main as simulate
from fedlearn.config.schema import Tables
from tests.jobs import CONFIG


@pytest.fixture
def schema(capsys):
    assert main([]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_key_is_there_with_its_meaning(schema):
    assert set(schema["properties"]) == set(Tables.model_fields)
    train = schema["$defs"]["TrainSection"]
    assert train["properties"]["lr"]["default"] == 0.1
    for name, table in schema["$defs"].items():
        assert table["description"], name
        for key, one_property in table["properties"].items():
            is_table = "$ref" in json.dumps(one_property)
            assert is_table or one_property.get("description"), (name, key)


def test_a_validator_of_schemas_knows_right_from_wrong(schema):
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(schema)
    for name in config.shipped():
        table = tomllib.loads(config.shipped()[name].read_text())
        table.pop("claim", None)
        assert not list(validator.iter_errors(table)), name
    assert list(validator.iter_errors({"train": {"lr": "fast"}}))
    assert list(validator.iter_errors({"train": {"lrr": 0.1}}))


def test_a_dry_run_prints_all_keys_and_leaves_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(CONFIG)
    assert simulate(["mine.toml", "--set", "train.lr=0.25", "--dry-run"]) == 0
    text = capsys.readouterr().out
    # Its own output is a config.
    experiment = config.checked(tomllib.loads(text), "it", text, ())
    assert experiment == config.read("mine.toml", ["train.lr=0.25"])
    assert "# data: digits, 12 clients, 359 held-out samples" in text
    assert "# model: logistic, 650 trained parameters, 2.60 kB as float32" in text
    assert "# rounds: 3 of 6 clients each, strategy fedavg" in text
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--set", "model.name=lenett"], "lenet"),
        (["--set", "train.lr=-1"], "train.lr"),
        (["--resume"], "--dry-run is of a new run"),
    ],
)
def test_what_a_run_would_refuse_a_dry_run_does_too(words, told, capsys):
    assert simulate(["default", "--dry-run", *words]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("words", [["-V"], ["--version"]])
def test_the_version(words, capsys):
    assert fedlearn_main(words) == 0
    assert capsys.readouterr().out.startswith("fedlearn 0.")


def test_help_is_a_word_too(capsys):
    assert fedlearn_main(["help"]) == 0
    assert "simulate" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ending:
        fedlearn_main(["help", "schema"])
    assert ending.value.code == 0
    assert "usage: fedlearn schema" in capsys.readouterr().out
