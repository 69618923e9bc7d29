"""The authority, its tokens and revocations, and what a real TLS server lets in."""

import asyncio
import base64
import contextlib
import datetime
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedlearn.errors import RecordError, UserError
from fedlearn.exchange import methods
from fedlearn.exchange.exchange_pb2 import EnrolRequest
from fedlearn.server import anchor, enrollment, identity, issued, tokens
from fedlearn.server.identity import IdentityError

DAY_S = 86400
PEM = serialization.Encoding.PEM


def new_key():
    return ec.generate_private_key(ec.SECP256R1())


def uri(client):
    return x509.UniformResourceIdentifier(f"fedlearn://client/{client}")


def request(key=None, names=()):
    """Return a certificate request (PEM), which may claim names."""
    built = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "anyone")])
    )
    if names:
        built = built.add_extension(x509.SubjectAlternativeName(names), critical=False)
    key = key or new_key()
    return built.sign(
        key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    ).public_bytes(PEM)


def private(key):
    return key.private_bytes(
        PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load(pem):
    return x509.load_pem_x509_certificate(pem)


def forged(names, key, issuer_key, issuer="fedlearn CA", serial=9):
    """Return a certificate with any names, signed by any key."""
    now = datetime.datetime.now(datetime.timezone.utc)
    built = (
        x509.CertificateBuilder()
        .subject_name(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedlearn client 7")])
        )
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
    )
    if names:
        built = built.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return built.sign(issuer_key, hashes.SHA256()).public_bytes(PEM)


@contextlib.contextmanager
def at(monkeypatch, seconds):
    """Move the authority's clock by some seconds."""
    moved = SimpleNamespace(time=lambda: time.time() + seconds)
    with monkeypatch.context() as patch:
        patch.setattr(identity, "time", moved)
        patch.setattr(tokens, "time", moved)
        patch.setattr(issued, "time", moved)
        yield


@contextlib.contextmanager
def served(*handlers, key, certificate, ca=None, host="127.0.0.1"):
    """Serve over TLS on loopback, in a thread of its own, and give the port; with ``ca``,
    clients must show a certificate.
    """
    ready, stop, port = threading.Event(), asyncio.Event(), []

    async def serve():
        server = grpc.aio.server()
        server.add_generic_rpc_handlers(handlers)
        credentials = grpc.ssl_server_credentials(
            [(key, certificate)], ca, require_client_auth=ca is not None
        )
        port.append(server.add_secure_port(f"{host}:0", credentials))
        await server.start()
        ready.set()
        await stop.wait()
        await server.stop(None)

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(20)
        yield port[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@contextlib.contextmanager
def enrolling(pki, service=None, host="127.0.0.1"):
    """Serve the enrollment of an authority and give the port."""
    own = identity.server_credentials(pki)
    handler = (service or enrollment.Enrollment(pki, 0)).handler()
    with served(handler, key=own.key, certificate=own.certificate, host=host) as port:
        yield port


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """An authority for tests that only add to it."""
    pki = tmp_path_factory.mktemp("shared") / "pki"
    identity.make(pki)
    return pki


@pytest.fixture
def pki(tmp_path):
    identity.make(tmp_path / "pki", ["coordinator.example.org", "10.1.2.3"])
    return tmp_path / "pki"


def secret_of(token):
    return json.loads(base64.urlsafe_b64decode(token + "=="))["secret"]


# The authority


def test_what_is_made_and_who_may_read_it(pki):
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in pki.iterdir()}
    secret = {
        "ca.key": 0o600,
        "server.key": 0o600,
        "issued.json": 0o600,
        "revoked.json": 0o600,
        "tokens.json": 0o600,
    }
    assert modes == secret | {"ca.pem": 0o644, "server.pem": 0o644}
    assert stat.S_IMODE(pki.stat().st_mode) == 0o700
    identity.sign(pki, 7, request())
    assert all(
        stat.S_IMODE((pki / name).stat().st_mode) == mode
        for name, mode in modes.items()
    )
    assert list(pki.parent.iterdir()) == [pki]


def test_validity_and_names(pki):
    ca, server, client = (
        load(pem)
        for pem in (
            (pki / "ca.pem").read_bytes(),
            (pki / "server.pem").read_bytes(),
            identity.sign(pki, 7, request()),
        )
    )
    now = time.time()
    for certificate, days in ((ca, 3650), (server, 730), (client, 90)):
        assert certificate.not_valid_before_utc.timestamp() == pytest.approx(
            now - 3600, abs=60
        )
        assert certificate.not_valid_after_utc.timestamp() == pytest.approx(
            now + days * DAY_S, abs=60
        )
    assert identity.server_names(pki) == (
        "coordinator.example.org",
        "10.1.2.3",
        "localhost",
        "127.0.0.1",
        "::1",
    )
    assert [c.serial_number for c in (ca, server)] == [1, 2]
    assert 2 < client.serial_number < 2**159
    for certificate in (server, client):
        certificate.verify_directly_issued_by(ca)
        assert not certificate.extensions.get_extension_for_class(
            x509.BasicConstraints
        ).value.ca


def test_days_are_the_authoritys_or_the_callers(tmp_path):
    identity.make(tmp_path / "pki", days=10)
    for days, expected in ((None, 10), (3, 3), (100_000, 3650)):
        found = identity.expiry(identity.sign(tmp_path / "pki", 1, request(), days))
        assert found == pytest.approx(time.time() + expected * DAY_S, abs=60)


@pytest.mark.parametrize("days", [0, -1, 3651])
def test_days_out_of_range(days, tmp_path):
    with pytest.raises(UserError, match="out of range"):
        identity.make(tmp_path / "pki", days=days)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a b",
        "host:8443",
        "https://x",
        "münchen.example",
        "a..b",
        "x" * 64 + ".org",
        "-a",
        "a\n",
    ],
)
def test_a_name_that_is_none(name, tmp_path):
    with pytest.raises(UserError, match="neither a DNS name nor an IP address"):
        identity.make(tmp_path / "pki", [name])
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(pki, tmp_path):
    before = {path: path.read_bytes() for path in pki.iterdir()}
    with pytest.raises(UserError, match="holds an authority already"):
        identity.make(pki)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        with pytest.raises(UserError, match="is no empty folder"):
            identity.make(tmp_path / name)
    assert {path: path.read_bytes() for path in pki.iterdir()} == before
    assert (
        (tmp_path / "full" / "thesis").read_text()
        == (tmp_path / "file").read_text()
        == "mine"
    )


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "pki").mkdir()
    identity.make(tmp_path / "pki")
    signed = identity.sign(tmp_path / "pki", 0, request())
    assert identity.identity_of(signed)[0] == 0


def test_the_server_certificate_is_made_anew_for_its_key(pki, monkeypatch):
    before = identity.server_credentials(pki)
    identity.renew_server(pki)
    assert identity.server_names(pki)[:2] == ("coordinator.example.org", "10.1.2.3")
    identity.renew_server(pki, ["new.example.org"])
    after = identity.server_credentials(pki)
    assert identity.server_names(pki) == (
        "new.example.org",
        "localhost",
        "127.0.0.1",
        "::1",
    )
    assert (after.key, after.ca) == (before.key, before.ca)
    assert (
        load(after.certificate).serial_number > load(before.certificate).serial_number
    )
    assert load(after.certificate).public_key() == load(before.certificate).public_key()
    with at(monkeypatch, 731 * DAY_S):
        with pytest.raises(UserError, match="fedlearn pki server"):
            identity.server_credentials(pki)
        identity.renew_server(pki)
        identity.server_credentials(pki)
    # That date was wrong: the new certificate is one of two years ahead.
    with pytest.raises(UserError, match=r"valid from \d{4}-\d\d-\d\d on.*set the date"):
        identity.server_credentials(pki)
    identity.renew_server(pki)
    identity.server_credentials(pki)
    with (
        at(monkeypatch, 3651 * DAY_S),
        pytest.raises(UserError, match=r"authority .* has expired"),
    ):
        identity.renew_server(pki)


def test_no_key_in_a_representation(pki):
    assert "PRIVATE" not in repr(identity.server_credentials(pki))


def test_no_authority(tmp_path):
    for call in (
        lambda: identity.sign(tmp_path, 1, request()),
        lambda: tokens.new_token(tmp_path, 1),
        lambda: tokens.revoke(tmp_path, 1),
        lambda: tokens.Revocations(tmp_path / "no").current(),
        lambda: identity.server_credentials(tmp_path),
    ):
        with pytest.raises(
            (UserError, RecordError), match=r"fedlearn pki init|cannot read"
        ):
            call()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [("issued.json", b"{"), ("issued.json", b"[]"), ("ca.key", b"x"), ("ca.pem", b"x")],
)
def test_a_damaged_folder(name, content, pki):
    (pki / name).write_bytes(content)
    with pytest.raises(RecordError, match=r"damaged.*; restore the folder"):
        identity.sign(pki, 1, request())


def test_a_full_disk_issues_nothing(pki, monkeypatch):
    before = (pki / "issued.json").read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RecordError, match="No space left"):
            identity.sign(pki, 1, request())
    assert (pki / "issued.json").read_bytes() == before
    assert not [path for path in pki.iterdir() if path.name.endswith(".part")]
    assert identity.identity_of(identity.sign(pki, 1, request()))[0] == 1


def test_what_expired_more_than_a_year_ago_is_forgotten(pki, monkeypatch):
    for days in (-456, -454, -91):
        with at(monkeypatch, days * DAY_S):
            identity.sign(pki, -days, request())
    identity.sign(pki, 2, request())
    listed = json.loads((pki / "issued.json").read_text())["certificates"]
    assert [entry["client"] for entry in listed.values()] == [454, 91, 2]


ISSUE = """
import sys
from pathlib import Path
from fedlearn.server import identity
pki, client, request = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].encode()
for _ in range(15):
    print(identity.identity_of(identity.sign(pki, client, request))[1])
"""


def test_two_processes_issue_different_numbers(pki):
    text = request().decode()
    children = [
        subprocess.Popen(
            [sys.executable, "-c", ISSUE, pki, str(n), text],
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in (1, 2)
    ]
    found = [list(map(int, child.communicate()[0].split())) for child in children]
    assert len(set(found[0] + found[1])) == 30
    assert all(numbers == sorted(numbers) for numbers in found)
    listed = json.loads((pki / "issued.json").read_text())["certificates"]
    assert {n: entry["client"] for n, entry in listed.items()} == {
        str(s): n + 1 for n in (0, 1) for s in found[n]
    }


# Requests


def unsigned():
    """Return a request whose signature is of something else."""
    der = bytearray(
        x509.load_pem_x509_csr(request()).public_bytes(serialization.Encoding.DER)
    )
    der[-1] ^= 1
    body = base64.encodebytes(bytes(der)).decode()
    kind = "CERTIFICATE REQUEST"
    return f"-----BEGIN {kind}-----\n{body}-----END {kind}-----\n".encode()


BAD_REQUESTS = {
    "nothing": (b"", "can be read"),
    "garbage": (b"\xff" * 200, "can be read"),
    "half of one": (request()[:200], "can be read"),
    "another's signature": (unsigned(), "not signed by its own key"),
    "an RSA key": (request(rsa.generate_private_key(65537, 2048)), "P-256"),
    "P-384": (request(ec.generate_private_key(ec.SECP384R1())), "P-256"),
    "Ed25519": (request(ed25519.Ed25519PrivateKey.generate()), "P-256"),
    "a bomb": (request() + b"\n" * 8192, "limit is 8192"),
}


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(*case, id=name)
        for name, case in [(n, (d,)) for n, d in BAD_REQUESTS.items()]
    ],
)
def test_a_bad_request_takes_no_number(data, shared):
    before = (shared / "issued.json").read_bytes()
    with pytest.raises(IdentityError, match=data[1]) as caught:
        identity.sign(shared, 1, data[0])
    assert caught.value.reason == "request"
    assert (shared / "issued.json").read_bytes() == before


def test_a_requests_own_names_are_ignored(shared):
    key = new_key()
    made = identity.sign(shared, 7, request(key, [uri(8), x509.DNSName("localhost")]))
    assert identity.identity_of(made)[0] == 7
    found = load(made)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == ["fedlearn://client/7"]
    assert found.public_key() == key.public_key()
    assert found.subject.rfc4514_string() == "CN=fedlearn client 7"


@pytest.mark.parametrize("client", [-1, 2**32])
def test_an_id_out_of_range(client, shared):
    for call in (
        lambda: identity.sign(shared, client, request()),
        lambda: tokens.new_token(shared, client),
        lambda: tokens.revoke(shared, client),
    ):
        with pytest.raises(UserError, match="no client's id"):
            call()


@pytest.mark.parametrize("client", [0, 7, 2**32 - 1])
def test_a_client_is_its_uri(client):
    key = new_key()
    assert identity.identity_of(forged([uri(client)], key, key, serial=5)) == (
        client,
        5,
    )


STRANGE = {
    "no name": [],
    "two clients": [uri(7), uri(8)],
    "the same twice": [uri(7), uri(7)],
    "a host beside": [uri(7), x509.DNSName("localhost")],
    "a host alone": [x509.DNSName("fedlearn://client/7")],
    "another scheme": [x509.UniformResourceIdentifier("https://client/7")],
    "another kind": [x509.UniformResourceIdentifier("fedlearn://server/7")],
    **{
        f"the id {text!r}": [uri(text)]
        for text in (
            "",
            "07",
            "-1",
            "+7",
            "7/",
            "7/8",
            "7 ",
            " 7",
            "7\n",
            "1e3",
            "x",
            2**32,
            "9" * 30,
        )
    },
}


@pytest.mark.parametrize("names", STRANGE.values(), ids=STRANGE)
def test_a_certificate_that_names_anything_else(names):
    key = new_key()
    with pytest.raises(IdentityError) as caught:
        identity.identity_of(forged(names, key, key))
    assert caught.value.reason == "certificate"


@pytest.mark.parametrize("data", [b"", b"x", request()])
def test_what_is_no_certificate(data):
    with pytest.raises(IdentityError, match="names no client"):
        identity.identity_of(data)


# Tokens


def test_a_token_works_once_and_only_its_digest_is_kept(pki):
    token = tokens.new_token(pki, 7)
    assert token.isascii() and not set(token) - set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
    )
    secret = secret_of(token)
    assert len(base64.urlsafe_b64decode(secret + "=")) == 32
    assert not [path for path in pki.iterdir() if secret.encode() in path.read_bytes()]
    assert tokens.redeem(pki, secret) == 7
    with pytest.raises(IdentityError, match=r"used already; .*--client 7") as caught:
        tokens.redeem(pki, secret)
    assert caught.value.reason == "used"


def test_a_token_expires(pki, monkeypatch):
    secret = secret_of(tokens.new_token(pki, 7, hours=2))
    with (
        at(monkeypatch, 2 * 3600 + 5),
        pytest.raises(IdentityError, match="expired") as caught,
    ):
        tokens.redeem(pki, secret)
    assert caught.value.reason == "expired"
    with at(monkeypatch, 2 * 3600 - 60):
        assert tokens.redeem(pki, secret) == 7
    with at(monkeypatch, 364 * DAY_S):
        tokens.new_token(pki, 9)
    assert len(json.loads((pki / "tokens.json").read_text())) == 2
    with at(monkeypatch, 366 * DAY_S):
        tokens.new_token(pki, 8)
    assert [
        token["client"]
        for token in json.loads((pki / "tokens.json").read_text()).values()
    ] == [9, 8]


@pytest.mark.parametrize("secret", ["", "x", "A" * 43, "\udcff", "é" * 20])
def test_an_unknown_secret(secret, shared):
    tokens.new_token(shared, 7)
    with pytest.raises(IdentityError, match="not known") as caught:
        tokens.redeem(shared, secret)
    assert caught.value.reason == "unknown"


@pytest.mark.parametrize("hours", [0, -1, float("nan"), float("inf"), 9000])
def test_hours_out_of_range(hours, shared):
    with pytest.raises(UserError, match="out of range"):
        tokens.new_token(shared, 7, hours)


def test_a_token_that_cannot_be_marked_is_not_redeemed(pki, monkeypatch):
    secret = secret_of(tokens.new_token(pki, 7))

    def broken(descriptor):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(RecordError, match="Input/output error"):
            tokens.redeem(pki, secret)
    assert tokens.redeem(pki, secret) == 7


REDEEM = """
import sys
from pathlib import Path
from fedlearn.errors import FedlearnError
from fedlearn.server import tokens
for secret in sys.argv[2:]:
    try:
        print(tokens.redeem(Path(sys.argv[1]), secret))
    except FedlearnError as error:
        print(error.reason)
"""


def test_two_processes_redeem_a_token_once(pki):
    secrets = [secret_of(tokens.new_token(pki, client)) for client in range(12)]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", REDEEM, pki, *secrets],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in "ab"
    ]
    found = [child.communicate()[0].split() for child in children]
    assert [sorted(pair) for pair in zip(*found, strict=True)] == [
        [str(client), "used"] for client in range(12)
    ]


# Revocation


def test_a_revoked_client_comes_back_with_a_new_token_only(pki):
    old = identity.identity_of(identity.sign(pki, 7, request()))
    other = identity.identity_of(identity.sign(pki, 8, request()))
    unused = secret_of(tokens.new_token(pki, 7))
    running = tokens.Revocations(pki)
    assert not running.refused(*old)
    assert tokens.revoke(pki, 7) == tokens.Revoked(7, 1, 1)
    assert running.refused(*old) and not running.refused(*other)
    assert list(running.current()) == [7]
    with pytest.raises(IdentityError, match="withdrawn"):
        tokens.redeem(pki, unused)
    tokens.redeem(pki, secret_of(tokens.new_token(pki, 7)))
    new = identity.identity_of(identity.sign(pki, 7, request()))
    assert not running.refused(*new) and running.refused(*old)
    assert tokens.revoke(pki, 7) == tokens.Revoked(7, 1, 0)
    assert running.refused(*new)
    assert tokens.revoke(pki, 7) == tokens.Revoked(7, 0, 0)


def test_no_renewal_past_a_revocation(pki):
    client, serial = identity.identity_of(identity.sign(pki, 7, request()))
    client, serial = identity.identity_of(tokens.renew(pki, client, serial, request()))
    assert client == 7
    tokens.revoke(pki, 7)
    before = (pki / "issued.json").read_bytes()
    with pytest.raises(IdentityError, match="revoked") as caught:
        tokens.renew(pki, client, serial, request())
    assert (
        caught.value.reason == "revoked"
        and (pki / "issued.json").read_bytes() == before
    )


def test_an_id_that_was_never_given_is_told(pki):
    with pytest.raises(UserError, match="client 9 has neither"):
        tokens.revoke(pki, 9)
    assert tokens.Revocations(pki).current() == {}


@pytest.mark.parametrize("content", [b"", b"[]", b'{"x": 1}', b'{"7": null}', None])
def test_a_damaged_list_of_revocations_lets_nobody_in(content, pki):
    running = tokens.Revocations(pki)
    (pki / "revoked.json").unlink()
    if content is not None:
        (pki / "revoked.json").write_bytes(content)
    for _ in "ab":
        with pytest.raises((RecordError, UserError)):
            running.refused(7, 3)


# Clocks and copies


@pytest.fixture
def restored(pki, tmp_path):
    """Return a function that puts the authority back to how it is now."""
    shutil.copytree(pki, tmp_path / "copy")

    def restore() -> None:
        shutil.rmtree(pki)
        shutil.copytree(tmp_path / "copy", pki)

    return restore


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Return a function that forgets what this machine remembers, as another one would."""
    return lambda: monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "elsewhere"))


@pytest.mark.parametrize("days", [100, 450, 2000, -30])
def test_a_clock_that_was_wrong_for_a_while_forgets_no_revocation(
    days, pki, monkeypatch
):
    old = identity.identity_of(identity.sign(pki, 7, request()))
    unused = secret_of(tokens.new_token(pki, 7))
    tokens.revoke(pki, 8, anyway=True)
    with at(monkeypatch, days * DAY_S):
        identity.sign(pki, 1, request())
        tokens.new_token(pki, 1)
        tokens.revoke(pki, 2, anyway=True)
    # In 2000 days the token and the certificate are forgotten, and refused all the same.
    assert tokens.revoke(pki, 7, anyway=days == 2000).client == 7
    assert tokens.Revocations(pki).refused(*old)
    with pytest.raises(IdentityError, match="withdrawn"):
        tokens.redeem(pki, unused)
    new = identity.identity_of(identity.sign(pki, 7, request()))
    assert not tokens.Revocations(pki).refused(*new)


def test_a_revocation_while_the_clock_is_ahead_withdraws_every_token(pki, monkeypatch):
    unused = secret_of(tokens.new_token(pki, 7, hours=1))
    with at(monkeypatch, DAY_S):
        assert tokens.revoke(pki, 7) == tokens.Revoked(7, 0, 0)
    with pytest.raises(IdentityError, match="withdrawn"):
        tokens.redeem(pki, unused)


def test_no_number_is_used_twice(pki, restored, elsewhere, monkeypatch):
    """Whatever the clock says, and though the folder forgets what it has issued."""
    numbers = []
    elsewhere()
    for days in (0, 0, 40, -40, 0, 3000, 0):
        with at(monkeypatch, days * DAY_S):
            numbers += [
                identity.identity_of(identity.sign(pki, 1, request()))[1]
                for _ in range(3)
            ]
        if days == 3000:
            restored()
    assert len(set(numbers)) == len(numbers)
    in_between = [numbers[n : n + 3] for n in range(0, len(numbers), 3)]
    assert all(part == sorted(part) for part in in_between)


def test_what_was_revoked_and_used_holds_in_a_restored_folder(pki, restored):
    old = identity.identity_of(identity.sign(pki, 7, request()))
    used, withdrawn = (secret_of(tokens.new_token(pki, n)) for n in (7, 8))
    running = tokens.Revocations(pki)
    copy = pki.parent / "copy"
    shutil.rmtree(copy)
    shutil.copytree(pki, copy)
    tokens.redeem(pki, used)
    for client in (7, 8):
        tokens.revoke(pki, client)
    restored()
    assert running.refused(*old)
    for secret in (used, withdrawn):
        with pytest.raises(IdentityError, match="used already"):
            tokens.redeem(pki, secret)
    with pytest.raises(IdentityError, match="is revoked"):
        tokens.renew(pki, *old, request())
    sentence = tokens.recover(pki)
    assert sentence is not None
    assert "2 revocations and 2 used tokens are put back" in sentence
    assert time.strftime("revoke again since %Y-", time.gmtime()) in sentence
    assert tokens.recover(pki) is None
    assert list(json.loads((pki / "revoked.json").read_text())) == ["7", "8"]
    # And a new token lets the client in.
    tokens.redeem(pki, secret_of(tokens.new_token(pki, 7)))
    new = identity.identity_of(identity.sign(pki, 7, request()))
    assert not running.refused(*new)


def test_a_running_coordinator_says_once_that_a_folder_was_restored(pki, restored):
    running = tokens.Revocations(pki)
    assert running.restored() is None
    tokens.revoke(pki, 7, anyway=True)
    assert running.restored() is None
    restored()
    assert "1 revocations and 0 used tokens" in str(running.restored())
    assert running.restored() is None


def test_a_coordinator_remembers_what_another_user_has_revoked(
    pki, restored, elsewhere
):
    tokens.revoke(pki, 7, anyway=True)
    elsewhere()
    assert tokens.recover(pki) is None
    restored()
    assert tokens.Revocations(pki).current().keys() == {7}


def test_on_another_machine_a_person_revokes_again(pki, restored, elsewhere):
    """What was given after the copy is unknown there, and is refused on request."""
    restored()
    lost = identity.identity_of(identity.sign(pki, 9, request()))
    tokens.revoke(pki, 9)
    elsewhere()
    restored()
    assert not tokens.Revocations(pki).refused(*lost)
    with pytest.raises(UserError, match="all the same: --anyway"):
        tokens.revoke(pki, 9)
    assert tokens.revoke(pki, 9, anyway=True) == tokens.Revoked(9, 0, 0)
    assert tokens.Revocations(pki).refused(*lost)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"limits": 3}', b"[" * 9999])
def test_a_damaged_memory_ends_nothing(content, pki):
    tokens.revoke(pki, 7, anyway=True)
    path = anchor.place(pki)
    assert path is not None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(content)
    assert tokens.Revocations(pki).current().keys() == {7}
    tokens.revoke(pki, 8, anyway=True)
    assert anchor.read(pki).limits.keys() == {8}


def test_without_a_home_nothing_is_remembered(pki, monkeypatch):
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert tokens.revoke(pki, 7, anyway=True).client == 7
    assert anchor.read(pki) == anchor.Anchor()


def no_home():
    raise RuntimeError("Could not determine home directory.")


def test_an_expired_certificate_is_not_renewed(pki, monkeypatch):
    client, serial = identity.identity_of(identity.sign(pki, 7, request(), 3))
    with (
        at(monkeypatch, 4 * DAY_S),
        pytest.raises(IdentityError, match="has expired") as caught,
    ):
        tokens.renew(pki, client, serial, request())
    assert caught.value.reason == "expired"


def test_the_coordinators_key_is_replaced_and_its_agents_take_it(pki):
    before = identity.server_credentials(pki)
    identity.renew_server(pki, new_key_too=True)
    after = identity.server_credentials(pki)
    assert after.key != before.key
    assert load(after.certificate).public_key() != load(before.certificate).public_key()
    assert identity.server_names(pki)[:2] == ("coordinator.example.org", "10.1.2.3")
    assert stat.S_IMODE((pki / "server.key").stat().st_mode) == 0o600
    with enrolling(pki) as port:
        reply = ask(port, before.ca, secret_of(tokens.new_token(pki, 7)), request())
    assert reply.client == 7
    # A crash between the two files.
    (pki / "server.pem").write_bytes(before.certificate)
    with pytest.raises(UserError, match="fedlearn pki server --new-key"):
        identity.server_credentials(pki)
    identity.renew_server(pki)
    identity.server_credentials(pki)


# The enrollment service


def ask(port, ca, secret, data):
    with grpc.secure_channel(
        f"127.0.0.1:{port}", grpc.ssl_channel_credentials(ca)
    ) as channel:
        return methods.enroll(channel)(
            EnrolRequest(secret=secret, request=data), timeout=20
        )


def test_the_service_answers_refuses_and_counts(pki, monkeypatch):
    ca = (pki / "ca.pem").read_bytes()
    secret, late = (
        secret_of(tokens.new_token(pki, 7)),
        secret_of(tokens.new_token(pki, 8, hours=1)),
    )
    service = enrollment.Enrollment(pki, 0)
    refused = []
    with enrolling(pki, service) as port:

        def code(secret, data):
            with pytest.raises(grpc.RpcError) as caught:
                ask(port, ca, secret, data)
            refused.append(caught.value.details())
            return caught.value.code()

        assert code(secret, unsigned()) is grpc.StatusCode.INVALID_ARGUMENT
        assert code("guess", request()) is grpc.StatusCode.PERMISSION_DENIED
        assert code("guess" * 100_000, request()) is grpc.StatusCode.PERMISSION_DENIED
        reply = ask(
            port, ca, secret, request(names=[uri(8)])
        )  # the bad request left the token as it was
        assert code(secret, request()) is grpc.StatusCode.PERMISSION_DENIED
        with at(monkeypatch, 3700):
            assert code(late, request()) is grpc.StatusCode.PERMISSION_DENIED
        (pki / "tokens.json").write_bytes(b"{")
        assert code("guess", request()) is grpc.StatusCode.INTERNAL
    assert (reply.client, reply.expires) == (7, identity.expiry(reply.certificate))
    assert identity.identity_of(reply.certificate)[0] == 7
    assert service.counts == Counter(
        enrolled=1, request=1, unknown=2, used=1, expired=1, failed=1
    )
    assert [text for text in refused if secret in text or "Traceback" in text] == []


def test_a_revocation_cannot_fall_between_token_and_certificate(pki, monkeypatch):
    """While a certificate is issued for a token, a revocation waits, and then covers the
    new number.
    """
    secret = secret_of(tokens.new_token(pki, 7))
    issue, begun = identity.issue, threading.Event()
    revoking = threading.Thread(target=lambda: begun.wait(20) and tokens.revoke(pki, 7))

    def slow(*given):
        begun.set()
        revoking.join(0.3)  # long enough to go through, if it did not wait for the lock
        return issue(*given)

    monkeypatch.setattr(identity, "issue", slow)
    revoking.start()
    reply = enrollment.enroll(pki, secret, request())
    revoking.join()
    assert tokens.Revocations(pki).refused(*identity.identity_of(reply.certificate))


# A server that demands certificates


@pytest.fixture(scope="module")
def guarded(shared):
    """A real mTLS server; gives a function that calls it with a certificate, and the list
    of those it let in.
    """
    seen = []

    async def who(data, context):
        seen.append(identity.identity_of(context.auth_context()["x509_pem_cert"][0]))
        return b"%d %d" % seen[-1]

    handler = grpc.method_handlers_generic_handler(
        "test.Door", {"Who": grpc.unary_unary_rpc_method_handler(who)}
    )
    own = identity.server_credentials(shared)

    def call(key=None, certificate=None):
        credentials = grpc.ssl_channel_credentials(own.ca, key, certificate)
        with grpc.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
            client, serial = channel.unary_unary("/test.Door/Who")(
                b"", timeout=20
            ).split()
            return int(client), int(serial)

    with served(handler, key=own.key, certificate=own.certificate, ca=own.ca) as port:
        yield call, seen


def test_a_client_is_let_in(guarded, shared):
    call, seen = guarded
    key = new_key()
    made = identity.sign(shared, 7, request(key))
    assert call(private(key), made) == identity.identity_of(made) == seen[-1]


def no_certificate(pki, patch):
    return None, None


def foreign_authority(pki, patch):
    """Return a client of another authority with the same name, the same URI and a number
    that was issued here.
    """
    key, other = new_key(), pki.with_name("foreign")
    if not other.exists():
        identity.make(other)
    return private(key), identity.sign(other, 7, request(key))


def foreign_chain(pki, patch):
    key, made = foreign_authority(pki, patch)
    return key, made + (pki.with_name("foreign") / "ca.pem").read_bytes()


def self_signed(pki, patch):
    key = new_key()
    return private(key), forged([uri(7)], key, key)


def expired(pki, patch):
    key = new_key()
    with at(patch, -91 * DAY_S):
        return private(key), identity.sign(pki, 7, request(key))


def from_tomorrow(pki, patch):
    key = new_key()
    with at(patch, DAY_S):
        return private(key), identity.sign(pki, 7, request(key))


def the_servers(pki, patch):
    return (pki / "server.key").read_bytes(), (pki / "server.pem").read_bytes()


def clients_child(pki, patch):
    """Return a certificate for client 8 that client 7 has signed with its own, sound one."""
    key, child = new_key(), new_key()
    parent = identity.sign(pki, 7, request(key))
    return private(child), forged(
        [uri(8)], child, key, issuer="fedlearn client 7"
    ) + parent


def damaged(pki, patch):
    key = new_key()
    der = bytearray(
        load(identity.sign(pki, 7, request(key))).public_bytes(
            serialization.Encoding.DER
        )
    )
    at_id = der.index(b"fedlearn://client/7") + 18
    der[at_id : at_id + 1] = b"8"
    return private(key), b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(
        bytes(der)
    ) + b"-----END CERTIFICATE-----\n"


ATTACKS = [
    no_certificate,
    foreign_authority,
    foreign_chain,
    self_signed,
    expired,
    from_tomorrow,
    the_servers,
    clients_child,
    damaged,
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_nobody_else_is_let_in(attack, guarded, shared, monkeypatch):
    call, seen = guarded
    before = list(seen)
    with pytest.raises(grpc.RpcError) as caught:
        call(*attack(shared, monkeypatch))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert seen == before


def test_anothers_certificate_without_its_key(guarded, shared):
    call, seen = guarded
    before = list(seen)
    stolen = identity.sign(shared, 7, request())
    with pytest.raises((grpc.RpcError, ValueError)):
        call(private(new_key()), stolen)
    assert seen == before
