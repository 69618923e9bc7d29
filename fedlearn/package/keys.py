"""Public keys of EC P-256 as PEM, and signatures that they verify.

Devices have the command openssl, which an agent needs anyway; the package cryptography is used
where it is installed, as it needs no process.
"""

from __future__ import annotations

import base64
import binascii
from importlib.util import find_spec
from pathlib import Path

from fedlearn.errors import RunError, UserError
from fedlearn.system.sha256 import sha256

# A SubjectPublicKeyInfo of P-256 (RFC 5480): these bytes, then 64 of the point.
_PREFIX = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
_POINT_BYTES = 64

_BEGIN = "-----BEGIN PUBLIC KEY-----"
_END = "-----END PUBLIC KEY-----"

# A signature takes milliseconds to check.
_LIMIT_S = 60


def public_key(text: bytes, source: str) -> bytes:
    """Return a public key's PEM in its one form, as openssl and cryptography write it.

    source: named in errors. Raises UserError for what is no public key of P-256.
    """
    der = _der(text)
    if not der.startswith(_PREFIX) or len(der) != len(_PREFIX) + _POINT_BYTES:
        raise UserError(
            f"'{source}' holds no public key of EC P-256 (PEM); give the release.pem that "
            "fedlearn sign --new-key made"
        )
    body = base64.b64encode(der).decode()
    lines = [body[start : start + 64] for start in range(0, len(body), 64)]
    return "\n".join([_BEGIN, *lines, _END, ""]).encode()


def fingerprint(pem: bytes) -> str:
    """Return the SHA-256 of a public key's PEM, 64 hex digits, as sha256sum prints it."""
    return sha256(pem).hexdigest()


def read(path: Path) -> bytes:
    """Return the public key in a file, in its one form. Raises UserError."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"the key '{path}' cannot be read: {error.strerror or error}"
        ) from None
    return public_key(text, str(path))


def verifies(pem: bytes, data: bytes, signature: bytes) -> bool:
    """Tell whether a key has signed some bytes (ECDSA with SHA-256, DER).

    Raises UserError where neither cryptography nor openssl is there to check it.
    """
    if find_spec("cryptography") is not None:
        return by_cryptography(pem, data, signature)
    return by_openssl(pem, data, signature)


def by_cryptography(pem: bytes, data: bytes, signature: bytes) -> bool:
    """Verify as `verifies`, with the package cryptography."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_public_key(pem)
    # A point that is not on the curve, or of a curve that nobody knows.
    except (ValueError, UnsupportedAlgorithm):
        return False
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    try:
        key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True


def by_openssl(pem: bytes, data: bytes, signature: bytes) -> bool:
    """Verify as `verifies`, with the command openssl: the slow twin, on any board."""
    # Of what serves a model nothing else needs them, and they take a megabyte.
    import subprocess
    import tempfile

    with tempfile.TemporaryDirectory(prefix="fedlearn-verify-") as name:
        key_path = Path(name) / "key.pem"
        signature_path = Path(name) / "signature"
        key_path.write_bytes(pem)
        signature_path.write_bytes(signature)
        command = ["openssl", "dgst", "-sha256", "-verify", str(key_path)]
        command += ["-signature", str(signature_path)]
        try:
            process = subprocess.run(
                command, input=data, capture_output=True, timeout=_LIMIT_S, check=False
            )
        except FileNotFoundError:
            raise UserError(
                "signatures are checked with the command 'openssl', which is missing; "
                "install it: sudo apt-get install openssl"
            ) from None
        except subprocess.TimeoutExpired as error:
            raise RunError(f"openssl dgst: {error}") from None
    return process.returncode == 0 and b"Verified OK" in process.stdout


def _der(text: bytes) -> bytes:
    """Return what a PEM text of a public key encodes; no bytes for what is none."""
    lines = text.decode("ascii", "replace").strip().splitlines()
    if len(lines) < 3 or lines[0].strip() != _BEGIN or lines[-1].strip() != _END:
        return b""
    body = "".join(line.strip() for line in lines[1:-1])
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        return b""
