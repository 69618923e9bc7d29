"""Who has which device: a function of the config and the seed."""

import numpy as np
import pytest

from fedlearn.config import DevicesSection, Experiment
from fedlearn.devices.profiles import MIXES, PROFILES, apportion, devices, profile_of
from fedlearn.errors import ConfigError


def section(**keys) -> DevicesSection:
    return Experiment.model_validate({"devices": keys}).devices


@pytest.mark.parametrize(
    ("shares", "total", "counts"),
    [
        ([10, 5, 5], 20, [10, 5, 5]),
        ([10, 5, 5], 4, [2, 1, 1]),
        ([1, 1, 1], 2, [1, 1, 0]),
        ([0.5, 0.3, 0.2], 10, [5, 3, 2]),
        ([2], 7, [7]),
    ],
)
def test_shares_become_whole_clients(shares, total, counts):
    assert apportion(shares, total) == counts


def test_every_mix_is_of_known_profiles_and_edge_is_twenty_devices():
    assert all(set(mix) <= set(PROFILES) for mix in MIXES.values())
    assert set(MIXES["edge"]) == set(PROFILES)
    assert devices(section(mix="edge"), 20, 0).counts() == MIXES["edge"]


def test_devices_follow_from_the_seed():
    first, again, other = (devices(section(mix="edge"), 40, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.kind, again.kind) and np.array_equal(
        first.phase, again.phase
    )
    assert not np.array_equal(first.kind, other.kind)
    assert first.counts() == other.counts()


def test_a_device_of_ones_own_is_like_another_or_whole():
    found = section(
        profiles={"mine": 1},
        profile={"mine": {"like": "pi-5", "up_mbps": 0.5}, "pi-4": {"flops": 1e9}},
    )
    assert profile_of(found, "mine").up_mbps == 0.5
    assert profile_of(found, "mine").flops == PROFILES["pi-5"].flops
    assert (profile_of(found, "pi-4").flops, profile_of(found, "pi-4").train_w) == (
        1e9,
        PROFILES["pi-4"].train_w,
    )
    whole = {
        "flops": 1e9,
        "up_mbps": 1,
        "down_mbps": 2,
        "idle_w": 1,
        "train_w": 2,
        "radio_w": 3,
    }
    assert profile_of(section(profile={"mine": whole}), "mine").available == 1


def test_one_link_for_all():
    found = devices(section(mix="edge", up_mbps=0.25), 20, 0)
    assert set(found.each("up_mbps")) == {0.25}
    assert len(set(found.each("down_mbps"))) > 1


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mix": "egde"}, "unknown mix 'egde'. Did you mean 'edge'?"),
        ({"profiles": {"pi5": 1}}, "unknown profile 'pi5'. Did you mean 'pi-5'?"),
        (
            {"mix": "edge", "profile": {"mine": {"like": "pi-6"}}},
            "like = 'pi-6' is no built-in profile",
        ),
        (
            {"mix": "edge", "profile": {"mine": {"flops": 1e9}}},
            "profile.mine lacks up_mbps, down_mbps, idle_w, train_w, radio_w",
        ),
    ],
)
def test_what_does_not_exist_is_named(keys, message):
    with pytest.raises(ConfigError) as caught:
        devices(section(**keys), 4, 0)
    assert message in str(caught.value)


def test_a_phone_is_away_for_two_thirds_of_the_day():
    phones = devices(section(mix="phones"), 300, 0)
    away = np.array([phones.away_s(3600 * hour) for hour in range(24)])
    assert (away == 0).sum(0).tolist() == [
        8
    ] * 300  # of 24 hours, whenever its day begins
    first = phones.away_s(0.0)
    assert first.max() <= 16 * 3600
    late = first > 0
    assert (phones.away_s(float(first.max()) + 1)[first.argmax()]) == 0
    assert 0.5 < late.mean() < 0.8
