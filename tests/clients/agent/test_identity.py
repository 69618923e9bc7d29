"""An agent's identity: made on the device, kept in one file, renewed without a moment between."""

import asyncio
import base64
import dataclasses
import json
import os
import ssl
import stat
import subprocess
import sys
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedlearn.clients.agent import identity as agent
from fedlearn.errors import RecordError, RunError, UserError
from fedlearn.exchange import methods
from fedlearn.exchange.exchange_pb2 import EnrolReply
from fedlearn.server import identity, tokens
from tests.server.test_identity import enrolling, new_key, private, request, served


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    folder = tmp_path_factory.mktemp("authority") / "pki"
    identity.make(folder)
    return folder


@pytest.fixture(scope="module")
def port(pki):
    with enrolling(pki) as port:
        yield port


@pytest.fixture
def token(pki):
    return agent.read_token(tokens.new_token(pki, 7))


def public(key):
    return serialization.load_pem_private_key(key, None).public_key()


def stored(pki, folder, client=7):
    """Return an identity that was got without a network."""
    made = identity.sign(pki, client, agent.make_key_and_csr(folder))
    return agent.store(
        folder, client, made, (pki / "ca.pem").read_bytes(), identity.expiry(made)
    )


def test_a_token_carries_client_and_authority(pki, token):
    assert (token.client, token.ca) == (7, (pki / "ca.pem").read_bytes())
    assert token.secret not in repr(token)
    assert tokens.redeem(pki, token.secret) == 7


def changed(**fields):
    content = {"v": 1, "client": 7, "secret": "s", "ca": "AAAA"} | fields
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "eyJ2IjoxfQ", "é" * 40, "a b", "A" * 20_000, "W10", "=" * 8),
        *(
            changed(ca="AAAA"),
            changed(ca=None),
            changed(v="1", ca="!"),
            base64.urlsafe_b64encode(b"[" * 9000).decode(),
        ),
    ],
)
def test_what_is_no_token(text):
    with pytest.raises(UserError):
        agent.read_token(text)


def test_every_cut_of_a_token_is_refused(pki):
    word = tokens.new_token(pki, 7)
    for length in range(len(word)):
        with pytest.raises(UserError, match="not a token, or not all of it"):
            agent.read_token(word[:length])
    assert agent.read_token(f"\n {word[:80]}\n{word[80:]}\n").client == 7
    with pytest.raises(UserError, match="not a token"):
        agent.read_token(f"{word[:80]}!{word[80:]}")


def test_a_token_of_a_newer_version_says_so(pki):
    with pytest.raises(UserError, match=r"has version 2; .* upgrade"):
        agent.read_token(changed(v=2))


@pytest.mark.parametrize(
    "fields",
    [
        {"client": -1},
        {"client": True},
        {"client": "7"},
        {"client": 2**32},
        {"secret": 5},
    ],
)
def test_a_token_with_strange_fields(fields, pki):
    ca = base64.b64encode(
        ssl.PEM_cert_to_DER_cert((pki / "ca.pem").read_text())
    ).decode()
    assert agent.read_token(changed(ca=ca)).client == 7
    with pytest.raises(UserError, match="damaged"):
        agent.read_token(changed(ca=ca, **fields))


def test_the_key_is_made_here_and_is_the_owners_alone(tmp_path):
    folder = tmp_path / "new" / "agent"
    found = x509.load_pem_x509_csr(agent.make_key_and_csr(folder))
    key = public((folder / "key.pem").read_bytes())
    assert isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1"
    assert (
        found.is_signature_valid
        and found.public_key() == key
        and list(found.extensions) == []
    )
    assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
    agent.make_key_and_csr(folder)
    assert public((folder / "key.pem").read_bytes()) != key


def test_a_machines_own_openssl_settings_do_not_matter(tmp_path, monkeypatch):
    (tmp_path / "odd.cnf").write_text(
        "[req]\nprompt = no\ndistinguished_name = nowhere\nreq_extensions = neither\n"
    )
    monkeypatch.setenv("OPENSSL_CONF", str(tmp_path / "odd.cnf"))
    assert x509.load_pem_x509_csr(
        agent.make_key_and_csr(tmp_path / "agent")
    ).is_signature_valid


def test_openssl_is_missing_or_broken(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="sudo apt-get install openssl"):
        agent.make_key_and_csr(tmp_path / "agent")
    for script, told in (
        ("echo out of order >&2; exit 1", "out of order"),
        ("exit 0", "failed: 0"),
    ):
        (tmp_path / "openssl").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "openssl").chmod(0o755)
        with pytest.raises(RunError, match=told):
            agent.make_key_and_csr(tmp_path / "agent")
    assert not (tmp_path / "agent").exists()


def test_an_identity_is_one_file_of_the_owner(pki, tmp_path):
    made = stored(pki, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["identity.json"]
    assert stat.S_IMODE((tmp_path / "identity.json").stat().st_mode) == 0o600
    assert agent.read_identity(tmp_path) == made
    assert (
        public(made.key)
        == x509.load_pem_x509_certificate(made.certificate).public_key()
    )
    assert "PRIVATE" not in repr(made)


def test_no_identity_and_a_damaged_one(tmp_path):
    assert agent.read_identity(tmp_path) is None
    assert agent.read_identity(tmp_path / "no") is None
    for content in (
        "",
        "{",
        "[]",
        '{"client": 7}',
        '{"client": "x", "key": "", "certificate": "", "ca": "", "since": 0, "not_after": 0}',
    ):
        (tmp_path / "identity.json").write_text(content)
        with pytest.raises(RecordError, match="enroll again"):
            agent.read_identity(tmp_path)


def test_a_certificate_for_another_key_is_not_kept(pki, tmp_path):
    before = stored(pki, tmp_path)
    agent.make_key_and_csr(tmp_path)
    for wrong in (identity.sign(pki, 7, request()), b"", b"\xff", before.certificate):
        with pytest.raises(RunError, match="does not fit the key"):
            agent.store(tmp_path, 7, wrong, before.ca, before.not_after)
        assert agent.read_identity(tmp_path) == before


def test_a_renewal_cut_off_anywhere_leaves_an_identity(pki, tmp_path, monkeypatch):
    """Every sync fails once: what is read afterwards is the old identity or the new, and its
    key fits its certificate.
    """
    before = stored(pki, tmp_path)
    real, outcomes = os.fsync, []
    # The authority's memory outside of its folder may fail: it is a second one.
    spared = []
    for failing in range(1, 20):
        calls: list[int] = []

        def fsync(descriptor, calls=calls, failing=failing):
            calls.append(descriptor)
            if len(calls) == failing:
                path = os.readlink(f"/proc/self/fd/{descriptor}")
                if path.startswith(os.environ["XDG_STATE_HOME"]):
                    spared.append(path)
                raise OSError(28, "No space left on device")
            real(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            try:
                stored(pki, tmp_path)
                outcomes.append("done")
            except RecordError:
                outcomes.append("failed")
        found = agent.read_identity(tmp_path)
        assert (
            found is not None
            and public(found.key)
            == x509.load_pem_x509_certificate(found.certificate).public_key()
        )
        if outcomes[-1] == "done" and len(calls) < failing:
            break
    syncs = failing - 1
    assert syncs >= 6 and outcomes[-1] == "done"
    assert outcomes.count("done") == 1 + len(spared)
    assert agent.read_identity(tmp_path) != before


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, False), (0.6, False), (0.67, True), (1.0, True), (2.0, True), (-1.0, False)],
)
def test_renewal_is_due_in_the_last_third(share, expected, pki, tmp_path):
    made = dataclasses.replace(stored(pki, tmp_path), since=1000.0, not_after=4000.0)
    assert agent.due(made, 1000 + share * 3000) is expected


def test_a_wrong_clock_at_enrollment_renews_early(pki, tmp_path):
    made = stored(pki, tmp_path)
    assert agent.due(
        dataclasses.replace(made, since=0.0), time.time()
    )  # a board without a battery wakes up in 1970
    assert agent.due(dataclasses.replace(made, since=made.not_after + 5), time.time())
    assert not agent.due(made, time.time())


# Enrollment


def test_enrollment_and_what_is_kept(pki, port, token, tmp_path):
    made = agent.enroll(f"127.0.0.1:{port}", token, tmp_path)
    assert made == agent.read_identity(tmp_path)
    assert (made.client, made.ca) == (7, (pki / "ca.pem").read_bytes())
    assert identity.identity_of(made.certificate)[
        0
    ] == 7 and made.not_after == identity.expiry(made.certificate)
    with pytest.raises(UserError, match="used already; ask for a new one"):
        agent.enroll(f"127.0.0.1:{port}", token, tmp_path)
    assert agent.read_identity(tmp_path) == made
    again = agent.enroll(
        f"localhost:{port}", agent.read_token(tokens.new_token(pki, 7)), tmp_path
    )
    assert again.key != made.key and again.client == 7


def test_a_folder_belongs_to_one_client(pki, port, tmp_path):
    stored(pki, tmp_path, client=3)
    word = tokens.new_token(pki, 7)
    with pytest.raises(
        UserError,
        match="belongs to client 3, the token is for client 7; choose another --state",
    ):
        agent.enroll(f"127.0.0.1:{port}", agent.read_token(word), tmp_path)
    assert tokens.redeem(pki, agent.read_token(word).secret) == 7


def test_the_secret_goes_to_the_tokens_coordinator_only(pki, port, token, tmp_path):
    """Another authority's coordinator, and a client that plays the coordinator with its own
    certificate.
    """
    identity.make(tmp_path / "other")
    for_other = agent.read_token(tokens.new_token(tmp_path / "other", 7))
    with pytest.raises(UserError, match=r"could not prove .* The token was not sent"):
        agent.enroll(f"127.0.0.1:{port}", for_other, tmp_path / "agent")
    assert tokens.redeem(tmp_path / "other", for_other.secret) == 7

    key = new_key()
    with (
        served(
            key=private(key), certificate=identity.sign(pki, 8, request(key))
        ) as impostor,
        pytest.raises(UserError, match="could not prove"),
    ):
        agent.enroll(f"127.0.0.1:{impostor}", token, tmp_path / "agent")
    assert tokens.redeem(pki, token.secret) == 7


def test_a_name_that_the_certificate_lacks(pki, token, tmp_path):
    with (
        enrolling(pki, host="127.0.0.2") as port,
        pytest.raises(
            UserError,
            match=r"not for the name 127\.0\.0\.2; .*fedlearn pki server --name 127",
        ),
    ):
        agent.enroll(f"127.0.0.2:{port}", token, tmp_path)


def test_an_answer_for_another_client_is_not_kept(pki, token, tmp_path):
    async def answer(request, context):
        return EnrolReply(
            certificate=identity.sign(pki, 8, request.request), client=8, expires=2**31
        )

    own = identity.server_credentials(pki)
    with (
        served(
            methods.enroll_handler(answer), key=own.key, certificate=own.certificate
        ) as port,
        pytest.raises(RunError, match="for client 8"),
    ):
        agent.enroll(f"127.0.0.1:{port}", token, tmp_path)
    assert agent.read_identity(tmp_path) is None


def test_a_coordinator_that_never_answers(pki, token, tmp_path):
    async def answer(request, context):
        await asyncio.sleep(60)

    own = identity.server_credentials(pki)
    with (
        served(
            methods.enroll_handler(answer), key=own.key, certificate=own.certificate
        ) as port,
        pytest.raises(RunError, match="in time"),
    ):
        agent.enroll(f"127.0.0.1:{port}", token, tmp_path, timeout_s=0.5)


def test_the_wrong_port_and_no_port(pki, token, tmp_path):
    own = identity.server_credentials(pki)
    with (
        served(key=own.key, certificate=own.certificate, ca=own.ca) as exchange,
        pytest.raises(RunError, match="not an enrollment port"),
    ):
        agent.enroll(f"127.0.0.1:{exchange}", token, tmp_path)
    with (
        served(key=own.key, certificate=own.certificate) as empty,
        pytest.raises(UserError, match="does not enroll agents"),
    ):
        agent.enroll(f"127.0.0.1:{empty}", token, tmp_path)
    with pytest.raises(RunError, match="cannot be reached"):
        agent.enroll("127.0.0.1:1", token, tmp_path)
    assert agent.read_identity(tmp_path) is None


@pytest.mark.parametrize(
    "address",
    [
        "",
        "host",
        "host:",
        ":1",
        "host:0",
        "host:65536",
        "host:x",
        "::1:80",
        "h/x:1",
        "a b:1",
        "[]:1",
        "h:٣",
        "h:1\n",
    ],
)
def test_an_address_that_is_none(address):
    with pytest.raises(UserError, match="write HOST:PORT"):
        agent.check_address(address)


@pytest.mark.parametrize(
    "address", ["host:1", "10.0.0.1:65535", "[::1]:80", "a.b-c.example:8444"]
)
def test_an_address(address):
    agent.check_address(address)


def test_the_agents_side_loads_no_cryptography():
    code = (
        "import sys, fedlearn.clients.agent.identity; print({'cryptography', "
        "'torch', 'numpy', 'flwr', 'pydantic'} & set(sys.modules))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        ).stdout.strip()
        == "set()"
    )
