"""``fedlearn agent install``: run the agent as a systemd service, with its own user, from the next moment and at every start."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from fedlearn.commands.arguments import Parser, ended
from fedlearn.errors import RecordError, RunError, UserError

START_S = 150.0
"""Longer than the unit's TimeoutStartSec."""

HOMES = ("/home", "/root", "/run/user")

EPILOG = """exit codes: 0 done, 2 wrong input, 3 the service does not start or a file cannot be written.
Files: /etc/systemd/system/fedlearn-agent.service, /etc/fedlearn/agent.ini, /etc/sysusers.d/fedlearn.conf; state: /var/lib/fedlearn.
Again with other options changes what is there; to remove it: systemctl disable --now fedlearn-agent, and delete these files"""


def parser() -> Parser:
    """Return the command's arguments."""
    made = Parser(
        prog="fedlearn agent install",
        description="Run the agent as a systemd service. Needs root.",
        epilog=EPILOG,
    )
    made.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="where the coordinator listens; goes into the settings",
    )
    made.add_argument(
        "--data",
        metavar="DATA",
        help="auto, FILE.npz with x and y, or my_pkg:load; goes into the settings",
    )
    made.add_argument(
        "--settings",
        type=Path,
        metavar="FILE",
        help="settings to take over (default: those that are there, or a template)",
    )
    made.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        help="where 'fedlearn enroll' put the identity; it moves to /var/lib/fedlearn",
    )
    made.add_argument(
        "--user",
        default="fedlearn",
        metavar="NAME",
        help="the user that the agent runs as (default: fedlearn)",
    )
    made.add_argument(
        "--no-start",
        action="store_true",
        help="install, and start it at the next start of the device only",
    )
    made.add_argument(
        "--root",
        type=Path,
        metavar="DIR",
        help="write the files for another system below this folder, e.g. an image",
    )
    made.add_argument(
        "--print", action="store_true", help="print the files, and change nothing"
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    given = parser().parse_args(argv)
    return ended(lambda: _run(given))


def _run(given: argparse.Namespace) -> None:
    from fedlearn.clients.device.settings import PLACE
    from fedlearn.clients.device.unit import NAME, STATE, sysusers, unit

    root = given.root or Path("/")
    if not given.print:
        _check_system(given)
    settings = _settings(given, root)
    data = _checked(settings, given, root)
    read = [Path(sys.executable).absolute(), _package(), *data]
    if not (given.print or given.root):
        _check_readable(read[:2], given.user)
    home = any(
        str(path.resolve()).startswith(HOMES) or str(path).startswith(HOMES)
        for path in read
    )
    files = {
        Path("/etc/sysusers.d/fedlearn.conf"): (sysusers(given.user), 0o644),
        PLACE: (settings, 0o600),
        Path("/etc/systemd/system") / NAME: (
            unit(read[0], given.user, 0 if given.root else _systemd(), home),
            0o644,
        ),
    }
    if given.print:
        for path, (text, _) in files.items():
            print(f"# {path}\n{text}")
        return
    for path, (text, mode) in files.items():
        _write(root / path.relative_to("/"), text.encode(), mode)
        print(f"written: {root / path.relative_to('/')}")
    if given.state:
        _move(given.state, root / STATE.relative_to("/"))
    if given.root:
        _enable(root, NAME)
        print(
            f"the agent starts with the system in '{root}'; an identity belongs in its {STATE}: fedlearn enroll --state {STATE}"
        )
        return
    _call("systemd-sysusers", "/etc/sysusers.d/fedlearn.conf")
    _call("systemctl", "daemon-reload")
    _call("systemctl", "enable", NAME)
    if given.no_start:
        print(f"it starts with the device; now: sudo systemctl start {NAME}")
        return
    _call(
        "systemctl",
        "restart",
        NAME,
        fix=f"see what it says: sudo journalctl -u {NAME} -n 20, and: sudo fedlearn doctor",
    )
    print(f"the agent runs; watch it: systemctl status {NAME}, journalctl -fu {NAME}")


def _check_system(given: argparse.Namespace) -> None:
    """Raise UserError where a service cannot be installed."""
    if given.root is not None:
        if not given.root.is_dir():
            raise UserError(f"--root: there is no folder '{given.root}'")
    elif not Path("/run/systemd/system").is_dir():  # as sd_booted(3)
        raise UserError(
            "systemd does not run here (a container?); start 'fedlearn agent' by what starts programs here, or give --print or --root DIR"
        )
    elif os.geteuid() != 0:
        raise UserError(
            f"only root can install a service: sudo {sys.executable} -m fedlearn agent install …"
        )


def _settings(given: argparse.Namespace, root: Path) -> str:
    """Return the settings' text: the file that is given, or the one that is there, or a template, with the options set."""
    from fedlearn.clients.agent.identity import check_address
    from fedlearn.clients.device.settings import PLACE, TEMPLATE, read
    from fedlearn.clients.device.unit import with_values

    values = {}
    source = given.settings or root / PLACE.relative_to("/")
    try:
        text = source.read_text() if given.settings or source.exists() else TEMPLATE
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--settings '{source}': {getattr(error, 'strerror', None) or error}"
        ) from None
    if given.settings and str(read(source).agent.get("data", "")).endswith(".npz"):
        values["data"] = str(
            read(source).agent["data"]
        )  # a path that starts from where the file is now
    if given.coordinator:
        check_address(given.coordinator)
        values["coordinator"] = given.coordinator
    if given.data:
        values["data"] = (
            str(Path(given.data).absolute())
            if given.data.endswith(".npz")
            else given.data
        )
    return with_values(text, values)


def _checked(text: str, given: argparse.Namespace, root: Path) -> list[Path]:
    """Return the files that the agent is to read, after the checks of the settings; raises UserError."""
    from fedlearn.clients.agent.identity import check_address, read_identity
    from fedlearn.clients.device.settings import PLACE, read
    from fedlearn.clients.device.unit import STATE

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PLACE.name
        path.write_text(text)
        found = read(path).agent
    if "coordinator" not in found:
        raise UserError(
            "where is the coordinator? Give --coordinator HOST:PORT, or the key in --settings"
        )
    check_address(found["coordinator"])
    state = given.state or root / STATE.relative_to("/")
    if not (given.print or given.root or found.get("insecure") or read_identity(state)):
        enrol = "fedlearn enroll --coordinator HOST:PORT --token T"
        raise UserError(
            f"there is no identity in '{state}'; first: {enrol} --state {STATE}, or tell with --state where it is"
        )
    data = Path(str(found.get("data", "")))
    if data.suffix != ".npz":
        return []
    if data.is_relative_to("/tmp"):
        raise UserError(
            f"the data '{data}' is in /tmp, which the service has for itself; put it elsewhere, e.g. in /srv/fedlearn"
        )
    if not (given.print or given.root or data.is_file()):
        raise UserError(f"there is no file '{data}' with the data")
    return [data]


def _package() -> Path:
    import fedlearn

    return Path(fedlearn.__file__).absolute()


def _check_readable(paths: Iterable[Path], user: str) -> None:
    """Raise UserError where the service's user could not read what it has to run."""
    torch = find_spec("torch")
    origin = Path(torch.origin) if torch and torch.origin else None
    private = Path(site.getusersitepackages())
    advice = (
        "install it where every user can read: sudo python3 -m venv --system-site-packages /opt/fedlearn && "
        "sudo /opt/fedlearn/bin/pip install fedlearn, then sudo /opt/fedlearn/bin/fedlearn agent install …"
    )
    for path in [*paths, *([origin] if origin else [])]:
        if private in path.parents:
            what = "torch" if path == origin else "fedlearn"
            raise UserError(
                f"{what} is installed for one user only, in '{private}', where {user} does not look; {advice}"
            )
        for part in (path, *path.parents, path.resolve(), *path.resolve().parents):
            if not part.stat().st_mode & (0o001 if part.is_dir() else 0o004):
                raise UserError(
                    f"user {user} cannot read '{path}' ('{part}' is closed to others); {advice}"
                )


def _write(path: Path, data: bytes, mode: int) -> None:
    from fedlearn.system.files import replace

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, data, mode)
        path.chmod(mode)  # whatever the umask
    except OSError as error:
        raise RecordError(
            f"cannot write '{path}': {error.strerror or error}"
        ) from error


def _move(source: Path, state: Path) -> None:
    """Move the identity to where the service looks for it; a key in two places would be two agents. systemd makes it its user's."""
    from fedlearn.clients.agent.identity import read_identity

    found, there = read_identity(source), read_identity(state)
    if (
        found is None
        or source.absolute() == state.absolute()
        or (state.exists() and source.resolve() == state.resolve())
    ):
        return
    if there is not None and there.client != found.client:
        raise UserError(
            f"'{state}' belongs to client {there.client}, '{source}' to client {found.client}; move one away"
        )
    _write(state / "identity.json", (source / "identity.json").read_bytes(), 0o600)
    (source / "identity.json").unlink()
    print(f"moved: the identity of client {found.client} to {state}")


def _enable(root: Path, name: str) -> None:
    """Do what `systemctl enable` does, for a system that does not run."""
    wants = root / "etc/systemd/system/multi-user.target.wants"
    try:
        wants.mkdir(parents=True, exist_ok=True)
        (wants / name).unlink(missing_ok=True)
        (wants / name).symlink_to(f"../{name}")
    except OSError as error:
        raise RecordError(
            f"cannot write '{error.filename or wants}': {error.strerror or error}"
        ) from error


def _systemd() -> int:
    """Return the version of systemd, 0 where it does not tell."""
    try:
        told = subprocess.run(
            ["systemctl", "--version"], capture_output=True, text=True, timeout=20
        ).stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return int(told[1]) if len(told) > 1 and told[1].isdecimal() else 0


def _call(*command: str, fix: str = "") -> None:
    if shutil.which(command[0]) is None:
        raise RunError(f"the command {command[0]} is missing; is this a whole systemd?")
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=START_S
        )
    except subprocess.TimeoutExpired:
        raise RunError(
            f"{shlex.join(command)} does not end; {fix or 'see journalctl -n 50'}"
        ) from None
    if done.returncode:
        raise RunError(
            f"{shlex.join(command)}: {done.stderr.strip()[:300] or f'code {done.returncode}'}; {fix or 'see journalctl -n 50'}"
        )


if __name__ == "__main__":
    sys.exit(main())
