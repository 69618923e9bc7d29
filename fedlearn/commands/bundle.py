"""``fedlearn bundle --target jp6``: one archive with which a board without a network installs its agent."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import fedlearn
from fedlearn.commands.arguments import Parser, ended
from fedlearn.commands.authority import add_pki, require_cryptography
from fedlearn.errors import UserError
from fedlearn.names import nearest
from fedlearn.reporting.units import bytes_text

if TYPE_CHECKING:
    from fedlearn.bundling.wheels import Target

TOKEN_HOURS = 168.0
"""A week: boards travel."""

SETTINGS = "agent.ini"

EPILOG = """targets: {targets}. On the board: tar xf FILE && sudo sh fedlearn-*/install.sh.
exit codes: 0 done, 2 wrong input, 3 the registry cannot be reached or has no fitting wheels"""


def parser() -> Parser:
    """Return the command's arguments."""
    from fedlearn.bundling.wheels import REGISTRY, TARGETS

    epilog = EPILOG.format(
        targets="; ".join(
            f"{name}: {target.about}, Python {target.python}"
            for name, target in TARGETS.items()
        )
    )
    made = Parser(
        prog="fedlearn bundle",
        description="Make one archive with which a board without a network installs its agent.",
        epilog=epilog,
    )
    made.add_argument(
        "--target",
        required=True,
        metavar="{" + ",".join(TARGETS) + "}",
        help="what it is for",
    )
    made.add_argument(
        "--python",
        metavar="3.X",
        help="the target's Python, where it is not the usual one",
    )
    made.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the archive (default: fedlearn-TARGET-VERSION.tar.xz)",
    )
    made.add_argument(
        "--coordinator",
        default="",
        metavar="HOST:PORT",
        help="where agents will attend; the installer's next steps name it",
    )
    made.add_argument(
        "--enrol",
        default="",
        metavar="HOST:PORT",
        help="the coordinator's enrolment port, likewise",
    )
    made.add_argument(
        "--settings", type=Path, metavar="FILE", help="the agent's settings, to put in"
    )
    made.add_argument(
        "--client",
        type=int,
        metavar="ID",
        help="put in a one-time token for this client; whoever has the archive can use it",
    )
    made.add_argument(
        "--hours",
        type=float,
        default=TOKEN_HOURS,
        help=f"how long the token can be used (default: {TOKEN_HOURS:g})",
    )
    add_pki(made)
    made.add_argument(
        "--with-torch",
        nargs="?",
        const=REGISTRY,
        metavar="WHEEL",
        help="put in a torch for boards that have none: the registry's for processors, or this wheel. One that is there stays",
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    given = parser().parse_args(argv)
    return ended(lambda: _run(given))


def _run(given: argparse.Namespace) -> None:
    from fedlearn.bundling import archive, wheels

    target = _checked(given)
    client = "" if given.client is None else f"-client{given.client}"
    name = f"fedlearn-{given.target}-{fedlearn.__version__}{client}"
    out = given.out or Path(f"{name}.tar.xz")
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: there is no folder '{out.absolute().parent}'")
    values = {
        "TARGET": target.about,
        "MACHINE": target.machine,
        "PYTHON": target.python,
        "ADVICE": target.advice,
        "COORDINATOR": given.coordinator,
        "ENROLMENT": given.enrol,
        "SETTINGS": SETTINGS if given.settings else "",
    }
    with tempfile.TemporaryDirectory(prefix="fedlearn-bundle-") as place:
        texts = {
            "install.sh": archive.installer(values),
            **wheels.gather(target, given.with_torch, Path(place)),
        }
        files = {f"wheels/{wheel.name}": wheel for wheel in Path(place).glob("*.whl")}
        if given.settings:
            files[SETTINGS] = given.settings
        if given.client is not None:  # last, so that what fails before leaves no token
            from fedlearn.server.tokens import new_token

            texts["token"] = new_token(given.pki, given.client, given.hours) + "\n"
        digest = archive.write(out, name, texts, files, secret=given.client is not None)
    print(
        f"{out}: {bytes_text(out.stat().st_size)}, for {target.about} with Python {target.python}"
    )
    print(f"sha256 {digest}")
    if given.client is not None:
        print(
            f"it holds a token, as good as a password for {given.hours:g} hours or until it is used: hand it over by a safe way"
        )
    print(f"on the board: tar xf {out.name} && sudo sh {name}/install.sh")


def _checked(given: argparse.Namespace) -> Target:
    """Return the target, after everything that can be checked before the work; raises UserError."""
    from fedlearn.bundling.wheels import REGISTRY, TARGETS
    from fedlearn.clients.agent.identity import check_address
    from fedlearn.clients.device.settings import read

    if given.target not in TARGETS:
        raise UserError(
            f"--target {given.target}: there is no such target.{nearest(given.target, TARGETS)} Known: {', '.join(TARGETS)}"
        )
    target = TARGETS[given.target]
    if given.python:
        if not re.fullmatch(r"3\.\d\d", given.python) or int(given.python[2:]) < 10:
            raise UserError(f"--python {given.python}: write 3.X, from 3.10")
        target = replace(target, python=given.python)
    for address in (given.coordinator, given.enrol):
        if address:
            check_address(address)
    if given.settings:
        read(given.settings)
    if given.with_torch == REGISTRY and not target.torch:
        raise UserError(
            f"--with-torch: for {given.target} the registry's torch is gigabytes of CUDA; give a wheel: --with-torch FILE.whl"
        )
    if (
        given.with_torch not in (None, REGISTRY)
        and not Path(given.with_torch).is_file()
    ):
        raise UserError(f"--with-torch: there is no file '{given.with_torch}'")
    if given.client is not None:
        require_cryptography()
        if given.client < 0 or not (given.pki / "ca.pem").exists():
            raise UserError(
                f"--client {given.client} --pki {given.pki}: a token needs an id from 0 and what 'fedlearn pki init' made"
            )
    return target


if __name__ == "__main__":
    sys.exit(main())
