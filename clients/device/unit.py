"""The files with which systemd runs an agent: the unit, its user, and the settings; as texts, nothing is written here."""

from __future__ import annotations

import re
from pathlib import Path

from fedlearn.clients.device.settings import PLACE
from fedlearn.errors import UserError

NAME = "fedlearn-agent.service"
STATE = Path("/var/lib/fedlearn")
TEMPLATE = Path(__file__).with_name("agent.service")

STEPS_SINCE = 254
"""The systemd that knows RestartSteps: JetPack 7 has it (255), JetPack 6 has not (249)."""

BACKOFF = "RestartSec=5\nRestartSteps=6\nRestartMaxDelaySec=300"
WITHOUT_STEPS = "RestartSec=30"

USER = """\
# The user of fedlearn agent; made by `fedlearn agent install`. The groups are those of a GPU's device files.
u {user} - "fedlearn agent" {state}
m {user} video
m {user} render
"""

_USER = re.compile(r"[a-z_][a-z0-9_-]{0,30}")


def unit(
    python: Path, user: str = "fedlearn", systemd: int = 0, home: bool = False
) -> str:
    """Return the unit's text.

    python: of the environment that fedlearn is installed in. systemd: its version, 0 where it is not known. home: whether
    the agent has to read below /home. Raises UserError for a path that a unit cannot name.
    """
    if (
        not python.is_absolute()
        or not str(python).isprintable()
        or set(str(python)) & set("\"'\\")
    ):
        raise UserError(
            f"{str(python)!r} cannot stand in a systemd unit; install fedlearn in a folder without quotes in its name"
        )
    command = f"{quoted(str(python))} -m fedlearn.agent --state {STATE} --settings ${{CREDENTIALS_DIRECTORY}}/settings"
    values = {
        "command": command,
        "settings": PLACE,
        "user": checked_user(user),
        "backoff": BACKOFF if systemd >= STEPS_SINCE else WITHOUT_STEPS,
        "home": "read-only" if home else "yes",
    }
    return TEMPLATE.read_text().format(**values)


def sysusers(user: str = "fedlearn") -> str:
    """Return what systemd-sysusers reads to make the user."""
    return USER.format(user=checked_user(user), state=STATE)


def checked_user(user: str) -> str:
    """Return a user's name; raises UserError for one that Linux would not take."""
    if not _USER.fullmatch(user) or user == "root":
        raise UserError(
            f"--user {user}: give a user of its own: lower-case letters, digits, - and _, and not root"
        )
    return user


def quoted(text: str) -> str:
    """Return a word of a command line as systemd reads it."""
    text = text.replace("%", "%%").replace("$", "$$")
    return f'"{text}"' if " " in text else text


def with_values(text: str, values: dict[str, str]) -> str:
    """Return a settings file's text with keys of [agent] set; all other lines stay. Raises UserError for a value it cannot hold."""
    for key, value in values.items():
        if not value.isprintable() or value != value.strip() or "#" in value:
            raise UserError(
                f"--{key} {value!r} cannot stand in a settings file: no #, no line break"
            )
    lines = text.splitlines()
    if "[agent]" not in [line.strip() for line in lines]:
        lines = ["[agent]", *lines]
    begin = (
        next(number for number, line in enumerate(lines) if line.strip() == "[agent]")
        + 1
    )
    for key, value in values.items():
        end = next(
            (n for n in range(begin, len(lines)) if lines[n].startswith("[")),
            len(lines),
        )
        for mark in (
            rf"{key}\s*=",
            rf"#\s*{key}\s*=",
        ):  # the line itself, or the comment that explains it
            found = next(
                (n for n in range(begin, end) if re.match(mark, lines[n])), None
            )
            if found is not None:
                lines[found] = f"{key} = {value}"
                break
        else:
            lines.insert(begin, f"{key} = {value}")
    return "\n".join(lines) + "\n"
