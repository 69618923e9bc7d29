"""``fedlearn agent install``: run the agent as a systemd service with its own user.

It runs from the next moment on, and at every start of the device.
"""

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
from typing import Any

from fedlearn.commands.arguments import Parser, ended
from fedlearn.errors import RecordError, RunError, UserError

# Longer than the unit's TimeoutStartSec.
START_S = 150.0

# Where systemd's ProtectHome hides files; the unit opens these where the agent reads.
HOMES = ("/home", "/root", "/run/user")

SYSUSERS = Path("/etc/sysusers.d/fedlearn.conf")
UNITS = Path("/etc/systemd/system")

ENROLL = "fedlearn enroll --coordinator HOST:PORT --token -"

INSTALL_ADVICE = (
    "install it where every user can read: sudo python3 -I -m venv --system-site-packages "
    "/opt/fedlearn && sudo /opt/fedlearn/bin/pip install fedlearn, then sudo "
    "/opt/fedlearn/bin/fedlearn agent install …"
)

EPILOG = (
    "exit codes: 0 done, 2 wrong input, 3 the service does not start or a file cannot be "
    "written. Files: /etc/systemd/system/fedlearn-agent.service, /etc/fedlearn/agent.ini, "
    "/etc/sysusers.d/fedlearn.conf; state: /var/lib/fedlearn. Again with other options "
    "changes what is there; to remove it: systemctl disable --now fedlearn-agent, and "
    "delete these files"
)


def parser() -> Parser:
    """Return the command's arguments."""
    parser = Parser(
        prog="fedlearn agent install",
        description="Run the agent as a systemd service. Needs root.",
        epilog=EPILOG,
    )
    _add_settings(parser)
    parser.add_argument(
        "--user",
        default="fedlearn",
        metavar="NAME",
        help="the user that the agent runs as (default: fedlearn)",
    )
    parser.add_argument(
        "--no-start",
        action="store_true",
        help="install, and start it at the next start of the device only",
    )
    parser.add_argument(
        "--root",
        type=Path,
        metavar="DIR",
        help="write the files for another system below this folder, e.g. an image",
    )
    parser.add_argument(
        "--print", action="store_true", help="print the files, and change nothing"
    )
    return parser


def _add_settings(parser: Parser) -> None:
    parser.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="where the coordinator listens; goes into the settings",
    )
    parser.add_argument(
        "--data",
        metavar="DATA",
        help="auto, FILE.npz with x and y, or my_pkg:load; goes into the settings",
    )
    parser.add_argument(
        "--settings",
        type=Path,
        metavar="FILE",
        help="settings to take over (default: those that are there, or a template)",
    )
    parser.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        help="where 'fedlearn enroll' put the identity; it moves to /var/lib/fedlearn",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    from fedlearn.clients.device.unit import STATE

    root = arguments.root or Path("/")
    # Nothing is written before everything is checked.
    files = _files(arguments, root)
    if arguments.print:
        for path, (text, _) in files.items():
            print(f"# {path}\n{text}")
        return
    for path, (text, mode) in files.items():
        place = _below(root, path, last=False)
        _write(place, text.encode(), mode)
        print(f"written: {place}")
    # After the files: what fails before leaves the identity where it was.
    if arguments.state:
        _move(arguments.state, _below(root, STATE))
    if arguments.root:
        _enable_below(root)
    else:
        _start(arguments.no_start)


def _files(arguments: argparse.Namespace, root: Path) -> dict[Path, tuple[str, int]]:
    """Return what is to be written: path → (text, mode); raises UserError."""
    from fedlearn.clients.device.settings import PLACE
    from fedlearn.clients.device.unit import NAME, sysusers, unit

    # Only the system that runs can be asked; of another we know its files alone.
    running = not (arguments.print or arguments.root)
    if not arguments.print:
        _check_system(arguments)
    settings = _settings(arguments, root)
    data = _checked(settings, arguments, root)
    # Not resolved: in a virtual environment it is a link to the system's Python, which
    # has no fedlearn.
    python = Path(sys.executable).absolute()
    if running:
        _check_readable([python, _package()], arguments.user)
    home = any(_is_in_home(path) for path in (python, _package(), *data))
    # The version here says nothing of the system below --root.
    systemd = 0 if arguments.root else _systemd()
    return {
        SYSUSERS: (sysusers(arguments.user), 0o644),
        # The settings may name what only root should know.
        PLACE: (settings, 0o600),
        UNITS / NAME: (unit(python, arguments.user, systemd, home), 0o644),
    }


def _below(root: Path, path: Path, last: bool = True) -> Path:
    """Return the place of a system's path; last: see `fedlearn.system.inside`.

    A link in an image may name a folder of this system, where nothing is to be written. Raises
    RecordError for links in a circle.
    """
    from fedlearn.system.inside import inside

    try:
        return inside(root, path, last)
    except OSError as error:
        raise RecordError(
            f"cannot follow '{error.filename}': {error.strerror}"
        ) from error


def _is_in_home(path: Path) -> bool:
    # As named and as resolved: either may be the one that ProtectHome hides.
    return str(path).startswith(HOMES) or str(path.resolve()).startswith(HOMES)


def _enable_below(root: Path) -> None:
    from fedlearn.clients.device.unit import NAME, STATE

    _enable(root, NAME)
    print(
        f"the agent starts with the system in '{root}'; an identity belongs in its "
        f"{STATE}: fedlearn enroll --state {STATE}"
    )


def _start(next_start: bool) -> None:
    """Have systemd run the service; next_start: not before the device's next start."""
    from fedlearn.clients.device.unit import NAME

    # The user has to be there before the service starts as that user.
    _call("systemd-sysusers", str(SYSUSERS))
    _call("systemctl", "daemon-reload")
    _call("systemctl", "enable", NAME)
    if next_start:
        print(f"it starts with the device; now: sudo systemctl start {NAME}")
        return
    fix = (
        f"see what it says: sudo journalctl -u {NAME} -n 20, and: sudo fedlearn doctor"
    )
    # Not `start`, which would leave a running service with the files of before.
    _call("systemctl", "restart", NAME, fix=fix)
    print(f"the agent runs; watch it: systemctl status {NAME}, journalctl -fu {NAME}")


def _check_system(arguments: argparse.Namespace) -> None:
    """Raise UserError where a service cannot be installed."""
    if arguments.root is not None:
        if not arguments.root.is_dir():
            raise UserError(f"--root: there is no folder '{arguments.root}'")
    # As sd_booted(3) tells whether systemd runs.
    elif not Path("/run/systemd/system").is_dir():
        raise UserError(
            "systemd does not run here (a container?); start 'fedlearn agent' by what "
            "starts programs here, or give --print or --root DIR"
        )
    elif os.geteuid() != 0:
        raise UserError(
            "only root can install a service: "
            # Isolated: root runs nothing of the current folder.
            f"sudo {sys.executable} -I -m fedlearn agent install …"
        )


def _settings(arguments: argparse.Namespace, root: Path) -> str:
    """Return the settings' text with the options set in it.

    The text is that of the file that is given, else of the one that is there, else the
    template. Raises UserError for a file that cannot be read.
    """
    from fedlearn.clients.agent.identity import check_address
    from fedlearn.clients.device.settings import PLACE, TEMPLATE, read
    from fedlearn.clients.device.unit import with_values

    source = arguments.settings or _below(root, PLACE)
    try:
        exists = arguments.settings or source.exists()
        text = source.read_text() if exists else TEMPLATE
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--settings '{source}': {reason}") from None
    values = {}
    if arguments.settings:
        data = str(read(source).agent.get("data", ""))
        # Relative to where the file is now, which the service's copy is not.
        if data.endswith(".npz"):
            values["data"] = data
    if arguments.coordinator:
        check_address(arguments.coordinator)
        values["coordinator"] = arguments.coordinator
    if arguments.data:
        # The service has a working directory of its own.
        is_file = arguments.data.endswith(".npz")
        values["data"] = (
            str(Path(arguments.data).absolute()) if is_file else arguments.data
        )
    return with_values(text, values)


def _checked(text: str, arguments: argparse.Namespace, root: Path) -> list[Path]:
    """Return the data files that the agent is to read.

    Raises UserError for settings with which it could not work.
    """
    from fedlearn.clients.agent.identity import check_address, read_identity
    from fedlearn.clients.device.unit import STATE

    agent = _agent_section(text)
    if "coordinator" not in agent:
        raise UserError(
            "where is the coordinator? Give --coordinator HOST:PORT, or the key in "
            "--settings"
        )
    check_address(agent["coordinator"])
    state = arguments.state or _below(root, STATE)
    running = not (arguments.print or arguments.root)
    # Of a system that does not run, the identity may come later.
    if running and not (agent.get("insecure") or read_identity(state)):
        raise UserError(
            f"there is no identity in '{state}'; first: {ENROLL} --state {STATE}, or "
            "tell with --state where it is"
        )
    data = Path(str(agent.get("data", "")))
    if data.suffix != ".npz":
        return []
    # The unit has PrivateTmp=yes.
    if data.is_relative_to("/tmp"):
        raise UserError(
            f"the data '{data}' is in /tmp, which the service has for itself; put it "
            "elsewhere, e.g. in /srv/fedlearn"
        )
    if running and not data.is_file():
        raise UserError(f"there is no file '{data}' with the data")
    return [data]


def _agent_section(text: str) -> dict[str, Any]:
    """Return what settings say of the agent, read as the agent itself will read them."""
    from fedlearn.clients.device.settings import PLACE, read

    # The text is not written yet, and the agent's reader takes a file.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PLACE.name
        path.write_text(text)
        return dict(read(path).agent)


def _package() -> Path:
    import fedlearn

    return Path(fedlearn.__file__).absolute()


def _check_readable(paths: Iterable[Path], user: str) -> None:
    """Raise UserError where the service's user could not read what it has to run."""
    # Found, not loaded: a torch takes time and memory.
    torch = find_spec("torch")
    torch_path = Path(torch.origin) if torch and torch.origin else None
    # Where `pip install --user` puts things: no other user's Python looks there.
    private = Path(site.getusersitepackages())
    for path in [*paths, *([torch_path] if torch_path else [])]:
        if private in path.parents:
            package = "torch" if path == torch_path else "fedlearn"
            raise UserError(
                f"{package} is installed for one user only, in '{private}', where {user} "
                f"does not look; {INSTALL_ADVICE}"
            )
        closed = _closed_part(path)
        if closed is not None:
            raise UserError(
                f"user {user} cannot read '{path}' ('{closed}' is closed to others); "
                f"{INSTALL_ADVICE}"
            )


def _closed_part(path: Path) -> Path | None:
    """Return the file or the folder on its way that other users may not open."""
    resolved = path.resolve()
    # The way by links and the way by folders: both have to be open.
    for part in (path, *path.parents, resolved, *resolved.parents):
        # Others' right to enter a folder, or to read a file.
        right = 0o001 if part.is_dir() else 0o004
        if not part.stat().st_mode & right:
            return part
    return None


def _write(path: Path, data: bytes, mode: int) -> None:
    from fedlearn.system.files import replace

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, data, mode, whatever_umask=True)
    except OSError as error:
        raise RecordError(
            f"cannot write '{path}': {error.strerror or error}"
        ) from error


def _move(source: Path, state: Path) -> None:
    """Move the identity to where the service looks for it; systemd gives it to its user.

    A key in two places would be two agents. Raises UserError where the place belongs to
    another client.
    """
    from fedlearn.clients.agent.identity import read_identity

    identity = read_identity(source)
    present = read_identity(state)
    if identity is None or _is_same_folder(source, state):
        return
    if present is not None and present.client != identity.client:
        raise UserError(
            f"'{state}' belongs to client {present.client}, '{source}' to client "
            f"{identity.client}; move one away"
        )
    file = source / "identity.json"
    _make_state(state)
    _write(state / file.name, file.read_bytes(), 0o600)
    # Last, so that a failed write does not lose the key.
    file.unlink()
    print(f"moved: the identity of client {identity.client} to {state}")


def _make_state(state: Path) -> None:
    """Make the folder of the identity for root alone; systemd gives it to the service's user."""
    from fedlearn.system.files import make_folder

    try:
        make_folder(state)
    except OSError as error:
        raise RecordError(
            f"cannot make '{state}': {error.strerror or error}"
        ) from error


def _is_same_folder(first: Path, second: Path) -> bool:
    if first.absolute() == second.absolute():
        return True
    return second.exists() and first.resolve() == second.resolve()


def _enable(root: Path, name: str) -> None:
    """Do what `systemctl enable` does, for a system that does not run."""
    wants = _below(root, UNITS / "multi-user.target.wants")
    try:
        wants.mkdir(parents=True, exist_ok=True)
        # A link of an earlier install would be in the way.
        (wants / name).unlink(missing_ok=True)
        # Relative, because the root is another one when that system runs.
        (wants / name).symlink_to(f"../{name}")
    except OSError as error:
        place = error.filename or wants
        raise RecordError(
            f"cannot write '{place}': {error.strerror or error}"
        ) from error


def _systemd() -> int:
    """Return the version of systemd, 0 where it does not say."""
    try:
        words = subprocess.run(
            ["systemctl", "--version"], capture_output=True, text=True, timeout=20
        ).stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        return 0
    # "systemd 252 (252.22-1~deb12u1)"
    if len(words) > 1 and words[1].isdecimal():
        return int(words[1])
    return 0


def _call(*command: str, fix: str = "") -> None:
    """Run a command of systemd; raises RunError with the fix when it fails."""
    if shutil.which(command[0]) is None:
        raise RunError(f"the command {command[0]} is missing; is this a whole systemd?")
    fix = fix or "see journalctl -n 50"
    try:
        process = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=START_S
        )
    except subprocess.TimeoutExpired:
        raise RunError(f"{shlex.join(command)} does not end; {fix}") from None
    if process.returncode:
        # As much as one line of an error can hold.
        reason = process.stderr.strip()[:300] or f"code {process.returncode}"
        raise RunError(f"{shlex.join(command)}: {reason}; {fix}")


if __name__ == "__main__":
    sys.exit(main())
