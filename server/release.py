"""The release key, with which a person vouches for what devices install and run.

One key signs the bundles that install agents, and the packages of models. Devices keep its
public half, and take nothing that another key has signed. They check with the command
``openssl``, which an agent needs anyway. It is a key of EC P-256, which the format of model
signatures asks for. An older one of Ed25519 goes on signing bundles.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedlearn.errors import RecordError, UserError
from fedlearn.system import files

# The key's file in an authority's folder, unless another is named.
KEY_FILE = "release.key"

# The public half's, beside it.
PUBLIC_FILE = "release.pem"


@dataclass(frozen=True)
class ReleaseKey:
    """The key; never printed."""

    private: Ed25519PrivateKey | ec.EllipticCurvePrivateKey = field(repr=False)

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

    @property
    def signs_models(self) -> bool:
        """Tell whether the format of model signatures knows this kind of key."""
        return isinstance(self.private, ec.EllipticCurvePrivateKey)

    def sign(self, data: bytes) -> bytes:
        """Return the signature of some bytes: ECDSA with SHA-256 in DER, or Ed25519's."""
        if isinstance(self.private, Ed25519PrivateKey):
            return self.private.sign(data)
        # Without a random number (RFC 6979): the same bytes have the same signature.
        return self.private.sign(
            data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
        )


def release_key(path: Path) -> ReleaseKey:
    """Return the key in a file, which is made if it is not there.

    Raises UserError for a file that holds none, RecordError for one that cannot be read or
    written.
    """
    try:
        if not path.exists():
            _make(path)
    except OSError as error:
        raise _unusable(path, error) from error
    return read_key(path)


def read_key(path: Path) -> ReleaseKey:
    """Return the key in a file. Raises as `release_key`, also where there is no file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        private = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        private = None
    if isinstance(private, Ed25519PrivateKey):
        return ReleaseKey(private)
    if isinstance(private, ec.EllipticCurvePrivateKey) and isinstance(
        private.curve, ec.SECP256R1
    ):
        return ReleaseKey(private)
    raise UserError(
        f"'{path}' holds no release key (EC P-256 or Ed25519, PEM, no password); restore "
        "it from a copy, or name another with --key, which devices then have to be told"
    )


def make_pair(folder: Path) -> ReleaseKey:
    """Make a new key and its public half in a folder, for their owner alone.

    Raises UserError where a key is there already, RecordError for a folder that cannot be
    written.
    """
    path = folder / KEY_FILE
    if path.exists():
        raise UserError(
            f"'{path}' is there already, and devices may know it; name another folder"
        )
    try:
        files.make_folder(folder)
        _make(path)
        key = read_key(path)
        files.replace(folder / PUBLIC_FILE, key.public_pem, files.PUBLIC)
    except OSError as error:
        raise _unusable(path, error) from error
    return key


def _make(path: Path) -> None:
    """Make a key in a file; raises OSError."""
    data = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        # In the clear, as the authority's keys: its file is for the owner alone.
        serialization.NoEncryption(),
    )
    files.replace(path, data)


def _unusable(path: Path, error: OSError) -> RecordError:
    reason = error.strerror or error
    return RecordError(
        f"cannot use the release key '{path}': {reason}; name another with --key"
    )
