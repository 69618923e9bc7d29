"""A broker's address, its TLS and its password: nothing goes out in the clear by mistake."""

import sys
from pathlib import Path

import pytest

from fedlearn.clients.messages import broker
from fedlearn.clients.messages.broker import BrokerFiles
from fedlearn.clients.messages.topics import (
    acknowledgements,
    check_filter,
    check_topic,
    is_acknowledgement,
)
from fedlearn.errors import UserError

NONE = BrokerFiles()


def parsed(text, files=NONE, user="", password=None, insecure=False):
    return broker.parsed(text, files, user, password, insecure)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("127.0.0.1", "mqtt://127.0.0.1:1883"),
        ("localhost:1999", "mqtt://localhost:1999"),
        ("mqtt://localhost", "mqtt://localhost:1883"),
        ("[::1]:7", "mqtt://[::1]:7"),
        ("mqtts://broker.example", "mqtts://broker.example:8883"),
        ("mqtts://broker.example:99", "mqtts://broker.example:99"),
    ],
)
def test_addresses(text, name):
    assert parsed(text).name == name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("user:secret@host", "do not go into the address"),
        ("http://host", "give HOST, HOST:PORT or mqtts://HOST:PORT"),
        ("", "give HOST"),
        ("a:b:c", "give HOST"),
        ("localhost:0", "from 1 to 65535"),
        ("localhost:70000", "from 1 to 65535"),
        ("broker.example", "in the clear"),
    ],
)
def test_addresses_that_are_none(text, words):
    with pytest.raises(UserError, match=words):
        parsed(text)


def test_another_machine_in_the_clear_has_to_be_meant():
    assert parsed("broker.example", insecure=True).tls is None
    assert parsed("broker.example", BrokerFiles(ca=Path("ca.pem"))).port == 8883


def test_a_password_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    path = tmp_path / "password"
    path.write_text("s3cret\n")
    path.chmod(0o644)
    with pytest.raises(UserError, match=f"chmod 600 {path}"):
        parsed("localhost", user="me", password=path)
    path.chmod(0o600)
    own = parsed("localhost", user="me", password=path)
    assert own.password == "s3cret" and "s3cret" not in repr(own)
    path.write_bytes(b"a\nb\n")
    with pytest.raises(UserError, match="one line of text"):
        parsed("localhost", password=path)
    with pytest.raises(UserError, match="No such file"):
        parsed("localhost", password=tmp_path / "absent")
    monkeypatch.setenv(broker.USER, "env")
    monkeypatch.setenv(broker.PASSWORD, "word")
    own = parsed("localhost")
    assert (own.user, own.password) == ("env", "word")
    assert parsed("localhost", user="me").user == "me"


def test_files_of_tls_that_are_none(tmp_path):
    bad = tmp_path / "bad.pem"
    bad.write_text("x")
    with pytest.raises(UserError, match="--broker-ca"):
        BrokerFiles(ca=bad).context()
    with pytest.raises(UserError, match="--broker-key"):
        BrokerFiles(certificate=bad, key=bad).context()
    with pytest.raises(UserError, match="go together"):
        parsed("localhost", BrokerFiles(certificate=bad))


def test_without_the_package_the_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "paho.mqtt", None)
    with pytest.raises(UserError, match=r"pip install 'fedlearn\[mqtt\]'"):
        parsed("localhost").client("me")


@pytest.mark.parametrize("topic", ["a", "site/line-1/ä", "/a"])
def test_topics(topic):
    assert check_topic(topic, "--to") == topic


@pytest.mark.parametrize("topic", ["", "a/+", "#", "$SYS/x", "a\nb", "a" * 513])
def test_topics_that_nothing_goes_to(topic):
    with pytest.raises(UserError, match="--to mqtt:"):
        check_topic(topic, "--to")


def test_filters():
    for topic in ("#", "a/#", "+/b", "a/+/c"):
        assert check_filter(topic, "--from") == topic
    for topic in ("a#", "#/a", "a+/b"):
        with pytest.raises(UserError, match="--from mqtt:"):
            check_filter(topic, "--from")


def test_acknowledgements_are_told_apart():
    assert is_acknowledgement(acknowledgements("a/b", "0123456789abcdef"))
    assert not is_acknowledgement("a/ack/b")
    assert not is_acknowledgement("0123456789abcdef")
