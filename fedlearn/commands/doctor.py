"""``fedlearn doctor``: whether this device can do the work of an agent, and what to do where it cannot."""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fedlearn.commands.arguments import Parser, ended
from fedlearn.errors import ConfigError
from fedlearn.text import printable

FAILED = 1
"""The exit code when something does not work."""

WIDTH = 110
MARGIN = 20  # columns before the text


def parser() -> Parser:
    """Return the command's arguments."""
    made = Parser(
        prog="fedlearn doctor",
        description="Look at this device, its torch, its certificate and its way to the coordinator, and say what to mend.",
        epilog="exit codes: 0 all is well, 1 something does not work, 2 wrong arguments. What is not given is taken from --settings",
    )
    made.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="where the agent attends; without it the way there is not looked at",
    )
    made.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        help="the agent's folder (default: agent; where there is none, the service's)",
    )
    made.add_argument(
        "--settings",
        type=Path,
        metavar="FILE",
        help="the agent's settings (default: /etc/fedlearn/agent.ini, if it is there)",
    )
    made.add_argument(
        "--insecure", action="store_true", help="the coordinator is one without TLS"
    )
    made.add_argument(
        "--no-torch",
        action="store_true",
        help="do not load torch, which takes time and memory",
    )
    made.add_argument(
        "--json", action="store_true", help="print one JSON object, for programs"
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    given = parser().parse_args(argv)
    return ended(lambda: _run(given))


def _run(given: argparse.Namespace) -> int:
    os.environ.setdefault(
        "GRPC_VERBOSITY", "NONE"
    )  # before grpc is imported: what goes wrong is told below
    from fedlearn.clients.agent.identity import check_address
    from fedlearn.clients.device.findings import FAILS

    if given.coordinator:
        check_address(given.coordinator)
    found = []
    for one in examine(given):
        found.append(one)
        if not given.json:
            print(line(one), flush=True)  # at once: some take their time
    failed = sum(one.state == FAILS for one in found)
    if given.json:
        keys = ("name", "state", "text", "fix", "figures")
        print(
            json.dumps(
                {
                    "ok": not failed,
                    "checks": [
                        {key: getattr(one, key) for key in keys} for one in found
                    ],
                }
            )
        )
    else:
        print(f"{failed} of {len(found)} checks fail" if failed else "all is well")
    return FAILED if failed else 0


def examine(given: argparse.Namespace) -> Iterator[Any]:
    """Yield one finding after another, those of the device first."""
    import fedlearn
    from fedlearn.clients.device import board, checks, readings, torch_check
    from fedlearn.clients.device.findings import SKIPPED, Finding

    facts = board.facts()
    jetson = board.l4t() is not None
    yield _board(facts)
    yield checks.python()
    if not given.no_torch:
        yield torch_check.torch(jetson)
    yield checks.memory(readings.free_bytes(), int(facts.get("memory_mb", 0)))
    settings, asked = _settings(given)
    yield from settings
    state, coordinator = asked["state"], asked["coordinator"]
    yield checks.disk(state)
    now, known, identity = time.time(), Path(fedlearn.__file__).stat().st_mtime, None
    if not asked["insecure"]:
        certificate, identity = checks.certificate(state, now)
        yield certificate
        known = max(known, identity.since) if identity else known
    wrong_clock = checks.clock(now, known)
    if coordinator:
        from fedlearn.clients.device.reach import reach

        way = reach(coordinator, identity, asked["insecure"])
        yield from way
        if any(one.name == "clock" for one in way):  # it knows better
            wrong_clock = None
    else:
        yield Finding(
            "coordinator", SKIPPED, "not looked at: give --coordinator HOST:PORT"
        )
    if wrong_clock:
        yield wrong_clock


def _board(facts: Any) -> Any:
    from fedlearn.clients.device.findings import NOTE, WELL, Finding

    words = [str(facts[key]) for key in ("board", "os") if key in facts] or [
        str(facts["machine"])
    ]
    if "l4t" in facts:
        words.append(
            f"JetPack {facts.get('jetpack', '?')} (Jetson Linux {facts['l4t']})"
        )
    for key, form in (("power_mode", "power mode {}"), ("temperature_c", "{} °C")):
        if key in facts:
            words.append(form.format(facts[key]))
    text = ", ".join(words)
    if str(facts.get("jetpack", "6")).split(".")[0] in ("4", "5"):
        fix = "the agent needs Python 3.10 or newer: install JetPack 6, or use a container (docs/jetson.md)"
        return Finding("board", NOTE, text, fix, facts)
    return Finding("board", WELL, text, figures=facts)


def _settings(given: argparse.Namespace) -> tuple[list[Any], dict[str, Any]]:
    """Return the findings about the settings file, and what is to be looked at: by the arguments, or else by the file."""
    from fedlearn.clients.device import settings
    from fedlearn.clients.device.findings import FAILS, NOTE, WELL, Finding
    from fedlearn.clients.device.guest import Guest
    from fedlearn.clients.device.unit import STATE

    path = given.settings or (
        settings.PLACE if os.access(settings.PLACE, os.R_OK) else None
    )
    told: dict[str, Any] = {}
    findings = []
    if path is not None:
        try:
            read = settings.read(path)
        except ConfigError as error:
            findings.append(Finding("settings", FAILS, str(error), f"edit {path}"))
        else:
            told = dict(read.agent)
            why = Guest(read.rules).ask()
            text = f"'{path}' is right"
            if why:
                findings.append(
                    Finding(
                        "settings",
                        NOTE,
                        f"{text}; by its rules no work is taken now: {why}",
                        "wait, or change [rules]",
                    )
                )
            else:
                findings.append(
                    Finding("settings", WELL, f"{text}; its rules allow work now")
                )
    return findings, {
        "state": given.state
        or told.get("state")
        or (STATE if STATE.is_dir() and not Path("agent").is_dir() else Path("agent")),
        "coordinator": given.coordinator or told.get("coordinator"),
        "insecure": given.insecure or told.get("insecure", False),
    }


def line(one: Any) -> str:
    """Return a finding for people: its state, name and text, and below what to do."""
    head = f"{one.state:<6}{one.name:<13} "
    text = _wrapped(head, one.text)
    return (
        text + "\n" + _wrapped(" " * (MARGIN - 3) + "-> ", one.fix) if one.fix else text
    )


def _wrapped(head: str, text: str) -> str:
    return textwrap.fill(
        printable(text),
        WIDTH,
        initial_indent=head,
        subsequent_indent=" " * MARGIN,
        break_long_words=False,
        break_on_hyphens=False,
    )


if __name__ == "__main__":
    sys.exit(main())
