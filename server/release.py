"""The release key: an Ed25519 key with which a person vouches for what devices install.

Devices keep its public half from the first installation on, and take nothing that another key
has signed. They check with the command ``openssl``, which an agent needs anyway.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedlearn.errors import RecordError, UserError
from fedlearn.system import files

# The key's file in an authority's folder, unless another is named.
KEY_FILE = "release.key"


@dataclass(frozen=True)
class ReleaseKey:
    """The key; never printed."""

    private: Ed25519PrivateKey = field(repr=False)

    @property
    def public_pem(self) -> bytes:
        """Return the public half, as devices keep it."""
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM,
            serialization.PublicFormat.SubjectPublicKeyInfo,
        )

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of the public half's file, hex digits, as sha256sum prints it."""
        return hashlib.sha256(self.public_pem).hexdigest()

    def sign(self, data: bytes) -> bytes:
        """Return the signature of some bytes, 64 bytes."""
        return self.private.sign(data)


def release_key(path: Path) -> ReleaseKey:
    """Return the key in a file, which is made if it is not there.

    Raises UserError for a file that holds none, RecordError for one that cannot be read or
    written.
    """
    try:
        if not path.exists():
            _make(path)
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise RecordError(
            f"cannot use the release key '{path}': {reason}; name another with --key"
        ) from error
    try:
        private = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        private = None
    if not isinstance(private, Ed25519PrivateKey):
        raise UserError(
            f"'{path}' holds no release key (Ed25519, PEM); restore it from a copy, or "
            "name another with --key, which devices then have to be told"
        )
    return ReleaseKey(private)


def _make(path: Path) -> None:
    """Make a key in a file; raises OSError."""
    data = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        # In the clear, as the authority's keys: its file is for the owner alone.
        serialization.NoEncryption(),
    )
    files.replace(path, data)
