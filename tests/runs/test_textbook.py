"""The textbook's FedAvg ends with the bits of the whole machinery, whatever engine runs it."""

import pytest

from fedlearn import config
from fedlearn.runs.textbook import fedavg
from tests.jobs import run

PLAIN = """
[codec]
up = "raw32"
down = "raw32"
"""

CNN = """
[experiment]
name = "cnn"
rounds = 3
seed = 7
[data]
name = "fashion-mini"
[data.partition]
kind = "dirichlet"
alpha = 0.5
clients = 100
[model]
name = "cnn-small"
[train]
lr = 0.1
batch_size = 10
[strategy]
name = "fedavg"
fraction_train = 0.05
server_momentum = 0.0
"""

LSTM = """
[experiment]
name = "lstm"
rounds = 2
[data]
name = "watch-mini"
[model]
name = "lstm-sensor"
[train]
lr = 1.0
batch_size = 16
momentum = 0.6
clip_norm = 1.0
[strategy]
name = "fedavg"
fraction_train = 0.3
server_momentum = 0.0
"""

TEXT = """
[experiment]
name = "text"
rounds = 2
[data]
name = "shakespeare-mini"
[model]
name = "lstm-char"
width = 24
[train]
lr = 1.0
batch_size = 10
steps = 3
[strategy]
name = "fedavg"
clients_per_round = 3
server_momentum = 0.0
"""

CONFIGS = {"CNN": CNN, "LSTM": LSTM, "text": TEXT}


def textbook(folder, name: str, *sets: str) -> str:
    """Return the hash of the textbook's model."""
    path = folder / f"{name}.toml"
    path.write_text(CONFIGS[name] + PLAIN)
    return fedavg(config.read(str(path), sets))


@pytest.mark.parametrize("name", CONFIGS)
def test_serial_and_pool_give_the_textbooks_model(name, tmp_path):
    sha256 = textbook(tmp_path, name)
    for engine in ("serial", "pool"):
        ran = run(tmp_path / engine, config=CONFIGS[name] + PLAIN, engine=engine)
        assert (ran.code, ran.sha256) == (0, sha256)


# What has no stacks is trained as in the pool, to the same bits: recurrent layers, lines of
# text, and any model in float16.
@pytest.mark.parametrize(
    ("name", "sets"),
    [
        ("CNN", ("train.precision=float16", "experiment.rounds=1")),
        ("LSTM", ("experiment.rounds=1",)),
        ("text", ("experiment.rounds=1",)),
    ],
)
def test_the_stacked_engine_falls_back_to_the_textbooks_model(name, sets, tmp_path):
    sha256 = textbook(tmp_path, name, *sets)
    ran = run(tmp_path / "run", *sets, config=CONFIGS[name] + PLAIN, engine="stacked")
    assert (ran.code, ran.sha256) == (0, sha256)


def test_server_momentum_is_not_in_the_textbook(tmp_path):
    """The hashes above would differ if a config's settings did not reach the machinery."""
    sha256 = textbook(tmp_path, "LSTM")
    ran = run(
        tmp_path / "run",
        "strategy.server_momentum=0.5",
        config=CONFIGS["LSTM"] + PLAIN,
    )
    assert ran.code == 0
    assert ran.sha256 != sha256
