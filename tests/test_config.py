"""Experiments are read strictly: errors name the key, the nearest key, the file and the line."""

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from fedlearn import config
from fedlearn.config import documented, schema
from fedlearn.errors import ConfigError, UserError

PAGE = Path(__file__).parents[1] / "docs" / "config.md"

TEXT = """\
[experiment]
name = "mine"

[train]
# a comment
lr = 0.05
epochs = 2

[strategy]
name = "fedavg"
fraction_train = 0.5
"""


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return str(path)

    return write


def test_a_file_is_read_and_defaults_fill_the_rest(write):
    experiment = config.read(write(TEXT))
    assert (
        experiment.train.lr,
        experiment.train.epochs,
        experiment.train.batch_size,
    ) == (0.05, 2, 10)
    assert experiment.strategy.options == {"fraction_train": 0.5}


def test_what_is_written_reads_back_the_same(write):
    text = (
        TEXT
        + 'arrays = ["a", "b"]\n'
        + 'inner = {name = "x\\n\\"y\\"", list = [1, 2.5, true]}\n'
        + '[data]\nname = "d"\n[data.partition]\nkind="iid"\n'
    )
    experiment = config.read(write(text))
    assert config.read(write(config.to_toml(experiment))) == experiment


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "lr = 0.05",
            "lrr = 0.05",
            "mine.toml:6: unknown key 'train.lrr'. Did you mean 'lr'?",
        ),
        (
            "lr = 0.05",
            'lr = "fast"',
            "mine.toml:6: 'train.lr': input should be a valid number (got 'fast')",
        ),
        (
            "lr = 0.05",
            "lr = -0.05",
            "mine.toml:6: 'train.lr': input should be greater than 0 (got -0.05)",
        ),
        (
            "epochs = 2",
            "epochs = 1.5",
            "mine.toml:7: 'train.epochs': input should be a valid integer",
        ),
        (
            "[train]",
            "[trian]",
            "mine.toml:4: unknown key 'trian'. Did you mean 'train'?",
        ),
        (
            "epochs = 2",
            "nesterov = true",
            "mine.toml:4: 'train': nesterov = true needs momentum above 0",
        ),
        (
            "epochs = 2",
            'optimizer = "adm"',
            "'train.optimizer': 'adm' is no optimizer. Did you mean 'adam'?",
        ),
        (
            "epochs = 2",
            'optimizer = "adam"\noptimizer_options = {beta = 0.9}',
            "adam has no 'beta'. Did you mean 'betas'?",
        ),
        (
            "epochs = 2",
            'optimizer = "adamw"\nmomentum = 0.9',
            "momentum = 0.9 is for sgd and rmsprop; with adamw set momentum = 0, and betas",
        ),
        (
            "epochs = 2",
            'optimizer = "rmsprop"\nmomentum = 0.9\nnesterov = true',
            "nesterov = true is for sgd",
        ),
        *[
            (
                "epochs = 2",
                f'optimizer = "{name}"\noptimizer_options = {{{option}}}',
                told,
            )
            for name, option, told in [
                ("adam", 'amsgrad = "no"', "amsgrad = 'no'; it is true or false"),
                ("rmsprop", "centered = [0]", "centered = [0]; it is true or false"),
                ("adam", "eps = true", "eps = True; it is a number, at least 0"),
                ("adam", 'eps = "a"', "eps = 'a'; it is a number"),
                ("adagrad", "eps = -1", "eps = -1; it is a number, at least 0"),
                ("adam", "betas = [0.9]", "betas = [0.9]; it is two numbers"),
                ("adam", "betas = 0.9", "betas = 0.9; it is two numbers"),
                ("adamw", "betas = [0.9, 0.9, 0.5]", "it is two numbers from 0"),
                ("adamw", "betas = [0.9, 1]", "it is two numbers from 0"),
                ("rmsprop", "alpha = 2.0", "alpha = 2.0; it is a number from 0 up to"),
                ("rmsprop", "alpha = nan", "alpha = nan; it is a number from 0 up to"),
            ]
        ],
        (
            "epochs = 2",
            "optimizer_options = {eps = 0.1}",
            "mine.toml:7: 'train.optimizer_options': sgd has no 'eps'",
        ),
        (
            "lr = 0.05",
            "lr = nan",
            "mine.toml:6: 'train.lr': input should be a finite number",
        ),
        ("lr = 0.05", "lr = ", "not valid TOML"),
        ('name = "mine"', 'name = "a/b"', "mine.toml:2: 'experiment.name'"),
    ],
)
def test_wrong_keys_and_values_name_the_place(write, old, new, message):
    with pytest.raises(ConfigError) as caught:
        config.read(write(TEXT.replace(old, new)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_whole_numbers_of_an_option_become_floats(write):
    words = 'optimizer = "adam"\noptimizer_options = {betas = [0, 0.9]}'
    train = config.read(write(TEXT.replace("epochs = 2", words))).train
    assert [type(beta) for beta in train.optimizer_options["betas"]] == [float, float]


@pytest.mark.parametrize(
    ("name", "lr", "weight_decay"),
    [
        ("sgd", 0.1, 0.0),
        ("adam", 0.001, 0.0),
        ("adamw", 0.001, 0.01),
        ("adagrad", 0.01, 0.0),
        ("my_pkg:Mine", 0.1, 0.0),
    ],
)
def test_an_optimiser_brings_defaults_of_its_own(write, name, lr, weight_decay):
    text = TEXT.replace("lr = 0.05", f'optimizer = "{name}"')
    train = config.read(write(text)).train
    assert (train.lr, train.weight_decay) == (lr, weight_decay)
    words = f'optimizer = "{name}"\nlr = 0.3\nweight_decay = 0.2'
    stated = config.read(write(TEXT.replace("lr = 0.05", words))).train
    assert (stated.lr, stated.weight_decay) == (0.3, 0.2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.lrr=1",
            "--set train.lrr=1: unknown key 'train.lrr'. Did you mean 'lr'?",
        ),
        (
            "train.lr=fast",
            "--set train.lr=fast: 'train.lr': input should be a valid number",
        ),
        ("lr=1", "write section.key=value"),
        ("train.lr", "write section.key=value"),
        ("train.lr.x=1", "'lr' is a value, not a table"),
        (
            "fleet.cohort=connected",
            "[fleet] cohort: 'connected' is called 'available' now",
        ),
        ("devices.cohort=any", "[devices] cohort: 'any' is called 'all' now"),
        (
            "devices.cohort=present",
            "[devices] cohort: 'present' is called 'available' now",
        ),
    ],
)
def test_wrong_overrides_name_the_override(write, override, message):
    with pytest.raises(ConfigError) as caught:
        config.read(write(TEXT), [override])
    assert message in str(caught.value)


def test_a_run_folder_may_have_the_words_of_an_earlier_version(write):
    path = write('[devices]\ncohort = "any"\n[fleet]\ncohort = "connected"\n')
    experiment = config.read_recorded(path, ["train.lr=0.5"])
    assert experiment.devices.cohort == "all"
    assert experiment.fleet.cohort == "available"
    assert experiment.train.lr == 0.5
    # In a file of one's own, or in a change, they stay errors.
    for read in (
        lambda: config.read(path),
        lambda: config.read_recorded(path, ["devices.cohort=present"]),
    ):
        with pytest.raises(ConfigError, match=r"is called 'a.*' now"):
            read()


def test_overrides_take_toml_values_and_bare_words(write):
    experiment = config.read(
        write(TEXT),
        [
            "train.lr=0.5",
            "codec.up=q8",
            "data.partition.alpha=0.3",
            "strategy.inner={name='x'}",
        ],
    )
    assert (experiment.train.lr, experiment.codec.up) == (0.5, "q8")
    assert experiment.data.partition.options == {"alpha": 0.3}
    assert experiment.strategy.options["inner"] == {"name": "x"}


def test_files_that_cannot_be_read(tmp_path):
    for path, message in (
        (tmp_path, "is a folder"),
        (tmp_path / "none.toml", "no file"),
        ("defalut", "Did you mean 'default'?"),
    ):
        with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
            config.read(str(path))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not a text file"):
        config.read(str(tmp_path / "binary.toml"))


def test_every_shipped_experiment_is_valid():
    assert "default" in config.shipped()
    for name in config.shipped():
        experiment = config.read(name)
        assert experiment.experiment.name == name
        assert experiment.experiment.about


@pytest.mark.parametrize(
    ("changes", "accuracy"),
    [
        ((), 0.8),
        (("train.lr=0.02",), 0.8),
        (("experiment.rounds=40",), 0.8),
        (("experiment.rounds=3",), None),
        (("experiment.rounds=3", "expect.accuracy=0.1"), 0.1),
    ],
)
def test_what_a_shipped_experiment_expects_is_for_its_own_rounds(changes, accuracy):
    experiment = config.read("default", changes)
    assert experiment.expect.accuracy == accuracy
    remark = config.unjudged("default", experiment)
    shortened = "experiment.rounds=3" in changes
    assert remark == (
        "what 'default' expects is for its own 40 rounds, and is not judged after 3"
        if shortened
        else ""
    )


def test_what_a_file_of_ones_own_expects_holds_for_any_rounds(write):
    path = write(TEXT + "[expect]\naccuracy = 0.5\n")
    assert config.read(path, ("experiment.rounds=9",)).expect.accuracy == 0.5


def test_an_experiment_cannot_be_changed():
    experiment: Any = config.read(None)
    with pytest.raises(ValueError, match="frozen"):
        experiment.train.lr = 1.0


def test_the_page_has_the_tables_that_the_schema_makes():
    page = PAGE.read_text(encoding="utf-8")
    again = "python -m fedlearn.config.documented docs/config.md"
    assert documented.with_tables(page) == page, f"run: {again}"


def test_every_key_is_described_with_all_its_choices():
    descriptions = documented.key_descriptions()
    for name, keys in descriptions.items():
        for key, field in getattr(schema, name).model_fields.items():
            if documented.table_of(field.annotation) is not None:
                continue
            text = keys[key]
            if get_origin(field.annotation) is Literal:
                choices = set(get_args(field.annotation)) - {field.default}
                assert {c for c in choices if f'"{c}"' not in text} == set(), key


def test_a_page_without_the_marks_is_refused():
    with pytest.raises(UserError, match="has no lines"):
        documented.with_tables("# The config\n")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (r'path = "D:\sets\mnist"', "not valid TOML: Unescaped"),
        (r'path = "D:\users\me"', "not valid TOML: Invalid hex value"),
        (r'path = "D:\temp\new"', r"'data.path': a backslash in double quotes begins"),
        (r'path = "sets\new"', r"'data.path': a backslash in double quotes begins"),
        (r'home = "\\\\nas\top"', r"'data.home': a backslash in double quotes begins"),
    ],
)
def test_a_windows_path_is_told_how_to_be_written(write, path, words):
    with pytest.raises(ConfigError) as caught:
        config.read(write(f'[data]\nname = "dir"\n{path}\n'))
    assert words in str(caught.value)
    assert r"in single quotes, such as 'C:\data'" in str(caught.value)


def test_paths_and_texts_that_mean_what_they_say_are_left_alone(write):
    text = "[data]\nname = 'dir'\npath = 'D:\\sets\\new'\n"
    assert config.read(write(text)).data.options == {"path": r"D:\sets\new"}
    about = '[experiment]\nabout = "two\\tcolumns"\n'
    assert config.read(write(about)).experiment.about == "two\tcolumns"
    changes = [r"data.path=D:\sets\new", "data.name=dir"]
    assert config.read(None, changes).data.options == {"path": r"D:\sets\new"}
    with pytest.raises(ConfigError, match="in single quotes"):
        config.read(None, [r'data.path="D:\sets"'])
