"""Downlinks: whoever returns, restarts or is in doubt ends with a correct model, and every byte
is counted.
"""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from fedlearn.arrays import Entry, Layout, State
from fedlearn.codec.choice import Situation, choose
from fedlearn.memory.cast import Cast
from fedlearn.memory.shadow import Shadow
from fedlearn.memory.slots import COPIES
from fedlearn.memory.vectors import ClientVectors
from fedlearn.memory.versions import Versions
from fedlearn.wire import SNAPSHOT, Header
from tests.jobs import CONFIG, run

LAYOUT = Layout((Entry("w", (4096,), "float32", True),))
RANDOM = np.random.default_rng(0)
FIRST = RANDOM.normal(size=4096).astype(np.float32)
WHOLE = 4 * 4096


def model(step: int) -> State:
    """Return a model that moves a little at every step."""
    return State(
        FIRST
        + np.random.default_rng(step).normal(size=4096).astype(np.float32)
        * np.float32(0.01 * step),
        np.empty(0, np.int64),
    )


@pytest.fixture
def cast(tmp_path):
    made: list[Cast] = []

    def make() -> Cast:
        made.append(
            Cast(
                LAYOUT,
                "eden1",
                0,
                FIRST,
                Versions(tmp_path / f"seen{len(made)}" / "seen.sqlite"),
            )
        )
        return made[-1]

    yield make
    for down in made:
        down.close()


def taken(down: Cast, client: int) -> int:
    """Return the bytes of a client's download, which it then has."""
    sent = down.download(client)
    down.received(client, {}, Header(SNAPSHOT, 0, bytes(8), "raw32", 0))
    return sent or 0


def test_cast_counts_the_differences_that_a_client_missed(cast):
    down = cast()
    sizes = []
    for step in range(1, 4):
        down.publish(step, 0, model(step), step)
        sizes.append(taken(down, 0))
    assert all(
        500 < size < 620 for size in sizes
    )  # a bit a value, a scale and a header
    assert down.download(1) == sum(
        sizes
    )  # asked twice: the first answer never reached it
    assert taken(down, 1) == sum(sizes)
    assert down.download(1) == 0  # it has them all
    for step in range(4, 60):
        down.publish(step, 0, model(step), step)
    assert (
        WHOLE < taken(down, 2) < WHOLE + 100
    )  # one that was away for 55 rounds takes the whole model


def test_cast_follows_the_model(cast):
    down = cast()
    errors = [
        np.linalg.norm(
            down.publish(step, 0, model(5), 5).state.floats - model(5).floats
        )
        for step in range(1, 8)
    ]
    assert errors[6] < 0.2 * errors[0]


def test_a_restarted_cast_goes_on_as_it_was(tmp_path):
    down = Cast(LAYOUT, "eden1", 0, FIRST, Versions(tmp_path / "a" / "seen.sqlite"))
    for step in range(1, 4):
        down.publish(step, 0, model(step), step)
    taken(down, 3)
    saved = down.sync()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    again = Cast(LAYOUT, "eden1", 0, FIRST, Versions(tmp_path / "b" / "seen.sqlite"))
    again.recall(saved)
    assert (
        again.publish(9, 0, model(9), 9).payload
        == down.publish(9, 0, model(9), 9).payload
    )
    found = [[each.download(c) for c in range(4)] for each in (again, down)]
    assert (
        found[0] == found[1] and len(set(found[0])) == 2
    )  # client 3 has some of them, the others none
    again.close()
    down.close()


def test_a_checkpoint_with_an_array_of_all_clients_is_taken_over(cast):
    down, again = cast(), cast()
    for step in range(1, 5):
        down.publish(step, 0, model(step), step)
        if step < 4:
            taken(down, step)
    saved = {
        name: array
        for name, array in down.sync().items()
        if not name.startswith("seen.")
    }
    again.recall(
        saved | {"cast.seen": np.array([0, 1, 2, 3])},
        saved | {"cast.seen": np.array([0, 1, 2, 0])},
    )
    assert [again.download(client) for client in range(4)] == [
        down.download(client) for client in range(4)
    ]
    assert [again.download(client) for client in range(4)] == [
        sum(down.sizes[client:]) for client in range(4)
    ]


def test_cast_sends_the_whole_model_when_asked_to_renew(cast):
    down = cast()
    down.publish(1, 0, model(1), 1)
    assert down.renew(1)
    published = down.publish(2, 0, model(2), 2)
    assert published.state.floats.tobytes() == model(2).floats.tobytes()
    assert taken(down, 0) > WHOLE
    down.publish(3, 0, model(3), 3)
    assert 0 < taken(down, 0) < 620


def test_a_model_that_no_difference_brings_nearer_is_sent_whole(cast, monkeypatch):
    monkeypatch.setattr(
        "fedlearn.memory.slots.CONTRACTS", 0.1
    )  # eden1 leaves 0.75 of the error's norm
    down = cast()
    published = down.publish(1, 0, model(1), 1)
    assert published.fallback
    assert published.state.floats.tobytes() == model(1).floats.tobytes()
    assert taken(down, 0) > WHOLE


def test_shadow_renews_copies_that_are_in_doubt_once(tmp_path):
    down = Shadow(LAYOUT, "eden1", 0, ClientVectors(tmp_path / "copies.f32", 3, 4096))
    header = down.publish(1, 0, model(1), 1).header
    for client in (0, 1):
        down.received(client, {COPIES: down.copies.slots(client)}, header)
    assert down.renew(5)
    assert [down.delivery(client, 6, "train", 0).whole for client in range(3)] == [
        True,
        True,
        False,
    ]  # 2 has no copy yet
    down.received(0, {COPIES: down.copies.slots(0)}, header)
    assert not down.delivery(0, 7, "train", 0).whole
    saved = down.sync()
    down.recall(saved)
    assert [down.delivery(client, 6, "train", 0).whole for client in range(3)] == [
        False,
        True,
        False,
    ]
    down.close()


@pytest.mark.parametrize(
    "codec",
    [
        'down = "eden1"\ndownlink = "cast"',
        'up = "ef+eden1"\ndown = "eden1"',
        'up = "ef+q4"',
    ],
)
def test_a_resumed_run_equals_the_undisturbed_one(codec, tmp_path):
    config = CONFIG + f"[codec]\n{codec}\n"
    settings = ("experiment.checkpoint_every=2",)
    whole = run(tmp_path / "whole", "experiment.rounds=7", *settings, config=config)
    run(tmp_path / "parts", "experiment.rounds=4", *settings, config=config)
    resumed = run(
        tmp_path / "parts", "experiment.rounds=7", *settings, config=config, resume=True
    )
    pool = run(
        tmp_path / "pool",
        "experiment.rounds=7",
        *settings,
        "engine.workers=2",
        config=config,
        engine="pool",
    )
    assert whole.code == 0
    assert resumed.sha256 == whole.sha256 == pool.sha256
    assert resumed.summary["bytes_down"] == whole.summary["bytes_down"]


def test_a_difference_that_cannot_be_encoded_is_replaced_by_the_whole_model(tmp_path):
    down = Cast(
        LAYOUT, "f16", 0, FIRST, Versions(tmp_path / "seen.sqlite")
    )  # f16 ends at 65,504
    far = State(FIRST + np.float32(1e6), np.empty(0, np.int64))
    published = down.publish(1, 0, far, 1)
    assert (
        published.fallback and published.state.floats.tobytes() == far.floats.tobytes()
    )


def test_a_downlink_that_falls_back_says_so(tmp_path, capsys):
    """A sign per value with one magnitude brings a logistic model no nearer than 0.9 times the
    distance.
    """
    found = run(
        tmp_path / "run", 'codec.down="uvq(0.1)"'
    )  # unbiased: its error is larger than what it sends
    assert found.code == 0
    assert sum(line["whole_models"] for line in found.lines) > 9
    exact = run(tmp_path / "exact", 'codec.down="eden1"')
    assert sum(line["whole_models"] for line in exact.lines) == 0


def test_a_coarse_codec_is_refused_for_whole_models(tmp_path, capsys):
    assert (
        run(tmp_path / "run", 'codec.down="cvq(1)"', "codec.downlink=snapshot").code
        == 2
    )
    assert 'downlink = "snapshot" sends whole models' in capsys.readouterr().err
    found = run(
        tmp_path / "auto", "codec.down=auto", "codec.up=auto", "codec.downlink=snapshot"
    )
    assert (
        json.loads((found.folder / "manifest.json").read_text())["codec"]["down"]
        == "f16"
    )


def test_a_resumed_run_keeps_the_codecs_that_auto_chose(tmp_path):
    """Over a slow link, ten clients, all in every round: each takes part twice in 2 rounds, ten
    times in 10, which chooses otherwise.
    """
    codec = ("codec.up=auto", "codec.down=auto", "codec.link_mbps=0.5")
    settings = (
        *codec,
        "model.name=2nn",
        "train.lr=0.1",
        "data.partition.clients=10",
        "strategy.fraction_train=1.0",
    )
    run(tmp_path / "run", "experiment.rounds=2", *settings)
    before = json.loads((tmp_path / "run" / "manifest.json").read_text())["codec"]
    resumed = run(tmp_path / "run", "experiment.rounds=10", *settings, resume=True)
    assert resumed.code == 0
    assert (
        json.loads((tmp_path / "run" / "manifest.json").read_text())["codec"] == before
    )
    known = Situation(
        parameters=resumed.summary["parameters"],
        clients=10,
        cohort=10,
        rounds=2,
        link_mbps=0.5,
    )
    assert before["up"] == choose(known).up != choose(replace(known, rounds=10)).up


def test_copies_in_doubt_of_a_checkpoint_with_rounds_of_contact(tmp_path):
    """Client 0 was asked in round 2, client 1 in round 5, client 2 never; all copies up to
    round 3 are in doubt.
    """
    digests = np.zeros((3, 8), np.uint8)
    saved = {
        "copies.slots": np.array([0, 1, -1], np.int8),
        "copies.digests": digests,
        "copies.renewed": np.array(3),
    }
    saved["copies.contact"] = np.array([2, 5, 0], np.int32)
    older = saved | {
        "copies.slots": np.array([0, 0, -1], np.int8),
        "copies.contact": np.array([2, 1, 0], np.int32),
    }
    down = Shadow(LAYOUT, "eden1", 0, ClientVectors(tmp_path / "copies.f32", 3, 4096))
    down.recall(saved, older)
    assert (
        down.renewed,
        [down.delivery(client, 6, "train", 0).whole for client in range(3)],
    ) == (3, [True, False, False])
    down.renew(6)
    assert [down.delivery(client, 7, "train", 0).whole for client in range(3)] == [
        True,
        True,
        False,
    ]
    down.close()


def test_copies_are_counted_of_the_clients_that_a_run_can_ask(tmp_path, capsys):
    """Of 12 clients, 3 rounds of one client reach 3 at most: 4 slots of 650 values for each."""
    config = (
        CONFIG.replace("fraction_train = 0.5", "clients_per_round = 1")
        + '[codec]\nup = "ef+q8"\ndown = "eden1"\n'
    )
    tight = ("codec.downlink=shadow", "codec.copies_gb=3.2e-5")
    assert run(tmp_path / "few", *tight, config=config).code == 0
    assert (
        run(tmp_path / "more", *tight, "experiment.rounds=4", config=config).code == 2
    )
    assert "copies_gb" in capsys.readouterr().err


def test_too_many_copies_for_the_disk_become_one_series_for_all(tmp_path, capsys):
    config = CONFIG + '[codec]\nup = "eden1"\ndown = "eden1"\ncopies_gb = 1e-6\n'
    assert run(tmp_path / "run", config=config).code == 0
    assert not (tmp_path / "run" / "checkpoint" / "copies.f32").exists()
    refused = run(tmp_path / "shadow", "codec.downlink=shadow", config=config)
    assert refused.code == 2
    assert "copies_gb" in capsys.readouterr().err
