"""When a device takes part: its owner's rules as pure functions, readings in, a decision out.

A rule that says no goes on to say no until things are clearly better (hysteresis). Otherwise a
board at its limit would join and leave with every degree.

What happens to work under way depends on the rule. Heat passes, so it pauses the work. Memory
that runs out, a battery, a costly link or the end of the hours end it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from fnmatch import fnmatchcase

from fedlearn.clients.device.readings import Battery, Reading, Zone

# By default a zone is hot this far below the point where the kernel slows the board: a guest
# does not bring the board there.
MARGIN_C = 10.0

# A zone that tells no such point is hot this far below the point where the board is switched off …
BELOW_STOP_C = 20.0

# … and at this temperature at the latest.
HOT_C = 85.0

# How far a hot zone must cool down.
COOLER_C = 10.0

# Percent by which a battery must be charged beyond the limit that it fell below.
CHARGED = 10.0


class Course(enum.IntEnum):
    """What happens to work under way; the strictest of all rules counts."""

    GO_ON = 0
    PAUSE = 1
    END = 2


@dataclass(frozen=True)
class Span:
    """A part of the day, in minutes since midnight of the device's own time.

    The end may be on the next day.
    """

    start: int
    end: int

    def __contains__(self, minute: int) -> bool:
        """Tell whether a minute of the day lies inside."""
        if self.start < self.end:
            return self.start <= minute < self.end
        # The span goes over midnight.
        return minute >= self.start or minute < self.end

    def __str__(self) -> str:
        """Return it as it is written in the settings."""
        return f"{_clock(self.start)}-{_clock(self.end)}"


def _clock(minute: int) -> str:
    hour, rest_minute = divmod(minute, 60)
    return f"{hour:02d}:{rest_minute:02d}"


@dataclass(frozen=True)
class Rules:
    """What the owner decides; the defaults are those of a polite guest."""

    # No work above; None: by each zone's trip points.
    hot_c: float | None = None
    # Work again below; None: COOLER_C less.
    cool_c: float | None = None
    # Longest pause of work, then it ends; 0: none.
    pause_s: float = 300.0
    # On battery, no work below; 0: always work, 100: never.
    battery_percent: float = 50.0
    # No work in power modes of less.
    least_watts: float = 0.0
    # Must be free before work begins; a process with torch alone takes 300.
    memory_mb: float = 512.0
    # Work ends when less is free.
    memory_low_mb: float = 64.0
    # Work over metered links too.
    metered: bool = False
    # Links that are metered, besides modems; names, or patterns such as "usb*".
    metered_links: tuple[str, ...] = ()
    # Work only then; none: always.
    hours: tuple[Span, ...] = ()


# For an agent without a settings file: a person who starts one by hand on a hot laptop wants it
# to work.
NO_RULES = Rules(
    hot_c=float("inf"), battery_percent=0, memory_mb=0, memory_low_mb=0, metered=True
)


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
        texts = [str(reason) for reason in self.reasons]
        return "; ".join(texts) or None

    def holds(self, kind: str) -> bool:
        """Tell whether a rule says no."""
        return any(reason.kind == kind for reason in self.reasons)

    def course(self, rules: Rules, paused_s: float = 0.0) -> Course:
        """Return what happens to work that is under way, and has been paused for some seconds."""
        courses = [reason.course for reason in self.reasons]
        strictest = max(courses, default=Course.GO_ON)
        # A paused process keeps its memory, so no pause lasts for ever.
        if strictest is Course.PAUSE and paused_s >= rules.pause_s:
            return Course.END
        return strictest


def decide(
    rules: Rules,
    reading: Reading,
    minute: int,
    before: Decision = Decision(),
    working: bool = False,
) -> Decision:
    """Return what follows from a reading; what a board does not tell is no reason.

    minute: of the day, in the device's own time. before: the last decision. working: work is
    under way.
    """
    reasons = (
        _thermal(rules, reading.zones, before.holds("thermal")),
        _battery(rules, reading.battery, before.holds("battery")),
        _power_mode(rules, reading),
        _memory(rules, reading.free_bytes, working),
        _link(rules, reading),
        _hours(rules, minute),
    )
    return Decision(tuple(reason for reason in reasons if reason))


def limits(rules: Rules, zone: Zone) -> tuple[float, float]:
    """Return two temperatures of a zone, °C: no work from the first, again below the second."""
    hot = HOT_C
    if rules.hot_c is not None:
        hot = rules.hot_c
    elif zone.slows_c is not None:
        hot = zone.slows_c - MARGIN_C
    elif zone.stops_c is not None:
        hot = min(HOT_C, zone.stops_c - BELOW_STOP_C)
    # The owner's cool_c may lie above a zone's own limit, and would undo hysteresis.
    cool = hot - COOLER_C if rules.cool_c is None else rules.cool_c
    return hot, min(cool, hot)


def _thermal(rules: Rules, zones: tuple[Zone, ...], was_hot: bool) -> Reason | None:
    """Say no for the zone that is furthest above its limit."""
    hottest: tuple[float, Zone, float] | None = None
    for zone in zones:
        hot, cool = limits(rules, zone)
        # Hysteresis: a zone that was hot stays so until it is cool.
        excess = zone.celsius - (cool if was_hot else hot)
        if excess >= 0 and (hottest is None or excess > hottest[0]):
            hottest = excess, zone, cool
    if hottest is None:
        return None
    _, zone, cool = hottest
    text = f"{zone.celsius:.0f} °C at {zone.name}, joins again below {cool:.0f} °C"
    return Reason("thermal", text, Course.PAUSE)


def _battery(rules: Rules, battery: Battery | None, was_low: bool) -> Reason | None:
    limit = rules.battery_percent
    if battery is None or not battery.drawing or not limit:
        return None
    if limit >= 100:
        # 100: never on battery, whatever the charge; it is no matter of percent.
        return Reason("battery", "not on mains")
    if battery.percent is None:
        # An unknown charge may be an empty one.
        return Reason("battery", "not on mains, and its charge is not known")
    # Not above 100, which no battery exceeds.
    again = min(100.0, limit + CHARGED)
    if battery.percent >= (again if was_low else limit):
        return None
    text = f"{battery.percent:.0f} %, joins again on mains or from {again:.0f} %"
    return Reason("battery", text)


def _power_mode(rules: Rules, reading: Reading) -> Reason | None:
    """Say no to new work; the owner who changes the mode may want work under way to end well."""
    mode = reading.power_mode
    if mode is None or mode.watts is None or mode.watts >= rules.least_watts:
        return None
    text = f"{mode.name}, joins again from {rules.least_watts:g} W"
    return Reason("power mode", text, Course.GO_ON)


def _memory(rules: Rules, free_bytes: int | None, working: bool) -> Reason | None:
    # Work itself uses memory, so what must be free before it is no measure while it lasts.
    limit_mb = rules.memory_low_mb if working else rules.memory_mb
    if free_bytes is None or free_bytes >= limit_mb * (1 << 20):
        return None
    text = f"{free_bytes >> 20} MB free, joins again from {rules.memory_mb:g} MB"
    return Reason("memory", text)


def _link(rules: Rules, reading: Reading) -> Reason | None:
    link = reading.link
    if link is None or rules.metered:
        return None
    patterns = rules.metered_links
    if reading.modem or any(fnmatchcase(link, pattern) for pattern in patterns):
        return Reason("metered link", link)
    return None


def _hours(rules: Rules, minute: int) -> Reason | None:
    if not rules.hours or any(minute in span for span in rules.hours):
        return None
    hours = [str(span) for span in rules.hours]
    return Reason("hours", f"joins at {', '.join(hours)}")
