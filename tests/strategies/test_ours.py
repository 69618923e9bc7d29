"""Our strategies: the cohort, the weights, the step."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedlearn.errors import ConfigError
from fedlearn.strategies.cohorts import cohort_size, uniform
from tests.jobs import run, strategy

MOVES = (
    '[client]\napp = "tests.faults:by_client"\n'  # every client moves by its number + 1
)


def flat(path) -> np.ndarray:
    return load_file(path)["floats"]


def models(ran):
    return [flat(f) for f in sorted((ran.folder / "checkpoint").glob("*.safetensors"))]


def test_cohorts_are_distinct_sorted_and_differ_by_round_seed_and_attempt():
    first = uniform(range(100), 10, 0, 1, 0)
    assert first == sorted(set(first)) and len(first) == 10
    assert first == uniform(list(range(100))[::-1], 10, 0, 1, 0)
    assert (
        len(
            {
                tuple(uniform(range(100), 10, *a))
                for a in ((0, 1, 0), (0, 2, 0), (1, 1, 0), (0, 1, 1))
            }
        )
        == 4
    )
    counts = np.bincount(
        np.concatenate([uniform(range(20), 5, 0, r, 0) for r in range(2000)]),
        minlength=20,
    )
    assert abs(counts - 500).max() < 5 * np.sqrt(500 * 0.75)


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        ((100, 0.29, 0), 29),
        ((10_000, 0.001, 0), 10),
        ((5, 0.01, 0), 1),
        ((100, 0.1, 7), 7),
    ],
)
def test_cohort_sizes(arguments, size):
    assert cohort_size(*arguments) == size


@pytest.mark.parametrize(
    "arguments", [(100, 0.0, 0), (100, 1.5, 0), (100, 0.1, 101), (100, 0.1, -1)]
)
def test_impossible_cohorts_are_refused(arguments):
    with pytest.raises(ConfigError, match=r"fraction_train|clients_per_round"):
        cohort_size(*arguments)


def test_server_momentum_by_hand(tmp_path):
    config = (
        strategy("fedavg", fraction_train=1.0, server_momentum=0.5, server_lr=2.0)
        + MOVES
    )
    ran = run(tmp_path / "run", "experiment.rounds=3", config=config)
    # Mean move 6.5 a round: v = 6.5, 9.75, 11.375; the last step is 2 v.
    two, three = models(ran)
    assert np.allclose(three - two, 22.75, atol=1e-4)


def test_weights_are_examples_or_all_alike(tmp_path):
    weighted = run(tmp_path / "a", "experiment.rounds=1")
    alike = run(tmp_path / "b", "experiment.rounds=1", "strategy.weighted=false")
    assert weighted.code == alike.code == 0
    assert weighted.sha256 != alike.sha256


def test_minibatch_sgd_equals_sgd_on_the_union_of_the_batches(tmp_path):
    # Full batches, equal sizes, all clients, one step: the mean of the clients' gradients
    # is the gradient of all data.
    one = (
        strategy("minibatch-sgd", fraction_train=1.0, server_momentum=0.0)
        .replace('kind = "dirichlet"', 'kind = "iid"')
        .replace("alpha = 1.0\n", "")
    )
    sets = ("train.batch_size=0", "experiment.rounds=1", "train.lr=0.5")
    by_12 = flat(
        sorted(
            (run(tmp_path / "a", *sets, config=one).folder / "checkpoint").glob(
                "*.safetensors"
            )
        )[0]
    )
    by_1 = flat(
        sorted(
            (
                run(
                    tmp_path / "b", *sets, "data.partition.clients=1", config=one
                ).folder
                / "checkpoint"
            ).glob("*.safetensors")
        )[0]
    )
    assert (
        np.abs(by_12 - by_1).max() < 2e-4
    )  # 1,438 samples in 12 parts: sizes 119 and 120
    avg = run(
        tmp_path / "c",
        *sets,
        "data.partition.clients=1",
        config=strategy("fedavg", fraction_train=1.0)
        .replace('"dirichlet"', '"iid"')
        .replace("alpha = 1.0\n", ""),
    )
    assert (
        np.abs(
            by_1 - flat(sorted((avg.folder / "checkpoint").glob("*.safetensors"))[0])
        ).max()
        < 1e-6
    )


@pytest.mark.parametrize(
    "options", [{}, {"batches": 4}, {"clip_norm": 0.5}, {"groups": 3}]
)
def test_minibatch_sgd_learns_with_every_noise_handler(options, tmp_path):
    ran = run(
        tmp_path / "run",
        "experiment.rounds=25",
        "experiment.evaluate_every=25",
        config=strategy("minibatch-sgd", fraction_train=0.5, **options),
    )
    assert ran.code == 0
    assert ran.summary["accuracy"] > 0.75


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 7}, "groups = 7: from 1 to the 6 clients"),
        ({"batches": 0}, "batches = 0"),
        ({"server_lr": 0.0}, "server_lr = 0"),
        ({"fraction_train": 2.0}, "fraction_train = 2"),
        ({"fraction_train": []}, "fraction_train = [] is not a number"),
        ({"groups": 1.5}, "groups = 1.5 is not a whole number"),
        ({"sever_lr": 1.0}, "takes no option 'sever_lr'. Did you mean 'server_lr'?"),
    ],
)
def test_wrong_options_are_named(options, message, tmp_path, capsys):
    ran = run(
        tmp_path / "run",
        config=strategy("minibatch-sgd", **{"fraction_train": 0.5, **options}),
    )
    assert ran.code == 2
    assert message in capsys.readouterr().err
    assert not ran.folder.exists()


def test_a_round_below_min_clients_is_repeated_with_another_cohort(tmp_path, capsys):
    # Clients 0, 3, 6, 9 of 12 always fail; a cohort of 4 has at least 3 usable ones only
    # now and then.
    config = (
        strategy("fedavg", clients_per_round=4)
        + '[client]\napp = "tests.faults:third_fails"\n'
    )
    ran = run(
        tmp_path / "run",
        "experiment.min_clients=3",
        "experiment.attempts=30",
        "experiment.rounds=8",
        config=config,
    )
    assert ran.code == 0
    assert max(line["attempts"] for line in ran.lines) > 1
    assert all(line["failed"] <= 4 * line["attempts"] - 3 for line in ran.lines[1:])
    hopeless = run(
        tmp_path / "never",
        "experiment.min_clients=9",
        "strategy.clients_per_round=12",
        config=config,
    )
    assert hopeless.code == 3
    assert "8 of 12 clients gave a usable update" in capsys.readouterr().err


def test_fedprox_pulls_towards_the_model_and_without_a_pull_is_fedavg(tmp_path):
    ran = {
        mu: run(
            tmp_path / str(mu),
            "experiment.rounds=1",
            config=strategy("fedprox", fraction_train=0.5, proximal_mu=mu),
        )
        for mu in (0.0, 0.1, 1.0)
    }
    plain = run(
        tmp_path / "plain",
        "experiment.rounds=1",
        config=strategy("fedavg", fraction_train=0.5),
    )
    start = flat(
        sorted(
            (
                run(tmp_path / "start", "train.lr=1e-30", "experiment.rounds=1").folder
                / "checkpoint"
            ).glob("*.safetensors")
        )[-1]
    )
    moved = {
        mu: float(np.linalg.norm(models(each)[-1] - start)) for mu, each in ran.items()
    }
    assert ran[0.0].sha256 == plain.sha256
    assert moved[0.0] > moved[0.1] > moved[1.0] > 0


def test_fedprox_refuses_a_push(tmp_path, capsys):
    assert run(tmp_path / "run", config=strategy("fedprox", proximal_mu=-1.0)).code == 2
    assert "proximal_mu = -1 pushes clients away" in capsys.readouterr().err
