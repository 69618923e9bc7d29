"""The owner's rules: each joins and leaves where it says, heat with hysteresis; and what
happens to work under way.
"""

import asyncio
import signal

import pytest

from fedlearn.clients.device import guest
from fedlearn.clients.device.guest import Guest
from fedlearn.clients.device.readings import Battery, PowerMode, Reading, Zone
from fedlearn.clients.device.rules import (
    NO_RULES,
    Course,
    Decision,
    Rules,
    Span,
    decide,
    limits,
)
from tests.clients.device import boards

NOON = 12 * 60


def follow(rules: Rules, *readings: Reading, working: bool = False) -> list[str | None]:
    """Return what is decided of one reading after another."""
    decision, found = Decision(), []
    for reading in readings:
        decision = decide(rules, reading, NOON, decision, working)
        found.append(decision.text)
    return found


def hot(*celsius: float, **trips: float) -> list[Reading]:
    return [
        Reading(zones=(Zone("cpu", c, trips.get("slows"), trips.get("stops")),))
        for c in celsius
    ]


def test_hot_declines_until_it_is_cool():
    found = follow(Rules(hot_c=88, cool_c=75), *hot(70, 87.9, 88, 80, 75, 74.9, 80))
    assert found == [
        None,
        None,
        "thermal: 88 °C at cpu, joins again below 75 °C",
        "thermal: 80 °C at cpu, joins again below 75 °C",
        "thermal: 75 °C at cpu, joins again below 75 °C",
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("rules", "zone", "expected"),
    [
        (Rules(), Zone("a", 0, slows_c=99, stops_c=104.5), (89, 79)),
        (Rules(), Zone("a", 0, stops_c=110), (85, 75)),
        (Rules(), Zone("a", 0, stops_c=90), (70, 60)),
        (Rules(), Zone("a", 0), (85, 75)),
        (Rules(hot_c=70), Zone("a", 0, slows_c=99), (70, 60)),
        (Rules(cool_c=50), Zone("a", 0, slows_c=99), (89, 50)),
        (Rules(cool_c=95), Zone("a", 0, slows_c=99), (89, 89)),
    ],
)
def test_where_a_zone_is_hot_and_cool(rules, zone, expected):
    assert limits(rules, zone) == expected


def test_all_zones_must_be_cool_and_the_worst_is_told():
    def two(a: float, b: float) -> Reading:
        return Reading(zones=(Zone("cpu", a, slows_c=90), Zone("gpu", b, slows_c=80)))

    assert follow(Rules(), two(70, 71), two(79, 65), two(69, 59)) == [
        "thermal: 71 °C at gpu, joins again below 60 °C",
        "thermal: 79 °C at cpu, joins again below 70 °C",
        None,
    ]


def on_battery(*percents: float | None) -> list[Reading]:
    return [Reading(battery=Battery(True, percent)) for percent in percents]


def test_a_battery_must_be_charged_again_or_left():
    found = follow(Rules(battery_percent=30), *on_battery(30, 29, 35, 40))
    assert found == [
        None,
        "battery: 29 %, joins again on mains or from 40 %",
        "battery: 35 %, joins again on mains or from 40 %",
        None,
    ]
    assert follow(
        Rules(battery_percent=30), *on_battery(20), Reading(battery=Battery(False, 20))
    ) == [
        "battery: 20 %, joins again on mains or from 40 %",
        None,
    ]
    assert follow(Rules(battery_percent=100), *on_battery(100)) == [
        "battery: not on mains"
    ]
    assert follow(Rules(battery_percent=0), *on_battery(1)) == [None]
    assert follow(Rules(), *on_battery(None)) == [
        "battery: not on mains, and its charge is not known"
    ]


def test_a_power_mode_may_be_too_low():
    modes = (("7W", 7.0), ("15W", 15.0), ("MAXN", float("inf")), ("QUIET", None))
    readings = [Reading(power_mode=PowerMode(0, name, watts)) for name, watts in modes]
    assert follow(Rules(least_watts=10), *readings) == [
        "power mode: 7W, joins again from 10 W",
        None,
        None,
        None,
    ]


def test_memory_must_be_free_before_work_and_less_of_it_while_it_lasts():
    readings = [Reading(free_bytes=free << 20) for free in (512, 511, 64, 63)]
    words = "memory: {} MB free, joins again from 512 MB"
    assert follow(Rules(), *readings) == [
        None,
        words.format(511),
        words.format(64),
        words.format(63),
    ]
    assert follow(Rules(), *readings, working=True) == [
        None,
        None,
        None,
        words.format(63),
    ]


def test_metered_links():
    readings = [
        Reading(link="wwan0", modem=True),
        Reading(link="usb0"),
        Reading(link="eth0"),
        Reading(),
    ]
    assert follow(Rules(metered_links=("usb*",)), *readings) == [
        "metered link: wwan0",
        "metered link: usb0",
        None,
        None,
    ]
    assert follow(Rules(metered=True, metered_links=("usb*",)), *readings) == [None] * 4


def test_hours_over_midnight():
    night, lunch = Span(22 * 60, 6 * 60), Span(12 * 60, 13 * 60)
    minutes = [21 * 60 + 59, 22 * 60, 0, 5 * 60 + 59, 6 * 60, 12 * 60, 13 * 60]
    assert [m in night for m in minutes] == [
        False,
        True,
        True,
        True,
        False,
        False,
        False,
    ]
    rules = Rules(hours=(night, lunch))
    found = [decide(rules, Reading(), m).text for m in minutes]
    assert found == [
        words := "hours: joins at 22:00-06:00, 12:00-13:00",
        None,
        None,
        None,
        words,
        None,
        words,
    ]


def test_every_reason_is_told_and_what_is_not_known_is_none():
    bad = Reading(
        zones=(Zone("cpu", 99),),
        battery=Battery(True, 5),
        free_bytes=0,
        link="ppp0",
        modem=True,
    )
    found = decide(Rules(), bad, NOON)
    assert [reason.kind for reason in found.reasons] == [
        "thermal",
        "battery",
        "memory",
        "metered link",
    ]
    assert (
        decide(Rules(least_watts=99), Reading(), NOON)
        == decide(NO_RULES, bad, NOON)
        == Decision()
    )


def test_heat_pauses_work_for_a_while_and_the_strictest_rule_counts():
    rules = Rules(pause_s=60, least_watts=10)
    heat = decide(rules, hot(99)[0], NOON, working=True)
    assert [heat.course(rules, s) for s in (0, 59, 60)] == [
        Course.PAUSE,
        Course.PAUSE,
        Course.END,
    ]
    low = Reading(power_mode=PowerMode(1, "7W", 7.0))
    assert decide(rules, low, NOON, working=True).course(rules) == Course.GO_ON
    both = Reading(zones=hot(99)[0].zones, battery=Battery(True, 5))
    assert decide(rules, both, NOON, working=True).course(rules) == Course.END
    assert Decision().course(rules, 999) == Course.GO_ON


# The guest, on a board that is a folder.


class Process:
    """Notes its signals, and lets the board change with each."""

    def __init__(self, *then) -> None:
        self.signals: list[int] = []
        self.then = list(then)

    def send_signal(self, number: int) -> None:
        self.signals.append(number)
        if self.then:
            self.then.pop(0)()


def test_hot_is_declined_cool_joins_again(tmp_path):
    here = Guest(Rules(), boards.orin_nano(tmp_path, 50))
    assert here.ask() is None
    boards.orin_nano(tmp_path, 92)
    assert here.ask() == "thermal: 92 °C at tj-thermal, joins again below 79 °C"
    boards.orin_nano(tmp_path, 84)
    assert here.ask() == "thermal: 84 °C at tj-thermal, joins again below 79 °C"
    boards.orin_nano(tmp_path, 78)
    assert here.ask() is None


def test_work_stands_still_while_it_is_hot_and_ends_on_battery(tmp_path):
    said: list[str] = []
    battery = {
        "sys/class/power_supply/B/type": "Battery",
        "sys/class/power_supply/B/status": "Discharging",
    }
    process = Process(
        lambda: boards.orin_nano(tmp_path, 60),
        lambda: boards.write(
            tmp_path, {**battery, "sys/class/power_supply/B/capacity": 12}
        ),
    )
    here = Guest(Rules(), boards.orin_nano(tmp_path, 95), said.append)
    reason = asyncio.run(here.watch(process, poll_s=0))
    assert process.signals == [signal.SIGSTOP, signal.SIGCONT]
    assert said == [
        "the work is paused: thermal: 95 °C at tj-thermal, joins again below 79 °C",
        "the work goes on",
    ]
    assert reason == "battery: 12 %, joins again on mains or from 60 %"
    assert here.ask() == reason
    assert here.energy.joules is not None and here.energy.joules > 0


def test_a_pause_that_lasts_too_long_ends_the_work_and_leaves_nothing_stopped(tmp_path):
    process = Process()
    here = Guest(Rules(pause_s=1e-9), boards.orin_nano(tmp_path, 95))
    assert (
        asyncio.run(here.watch(process, poll_s=0))
        == "thermal: 95 °C at tj-thermal, joins again below 79 °C"
    )
    assert process.signals == [signal.SIGSTOP, signal.SIGCONT]


def test_a_watch_that_is_cancelled_wakes_what_it_stopped(tmp_path):
    process = Process()

    async def cancelled() -> None:
        watch = asyncio.create_task(
            Guest(Rules(), boards.orin_nano(tmp_path, 95)).watch(process, poll_s=0)
        )
        while not process.signals:
            await asyncio.sleep(0)
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)

    asyncio.run(cancelled())
    assert process.signals == [signal.SIGSTOP, signal.SIGCONT]


def test_a_process_that_has_ended_is_no_trouble(tmp_path):
    class Ended(Process):
        def send_signal(self, number: int) -> None:
            raise ProcessLookupError

    here = Guest(Rules(pause_s=1e-9), boards.orin_nano(tmp_path, 95))
    assert asyncio.run(here.watch(Ended(), poll_s=0)).startswith("thermal")


def test_hours_are_those_of_the_device(tmp_path, monkeypatch):
    monkeypatch.setattr(guest, "_minute", lambda: NOON)
    assert (
        Guest(Rules(hours=(Span(0, NOON),)), tmp_path).ask()
        == "hours: joins at 00:00-12:00"
    )
    assert Guest(Rules(hours=(Span(NOON, 0),)), tmp_path).ask() is None
