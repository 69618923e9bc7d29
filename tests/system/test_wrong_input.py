"""Wrong input, through the command: one clear line, exit code 2 or 3, nothing left behind and
nothing lost.
"""

import contextlib
from pathlib import Path

import pytest

from fedlearn.commands.simulate import main
from tests.jobs import CONFIG, run, strategy

FLOWER = "strategy.name=flwr.serverapp.strategy"
OWN = (
    CONFIG.replace('name = "digits"', 'name = "{}"')
    .replace("clients = 12", "clients = 4")
    .replace("alpha = 1.0\n", "")
)
OWN = OWN.replace('kind = "dirichlet"', 'kind = "iid"')
NATURAL = OWN.replace('[data.partition]\nkind = "iid"\nclients = 4\n', "")

KEYS = {
    "a misspelt key": (
        "train.lrr=1",
        "--set train.lrr=1: unknown key 'train.lrr'. Did you mean 'lr'?",
    ),
    "a misspelt table": (
        "trian.lr=1",
        "--set trian.lr=1: unknown key 'trian'. Did you mean 'train'?",
    ),
    "text for a number": (
        'train.lr="fast"',
        "'train.lr': input should be a valid number (got 'fast')",
    ),
    "a fraction for a count": (
        "experiment.rounds=1.5",
        "'experiment.rounds': input should be a valid integer (got 1.5)",
    ),
    "true for a count": ("experiment.rounds=true", "'experiment.rounds'"),
    "a value for a table": (
        "data.partition=5",
        "'data.partition': input should be a table",
    ),
    "a word for a list": (
        "client.mods=tests.wrong:mod",
        "'client.mods': input should be a list",
    ),
    "no rounds": (
        "experiment.rounds=0",
        "'experiment.rounds': input should be greater than or equal to 1 (got 0)",
    ),
    "a negative lr": (
        "train.lr=-0.1",
        "'train.lr': input should be greater than 0 (got -0.1)",
    ),
    "lr is NaN": ("train.lr=nan", "'train.lr': input should be a finite number"),
    "a negative seed": ("experiment.seed=-1", "'experiment.seed'"),
    "a name that is a path": ("experiment.name=../x", "'experiment.name'"),
    "absurdly many workers": (
        "engine.workers=100000",
        "'engine.workers': input should be less than or equal to 1024",
    ),
    "an unknown engine": ("engine.kind=pol", "(got 'pol')"),
    "an unknown precision": ("train.precision=float8", "'train.precision'"),
    "steps without their length": ("train.schedule=step", "needs step_every"),
    "--set without a value": ("train.lr", "--set train.lr: write section.key=value"),
    "--set without a table": ("lr=1", "--set lr=1: write section.key=value"),
    "--set into a value": ("train.lr.x=1", "'lr' is a value, not a table"),
    "--set nested too deep": ("train.lr=" + "[" * 5000, "'train.lr'"),
    "--set that is not text": ("experiment.about=\udcff", "not UTF-8"),
}

NAMES = {
    "an unknown data set": (
        "data.name=didgits",
        "unknown name 'didgits'. Did you mean 'digits'?",
    ),
    "an unknown partition": (
        "data.partition.kind=dirchlet",
        "Did you mean 'dirichlet'?",
    ),
    "an unknown model": ("model.name=logistc", "Did you mean 'logistic'?"),
    "an unknown strategy": ("strategy.name=fedavgg", "Did you mean 'fedavg'?"),
    "an unknown codec": ("codec.up=raw33", "Did you mean 'raw32'?"),
    "an unknown augmentation": ("train.augment=flipp", "Did you mean 'flip'?"),
    "a module that is not there": ("model.name=no_such:Net", "cannot import 'no_such'"),
    "an attribute that is not there": (f"{FLOWER}:FedAvgg", "Did you mean 'FedAvg'?"),
    "half an import path": (
        "data.name=tests.wrong:",
        "write it as 'my_package.my_module:name'",
    ),
    "data that is not here": (
        "data.name=mnist",
        "run 'fedlearn data fetch mnist', or set [data] synthetic = true",
    ),
    "a folder of data that is not there": (
        ("data.name=dir", "data.path=/no/such"),
        "[data] path = '/no/such': there is no such folder",
    ),
}

PARTS = {
    "no clients": (
        "data.partition.clients=0",
        "[data.partition] clients = 0 is out of range",
    ),
    "more clients than samples": (
        "data.partition.clients=1798",
        "more than the 1,438 training samples",
    ),
    "clients are text": (
        'data.partition.clients="a"',
        "[data.partition] clients = 'a' is not a whole number",
    ),
    "alpha is 0": (
        "data.partition.alpha=0",
        "[data.partition] alpha = 0 is out of range; it must be above 0",
    ),
    "alpha is negative": ("data.partition.alpha=-1", "alpha = -1"),
    "an option of another kind": (
        "data.partition.group_size=2",
        "takes no option 'group_size'",
    ),
    "a partition that is no function": (
        "data.partition.kind=tests.wrong:not_callable",
        "not a function",
    ),
    "a share that is text": (
        'strategy.fraction_train="a"',
        "fraction_train = 'a' is not a number",
    ),
    "a share above 1": (
        "strategy.fraction_train=1.5",
        "fraction_train = 1.5: it is a share of the clients",
    ),
    "half a client": (
        "strategy.clients_per_round=1.5",
        "clients_per_round = 1.5 is not a whole number",
    ),
    "more in a round than there are": (
        "strategy.clients_per_round=13",
        "the experiment has 12 clients",
    ),
    "more needed than in a round": (
        "experiment.min_clients=7",
        "a round has 6 clients, but experiment.min_clients = 7",
    ),
    "more needed than there are": (
        "experiment.min_clients=13",
        "but there are 12 clients",
    ),
    "server_lr is NaN": ("strategy.server_lr=nan", "server_lr = nan is not a number"),
    "what the experiment gives": ("strategy.seed=3", "set experiment.seed"),
    "an unknown option of ours": ("strategy.server_lrr=1", "Did you mean 'server_lr'?"),
    "text for a Flower strategy's number": (
        (f"{FLOWER}:FedAvg", 'strategy.fraction_train="a"'),
        "fraction_train = 'a' is not a number",
    ),
    "a strategy that is none": ("strategy.name=tests.wrong:not_callable", "is a int"),
    "a model that raises": ("model.name=tests.wrong:model_raises", "cannot be built"),
    "a model that is none": (
        "model.name=tests.wrong:not_a_model",
        "must return a torch.nn.Module",
    ),
    "a model too wide for the labels": (
        "model.name=tests.wrong:too_wide",
        "make its last layer 10 wide",
    ),
    "a model with nothing to train": (
        "model.name=tests.wrong:NothingToTrain",
        "no parameter to train",
    ),
    "a model that starts as NaN": (
        "model.name=tests.wrong:StartsAsNaN",
        "starts with NaN",
    ),
    "a model for other data": ("model.name=lstm-char", "takes text"),
    "an unknown option of a model": ("model.depth=3", "takes no option 'depth'"),
    "a ClientApp that is none": (
        "client.app=tests.wrong:not_callable",
        "not a flwr.clientapp.ClientApp",
    ),
    "a mod that is none": (
        'client.mods=["tests.wrong:not_callable"]',
        "not a function",
    ),
    "a device that is not here": (
        "engine.device=cuda:99",
        "device = 'cuda:99' cannot be used here",
    ),
    "a device without values": (
        "engine.device=meta",
        "device = 'meta' cannot be used here",
    ),
    "a device for a pool": (
        ("engine.kind=pool", "engine.device=cuda"),
        'needs kind = "stacked" or "serial"',
    ),
}

DATA = {
    "nan_data": "x_train[3] holds NaN or infinity; remove or fill such samples",
    "negative_labels": "y_train has labels from -1 to 1; they must count from 0",
    "labels_beyond_the_classes": "test.y has label 2, but classes = 2",
    "loader_raises": "cannot be loaded: ZeroDivisionError: first line second line",
    "loader_exits": "cannot be loaded: SystemExit: goodbye",
    "no_clients": "has no clients",
    "not_callable": "is a int, not a function",
}

FAILS = {
    "a model that fails in training": (
        "model.name=tests.wrong:FailsInTraining",
        "round 1 learned nothing in 3 attempts",
    ),
    "a model that fails in evaluation": (
        "model.name=tests.wrong:FailsInEvaluation",
        "ValueError: a bug in evaluation",
    ),
    "the same in a pool": (
        (
            "model.name=tests.wrong:FailsInEvaluation",
            "engine.kind=pool",
            "engine.workers=1",
        ),
        "a bug in evaluation",
    ),
    "a file that a model misses, in a pool": (
        (
            "model.name=tests.wrong:FileMissingInEvaluation",
            "engine.kind=pool",
            "engine.workers=1",
        ),
        "FileNotFoundError",
    ),
    "lr far too large": ("train.lr=1e30", "diverged"),
    "server_lr far too large": ("strategy.server_lr=1e300", "NaN or infinite"),
    "a strategy that waits for ever": (
        (f"{FLOWER}:FedMedian", "strategy.min_available_nodes=1000"),
        "waits for more clients than the 12",
    ),
}


def told(capsys, code: int) -> str:
    """Return the one line on standard error, checked for its form."""
    error = capsys.readouterr().err
    assert error.startswith("fedlearn: ") and error.endswith("\n"), error
    assert error.count("\n") == 1, error
    assert "Traceback" not in error and len(error) < 700
    assert code in (2, 3)
    return str(error)


@pytest.mark.parametrize(
    ("sets", "words"),
    [*KEYS.values(), *NAMES.values(), *PARTS.values()],
    ids=[*KEYS, *NAMES, *PARTS],
)
def test_wrong_input_is_one_line_and_leaves_nothing(
    sets, words, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("FEDLEARN_DATA", str(tmp_path / "cache"))
    ran = run(tmp_path / "deep" / "run", *([sets] if isinstance(sets, str) else sets))
    assert words in told(capsys, ran.code)
    assert ran.code == 2
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["run.toml"]


@pytest.mark.parametrize(("loader", "words"), DATA.items(), ids=list(DATA))
def test_wrong_data_of_a_user(loader, words, tmp_path, capsys):
    config = (
        OWN if "clients" not in loader and "classes" not in loader else NATURAL
    ).format(f"tests.wrong:{loader}")
    ran = run(tmp_path / "run", config=config)
    assert words in told(capsys, ran.code)
    assert ran.code == 2 and not ran.folder.exists()


def test_a_partition_that_raises(tmp_path, capsys):
    config = OWN.format("tests.wrong:good_data").replace(
        'kind = "iid"\nclients = 4', 'kind = "tests.wrong:partition_raises"'
    )
    ran = run(tmp_path / "run", config=config)
    assert "kind = 'tests.wrong:partition_raises' failed: KeyError: 'owner'" in told(
        capsys, ran.code
    )


@pytest.mark.parametrize(
    "inner",
    ["x", {"lr": 1}, {"name": 3}, {"name": "fedavgg"}],
    ids=["text", "no name", "a number", "unknown"],
)
def test_a_wrong_strategy_within_a_strategy(inner, tmp_path, capsys):
    written = (
        f'"{inner}"'
        if isinstance(inner, str)
        else "{" + ", ".join(f"{k} = {v!r}" for k, v in inner.items()) + "}"
    )
    wrapper = "flwr.serverapp.strategy:DifferentialPrivacyServerSideFixedClipping"
    options = {
        "noise_multiplier": 0.1,
        "clipping_norm": 1.0,
        "num_sampled_clients": 6,
        "strategy": written,
    }
    ran = run(tmp_path / "run", config=strategy(wrapper, **options))
    assert "strategy" in told(capsys, ran.code)
    assert ran.code == 2


@pytest.mark.parametrize(("sets", "words"), FAILS.values(), ids=list(FAILS))
def test_a_run_that_fails_is_one_line_and_keeps_its_folder(
    sets, words, tmp_path, capsys
):
    config = strategy("fedavg") if "FedMedian" in str(sets) else CONFIG
    ran = run(
        tmp_path / "run", *([sets] if isinstance(sets, str) else sets), config=config
    )
    assert words in told(capsys, ran.code)
    assert ran.code == 3 and (ran.folder / "config.toml").exists()


def test_one_bad_client_is_recorded_and_the_others_train(tmp_path):
    config = NATURAL.format("tests.wrong:one_bad_client").replace(
        "fraction_train = 0.5", "fraction_train = 1.0"
    )
    ran = run(tmp_path / "run", config=config)
    assert ran.code == 0
    assert [
        (line["clients"], line["failed"], list(line["failures"]))
        for line in ran.lines[1:]
    ] == [(3, 1, ["1"])] * 3


FILES = {
    "empty number": (
        b"[train]\nlr = \n",
        "wrong.toml: not valid TOML: Invalid value (at line 2",
    ),
    "not UTF-8": (b"[train]\nlr = 0.1 # \xff\n", "is not a text file"),
    "binary": (bytes(range(256)) * 40, "is not a text file"),
    "the same key twice": (b"[train]\nlr = 1\nlr = 2\n", "not valid TOML"),
    "the same table twice": (b"[train]\nlr = 1\n[train]\n", "not valid TOML"),
    "nested too deep": (b"x = " + b"[" * 100_000, "not valid TOML"),
    "a number of 5,000 digits": (
        b"[experiment]\nseed = 1" + b"0" * 5000,
        "not valid TOML",
    ),
    "huge": (b"\0" * 20_000_000, "not valid TOML"),
    "a misspelt key": (
        b"[train]\n\nlrr = 0.1\n",
        "wrong.toml:3: unknown key 'train.lrr'. Did you mean 'lr'?",
    ),
    "after a byte order mark": (
        b'\xef\xbb\xbf[train]\nlr = "a"\n',
        "wrong.toml:2: 'train.lr'",
    ),
    "a list of tables": (
        b"[[train]]\nlr = 0.1\n",
        "wrong.toml:1: 'train': input should be a table",
    ),
    "a date": (b"[train]\nlr = 2020-01-01\n", "wrong.toml:2: 'train.lr'"),
    "a control character": (
        b'[train]\n"l\\u0000r" = 1\n',
        "unknown key 'train.l\\x00r'",
    ),
}


@pytest.mark.parametrize(("content", "words"), FILES.values(), ids=list(FILES))
def test_a_config_that_cannot_be_read(content, words, tmp_path, capsys):
    (tmp_path / "wrong.toml").write_bytes(content)
    code = main([str(tmp_path / "wrong.toml"), "--out", str(tmp_path / "run")])
    assert words in told(capsys, code)
    assert code == 2 and not (tmp_path / "run").exists()


def test_configs_that_are_no_files(tmp_path, capsys):
    for name, words in (
        (str(tmp_path), "is a folder"),
        ("defualt", "Did you mean 'default'?"),
        ("", "no file ''"),
        ("n" * 300, ""),
    ):
        code = main([name, "--out", str(tmp_path / "run")])
        assert words in told(capsys, code)
    (tmp_path / "loop.toml").symlink_to("loop.toml")
    assert "no file" in told(capsys, main([str(tmp_path / "loop.toml")]))
    assert "cannot read /proc/self/mem" in told(capsys, main(["/proc/self/mem"]))


def test_a_date_among_the_options_survives_a_resume(tmp_path):
    config = CONFIG.replace(
        'name = "logistic"',
        'name = "tests.system.test_wrong_input:dated"\nwhen = 2020-01-01',
    )
    assert run(tmp_path / "run", config=config).code == 0
    assert run(tmp_path / "run", config=config, resume=True).code == 0


def dated(input_shape, classes, when):
    from tests.wrong import Linear

    assert when.year == 2020
    return Linear(input_shape, classes)


@pytest.mark.parametrize(
    "arguments",
    [["--bogus"], ["--set"], ["one", "two"]],
    ids=["unknown", "incomplete", "too many"],
)
def test_wrong_arguments_are_one_line_too(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "see fedlearn simulate --help" in told(capsys, 2)


def test_the_other_commands_tell_errors_alike(tmp_path, capsys):
    from fedlearn.commands.data import main as data
    from fedlearn.commands.report import main as report

    for command, arguments in (
        (report, [str(tmp_path / "none")]),
        (report, [str(tmp_path)]),
        (report, ["n" * 300]),
        (report, [str(tmp_path), "--target", "7"]),
        (
            report,
            [str(tmp_path), "--out", "/dev/null"],
        ),  # as root it would be replaced by a page
        (data, ["fetch", "mnits"]),
        (data, ["fetch", "mnist", "--from", str(tmp_path / "none.tgz")]),
        (data, ["path", "digitss"]),
    ):
        with contextlib.chdir(tmp_path):
            told(capsys, command(arguments))
    assert list(Path(tmp_path).iterdir()) == []
    assert Path("/dev/null").is_char_device()
