"""What the commands share that work with the certificate authority's folder."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from fedlearn.errors import UserError
from fedlearn.system import files


def add_pki(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--pki``, which names the authority's folder."""
    parser.add_argument(
        "--pki",
        metavar="DIR",
        type=Path,
        default=Path("pki"),
        help="the authority's folder (default: pki)",
    )


def tell_restored(pki: Path) -> None:
    """Say on standard error where an authority's folder was restored from a copy.

    Raises UserError for no authority, RecordError.
    """
    from fedlearn.server.tokens import recover

    sentence = recover(pki)
    if sentence is not None:
        print(f"fedlearn: {sentence}", file=sys.stderr)


def tell_readers(key: Path) -> None:
    """Say on standard error where other users can read a secret key, which works all the same.

    Raises UserError for a file that is not there.
    """
    try:
        who = files.readers(key)
    except OSError as error:
        raise UserError(
            f"the key '{key}' cannot be read: {error.strerror or error}"
        ) from None
    if who:
        people = "its group" if who == "group" else "every user of this machine"
        print(
            f"fedlearn: {people} can read or change the key '{key}': chmod 600 {key}; if "
            "others use this machine, make another key",
            file=sys.stderr,
        )


def require_cryptography() -> None:
    """Raise UserError with the install line where the package cryptography is missing.

    Only the coordinator's machine needs it, so it comes with an extra.
    """
    # Looked for only: whoever needs the package imports it, once the arguments are
    # known to be sound.
    if find_spec("cryptography") is None:
        raise UserError("certificates need cryptography: pip install 'fedlearn[sim]'")
