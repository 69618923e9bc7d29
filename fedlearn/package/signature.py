"""A package's signature, in the format of OpenSSF Model Signing (v1.0, 2025).

A sigstore bundle (v0.3, JSON) holds a DSSE envelope, and that an in-toto statement (v1) with
the SHA-256 of every file. So ``model_signing verify key`` accepts it as it is, and openssl
can verify what is signed (`signed_bytes`).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fedlearn.errors import PackageError
from fedlearn.package import canonical, keys
from fedlearn.package.content import MOST_SIGNATURE_BYTES, SIGNATURES, Package
from fedlearn.package.fields import Fields
from fedlearn.package.parts import MANIFEST_FILE, MOST_DELTAS, MOST_FILES
from fedlearn.system.sha256 import sha256

_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://model_signing/signature/v1.0"

_MOST_RESOURCES = MOST_FILES + MOST_DELTAS + 1

Signer = Callable[[bytes], bytes]
"""Bytes → their signature: ECDSA of P-256 with SHA-256, in DER."""


@dataclass(frozen=True)
class Envelope:
    """A signature as it was read, which nobody has verified yet.

    key: the SHA-256 of the public key's PEM that it names. payload: the statement's bytes.
    """

    key: str
    payload: bytes
    signature: bytes


def sign(package: Package, signer: Signer, public_pem: bytes) -> bytes:
    """Return a signature file for a package. public_pem: of the key that signs."""
    payload = _statement(package)
    envelope = {
        "payload": _base64(payload),
        "payloadType": _PAYLOAD,
        "signatures": [{"keyid": "", "sig": _base64(signer(signed_bytes(payload)))}],
    }
    # The log of sigstore's own service has no part here: keys are the owner's.
    material = {
        "publicKey": {"hint": keys.fingerprint(public_pem)},
        "tlogEntries": [],
    }
    bundle = {
        "dsseEnvelope": envelope,
        "mediaType": _BUNDLE,
        "verificationMaterial": material,
    }
    return canonical.dumps(bundle)


def check(package: Package) -> None:
    """Refuse signature files that no key can have made for a package; keys verify nothing yet.

    Raises PackageError, "signature".
    """
    for name, data in package.signatures().items():
        _check_statement(package, read(data, name).payload, name)


def verify(package: Package, accepted: Mapping[str, bytes]) -> tuple[str, ...]:
    """Return the accepted keys that have signed a package, one at least.

    accepted: fingerprint → PEM. Raises PackageError: "unsigned" without a signature, "key"
    for signatures of other keys alone, "signature" for one that is wrong.
    """
    signatures = package.signatures()
    if not signatures:
        raise PackageError(
            "unsigned", "the package is not signed: fedlearn sign DIR --key KEY"
        )
    signers = []
    strangers = []
    for name, data in signatures.items():
        envelope = read(data, name)
        pem = accepted.get(envelope.key)
        if pem is None:
            strangers.append(envelope.key)
            continue
        if not keys.verifies(pem, signed_bytes(envelope.payload), envelope.signature):
            raise PackageError("signature", f"{name} is not what its key has signed")
        _check_statement(package, envelope.payload, name)
        signers.append(envelope.key)
    if not signers:
        raise PackageError(
            "key",
            f"the package is signed by a key that is not accepted: {strangers[0]}",
        )
    return tuple(signers)


def read(data: bytes, name: str) -> Envelope:
    """Return a signature file's content, not verified. Raises PackageError, "signature"."""
    try:
        return _read(data, name)
    except PackageError as error:
        raise PackageError("signature", f"{name} cannot be read: {error}") from None


def signed_bytes(payload: bytes) -> bytes:
    """Return what a key signs of a statement: DSSE's pre-authentication encoding, v1."""
    head = f"DSSEv1 {len(_PAYLOAD)} {_PAYLOAD} {len(payload)} "
    return head.encode() + payload


def _statement(package: Package) -> bytes:
    """Return the in-toto statement of a package: each file's SHA-256, and one over them."""
    hashes = _hashes(package)
    resources = []
    # In the order of the paths' parts, as model_signing lists them.
    for path in sorted(hashes, key=lambda path: path.split("/")):
        resources.append({"algorithm": "sha256", "digest": hashes[path], "name": path})
    serialization = {
        "allow_symlinks": False,
        "hash_type": "sha256",
        "ignore_paths": sorted(SIGNATURES),
        "method": "files",
    }
    root = _root([str(resource["digest"]) for resource in resources])
    statement = {
        "_type": _STATEMENT,
        "predicate": {"resources": resources, "serialization": serialization},
        "predicateType": _PREDICATE,
        "subject": [{"digest": {"sha256": root}, "name": package.manifest.name}],
    }
    return canonical.dumps(statement)


def _hashes(package: Package) -> dict[str, str]:
    """Return the SHA-256 of each file of a package, by its path."""
    hashes = {path: entry.sha256 for path, entry in package.manifest.listed.items()}
    return hashes | {MANIFEST_FILE: package.sha256}


def _check_statement(package: Package, payload: bytes, name: str) -> None:
    """Refuse a statement of other files than a package's. Raises PackageError."""
    try:
        hashes = _read_statement(payload, name)
    except PackageError as error:
        raise PackageError("signature", f"{name} cannot be read: {error}") from None
    if hashes != _hashes(package):
        raise PackageError("signature", f"{name} was made for another package")


def _read(data: bytes, name: str) -> Envelope:
    value = canonical.parse(data, name, MOST_SIGNATURE_BYTES)
    bundle = Fields(value, name)
    _expect(bundle, "mediaType", _BUNDLE)
    material = bundle.table("verificationMaterial")
    key = material.table("publicKey")
    hint = key.sha256("hint")
    key.end()
    # The command model_signing writes an empty list.
    material.items("tlogEntries", most=0)
    material.end()
    envelope = bundle.table("dsseEnvelope")
    bundle.end()
    _expect(envelope, "payloadType", _PAYLOAD)
    payload = _bytes(envelope, "payload", MOST_SIGNATURE_BYTES)
    # With several, readers would differ in which one counts.
    signatures = envelope.items("signatures", most=1, least=1)
    envelope.end()
    fields = Fields(signatures[0], f"{name}.signatures[0]")
    signature = _bytes(fields, "sig", 200)
    fields.text("keyid", 200)
    fields.end()
    return Envelope(hint, payload, signature)


def _read_statement(payload: bytes, name: str) -> dict[str, str]:
    """Return the SHA-256 of each file that a statement names."""
    value = canonical.parse(payload, name, MOST_SIGNATURE_BYTES)
    statement = Fields(value, f"{name} statement")
    _expect(statement, "_type", _STATEMENT)
    _expect(statement, "predicateType", _PREDICATE)
    subjects = statement.items("subject", most=1, least=1)
    predicate = statement.table("predicate")
    statement.end()
    subject = Fields(subjects[0], f"{name} subject")
    root = subject.table("digest").sha256("sha256")
    hashes: dict[str, str] = {}
    for index, value in enumerate(predicate.items("resources", _MOST_RESOURCES)):
        resource = Fields(value, f"{name} resources[{index}]")
        _expect(resource, "algorithm", "sha256")
        path = resource.text("name", 200)
        if path in hashes:
            raise PackageError("signature", f"'{path}' stands twice")
        hashes[path] = resource.sha256("digest")
        resource.end()
    if _root(list(hashes.values())) != root:
        raise PackageError("signature", "the root hash is not that of the files")
    return hashes


def _expect(fields: Fields, key: str, expected: str) -> None:
    text = fields.text(key, 200)
    if text != expected:
        raise PackageError("signature", f"{key} is {text!r}, not {expected!r}")


def _bytes(fields: Fields, key: str, most: int) -> bytes:
    text = fields.text(key, 2 * most)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise PackageError("signature", f"{key} is no base64") from None


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _root(digests: list[str]) -> str:
    """Return the SHA-256 over digests in hex, one after another as bytes."""
    return sha256(b"".join(bytes.fromhex(text) for text in digests)).hexdigest()
