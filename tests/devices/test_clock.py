"""The virtual clock, on numbers that can be checked by hand."""

import numpy as np
import pytest

from fedlearn.devices.clock import Clock, Spent, joules, spent
from fedlearn.devices.delay import delay
from fedlearn.devices.profiles import DeviceProfile, Devices

SLOW = DeviceProfile(
    flops=100, up_mbps=1, down_mbps=2, idle_w=1, train_w=5, radio_w=2, latency_ms=500
)
FAST = DeviceProfile(flops=1000, up_mbps=8, down_mbps=8, idle_w=1, train_w=9, radio_w=3)


def clock(deadline_s: float = 0.0, **changes: float) -> Clock:
    """Return a clock over a slow and a fast client."""
    slow = DeviceProfile(**(vars(SLOW) | changes))
    return Clock(
        Devices(("slow", "fast"), (slow, FAST), np.array([0, 1]), np.zeros(2)),
        deadline_s,
        1_000_000,
    )


def round_of(made: Clock) -> list[tuple[Spent, bool]]:
    """Let both clients take 250 kB down and 125 kB up, and 200 operations."""
    made.begin()
    found = [made.add(client, 250_000, 200, 125_000) for client in (1, 0)]
    made.end()
    return found


def test_the_seconds_of_one_client():
    assert spent(SLOW, 3, 250_000, 200, 125_000) == Spent(3, 0.5 + 1, 2, 0.5 + 1)


def test_energy_is_what_is_added_to_an_idle_device():
    assert joules(SLOW, Spent(100, 1.5, 2, 1.5)) == 4 * 2 + 1 * 3


def test_a_round_lasts_as_long_as_its_slowest_client():
    made = clock()
    assert [late for _, late in round_of(made)] == [False, False]
    line = made.take()
    assert line["seconds"] == made.now_s == line["now_s"] == 5.0
    fast = line["by_profile"]["fast"]
    assert (fast["down"], fast["compute"], fast["up"]) == (0.25, 0.2, 0.125)
    assert fast["wait"] == pytest.approx(5 - 0.575)
    assert line["by_profile"]["slow"]["wait"] == 0
    assert line["joules"] == pytest.approx(11 + 8 * 0.2 + 2 * 0.375)
    assert made.take()["seconds"] == 0  # the next round begins empty


def test_the_order_of_answers_changes_no_bit():
    one, other = clock(), clock()
    for made, order in ((one, (0, 1)), (other, (1, 0))):
        made.begin()
        for client in order:
            made.add(client, 333_333, 77.7, 111_111)
        made.end()
    assert one.take() == other.take()


def test_with_a_deadline_the_slow_are_late_and_the_round_ends_then():
    made = clock(deadline_s=4.0)
    assert [late for _, late in round_of(made)] == [False, True]
    line = made.take()
    assert (line["seconds"], line["late"]) == (4.0, 1)
    slow = line["by_profile"]["slow"]
    assert (slow["down"], slow["compute"], slow["up"], slow["wait"]) == (
        1.5,
        2.0,
        0.5,
        0.0,
    )  # it was cut off while it sent


def test_a_device_that_is_away_is_waited_for():
    made = clock(available=0.5, period_h=1 / 360)  # on for 5 of every 10 s
    round_of(made)
    assert made.now_s == 5.0
    round_of(made)  # the slow client's next 5 s off begin just now
    assert made.now_s == 15.0
    assert made.take()["by_profile"]["slow"]["away"] == 5.0


def test_what_is_expected_of_a_client_follows_the_payloads_of_the_last_round():
    made = clock()
    flops = np.array([200.0, 200.0])
    assert made.expected_s(flops).tolist() == [2 * 0.5 + 4 + 8 + 2, 1 + 1 + 0.2]
    round_of(made)
    assert made.expected_s(flops) == pytest.approx([5.0, 0.575])


def test_a_clock_goes_on_from_a_checkpoint():
    made, again = clock(), clock()
    round_of(made)
    again.recall(made.sync())
    assert (again.now_s, again.usual) == (made.now_s, made.usual)
    assert round_of(again) == round_of(made)


def test_inference_runs_where_the_answer_comes_first():
    found = delay(SLOW, FAST, 125_000, 100)
    assert (found.edge_s, found.trans_s, found.cloud_s, found.where) == (
        1.0,
        2.0,
        0.1,
        "device",
    )
    assert delay(SLOW, FAST, 125_000, 10_000).where == "cloud"
