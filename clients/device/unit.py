"""The files with which systemd runs an agent, as texts: the unit, its user, and the settings.

Nothing is written here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from fedlearn.clients.device.settings import PLACE
from fedlearn.errors import UserError

NAME = "fedlearn-agent.service"
STATE = Path("/var/lib/fedlearn")
TEMPLATE = Path(__file__).with_name("agent.service")

# The systemd that knows RestartSteps: JetPack 7 has it (255), JetPack 6 has not (249).
STEPS_SINCE = 254

BACKOFF = "RestartSec=5\nRestartSteps=6\nRestartMaxDelaySec=300"
WITHOUT_STEPS = "RestartSec=30"

USER = """\
# The user of fedlearn agent; made by `fedlearn agent install`. The groups are those of a GPU's
# device files.
u {user} - "fedlearn agent" {state}
m {user} video
m {user} render
"""

# The names that useradd(8) takes, without its final $.
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,30}")

_SECTION = "[agent]"


def unit(
    python: Path, user: str = "fedlearn", systemd: int = 0, home: bool = False
) -> str:
    """Return the unit's text.

    python: of the environment that fedlearn is installed in. systemd: its version, 0 where it
    is not known. home: whether the agent has to read below /home. Raises UserError for a path
    that a unit cannot name.
    """
    path = str(python)
    # Quotes and backslashes would need systemd's own escapes.
    if not python.is_absolute() or not path.isprintable() or set(path) & set("\"'\\"):
        raise UserError(
            f"{path!r} cannot stand in a systemd unit; "
            "install fedlearn in a folder without quotes in its name"
        )
    command = (
        # Isolated: nothing runs that somebody left in the working directory.
        f"{quoted(path)} -I -u -B -m fedlearn.agent --state {STATE} "
        "--settings ${CREDENTIALS_DIRECTORY}/settings"
    )
    values = {
        "command": command,
        "settings": PLACE,
        "user": checked_user(user),
        "backoff": BACKOFF if systemd >= STEPS_SINCE else WITHOUT_STEPS,
        "home": "read-only" if home else "yes",
    }
    return TEMPLATE.read_text().format(**values)


def sysusers(user: str = "fedlearn") -> str:
    """Return what systemd-sysusers reads to make the user; raises UserError."""
    return USER.format(user=checked_user(user), state=STATE)


def checked_user(user: str) -> str:
    """Return a user's name; raises UserError for one that Linux would not take."""
    # The agent runs code that an experiment names.
    if not _USER.fullmatch(user) or user == "root":
        raise UserError(
            f"--user {user}: give a user of its own: "
            "lower-case letters, digits, - and _, and not root"
        )
    return user


def quoted(text: str) -> str:
    """Return a word of a command line as systemd reads it."""
    # systemd replaces %x by specifiers and $X by variables.
    text = text.replace("%", "%%").replace("$", "$$")
    return f'"{text}"' if " " in text else text


def with_values(text: str, values: Mapping[str, str]) -> str:
    """Return a settings file's text with keys of [agent] set; all other lines stay.

    Raises UserError for a value that such a file cannot hold.
    """
    for key, value in values.items():
        if not value.isprintable() or value != value.strip() or "#" in value:
            raise UserError(
                f"--{key} {value!r} cannot stand in a settings file: "
                "no #, no line break"
            )
    lines = text.splitlines()
    # Compared without white space; the lines themselves stay as the owner wrote them.
    names = [line.strip() for line in lines]
    if _SECTION not in names:
        lines.insert(0, _SECTION)
        names.insert(0, _SECTION)
    begin = names.index(_SECTION) + 1
    for key, value in values.items():
        _set(lines, begin, key, value)
    return "\n".join(lines) + "\n"


def _set(lines: list[str], begin: int, key: str, value: str) -> None:
    """Set a key of the section whose lines begin at a number, in place.

    The key's own line is replaced, or else the comment that explains it.
    """
    end = begin
    while end < len(lines) and not lines[end].startswith("["):
        end += 1
    line = f"{key} = {value}"
    # A line that counts before a comment: the comment may stand above it.
    for pattern in (rf"{key}\s*=", rf"#\s*{key}\s*="):
        for number in range(begin, end):
            if re.match(pattern, lines[number]):
                lines[number] = line
                return
    lines.insert(begin, line)
