"""The command ``fedlearn doctor``: whether this device can work, and what to mend."""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlearn.commands.arguments import Parser, ended
from fedlearn.errors import ConfigError
from fedlearn.text import printable

if TYPE_CHECKING:
    from fedlearn.clients.device.findings import Finding
    from fedlearn.exchange.findings import DeviceFinding
    from fedlearn.release.diagnosis import DeviceState

# The exit code when something does not work: 2 and above are the commands' own errors.
FAILED = 1

# Columns of the output, and of the margin before its text.
WIDTH = 110
MARGIN = 20

# Of --wait-s: an hour.
LONGEST_WAIT_S = 3600.0

# What --json gives of a finding; programs read these names.
KEYS = ("name", "state", "text", "fix", "figures")


@dataclass(frozen=True)
class Subject:
    """What is looked at: by the arguments, else by the settings, else by default."""

    state: Path
    coordinator: str | None
    insecure: bool


def parser() -> Parser:
    """Return the command's arguments."""
    parser = Parser(
        prog="fedlearn doctor",
        description="Look at this device, its torch, its certificate and its way to the "
        "coordinator, and say what to mend; or have the devices of a fleet look at "
        "themselves.",
        epilog="exit codes: 0 all is well, 1 something does not work, 2 wrong "
        "arguments. What is not given is taken from --settings",
    )
    parser.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="where the agent attends; without it the way there is not looked at",
    )
    parser.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        help="the agent's folder (default: agent; where there is none, the service's)",
    )
    parser.add_argument(
        "--settings",
        type=Path,
        metavar="FILE",
        help="the agent's settings (default: /etc/fedlearn/agent.ini, if it is there)",
    )
    parser.add_argument(
        "--insecure", action="store_true", help="the coordinator is one without TLS"
    )
    parser.add_argument(
        "--stream",
        type=Path,
        metavar="DIR",
        help="look at a stream of `fedlearn infer`, by its --state, and at its outbox",
    )
    parser.add_argument(
        "--no-torch",
        action="store_true",
        help="do not load torch, which takes time and memory",
    )
    _add_fleet(parser)
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object, for programs"
    )
    return parser


def _add_fleet(parser: Parser) -> None:
    group = parser.add_argument_group(
        "of a fleet, where its coordinator runs: ask its devices instead"
    )
    group.add_argument("--fleet", type=Path, metavar="DIR", help="the fleet's folder")
    group.add_argument(
        "--device",
        type=int,
        action="append",
        default=[],
        metavar="N",
        help="this one; may be repeated (default: all that have ever attended)",
    )
    group.add_argument(
        "--wait-s",
        type=float,
        default=30.0,
        metavar="S",
        help="for the answers of devices that attend (default: 30)",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    # Set before grpc is imported, whose own log would repeat our lines.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    if arguments.fleet is not None:
        return _ask_fleet(arguments)
    if arguments.device:
        raise ConfigError("--device names devices of a fleet; add --fleet DIR")
    from fedlearn.clients.agent.identity import check_address
    from fedlearn.clients.device.findings import FAILS

    # A mistyped address is the user's mistake, not a finding.
    if arguments.coordinator:
        check_address(arguments.coordinator)
    findings = []
    for finding in examine(arguments):
        findings.append(finding)
        # One by one: some checks take their time.
        if not arguments.json:
            print(line(finding), flush=True)
    failed = sum(finding.state == FAILS for finding in findings)
    if arguments.json:
        checks = [{key: getattr(f, key) for key in KEYS} for f in findings]
        print(json.dumps({"ok": not failed, "checks": checks}))
    elif failed:
        print(f"{failed} of {len(findings)} checks fail")
    else:
        print("all is well")
    return FAILED if failed else 0


def _ask_fleet(arguments: argparse.Namespace) -> int:
    """Print what the doctors of a fleet's devices find."""
    from fedlearn.commands.fleet_text import away_text
    from fedlearn.release.diagnosis import diagnose

    if not 0 <= arguments.wait_s <= LONGEST_WAIT_S:
        raise ConfigError(
            f"--wait-s {arguments.wait_s:g}: from 0 to {LONGEST_WAIT_S:g}"
        )
    states = diagnose(arguments.fleet, arguments.device, arguments.wait_s)
    is_well = all(state.is_well for state in states)
    if arguments.json:
        devices = [state_value(state) for state in states]
        print(json.dumps({"ok": is_well, "devices": devices}))
        return 0 if is_well else FAILED
    for state in states:
        attendance = away_text(state.entry.since_s)
        if state.entry.attending:
            attendance = "attends"
        print(f"device {state.device}: {attendance}{_age_text(state)}")
        for finding in state.findings:
            print(line(finding))
    failed = sum(not state.is_well for state in states)
    print(
        "all is well"
        if is_well
        else f"{failed} of {len(states)} devices are not well, or did not answer"
    )
    return 0 if is_well else FAILED


def _age_text(state: DeviceState) -> str:
    """Return how old a device's findings are, where it did not answer now."""
    if state.is_new:
        return ""
    if state.diagnosis is None:
        return ", and has never said how it is"
    moment = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(state.diagnosis.time_s))
    return f"; it did not answer, and said this on {moment}"


def state_value(state: DeviceState) -> dict[str, Any]:
    """Return what a device said as plain values, for programs."""
    time_s = None if state.diagnosis is None else state.diagnosis.time_s
    return {
        "device": state.device,
        "attending": state.entry.attending,
        "since": state.entry.since_s,
        "answered": state.is_new,
        "time": time_s,
        "checks": [asdict(finding) for finding in state.findings],
    }


def examine(arguments: argparse.Namespace) -> Iterator[Finding]:
    """Yield one finding after another, those of the device first."""
    from fedlearn.clients.device import board, checks, readings, torch_check

    facts = board.facts()
    yield _board(facts)
    yield checks.python()
    if not arguments.no_torch:
        yield torch_check.torch(board.l4t() is not None)
    yield checks.memory(readings.free_bytes(), int(facts.get("memory_mb", 0)))
    finding, settings = _read_settings(arguments)
    if finding is not None:
        yield finding
    subject = _subject(arguments, settings)
    yield checks.disk(subject.state)
    if arguments.stream:
        from fedlearn.clients.infer import outbox_check

        yield outbox_check.check(arguments.stream)
    yield from _connection(subject)


def _connection(subject: Subject) -> Iterator[Finding]:
    """Yield the findings about certificate, clock and the way to the coordinator."""
    import fedlearn
    from fedlearn.clients.device import checks
    from fedlearn.clients.device.findings import SKIPPED, Finding

    now = time.time()
    # The clock cannot be right if it is before a moment that has been.
    past = Path(fedlearn.__file__).stat().st_mtime
    identity = None
    if not subject.insecure:
        finding, identity = checks.certificate(subject.state, now)
        yield finding
        if identity is not None:
            past = max(past, identity.since)
    clock = checks.clock(now, past)
    if subject.coordinator:
        from fedlearn.clients.device.reach import reach

        findings = reach(subject.coordinator, identity, subject.insecure)
        yield from findings
        # Its certificate tells more of the time than our files do.
        if any(finding.name == "clock" for finding in findings):
            clock = None
    else:
        yield Finding(
            "coordinator", SKIPPED, "not looked at: give --coordinator HOST:PORT"
        )
    if clock:
        yield clock


def _board(facts: Mapping[str, Any]) -> Finding:
    from fedlearn.clients.device.findings import NOTE, WELL, Finding

    words = [str(facts[key]) for key in ("board", "os") if key in facts]
    if not words:
        words = [str(facts["machine"])]
    if "l4t" in facts:
        jetpack = facts.get("jetpack", "?")
        words.append(f"JetPack {jetpack} (Jetson Linux {facts['l4t']})")
    if "power_mode" in facts:
        words.append(f"power mode {facts['power_mode']}")
    if "temperature_c" in facts:
        words.append(f"{facts['temperature_c']} °C")
    text = ", ".join(words)
    # JetPack 4 and 5 come with Python 3.6 and 3.8.
    if str(facts.get("jetpack", "6")).split(".")[0] in ("4", "5"):
        fix = (
            "the agent needs Python 3.10 or newer: install JetPack 6, or use a container "
            "(docs/jetson.md)"
        )
        return Finding("board", NOTE, text, fix, facts)
    return Finding("board", WELL, text, figures=facts)


def _read_settings(
    arguments: argparse.Namespace,
) -> tuple[Finding | None, Mapping[str, Any]]:
    """Return the finding about the settings file, None without one, and what it gives."""
    from fedlearn.clients.device import settings
    from fedlearn.clients.device.findings import FAILS, NOTE, WELL, Finding
    from fedlearn.clients.device.guest import Guest

    path = arguments.settings
    # Only root may read the installed settings; for anybody else they are as absent.
    if path is None and os.access(settings.PLACE, os.R_OK):
        path = settings.PLACE
    if path is None:
        return None, {}
    try:
        file = settings.read(path)
    except ConfigError as error:
        # A broken file is one finding more; the checks that follow are made all the
        # same.
        return Finding("settings", FAILS, str(error), f"edit {path}"), {}
    text = f"'{path}' is right"
    reason = Guest(file.rules).ask()
    if reason:
        finding = Finding(
            "settings",
            NOTE,
            f"{text}; by its rules no work is taken now: {reason}",
            "wait, or change [rules]",
        )
    else:
        finding = Finding("settings", WELL, f"{text}; its rules allow work now")
    return finding, file.agent


def _subject(arguments: argparse.Namespace, settings: Mapping[str, Any]) -> Subject:
    return Subject(
        arguments.state or settings.get("state") or _default_state(),
        arguments.coordinator or settings.get("coordinator"),
        arguments.insecure or settings.get("insecure", False),
    )


def _default_state() -> Path:
    """Return the service's folder where it alone is there, else the agent's."""
    from fedlearn.clients.device.unit import STATE

    if STATE.is_dir() and not Path("agent").is_dir():
        return STATE
    return Path("agent")


def line(finding: Finding | DeviceFinding) -> str:
    """Return a finding for people: its state, name and text, and below what to do."""
    text = _wrapped(f"{finding.state:<6}{finding.name:<13} ", finding.text)
    if not finding.fix:
        return text
    arrow = " " * (MARGIN - 3) + "-> "
    return f"{text}\n{_wrapped(arrow, finding.fix)}"


def _wrapped(head: str, text: str) -> str:
    # Paths and commands are to be copied, so they are not broken.
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
