"""A place is chosen by measurements, left for a gain, and given up when it fails."""

import math

import numpy as np
import pytest

from fedlearn.clients.placement.estimating import Link, Smoothed
from fedlearn.clients.placement.place import CLOUD, EDGE, Placer, PlaceSettings

SIZE = 1000


def known(edge_s: float, cloud_s: float, **settings) -> Placer:
    """Return a placer at time 0 whose estimates are exact."""
    placer = Placer(PlaceSettings(**settings))
    for _ in range(40):
        placer.edge_done("default", edge_s, 0.0)
        placer.cloud_done("default", SIZE, cloud_s, 0.25 * cloud_s, 0.0)
    return placer


def place(placer: Placer, now_s: float = 0.0, **more) -> str:
    return placer.choose("default", SIZE, now_s, **more).place


def test_a_mean_follows_its_values_as_computed_by_hand():
    mean = Smoothed(newest=0.5)
    mean.add(4.0)
    assert (mean.mean, mean.deviation) == (4.0, 2.0)
    mean.add(8.0)
    assert (mean.mean, mean.deviation, mean.beyond(2)) == (6.0, 3.0, 12.0)


def test_a_link_is_a_turn_and_seconds_a_byte():
    link = Link(newest=1.0)
    link.probed(0.010)
    link.carried(2000, 0.030)
    assert link.transfer_s(4000) == pytest.approx(0.010 + 4000 * 0.020 / 2000)
    # An answer that was faster than the turn shortens it.
    link.carried(2000, 0.004)
    assert link.transfer_s(2000) == pytest.approx(0.004)


def test_without_measurements_the_edge_computes_and_the_centre_is_measured():
    choice = Placer().choose("default", SIZE, 0.0)
    assert (choice.place, choice.probe) == (EDGE, CLOUD)
    assert math.isinf(choice.edge_s) and math.isinf(choice.cloud_s)


def test_the_faster_place_is_chosen():
    assert place(known(edge_s=0.010, cloud_s=0.005)) == CLOUD
    assert place(known(edge_s=0.005, cloud_s=0.010)) == EDGE


def test_what_waits_on_the_device_counts():
    placer = known(edge_s=0.005, cloud_s=0.010)
    assert place(placer) == EDGE
    assert place(placer, edge_wait_s=0.006) == CLOUD


def test_a_request_pays_for_those_that_will_wait_behind_it():
    def share(toll: float) -> float:
        placer = known(edge_s=0.008, cloud_s=0.010, toll=toll)
        # 100 requests a second: eight tenths of the device's time.
        places = [place(placer, now_s=number / 100) for number in range(300)]
        return places.count(CLOUD) / len(places)

    assert share(toll=0.0) == 0.0
    assert 0.1 < share(toll=1.0) < 0.9


def test_a_place_is_left_for_more_than_the_margin_only():
    placer = known(edge_s=0.0100, cloud_s=0.0097, margin=0.05, toll=0.0)
    assert place(placer) == EDGE
    eager = known(edge_s=0.0100, cloud_s=0.0097, margin=0.0, toll=0.0)
    assert place(eager) == CLOUD


def test_classes_have_places_of_their_own():
    placer = Placer(PlaceSettings(newest=1.0))
    for kind, service_s in (("small", 0.001), ("large", 0.100)):
        placer.edge_done(kind, service_s, 0.0)
        placer.cloud_done(kind, SIZE, 0.020, 0.010, 0.0)
    assert placer.choose("small", SIZE, 0.0).place == EDGE
    assert placer.choose("large", SIZE, 0.0).place == CLOUD


@pytest.mark.parametrize("unused", [EDGE, CLOUD])
def test_the_unused_place_is_measured_the_rarer_the_slower_it_is(unused):
    def probes(ratio: float) -> int:
        times = {EDGE: (0.010 * ratio, 0.010), CLOUD: (0.010, 0.010 * ratio)}
        placer = known(*times[unused], probe_s=1.0)
        if unused == EDGE:
            placer.choose("default", SIZE, 0.0)
        choices = [placer.choose("default", SIZE, now / 10) for now in range(500)]
        # At first it is measured more often.
        return sum(choice.probe == unused for choice in choices[100:])

    assert probes(2.0) == pytest.approx(20, abs=2)
    # Eight times as rare at most.
    assert probes(100.0) == pytest.approx(5, abs=1)


def test_a_place_that_was_just_left_is_measured_soon_and_then_rarer():
    placer = known(edge_s=0.010, cloud_s=0.005, probe_s=1.0, toll=0.0)
    assert place(placer) == CLOUD
    # Some answers in a row are slow.
    for _ in range(6):
        placer.cloud_done("default", SIZE, 0.030, 0.001, 0.0)
    at_s = [
        number / 100
        for number in range(1, 1000)
        if placer.choose("default", SIZE, number / 100).probe == CLOUD
    ]
    gaps_s = np.diff([0.0, *at_s])
    assert gaps_s[:4] == pytest.approx([0.1, 0.2, 0.4, 0.8], abs=0.02)
    # As rare as it is slow, in the end.
    assert (gaps_s[5:] > 1.5).all()


def test_where_a_queue_changes_the_place_all_the_time_nothing_more_is_measured():
    def probes(is_steady: bool) -> int:
        placer = known(edge_s=0.009, cloud_s=0.010, probe_s=1.0, toll=0.0)
        waits_s = [0.0 if is_steady or number % 2 else 0.005 for number in range(400)]
        choices = [
            placer.choose("default", SIZE, number / 100, edge_wait_s=wait_s)
            for number, wait_s in enumerate(waits_s)
        ]
        places = {choice.place for choice in choices}
        assert len(places) == (1 if is_steady else 2)
        return sum(choice.probe != "" for choice in choices)

    assert probes(is_steady=False) <= probes(is_steady=True) + 4


def test_a_failed_link_is_left_at_once_and_comes_back_after_three_successes():
    placer = known(edge_s=0.010, cloud_s=0.005)
    assert place(placer) == CLOUD
    placer.cloud_failed(1.0)
    assert placer.is_down
    # Not before the quarter of a second.
    assert placer.choose("default", SIZE, 1.2).probe == ""
    assert placer.choose("default", SIZE, 1.3).probe == CLOUD
    # One probe at a time.
    assert placer.choose("default", SIZE, 1.31).probe == ""
    for number in range(3):
        assert placer.is_down
        assert place(placer, now_s=1.4 + number) == EDGE
        placer.cloud_done("default", SIZE, 0.005, 0.001, 1.4)
    assert not placer.is_down
    assert place(placer, now_s=1.5) == CLOUD


def test_a_link_is_tried_again_after_a_share_of_the_time_that_it_has_been_down():
    settings = {"retry_s": 0.25, "retry_share": 0.5, "longest_retry_s": 2.0}
    placer = known(edge_s=0.010, cloud_s=0.005, **settings)
    placer.cloud_failed(0.0)
    tries = []
    for number in range(1000):
        now_s = number / 100
        if placer.choose("default", SIZE, now_s).probe:
            tries.append(now_s)
            placer.cloud_failed(now_s)
    # A quarter of a second, then half of all the time so far, and two seconds at most.
    expected = [0.25, 0.5, 0.75, 1.13, 1.7, 2.55, 3.83, 5.75, 7.75, 9.75]
    assert tries == pytest.approx(expected, abs=0.011)


def test_the_time_that_a_link_has_been_down_begins_anew_with_each_failure():
    placer = known(edge_s=0.010, cloud_s=0.005, retry_share=1.0, longest_retry_s=60.0)
    placer.cloud_failed(0.0)
    assert placer.choose("default", SIZE, 20.0).probe == CLOUD
    for _ in range(3):
        placer.cloud_done("default", SIZE, 0.005, 0.001, 20.0)
    assert not placer.is_down
    placer.cloud_failed(21.0)
    assert placer.choose("default", SIZE, 21.3).probe == CLOUD


def test_a_late_answer_stops_further_requests_until_it_comes():
    placer = known(edge_s=0.010, cloud_s=0.005)
    placer.cloud_late()
    assert placer.is_down
    choice = placer.choose("default", SIZE, 0.0)
    assert (choice.place, choice.probe) == (EDGE, "")
    placer.cloud_done("default", SIZE, 0.006, 0.001, 0.1)
    # It was alive all the time: nothing has to be proven.
    assert not placer.is_down
    assert place(placer, now_s=0.2) == CLOUD
    placer.cloud_late()
    placer.cloud_failed(0.3)
    assert placer.choose("default", SIZE, 0.31).probe == ""


def test_requests_that_fail_together_fail_once():
    placer = known(edge_s=0.010, cloud_s=0.005)
    for _ in range(20):
        placer.cloud_failed(0.0)
    assert placer.choose("default", SIZE, 0.3).probe == CLOUD


def test_an_answer_is_waited_for_by_what_answers_took():
    def timeout_s(cloud_s: float) -> float:
        placer = known(edge_s=1.0, cloud_s=cloud_s)
        return placer.choose("default", SIZE, 0.0).timeout_s

    assert timeout_s(0.100) == pytest.approx(0.200)
    # A machine may be busy for a moment.
    assert timeout_s(0.001) == 0.01
    assert Placer().choose("default", SIZE, 0.0).timeout_s == 1.0


def test_where_only_the_centre_is_good_enough_it_is_waited_for_longer():
    placer = known(edge_s=1.0, cloud_s=0.001)
    choice = placer.choose("default", SIZE, 0.0)
    assert (choice.timeout_s, choice.give_up_s) == (0.01, 0.12)
    assert placer.patience_s("default") == 0.03
    assert placer.ends_s("default") == 0.12
    slow = known(edge_s=1.0, cloud_s=0.100)
    assert slow.ends_s("default") == pytest.approx(0.8)
