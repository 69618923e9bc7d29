"""Addresses of coordinators: brackets, loopback, proxies, and why a port cannot be had."""

import socket

import pytest

from fedlearn.errors import ConfigError
from fedlearn.exchange import CHANNEL, addresses
from fedlearn.runs.hosting import own_pki
from fedlearn.runs.local_agents import dialled_host
from fedlearn.server import identity
from fedlearn.server.binding import why_not

VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch):
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize(
    ("host", "place"),
    [
        ("fd00::7", "[fd00::7]:5"),
        ("[fd00::7]", "[fd00::7]:5"),
        ("fe80::1%eth0", "[fe80::1%eth0]:5"),
        ("::", "[::]:5"),
        ("192.0.2.1", "192.0.2.1:5"),
        ("a.example.org", "a.example.org:5"),
    ],
)
def test_an_ipv6_address_has_brackets_however_it_was_given(host, place):
    assert addresses.joined(host, 5) == place
    assert addresses.host_of(place) == host.strip("[]")


@pytest.mark.parametrize(
    ("host", "loopback", "everywhere"),
    [
        ("127.9.9.9", True, False),
        ("::1", True, False),
        ("::ffff:127.0.0.1", True, False),
        ("localhost", True, False),
        ("a.localhost", True, False),
        ("0.0.0.0", False, True),
        ("::", False, True),
        ("192.0.2.1", False, False),
        ("localhost.example.org", False, False),
    ],
)
def test_what_is_this_machine_and_what_is_all_of_it(host, loopback, everywhere):
    assert addresses.is_loopback(host) is loopback
    assert addresses.is_everywhere(host) is everywhere


def test_loopback_goes_through_no_proxy_and_errors_elsewhere_name_it(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://me:secret@proxy.example.org:3128/")
    for place in ("127.0.0.2:7400", "[::1]:7400", "localhost:7400"):
        assert addresses.detour(place) == ""
        assert ("grpc.enable_http_proxy", 0) in addresses.channel_options(place)
    place = "coordinator.example.org:7400"
    assert addresses.channel_options(place) == CHANNEL
    detour = addresses.detour(place)
    assert detour == (
        ", through the proxy http_proxy=proxy.example.org:3128 "
        "(without it: no_proxy=coordinator.example.org)"
    )
    # As gRPC looks: this variable first, and what it leaves out.
    monkeypatch.setenv("grpc_proxy", "http://other.example.org:1")
    assert "grpc_proxy=other.example.org:1" in addresses.detour(place)
    monkeypatch.setenv("no_proxy", "a.example.com, .example.org")
    assert addresses.detour(place) == ""


def test_a_port_is_called_taken_only_when_it_is():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        taken = why_not("127.0.0.1", port, "--enroll-port")
        assert taken == "the port is taken; give another --enroll-port"
    unknown = why_not("192.0.2.77", 0, "--port")
    assert unknown == "this machine has no such address; give another --host"
    for host in ("no.such.host.invalid", "127.0.0.1:7400", "h" * 300):
        reason = why_not(host, 0, "--port")
        assert "taken" not in reason and reason.endswith("; give another --host")


@pytest.mark.parametrize(
    ("host", "dialled"),
    [
        ("0.0.0.0", "127.0.0.1"),
        ("::", "127.0.0.1"),
        ("[::]", "127.0.0.1"),
        ("[::1]", "::1"),
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "localhost"),
        ("192.0.2.7", "192.0.2.7"),
        ("coordinator.example.org", "coordinator.example.org"),
    ],
)
def test_local_agents_dial_what_their_runs_certificate_names(host, dialled, tmp_path):
    assert dialled_host(host, own_pki(tmp_path, host)) == dialled
    assert dialled_host(host, None) == dialled


def test_a_run_that_goes_on_at_another_host_names_it_and_keeps_its_authority(tmp_path):
    pki = own_pki(tmp_path, "127.0.0.1")
    ca = (pki / "ca.pem").read_bytes()
    assert own_pki(tmp_path, "192.0.2.8") == pki
    assert dialled_host("192.0.2.8", pki) == "192.0.2.8"
    assert (pki / "ca.pem").read_bytes() == ca


def test_a_certificate_that_does_not_name_the_host_is_one_line(tmp_path):
    pki = tmp_path / "pki"
    identity.make(pki, ["a.example.org"])
    with pytest.raises(ConfigError) as refusal:
        dialled_host("192.0.2.9", pki)
    line = str(refusal.value)
    assert "a.example.org" in line
    assert line.endswith(f"fedlearn pki server --pki {pki} --name 192.0.2.9")
