"""When a device takes part, and when it has better to do: its owner's rules as pure functions, readings in, a decision out.

A rule that has said no goes on to say no until things are clearly better (hysteresis), or a board at its limit would join and
leave with every degree. What happens to work that is under way depends on the rule: heat passes, so the work is paused; memory
that runs out, a battery, a costly link or the end of the hours end it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from fnmatch import fnmatchcase

from fedlearn.clients.device.readings import Battery, Reading, Zone

MARGIN_C = 10.0
"""By default a zone is hot this far below the point where the kernel slows the board: a guest does not bring it there."""

BELOW_STOP_C = 20.0
"""And this far below the point where the board is switched off, where no other is told."""

HOT_C = 85.0
"""Where a zone tells neither."""

COOLER_C = 10.0
"""How far a hot zone must cool down."""

CHARGED = 10.0
"""Percent by which a battery must be charged beyond the limit that it fell below."""


class Course(enum.IntEnum):
    """What happens to work under way; the strictest of all rules counts."""

    GO_ON = 0
    PAUSE = 1
    END = 2


@dataclass(frozen=True)
class Span:
    """A part of the day, in minutes since midnight of the device's own time; the end may be on the next day."""

    start: int
    end: int

    def __contains__(self, minute: int) -> bool:
        """Tell whether a minute of the day lies inside."""
        if self.start < self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end

    def __str__(self) -> str:
        """Return it as it is written in the settings."""
        return "-".join(
            f"{minute // 60:02d}:{minute % 60:02d}" for minute in (self.start, self.end)
        )


@dataclass(frozen=True)
class Rules:
    """What the owner decides; the defaults are those of a polite guest."""

    hot_c: float | None = None  # no work above; None: by each zone's trip points
    cool_c: float | None = None  # work again below; None: COOLER_C less
    pause_s: float = 300.0  # longest pause of work, then it ends; 0: none
    battery_percent: float = 50.0  # on battery: no work below; 0: always, 100: never
    least_watts: float = 0.0  # no work in power modes of less
    memory_mb: float = (
        512.0  # must be free before work begins; a process with torch alone takes 300
    )
    memory_low_mb: float = 64.0  # work ends when less is free
    metered: bool = False  # work over metered links too
    metered_links: tuple[
        str, ...
    ] = ()  # besides modems; names or patterns such as "usb*"
    hours: tuple[Span, ...] = ()  # work only then; none: always


NO_RULES = Rules(
    hot_c=float("inf"), battery_percent=0, memory_mb=0, memory_low_mb=0, metered=True
)
"""Of an agent without a settings file: a person who starts one by hand on a hot laptop wants it to work."""


@dataclass(frozen=True)
class Reason:
    """Why there is no work; kind: the rule's name; course: what happens to work under way."""

    kind: str
    text: str
    course: Course = Course.END

    def __str__(self) -> str:
        """Return it as the coordinator shows it."""
        return f"{self.kind}: {self.text}"


@dataclass(frozen=True)
class Decision:
    """What follows from a reading; without reasons there is work."""

    reasons: tuple[Reason, ...] = ()

    @property
    def text(self) -> str | None:
        """Return the reasons in words; None: there is work."""
        return "; ".join(map(str, self.reasons)) or None

    def holds(self, kind: str) -> bool:
        """Tell whether a rule says no."""
        return any(reason.kind == kind for reason in self.reasons)

    def course(self, rules: Rules, paused_s: float = 0.0) -> Course:
        """Return what happens to work that is under way, and has been paused for some seconds."""
        found = max((reason.course for reason in self.reasons), default=Course.GO_ON)
        return (
            Course.END if found == Course.PAUSE and paused_s >= rules.pause_s else found
        )


def decide(
    rules: Rules,
    reading: Reading,
    minute: int,
    before: Decision = Decision(),
    working: bool = False,
) -> Decision:
    """Return what follows from a reading.

    minute: of the day, in the device's own time. before: the last decision. working: work is under way. What a board does
    not tell is no reason.
    """
    found = (
        _thermal(rules, reading.zones, before.holds("thermal")),
        _battery(rules, reading.battery, before.holds("battery")),
        _power_mode(rules, reading),
        _memory(rules, reading.free_bytes, working),
        _link(rules, reading),
        _hours(rules, minute),
    )
    return Decision(tuple(reason for reason in found if reason))


def limits(rules: Rules, zone: Zone) -> tuple[float, float]:
    """Return the temperatures of a zone, °C: no work from the first on, and work again below the second."""
    if rules.hot_c is not None:
        hot = rules.hot_c
    elif zone.slows_c is not None:
        hot = zone.slows_c - MARGIN_C
    else:
        hot = HOT_C if zone.stops_c is None else min(HOT_C, zone.stops_c - BELOW_STOP_C)
    cool = hot - COOLER_C if rules.cool_c is None else rules.cool_c
    return hot, min(cool, hot)


def _thermal(rules: Rules, zones: tuple[Zone, ...], held: bool) -> Reason | None:
    worst: tuple[float, Zone, float] | None = None
    for zone in zones:
        hot, cool = limits(rules, zone)
        above = zone.celsius - (cool if held else hot)
        if above >= 0 and (worst is None or above > worst[0]):
            worst = above, zone, cool
    if worst is None:
        return None
    _, zone, cool = worst
    return Reason(
        "thermal",
        f"{zone.celsius:.0f} °C at {zone.name}, joins again below {cool:.0f} °C",
        Course.PAUSE,
    )


def _battery(rules: Rules, battery: Battery | None, held: bool) -> Reason | None:
    least = rules.battery_percent
    if battery is None or not battery.drawing or not least:
        return None
    if least >= 100:
        return Reason("battery", "not on mains")
    if battery.percent is None:
        return Reason("battery", "not on mains, and its charge is not known")
    again = min(100.0, least + CHARGED)
    if battery.percent >= (again if held else least):
        return None
    return Reason(
        "battery",
        f"{battery.percent:.0f} %, joins again on mains or from {again:.0f} %",
    )


def _power_mode(rules: Rules, reading: Reading) -> Reason | None:
    mode = reading.power_mode
    if mode is None or mode.watts is None or mode.watts >= rules.least_watts:
        return None
    return Reason(
        "power mode",
        f"{mode.name}, joins again from {rules.least_watts:g} W",
        Course.GO_ON,
    )


def _memory(rules: Rules, free_bytes: int | None, working: bool) -> Reason | None:
    # Work itself uses memory, so what must be free before it is no measure while it lasts.
    least = rules.memory_low_mb if working else rules.memory_mb
    if free_bytes is None or free_bytes >= least * (1 << 20):
        return None
    return Reason(
        "memory", f"{free_bytes >> 20} MB free, joins again from {rules.memory_mb:g} MB"
    )


def _link(rules: Rules, reading: Reading) -> Reason | None:
    link = reading.link
    if (
        link is None
        or rules.metered
        or not (
            reading.modem
            or any(fnmatchcase(link, known) for known in rules.metered_links)
        )
    ):
        return None
    return Reason("metered link", link)


def _hours(rules: Rules, minute: int) -> Reason | None:
    if not rules.hours or any(minute in span for span in rules.hours):
        return None
    return Reason("hours", f"joins at {', '.join(map(str, rules.hours))}")
