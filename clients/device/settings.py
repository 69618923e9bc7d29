"""The agent's settings file, `/etc/fedlearn/agent.ini`.

It is read strictly: a rule that is misspelt is an error, and not no rule. It is INI, because an
agent has Python 3.10, which reads no TOML, and a person who writes rules for a device wants
comments.
"""

from __future__ import annotations

import configparser
import math
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedlearn.clients.device.rules import Rules, Span
from fedlearn.errors import ConfigError
from fedlearn.names import nearest

# Where the unit's LoadCredential looks, so only root needs to read it.
PLACE = Path("/etc/fedlearn/agent.ini")

# All keys with their defaults or an example: what `fedlearn agent install` writes.
TEMPLATE = """\
# Settings of fedlearn agent. A line without '#' counts; an option of the command line counts more.

[agent]
# coordinator = 192.0.2.1:9000     # HOST:PORT
# client = 3                       # default: as the certificate says
# state = /var/lib/fedlearn        # key, certificate, models, answers
# data = auto                      # auto, a FILE.npz with x and y, or my_pkg:load
# allow = my_pkg, other_pkg:load   # modules whose models and loaders may be named; or one name
# apps = my_app, other.client:app  # installed Flower apps that may run here: packages; or one name
# app_s = 3600                     # seconds that an app may take for one message; 0: any
# epochs = 0                       # most of a plan that are done; 0: no limit
# steps = 0
# megabytes = 1024                 # most of all tasks and answers together
# insecure = no                    # yes: without TLS
# diagnose = yes                   # no: a fleet's coordinator may not ask what the doctor finds

# [node_config]                    # what an app of Flower finds in context.node_config
# data-path = "/srv/my data"       # a text; quotes only for what looks like a number or true

# [releases]                       # with this section, releases of a fleet are installed
# accept = watch-lstm              # names of the packages that are taken
# keys = release.pem               # public release keys: who may define what runs here
# device = jetson                  # this device's class, for packages that name theirs
# watch_s = 600                    # a release serves so long on trial
# ready_s = 60                     # and begins to within so long
# starts = 3                       # how often it may be started again meanwhile
# megabytes = 1024                 # most of a release's files that travel
# memory_mb = 0                    # most that a trial run may take; 0: any
# serve = --port 8000              # arguments of fedlearn infer; default: another program serves
# shadow = 0.05                    # on trial, the model before answers this share too; 0: none
# disagreement = 0.5               # most of these answers that may differ; a package may say less
# probe = probe.npz                # samples x and labels y of your own, which a release is tried on
# probe_accuracy = 0.8             # and has to label so well before it serves
# functions = no                   # yes: releases may have steps before and after the model

[rules]
# hot_c = 85                       # no work from here on; default: 10 below the throttling point
# cool_c = 75                      # work again below; default: 10 less than hot_c
# pause_s = 300                    # work waits this long to cool down, then it ends; 0: at once
# battery_percent = 50             # on battery, no work below; 0: always, 100: never on battery
# least_watts = 0                  # no work in power modes (nvpmodel) of less
# memory_mb = 512                  # must be free before work begins
# memory_low_mb = 64               # work ends when less is free
# metered = no                     # yes: work over mobile networks and metered links too
# metered_links = usb*, wlan1      # links that are metered, besides modems
# hours = 22:00-06:00, 12:00-13:00 # work only then, in the device's own time; default: always
"""

# "22:00-06:00".
_SPAN = re.compile(
    r"([01]?[0-9]|2[0-3]):([0-5][0-9])\s*-\s*([01]?[0-9]|2[0-4]):([0-5][0-9])"
)

_DAY_MINUTES = 24 * 60


@dataclass(frozen=True)
class SettingsFile:
    """What a file says.

    agent: only what the file gives, by the names of the options of `fedlearn agent`.
    releases: likewise, by the keys of the section; None: there is no such section.
    node_config: what apps of Flower find in ``context.node_config``.
    """

    agent: Mapping[str, Any] = field(default_factory=dict)
    rules: Rules = field(default_factory=Rules)
    releases: Mapping[str, Any] | None = None
    node_config: Mapping[str, Any] = field(default_factory=dict)


class _Wrong(Exception):
    """A value is not what its key takes; the text says what it takes."""


def read(path: Path) -> SettingsFile:
    """Return what a settings file says; raises ConfigError naming file, section, key and fix."""
    parser = configparser.ConfigParser(
        # A % in a value is a %, and names no other key.
        interpolation=None,
        delimiters=("=",),
        inline_comment_prefixes=("#",),
        # No section may hold defaults for the others.
        default_section="\0",
        empty_lines_in_values=False,
    )
    # The documented way to keep capitals, which are wrong here.
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    _parse(parser, path)
    for section in parser.sections():
        sections = (*_KEYS, _NODE_CONFIG)
        if section not in sections:
            raise ConfigError(
                f"{path}: unknown section [{section}].{nearest(section, sections)} "
                f"Known: {', '.join(sections)}"
            )
    agent = _values(path, parser, "agent")
    _make_absolute(agent, path.parent.absolute())
    rules = Rules(**_values(path, parser, "rules"))
    _check(rules, path)
    node_config = _node_config(path, parser)
    return SettingsFile(agent, rules, _releases(path, parser), node_config)


def _parse(parser: configparser.ConfigParser, path: Path) -> None:
    """Have a file parsed; raises ConfigError."""
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
        return
    except OSError as error:
        fault = f"cannot read the settings '{path}': {error.strerror or error}"
    except UnicodeDecodeError:
        fault = f"{path} is no text in UTF-8"
    except configparser.DuplicateOptionError as error:
        words = f"[{error.section}] has {error.option} twice; keep one"
        fault = f"{path}, line {error.lineno}: {words}"
    except configparser.DuplicateSectionError as error:
        words = f"[{error.section}] is there twice; make them one"
        fault = f"{path}, line {error.lineno}: {words}"
    except configparser.MissingSectionHeaderError as error:
        words = "stands in no section; put [agent] or [rules] before it"
        fault = f"{path}, line {error.lineno}: {words}"
    except configparser.ParsingError as error:
        words = "is not of the form 'key = value'"
        fault = f"{path}, line {error.errors[0][0]}: {words}"
    raise ConfigError(fault)


def _make_absolute(agent: dict[str, Any], folder: Path) -> None:
    """Read the paths among an agent's values from the folder that the settings lie in."""
    # The agent's working directory is systemd's choice, and not the file's place.
    if "state" in agent:
        agent["state"] = folder / agent["state"]
    # Other data are "auto" or an import path.
    if str(agent.get("data", "")).endswith(".npz"):
        agent["data"] = str(folder / agent["data"])


def _check(rules: Rules, path: Path) -> None:
    """Raise ConfigError for rules that contradict each other."""
    hot_c = rules.hot_c
    cool_c = rules.cool_c
    if hot_c is not None and cool_c is not None and cool_c >= hot_c:
        raise ConfigError(
            f"{path}: [rules] cool_c = {cool_c:g} is not below hot_c = {hot_c:g}"
        )
    if rules.memory_low_mb > rules.memory_mb:
        raise ConfigError(
            f"{path}: [rules] memory_low_mb = {rules.memory_low_mb:g} "
            f"is above memory_mb = {rules.memory_mb:g}"
        )


def _values(
    path: Path, parser: configparser.ConfigParser, section: str
) -> dict[str, Any]:
    """Return the values of a section; raises ConfigError for an unknown key or a wrong value."""
    values: dict[str, Any] = {}
    if not parser.has_section(section):
        return values
    keys = _KEYS[section]
    for key, text in parser.items(section):
        if key not in keys:
            raise ConfigError(
                f"{path}: [{section}] has no key '{key}'.{nearest(key, keys)} "
                f"It has: {', '.join(keys)}"
            )
        try:
            values[key] = keys[key](text)
        except _Wrong as error:
            raise ConfigError(
                f"{path}: [{section}] {key} = {text!r} is not {error}"
            ) from None
    return values


def _node_config(
    path: Path, parser: configparser.ConfigParser
) -> dict[str, bool | int | float | str]:
    """Return the owner's keys for apps; raises ConfigError for a value without its end."""
    config: dict[str, bool | int | float | str] = {}
    if not parser.has_section(_NODE_CONFIG):
        return config
    for key, text in parser.items(_NODE_CONFIG):
        try:
            config[key] = _plain_value(text)
        except _Wrong as error:
            raise ConfigError(
                f"{path}: [{_NODE_CONFIG}] {key} = {text} is not {error}"
            ) from None
    return config


def _plain_value(text: str) -> bool | int | float | str:
    """Return a truth value, a number or a text, as TOML writes them; a text needs no quotes."""
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        return int(text)
    # Not "nan" or "inf", which are texts to most.
    if re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?", text):
        return float(text)
    # For a text that looks like one of the others.
    if text[:1] in ('"', "'"):
        if len(text) < 2 or text[-1] != text[0] or text[0] in text[1:-1]:
            raise _Wrong("a text whose quotes are closed")
        return text[1:-1]
    return text


def _releases(
    path: Path, parser: configparser.ConfigParser
) -> Mapping[str, Any] | None:
    """Return the section of releases; raises ConfigError for one that accepts nothing."""
    if not parser.has_section("releases"):
        return None
    values = _values(path, parser, "releases")
    # Both are the owner's key of three: without them nothing could ever be installed.
    for key in ("accept", "keys"):
        if not values.get(key):
            raise ConfigError(
                f"{path}: [releases] needs {key}; see fedlearn agent install"
            )
    folder = path.parent.absolute()
    values["keys"] = tuple(folder / key for key in values["keys"])
    if ("probe" in values) != ("probe_accuracy" in values):
        raise ConfigError(
            f"{path}: [releases] needs both of probe and probe_accuracy, or none"
        )
    if "probe" in values:
        values["probe"] = folder / values["probe"]
    return values


def _words(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError:
        raise _Wrong("a list of arguments, whose quotes are closed") from None


def _text(text: str) -> str:
    if not text:
        raise _Wrong("a text; give one, or remove the line")
    return text


def _list(text: str) -> tuple[str, ...]:
    parts = [part.strip() for part in re.split(r"[,\n]", text)]
    return tuple(part for part in parts if part)


def _whole(text: str) -> int:
    # Nine digits at most: int() takes long for millions of them.
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise _Wrong("a whole number from 0")
    return int(text)


def _yes(text: str) -> bool:
    if text not in ("yes", "no"):
        raise _Wrong("yes or no")
    return text == "yes"


def _share(text: str) -> float:
    try:
        return _between(0, 1, "")(text)
    except _Wrong:
        raise _Wrong("a share from 0 to 1, such as 0.05") from None


def _between(low: float, high: float, unit: str) -> Callable[[str], float]:
    """Return what reads a number from a range."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            # NaN fails every comparison, so it needs no branch of its own.
            value = math.nan
        # NaN lies in no range.
        if not low <= value <= high:
            raise _Wrong(
                f"a number of {unit} from {low:g} to {high:g}, without its unit"
            )
        return value

    return number


def _hours(text: str) -> tuple[Span, ...]:
    return tuple(_span(part) for part in _list(text))


def _span(text: str) -> Span:
    parts = _SPAN.fullmatch(text)
    if parts is not None:
        hour, minute, end_hour, end_minute = (int(part) for part in parts.groups())
        start = hour * 60 + minute
        # 24:00 is a way to write midnight; 24:30 is no time.
        end = end_hour * 60 + end_minute
        # A span that begins and ends together could mean the whole day, or nothing.
        if start != end and end <= _DAY_MINUTES:
            return Span(start, end % _DAY_MINUTES)
    raise _Wrong("a list of times such as 22:00-06:00")


# A section whose keys are the owner's.
_NODE_CONFIG = "node_config"

# Below the functions that it names.
_KEYS: Mapping[str, Mapping[str, Callable[[str], Any]]] = {
    "agent": {
        "coordinator": _text,
        "client": _whole,
        "state": lambda text: Path(_text(text)),
        "data": _text,
        "allow": lambda text: list(_list(text)),
        "apps": lambda text: list(_list(text)),
        "app_s": _between(0, 30 * 86400, "seconds"),
        "epochs": _whole,
        "steps": _whole,
        "megabytes": _whole,
        "insecure": _yes,
        "diagnose": _yes,
    },
    "releases": {
        "accept": _list,
        "keys": _list,
        "device": _text,
        "watch_s": _between(1, 30 * 86400, "seconds"),
        "ready_s": _between(1, 86400, "seconds"),
        "starts": _whole,
        "megabytes": _whole,
        "memory_mb": _whole,
        "serve": _words,
        "shadow": _share,
        "disagreement": _share,
        "probe": _text,
        "probe_accuracy": _share,
        "functions": _yes,
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
