"""The command ``fedlearn bundle``: one archive that installs an agent without a network."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import fedlearn
from fedlearn.commands.arguments import Parser, add_old_spelling, ended
from fedlearn.commands.authority import add_pki, require_cryptography, tell_readers
from fedlearn.errors import UserError
from fedlearn.names import nearest
from fedlearn.reporting.units import bytes_text

if TYPE_CHECKING:
    from fedlearn.bundling.wheels import Target
    from fedlearn.server.release import ReleaseKey

# A week: boards travel.
TOKEN_HOURS = 168.0

# The name of the settings file in the archive.
SETTINGS = "agent.ini"

EPILOG = (
    "targets: {targets}. On the board: tar xf FILE && sudo sh fedlearn-*/install.sh "
    "--key SHA256, as it is printed. Keep the key secret, and a copy of it: who has it can "
    "install what they like on each board. "
    "exit codes: 0 done, 2 wrong input, 3 the registry cannot be reached or has no "
    "fitting wheels"
)


def parser() -> Parser:
    """Return the command's arguments."""
    from fedlearn.bundling.wheels import REGISTRY, TARGETS

    targets = [
        f"{name}: {target.about}, Python {target.python}"
        for name, target in TARGETS.items()
    ]
    parser = Parser(
        prog="fedlearn bundle",
        description="Make one archive with which a board without a network installs its "
        "agent.",
        epilog=EPILOG.format(targets="; ".join(targets)),
    )
    parser.add_argument(
        "--target",
        required=True,
        metavar="{" + ",".join(TARGETS) + "}",
        help="what it is for",
    )
    parser.add_argument(
        "--python",
        metavar="3.X",
        help="the target's Python, where it is not the usual one",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the archive (default: fedlearn-TARGET-VERSION.tar.xz)",
    )
    _add_settings(parser)
    _add_token(parser)
    parser.add_argument(
        "--with-torch",
        nargs="?",
        # The option without a wheel asks for the registry's; None, without the option,
        # is no torch.
        const=REGISTRY,
        metavar="WHEEL",
        help="put in a torch for boards that have none: the registry's for processors, "
        "or this wheel. One that is there stays",
    )
    return parser


def _add_settings(parser: Parser) -> None:
    parser.add_argument(
        "--coordinator",
        default="",
        metavar="HOST:PORT",
        help="where agents will attend; the installer's next steps name it",
    )
    parser.add_argument(
        "--enroll",
        default="",
        metavar="HOST:PORT",
        help="the coordinator's enrollment port, likewise",
    )
    add_old_spelling(parser, "--enrol", "enroll", str)
    parser.add_argument(
        "--settings", type=Path, metavar="FILE", help="the agent's settings, to put in"
    )


def _add_token(parser: Parser) -> None:
    parser.add_argument(
        "--client",
        type=int,
        metavar="ID",
        help="put in a one-time token for this client; whoever has the archive can use "
        "it",
    )
    parser.add_argument(
        "--hours",
        type=float,
        default=TOKEN_HOURS,
        help=f"how long the token can be used (default: {TOKEN_HOURS:g})",
    )
    add_pki(parser)
    parser.add_argument(
        "--key",
        metavar="FILE",
        type=Path,
        help="the key that signs the bundle, made at its first use (default: release.key "
        "in the authority's folder)",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    target = _checked_target(arguments)
    _check_files(arguments)
    has_token = arguments.client is not None
    if has_token:
        _check_token(arguments)
    # Archives with tokens are told apart by their names: each is one board's.
    client = f"-client{arguments.client}" if has_token else ""
    name = f"fedlearn-{arguments.target}-{fedlearn.__version__}{client}"
    out = arguments.out or Path(f"{name}.tar.xz")
    # Found out before the wheels are fetched.
    folder = out.absolute().parent
    if not folder.is_dir():
        raise UserError(f"--out {out}: there is no folder '{folder}'")
    key_path = _key_path(arguments)
    key = _release_key(key_path)
    tell_readers(key_path)
    digest = _write(arguments, target, out, name, key)
    size = bytes_text(out.stat().st_size)
    print(f"{out}: {size}, for {target.about} with Python {target.python}")
    # To be compared where the archive arrives.
    print(f"sha256 {digest}")
    print(f"signed with {key_path}, whose public half has the sha256 {key.fingerprint}")
    if has_token:
        print(
            f"it holds a token, as good as a password for {arguments.hours:g} hours or "
            "until it is used: hand it over by a safe way"
        )
    print(
        f"on the board: tar xf {out.name} && "
        f"sudo sh {name}/install.sh --key {key.fingerprint}"
    )


def _key_path(arguments: argparse.Namespace) -> Path:
    """Return the file of the key that signs; raises UserError where none is named."""
    require_cryptography()
    if arguments.key is not None:
        return Path(arguments.key)
    # Not made by itself: a new key is one that no device knows.
    if not (arguments.pki / "ca.pem").exists():
        raise UserError(
            f"a bundle is signed, and there is no authority in '{arguments.pki}' to keep "
            "its key; name a file, which is made if it is not there: --key release.key"
        )
    return Path(arguments.pki) / "release.key"


def _release_key(path: Path) -> ReleaseKey:
    from fedlearn.server.release import release_key

    return release_key(path)


def _write(
    arguments: argparse.Namespace,
    target: Target,
    out: Path,
    name: str,
    key: ReleaseKey,
) -> str:
    """Write the archive, signed, and return its SHA-256."""
    from fedlearn.bundling import archive, wheels

    has_token = arguments.client is not None
    with tempfile.TemporaryDirectory(prefix="fedlearn-bundle-") as folder:
        texts = {
            "install.sh": archive.installer(_installer_values(arguments, target)),
            **wheels.gather(target, arguments.with_torch, Path(folder)),
        }
        files = {f"wheels/{wheel.name}": wheel for wheel in Path(folder).glob("*.whl")}
        if arguments.settings:
            files[SETTINGS] = arguments.settings
        # Last, so that what fails before leaves no token behind.
        if has_token:
            from fedlearn.server.tokens import new_token

            token = new_token(arguments.pki, arguments.client, arguments.hours)
            texts["token"] = f"{token}\n"

        def sign(sums: bytes) -> Mapping[str, bytes]:
            return {
                archive.SIGNATURE: key.sign(sums),
                archive.PUBLIC_KEY: key.public_pem,
            }

        # With a token in it, only the archive's owner may read it.
        return archive.write(out, name, texts, files, has_token, sign)


def _installer_values(
    arguments: argparse.Namespace, target: Target
) -> Mapping[str, str]:
    """Return what stands in install.sh in place of its @NAMES@."""
    return {
        "TARGET": target.about,
        "MACHINE": target.machine,
        "PYTHON": target.python,
        "ADVICE": target.advice,
        "COORDINATOR": arguments.coordinator,
        "ENROLLMENT": arguments.enroll,
        "SETTINGS": SETTINGS if arguments.settings else "",
    }


def _checked_target(arguments: argparse.Namespace) -> Target:
    """Return the target with the Python that is asked for; raises UserError."""
    from fedlearn.bundling.wheels import TARGETS

    # Not by argparse's choices, whose message names no nearest target.
    if arguments.target not in TARGETS:
        raise UserError(
            f"--target {arguments.target}: there is no such target."
            f"{nearest(arguments.target, TARGETS)} Known: {', '.join(TARGETS)}"
        )
    target = TARGETS[arguments.target]
    python = arguments.python
    if not python:
        return target
    # The agent needs Python 3.10.
    if not re.fullmatch(r"3\.\d\d", python) or int(python[2:]) < 10:
        raise UserError(f"--python {python}: write 3.X, from 3.10")
    return replace(target, python=python)


def _check_files(arguments: argparse.Namespace) -> None:
    """Raise UserError for addresses, settings or a torch that cannot go in."""
    from fedlearn.bundling.wheels import REGISTRY, TARGETS
    from fedlearn.clients.agent.identity import check_address
    from fedlearn.clients.device.settings import read

    for address in (arguments.coordinator, arguments.enroll):
        if address:
            check_address(address)
    if arguments.settings:
        # Read for its errors alone, which should show here and not on a board.
        read(arguments.settings)
    torch = arguments.with_torch
    if torch is None:
        return
    if torch != REGISTRY:
        if not Path(torch).is_file():
            raise UserError(f"--with-torch: there is no file '{torch}'")
    elif not TARGETS[arguments.target].torch:
        raise UserError(
            f"--with-torch: for {arguments.target} the registry's torch is gigabytes of "
            "CUDA; give a wheel: --with-torch FILE.whl"
        )


def _check_token(arguments: argparse.Namespace) -> None:
    """Raise UserError where no token can be made for the client."""
    require_cryptography()
    # Before any wheel is fetched: the token itself is made last.
    if arguments.client < 0 or not (arguments.pki / "ca.pem").exists():
        raise UserError(
            f"--client {arguments.client} --pki {arguments.pki}: a token needs an id "
            "from 0 and what 'fedlearn pki init' made"
        )


if __name__ == "__main__":
    sys.exit(main())
