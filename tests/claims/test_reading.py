"""Files of claims are read as strictly as configs: errors name the file, the place and the fix."""

import pytest

from fedlearn.claims import reading
from fedlearn.errors import ConfigError

TEXT = """\
[reproduce]
about = "a test"
base = "mnist-2nn-iid"

[seeds]
ci = [0]
release = [0, 1, 2]

[train]
lr = 0.05

[variant.half]
codec.up = "f16"
strategy = { name = "minibatch-sgd", fraction_train = 0.5 }

[[claim]]
what = "rounds"
target = 0.9
at_most = 10

[[claim]]
what = "bytes"
target = 0.95
over = "half"
at_least = 1.5
"""


@pytest.fixture
def read(tmp_path):
    def read(text: str = TEXT, *overrides: str) -> reading.Reproduction:
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return reading.read(str(path), overrides)

    return read


def test_variants_change_what_the_file_changes_in_its_base(read):
    found = read()
    plain, half = found.variants["plain"].experiment, found.variants["half"].experiment
    assert (plain.train.lr, plain.train.batch_size, plain.model.name) == (
        0.05,
        10,
        "2nn",
    )
    assert (half.codec.up, half.codec.down, plain.codec.up) == ("f16", "raw32", "raw32")
    assert plain.strategy.options == {"fraction_train": 0.1, "server_momentum": 0.0}
    assert half.strategy.options == {
        "fraction_train": 0.5
    }  # another strategy: its base's arguments are not its own
    assert plain.expect.best_accuracy is None


def test_a_run_ends_with_the_highest_accuracy_that_its_claims_ask_for(read):
    found = read()
    assert found.variants["plain"].experiment.experiment.stop_at == 0.95
    assert found.variants["half"].experiment.experiment.stop_at == 0.95
    longer = read(TEXT + '[[claim]]\nwhat = "accuracy"\nat_least = 0.5\n')
    assert longer.variants["plain"].experiment.experiment.stop_at == 0.0
    assert longer.variants["half"].experiment.experiment.stop_at == 0.95


def test_a_tier_has_its_own_seeds_or_those_of_the_next_shorter_one(read):
    found = read()
    assert [found.seeds_in(tier) for tier in reading.TIERS] == [(0,), (0,), (0, 1, 2)]
    assert found.tier == "ci"
    night = read(TEXT.replace("ci = [0]\n", "nightly = [4]\n"))
    assert (night.tier, night.seeds_in("ci"), night.seeds_in("nightly")) == (
        "nightly",
        (),
        (4,),
    )


def test_overrides_change_every_run(read):
    found = read(TEXT, "train.lr=0.5")
    assert {variant.experiment.train.lr for variant in found.variants.values()} == {0.5}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "at_most = 10",
            "at_mst = 10",
            "mine.toml: claim 1: unknown key 'at_mst'. Did you mean 'at_most'?",
        ),
        ("at_most = 10\n", "", "mine.toml: claim 1: a claim needs at_least or at_most"),
        (
            'what = "rounds"\ntarget = 0.9',
            'what = "rounds"',
            "needs target, the accuracy to count them to",
        ),
        (
            'what = "rounds"',
            'what = "accuracy"',
            'target is for what = "rounds" or "bytes"',
        ),
        (
            'what = "rounds"',
            'what = "speed"',
            "claim 1: 'what': input should be 'rounds', 'bytes'",
        ),
        (
            'over = "half"',
            'over = "halv"',
            "there is no variant 'halv'. Did you mean 'half'?",
        ),
        ('over = "half"\n', "", "[variant.half]: no claim is about it"),
        (
            'over = "half"',
            'over = "half"\nminus = "half"',
            "minus and over exclude each other",
        ),
        (
            "lr = 0.05",
            "lrr = 0.05",
            "mine.toml:10: unknown key 'train.lrr'. Did you mean 'lr'?",
        ),
        (
            'codec.up = "f16"',
            'codec.upp = "f16"',
            "[variant.half]: unknown key 'codec.upp'. Did you mean 'up'?",
        ),
        (
            'codec.up = "f16"',
            'agents = "two"',
            "[variant.half]: agents = 'two': a whole number",
        ),
        (
            "ci = [0]\nrelease = [0, 1, 2]",
            "",
            "[seeds]: name the seeds of at least one tier",
        ),
        ("ci = [0]", 'ci = ["a"]', "[seeds]: 'ci.0': input should be a valid integer"),
        ("ci = [0]", "daily = [0]", "[seeds]: unknown key 'daily'."),
        (
            'base = "mnist-2nn-iid"',
            'base = "mnist-2nn-id"',
            "[reproduce] base: no file 'mnist-2nn-id'",
        ),
        ('about = "a test"', "", "[reproduce]: 'about': field required"),
        ("[variant.half]", "[variant.plain]", "'plain' is the run without changes"),
        (
            "target = 0.9\n",
            'target = 0.9\nsame_as = "half"\n',
            'same_as and sha256 are for what = "hash"',
        ),
        (
            'what = "rounds"\ntarget = 0.9\nat_most = 10',
            'what = "hash"',
            "needs either same_as or sha256",
        ),
        (
            'what = "rounds"\ntarget = 0.9',
            'what = "loss"\nround = 66',
            "'plain' has no accuracy after round 66: it has 65 rounds",
        ),
    ],
)
def test_mistakes_name_the_place(read, old, new, message):
    assert old in TEXT
    with pytest.raises(ConfigError) as caught:
        read(TEXT.replace(old, new))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_without_claims_is_none(read):
    with pytest.raises(ConfigError, match="no claims; write one as"):
        read("[reproduce]\nabout = 'x'\n[seeds]\nci = [0]\n")
    with pytest.raises(
        ConfigError, match=r"no claims of that name. Did you mean 'fleet-twin'\?"
    ):
        reading.read("flet-twin")


def test_every_shipped_file_is_valid():
    assert {"default", "fedsgd-is-sgd", "fleet-twin", "mnist-2nn-iid"} <= set(
        reading.shipped()
    )
    for name in reading.shipped():
        found = reading.read(name)
        assert found.name == name
        assert found.variants


def test_a_base_with_claims_lends_its_config_alone(tmp_path):
    first = (
        '[reproduce]\nabout = "a"\nbase = "default"\n[seeds]\nci = [7]\n'
        '[experiment]\nrounds = 3\n[variant.x]\ncodec.up = "f16"\n'
    )
    (tmp_path / "first.toml").write_text(
        f'{first}[[claim]]\nwhat = "accuracy"\nof = "x"\nat_least = 0.5\n'
    )
    second = (
        '[reproduce]\nabout = "b"\nbase = "first.toml"\n[seeds]\nci = [1]\n'
        '[[claim]]\nwhat = "accuracy"\nat_least = 0.6\n'
    )
    (tmp_path / "second.toml").write_text(second)
    made = reading.read(str(tmp_path / "second.toml"))
    assert made.variants["plain"].experiment.experiment.rounds == 3
    assert (list(made.variants), made.seeds_in("ci"), len(made.claims)) == (
        ["plain"],
        (1,),
        1,
    )
    (tmp_path / "first.toml").write_text(first.replace('"default"', '"second.toml"'))
    with pytest.raises(
        ConfigError,
        match=r"base: 'second.toml' stands on this file itself"
        r"|base: 'first.toml' stands on this file itself",
    ):
        reading.read(str(tmp_path / "second.toml"))
