"""The agent's settings file, `/etc/fedlearn/agent.ini`: strict, so that a rule that is misspelt is an error and not no rule.

INI, because an agent has Python 3.10, which reads no TOML, and a person who writes rules for a device wants comments.
"""

from __future__ import annotations

import configparser
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedlearn.clients.device.rules import Rules, Span
from fedlearn.errors import ConfigError
from fedlearn.names import nearest

PLACE = Path("/etc/fedlearn/agent.ini")

TEMPLATE = """\
# Settings of fedlearn agent. A line without '#' counts; an option of the command line counts more.

[agent]
# coordinator = 192.0.2.1:9000     # HOST:PORT
# client = 3                       # default: as the certificate says
# state = /var/lib/fedlearn        # key, certificate, models, answers
# data = auto                      # auto, a FILE.npz with x and y, or my_pkg:load
# allow = my_pkg, other_pkg        # modules that models and data may be imported from
# epochs = 0                       # most of a plan that are done; 0: no limit
# steps = 0
# megabytes = 1024                 # most that a task sends
# insecure = no                    # yes: without TLS

[rules]
# hot_c = 85                       # no work from here on; default: 10 below where the kernel slows the board
# cool_c = 75                      # work again below; default: 10 less than hot_c
# pause_s = 300                    # work under way waits this long to cool down, then it ends; 0: at once
# battery_percent = 50             # on battery, no work below; 0: always, 100: never on battery
# least_watts = 0                  # no work in power modes (nvpmodel) of less
# memory_mb = 512                  # must be free before work begins
# memory_low_mb = 64               # work ends when less is free
# metered = no                     # yes: work over mobile networks and metered links too
# metered_links = usb*, wlan1      # links that are metered, besides modems
# hours = 22:00-06:00, 12:00-13:00 # work only then, in the device's own time; default: always
"""
"""All keys with their defaults or an example: what `fedlearn agent install` writes."""


@dataclass(frozen=True)
class Found:
    """What a file says; agent: only what it gives, by the names of the options of `fedlearn agent`."""

    agent: Mapping[str, Any] = field(default_factory=dict)
    rules: Rules = field(default_factory=Rules)


class _Wrong(Exception):
    """A value is not what its key takes; the text says what it takes."""


def read(path: Path) -> Found:
    """Return what a settings file says; raises ConfigError naming file, section, key and fix."""
    parser = configparser.ConfigParser(
        interpolation=None,
        delimiters=("=",),
        inline_comment_prefixes=("#",),
        default_section="\0",
        empty_lines_in_values=False,
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # the documented way to keep capitals, which are wrong here
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read the settings '{path}': {error.strerror or error}"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is no text in UTF-8") from None
    except configparser.DuplicateOptionError as error:
        raise ConfigError(
            f"{path}, line {error.lineno}: [{error.section}] has {error.option} twice; keep one"
        ) from None
    except configparser.DuplicateSectionError as error:
        raise ConfigError(
            f"{path}, line {error.lineno}: [{error.section}] is there twice; make them one"
        ) from None
    except configparser.MissingSectionHeaderError as error:
        raise ConfigError(
            f"{path}, line {error.lineno}: stands in no section; put [agent] or [rules] before it"
        ) from None
    except configparser.ParsingError as error:
        raise ConfigError(
            f"{path}, line {error.errors[0][0]}: is not of the form 'key = value'"
        ) from None
    for section in parser.sections():
        if section not in _KEYS:
            raise ConfigError(
                f"{path}: unknown section [{section}].{nearest(section, _KEYS)} Known: {', '.join(_KEYS)}"
            )
    agent = _values(path, parser, "agent")
    for name in ("state", "data"):  # files are meant from where the settings lie
        if (name == "state" and name in agent) or str(agent.get(name, "")).endswith(
            ".npz"
        ):
            agent[name] = type(agent[name])(path.parent.absolute() / agent[name])
    rules = Rules(**_values(path, parser, "rules"))
    if (
        rules.hot_c is not None
        and rules.cool_c is not None
        and rules.cool_c >= rules.hot_c
    ):
        raise ConfigError(
            f"{path}: [rules] cool_c = {rules.cool_c:g} is not below hot_c = {rules.hot_c:g}"
        )
    if rules.memory_low_mb > rules.memory_mb:
        raise ConfigError(
            f"{path}: [rules] memory_low_mb = {rules.memory_low_mb:g} is above memory_mb = {rules.memory_mb:g}"
        )
    return Found(agent, rules)


def _values(
    path: Path, parser: configparser.ConfigParser, section: str
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    keys = _KEYS[section]
    for key, text in parser.items(section) if parser.has_section(section) else ():
        if key not in keys:
            raise ConfigError(
                f"{path}: [{section}] has no key '{key}'.{nearest(key, keys)} It has: {', '.join(keys)}"
            )
        try:
            found[key] = keys[key](text)
        except _Wrong as error:
            raise ConfigError(
                f"{path}: [{section}] {key} = {text!r} is not {error}"
            ) from None
    return found


def _text(text: str) -> str:
    if not text:
        raise _Wrong("a text; give one, or remove the line")
    return text


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in re.split(r"[,\n]", text) if part.strip())


def _whole(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise _Wrong("a whole number from 0")
    return int(text)


def _yes(text: str) -> bool:
    if text not in ("yes", "no"):
        raise _Wrong("yes or no")
    return text == "yes"


def _between(least: float, most: float, unit: str) -> Callable[[str], float]:
    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise _Wrong(
                f"a number of {unit} from {least:g} to {most:g}, without its unit"
            )
        return value

    return number


def _hours(text: str) -> tuple[Span, ...]:
    spans = []
    for part in _list(text):
        told = re.fullmatch(
            r"([01]?[0-9]|2[0-3]):([0-5][0-9])\s*-\s*([01]?[0-9]|2[0-4]):([0-5][0-9])",
            part,
        )
        start, end = (
            (int(told[1]) * 60 + int(told[2]), int(told[3]) * 60 + int(told[4]))
            if told
            else (0, 0)
        )
        if start == end or end > 24 * 60:
            raise _Wrong("a list of times such as 22:00-06:00")
        spans.append(Span(start, end % (24 * 60)))
    return tuple(spans)


_KEYS: Mapping[str, Mapping[str, Callable[[str], Any]]] = {
    "agent": {
        "coordinator": _text,
        "client": _whole,
        "state": lambda text: Path(_text(text)),
        "data": _text,
        "allow": lambda text: list(_list(text)),
        "epochs": _whole,
        "steps": _whole,
        "megabytes": _whole,
        "insecure": _yes,
    },
    "rules": {
        "hot_c": _between(30, 120, "°C"),
        "cool_c": _between(20, 120, "°C"),
        "pause_s": _between(0, 86400, "seconds"),
        "battery_percent": _between(0, 100, "percent"),
        "least_watts": _between(0, 1000, "watts"),
        "memory_mb": _between(0, 1 << 20, "megabytes"),
        "memory_low_mb": _between(0, 1 << 20, "megabytes"),
        "metered": _yes,
        "metered_links": _list,
        "hours": _hours,
    },
}
