"""The X.509 certificates of an authority, its coordinator and its clients. Pure.

A client is who its certificate says: the URI ``fedlearn://client/7`` as the only subject
alternative name (the form is that of SPIFFE ids). Times are seconds since 1970.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SERVER_DAYS = 2 * 365
CA_DAYS = 10 * 365
DAY_S = 86400

# A certificate is valid from an hour ago: the clocks of two machines differ.
EARLIER_S = 3600.0

CLIENT_URI = "fedlearn://client/"


class Authority:
    """A certificate and its key, which sign the others."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey):
        """Take a pair that belongs together."""
        self.certificate = certificate
        self.key = key

    @classmethod
    def new(cls, now: float) -> Authority:
        """Return an authority with a new key."""
        key = new_key()
        name = _common_name("fedlearn CA")
        usage = _usage(key_cert_sign=True, crl_sign=True)
        # No authority below this one: the path behind it ends with what it signs.
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        end = now + CA_DAYS * DAY_S
        certificate = (
            _builder(name, key.public_key(), 1, now, end)
            .issuer_name(name)
            .add_extension(usage, critical=True)
            .add_extension(constraints, critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @property
    def expires(self) -> float:
        """Return when the authority itself expires."""
        return self.certificate.not_valid_after_utc.timestamp()

    def server_certificate(
        self,
        public: ec.EllipticCurvePublicKey,
        serial: int,
        names: Iterable[x509.GeneralName],
        now: float,
    ) -> x509.Certificate:
        """Return a coordinator's certificate; names: under which it is reached."""
        # No certificate outlives its authority: it could not be verified.
        builder = _builder(
            _common_name("fedlearn coordinator"),
            public,
            serial,
            now,
            min(now + SERVER_DAYS * DAY_S, self.expires),
        )
        return self._sign(builder, names, ExtendedKeyUsageOID.SERVER_AUTH)

    def client_certificate(
        self,
        public: ec.EllipticCurvePublicKey,
        serial: int,
        client: int,
        days: int,
        now: float,
    ) -> x509.Certificate:
        """Return a client's certificate."""
        builder = _builder(
            _common_name(f"fedlearn client {client}"),
            public,
            serial,
            now,
            min(now + days * DAY_S, self.expires),
        )
        names = [x509.UniformResourceIdentifier(f"{CLIENT_URI}{client}")]
        return self._sign(builder, names, ExtendedKeyUsageOID.CLIENT_AUTH)

    def _sign(
        self,
        builder: x509.CertificateBuilder,
        names: Iterable[x509.GeneralName],
        purpose: x509.ObjectIdentifier,
    ) -> x509.Certificate:
        """Sign what is no authority itself, and for one purpose.

        So a client's certificate cannot play the coordinator.
        """
        own_key = self.certificate.extensions.get_extension_for_class(
            # Verifiers find the issuer by the id of its key: its name is the same in
            # each authority.
            x509.SubjectKeyIdentifier
        ).value
        issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own_key)
        constraints = x509.BasicConstraints(ca=False, path_length=None)
        return (
            builder.issuer_name(self.certificate.subject)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(issuer, critical=False)
            .add_extension(constraints, critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .sign(self.key, hashes.SHA256())
        )


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a new key on P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def pem(certificate: x509.Certificate) -> bytes:
    """Return a certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key as PEM (PKCS #8), not encrypted."""
    # In the clear: the coordinator starts without anybody who could type a password.
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _builder(
    subject: x509.Name,
    public: ec.EllipticCurvePublicKey,
    serial: int,
    now: float,
    end: float,
) -> x509.CertificateBuilder:
    """Begin a certificate that is valid until ``end``."""
    key_id = x509.SubjectKeyIdentifier.from_public_key(public)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(_moment(now - EARLIER_S))
        .not_valid_after(_moment(end))
        .add_extension(key_id, critical=False)
    )


def _common_name(text: str) -> x509.Name:
    attribute = x509.NameAttribute(NameOID.COMMON_NAME, text)
    return x509.Name([attribute])


def _usage(
    digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _moment(seconds: float) -> datetime.datetime:
    # X.509 knows whole seconds.
    whole_seconds = int(seconds)
    return datetime.datetime.fromtimestamp(whole_seconds, datetime.timezone.utc)
