"""What the commands share that work with the certificate authority's folder."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from fedlearn.errors import UserError


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


def require_cryptography() -> None:
    """Raise UserError with the install line where the package cryptography is missing.

    Only the coordinator's machine needs it, so it comes with an extra.
    """
    # Looked for only: whoever needs the package imports it, once the arguments are
    # known to be sound.
    if find_spec("cryptography") is None:
        raise UserError("certificates need cryptography: pip install 'fedlearn[sim]'")
