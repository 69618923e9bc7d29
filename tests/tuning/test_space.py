"""What is searched: the grammar of ranges, its errors, grids, and the config of a trial."""

import pytest
import tomllib

from fedlearn import config
from fedlearn.errors import ConfigError
from fedlearn.tuning.space import grid, parse, parse_space, value_text, with_values

BASE = config.validate({"train": {"lr": 0.2}, "expect": {"accuracy": 0.5}}, "test")


def test_a_log_range_has_mcmahans_multiplicative_grid():
    points = parse("train.lr", "log:0.01:1", "here").points()
    assert points == [0.01, 0.0215, 0.0464, 0.1, 0.215, 0.464, 1.0]


def test_steps_and_choices():
    assert parse("train.momentum", "lin:0:0.9:0.3", "here").points() == [
        0,
        0.3,
        0.6,
        0.9,
    ]
    assert parse("train.epochs", "int:1:6:2", "here").points() == [1, 3, 5]
    assert parse("train.epochs", "int:1:6:2", "here").top == 5
    assert parse("train.batch_size", "choice:10,20", "here").points() == [10, 20]


def test_a_comma_in_brackets_or_quotes_separates_nothing():
    assert parse("codec.up", "choice:pred+cvq(1,1), raw32", "here").choices == (
        "pred+cvq(1,1)",
        "raw32",
    )
    assert parse("client.mods", 'choice:["a", "b"],[]', "here").choices == (
        ["a", "b"],
        [],
    )
    assert parse("experiments.x", 'choice:"a,b",true', "here").choices == ("a,b", True)


def test_a_grid_has_every_point():
    axes = parse_space(BASE, ["train.epochs=int:1:2", "codec.up=choice:raw32,q8,q4"])
    assert [tuple(point.values()) for point in grid(axes)] == [
        (1, "raw32"),
        (1, "q8"),
        (1, "q4"),
        (2, "raw32"),
        (2, "q8"),
        (2, "q4"),
    ]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("train.lr", "--search train.lr: write KEY=RANGE"),
        ("train.lr=0.1", "no kind of range '0.1'. Write log:LOW:HIGH"),
        ("train.lr=lg:1:2", "no kind of range 'lg'. Did you mean 'log'?"),
        ("train.lr=log:1", "write log:LOW:HIGH"),
        ("train.lr=log:0.1:1:2", "write log:LOW:HIGH"),
        ("train.lr=log:a:b", "'a:b' are not numbers"),
        ("train.lr=log:1:0.1", "LOW is not below HIGH"),
        ("train.lr=log:0:1", "a log range begins above 0"),
        ("train.lr=log:1e-300:1e300", "more than 1e+100 times LOW"),
        ("train.lr=log:0.1:inf", "finite"),
        ("train.lr=lin:0.1:1:5", "STEP is above 0 and at most HIGH - LOW"),
        ("train.epochs=int:1:2.5", "whole numbers"),
        ("codec.up=choice:", "a choice is empty"),
        ("codec.up=choice:raw32,,q8", "a choice is empty"),
        ("lr=log:0.1:1", "write section.key, for example train.lr"),
        ("experiment.seed=int:0:5", "[experiment] is not searched"),
        (
            "train.lrr=log:0.1:1",
            "train.lrr = log:0.1:1: unknown key 'train.lrr'. Did you mean 'lr'?",
        ),
        ("train.momentum=lin:0:1", "'train.momentum': input should be less than 1"),
        (
            "train.batch_size=lin:1:9",
            "'train.batch_size': input should be a valid integer",
        ),
        ("train.lr.x=log:0.1:1", "'lr' is a value, not a table"),
    ],
)
def test_what_cannot_be_searched_is_an_error_that_names_it(given, told):
    with pytest.raises(ConfigError) as error:
        parse_space(BASE, [given])
    assert given.partition("=")[2] in str(error.value) and told in str(error.value)


def test_a_linear_range_without_a_step_has_no_grid():
    with pytest.raises(
        ConfigError,
        match=r"train\.momentum = lin:0:0\.9 has no step; write lin:LOW:HIGH:STEP",
    ):
        grid(parse_space(BASE, ["train.momentum=lin:0:0.9"]))


def test_a_grid_too_large_is_refused():
    with pytest.raises(ConfigError, match="more than 10,000"):
        grid(
            parse_space(BASE, ["train.epochs=int:1:200", "train.batch_size=int:1:200"])
        )


def test_the_config_has_ranges_that_the_command_line_changes():
    text = '[tune.search]\ntrain.lr = "log:0.1:1"\ncodec.up = "choice:raw32,q8"\n'
    base = config.validate(tomllib.loads(text), "test")
    assert {
        axis.key: axis.text for axis in parse_space(base, ["train.lr=log:0.2:2"])
    } == {
        "train.lr": "log:0.2:2",
        "codec.up": "choice:raw32,q8",
    }
    assert config.validate(tomllib.loads(config.to_toml(base)), "test") == base
    with pytest.raises(
        ConfigError, match=r"\[tune.search\] train.lr: a range is a text"
    ):
        parse_space(
            config.validate({"tune": {"search": {"train": {"lr": 0.1}}}}, "test"), []
        )


def test_without_ranges_it_is_the_learning_rate():
    (axis,) = parse_space(BASE, [])
    assert (axis.key, axis.low, axis.high, axis.kind) == ("train.lr", 0.02, 2.0, "log")


def test_a_trial_has_the_values_and_nothing_that_is_said_of_the_configs_own_run():
    made = with_values(
        BASE,
        {"train.lr": 0.5, "strategy.server_momentum": 0.3, "data.partition.alpha": 0.1},
    )
    assert (made.train.lr, made.strategy.options, made.data.partition.options) == (
        0.5,
        {"server_momentum": 0.3},
        {"alpha": 0.1},
    )
    assert made.expect.accuracy is None and BASE.expect.accuracy == 0.5


def test_values_are_shown_as_people_write_them():
    assert [value_text(v) for v in (0.1, 2.0, 3, "q8", True)] == [
        "0.1",
        "2",
        "3",
        "q8",
        "True",
    ]
