"""The way out: when messages are sent again, who is believed, and a real broker."""

import contextlib
import json
import shutil
import subprocess
import threading
import time

import pytest

from fedlearn.clients.messages.broker import Broker, BrokerFiles
from fedlearn.clients.messages.collected import CollectedFile
from fedlearn.clients.messages.outbox import Outbox
from fedlearn.clients.messages.publisher import Publisher, Until, _Again, acknowledged
from tests.clients.messages.brokers import mosquitto, needs_mosquitto

pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed")

from fedlearn.clients.messages.collector import Collector

WAIT_S = 30.0


def test_what_is_late_is_sent_again_with_longer_and_longer_waits():
    again = _Again(5.0)
    # 3 messages were sent, nothing is settled.
    assert again.due(1, 3, now=0.0) is None
    assert again.due(1, 3, now=4.9) is None
    assert again.due(1, 3, now=5.0) == 0
    again.note(3)
    assert again.due(1, 3, now=14.9) is None
    assert again.due(1, 3, now=15.0) == 0
    again.note(3)
    # What is settled begins anew.
    assert again.due(2, 3, now=16.0) is None
    assert again.due(2, 3, now=21.0) == 1
    # All is settled: nothing is late.
    assert again.due(4, 3, now=99.0) is None


def test_a_backlog_goes_out_without_pauses_once_somebody_listens():
    again = _Again(5.0)
    again.due(1, 300, now=0.0)
    assert again.due(1, 300, now=5.0) == 0
    again.note(100)
    assert again.due(50, 310, now=6.0) is None
    assert again.due(101, 320, now=6.5) == 100
    again.note(200)
    assert again.due(201, 330, now=7.0) == 200
    again.note(300)
    # Those after 300 were sent meanwhile, and are not late.
    assert again.due(301, 340, now=7.5) is None


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b"1",
        b"[1]",
        b"[[1]]",
        b"[[2,1]]",
        b"[[0,1]]",
        b'[["1",2]]',
        b"[[true,true]]",
        b"[[1,99999999999999999999]]",
        b"[" * 50_000,
        b" " * 70_000 + b"[]",
    ],
)
def test_what_is_no_acknowledgement(payload):
    assert acknowledged(payload) is None


def test_an_acknowledgement():
    assert acknowledged(b"[[1,3],[7,7]]") == [(1, 3), (7, 7)]


class Way:
    """A publisher and, from `collect` on, a collector, on one broker."""

    def __init__(self, folder, broker, until=Until.COLLECTED):
        self.said: list[str] = []
        self.broker = broker
        self.outbox = Outbox(folder / "outbox")
        self.publisher = Publisher(
            self.outbox, broker, "site/a", until, self.said.append, resend_s=0.3
        )
        self.publisher.start()
        self.file = None
        self._path = folder / "out"

    def put(self, *numbers):
        self.outbox.put([(str(n), json.dumps({"n": n})) for n in numbers])
        self.publisher.wake()

    def collect(self, topic="site/#"):
        self.file = CollectedFile(self._path)
        self.collector = Collector(self.file, self.broker, topic, self.said.append)
        self._thread = threading.Thread(target=self.collector.run)
        self._thread.start()

    def collected(self):
        lines = self._path.read_text().splitlines()
        return sorted(json.loads(line)["n"] for line in lines)

    def close(self):
        self.publisher.stop()
        self.outbox.close()
        if self.file is not None:
            self.collector.stop()
            self._thread.join()
            self.file.close()


@contextlib.contextmanager
def way(folder, broker, **options):
    both = Way(folder, broker, **options)
    try:
        yield both
    finally:
        both.close()


def until(condition):
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


@needs_mosquitto
def test_an_answer_stays_until_it_is_collected(tmp_path):
    with (
        mosquitto(tmp_path) as server,
        way(tmp_path, Broker("127.0.0.1", server.port)) as both,
    ):
        both.put(*range(250))
        # The broker has acknowledged all of them, and forgets them: nobody subscribed.
        until(lambda: both.publisher.resent > 100)
        assert both.outbox.count == 250
        server.kill()
        server.start()
        both.collect()
        until(lambda: both.outbox.count == 0)
        assert both.collected() == list(range(250))
        # Its own acknowledgements lie below the topic that it subscribes to.
        assert both.collector.strangers == 0


@needs_mosquitto
def test_until_puback_loses_what_no_one_takes(tmp_path):
    """What the option's documentation says: the broker's word is not a disk's."""
    with (
        mosquitto(tmp_path) as server,
        way(tmp_path, Broker("127.0.0.1", server.port), until=Until.PUBACK) as both,
    ):
        both.put(*range(50))
        until(lambda: both.outbox.count == 0)
        both.collect()
        until(lambda: any("collects" in line for line in both.said))
        both.put(50)
        until(lambda: both.collected() == [50])


@needs_mosquitto
def test_what_is_no_answer_is_counted_and_not_collected(tmp_path):
    with (
        mosquitto(tmp_path) as server,
        way(tmp_path, Broker("127.0.0.1", server.port)) as both,
    ):
        both.collect("#")
        until(lambda: any("collects" in line for line in both.said))
        stranger = both.broker.client("stranger")
        stranger.connect("127.0.0.1", server.port)
        stranger.loop_start()
        stranger.publish("site/b", b"hello", qos=1).wait_for_publish(WAIT_S)
        stranger.publish(
            f"site/a/ack/{both.outbox.id}", b"nonsense", qos=1
        ).wait_for_publish(WAIT_S)
        both.put(1)
        until(lambda: both.outbox.count == 0)
        until(lambda: both.collector.strangers == 1)
        stranger.disconnect()
        stranger.loop_stop()
        assert both.collected() == [1]
        assert any("no acknowledgement" in line for line in both.said)


@needs_mosquitto
# paho-mqtt leaves the socket of a handshake that failed to the garbage.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_tls_and_a_password(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"),
            *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=localhost"),
            *("-keyout", str(key), "-out", str(certificate)),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    passwords = tmp_path / "passwords"
    passwords.touch(0o600)
    subprocess.run(
        ["mosquitto_passwd", "-b", str(passwords), "me", "s3cret"], check=True
    )
    settings = (
        f"cafile {certificate}\ncertfile {certificate}\nkeyfile {key}\n"
        f"password_file {passwords}\nallow_anonymous false\n"
    )
    with mosquitto(tmp_path, settings) as server:
        tls = BrokerFiles(ca=certificate)
        right = Broker("localhost", server.port, tls, "me", "s3cret")
        (tmp_path / "1").mkdir()
        with way(tmp_path / "1", right) as both:
            both.collect()
            both.put(1)
            until(lambda: both.outbox.count == 0)
        wrong = Broker("localhost", server.port, tls, "me", "other")
        (tmp_path / "2").mkdir()
        with way(tmp_path / "2", wrong) as both:
            both.put(1)
            until(lambda: any("refuses this device: Not auth" in x for x in both.said))
            assert both.outbox.count == 1
        (tmp_path / "3").mkdir()
        stranger = Broker("localhost", server.port, BrokerFiles())
        with way(tmp_path / "3", stranger) as both:
            until(lambda: any("CERTIFICATE_VERIFY_FAILED" in x for x in both.said))


@needs_mosquitto
def test_a_copied_outbox_is_noticed(tmp_path):
    with mosquitto(tmp_path) as server:
        broker = Broker("127.0.0.1", server.port)
        Outbox(tmp_path / "outbox").close()
        (tmp_path / "copy").mkdir()
        shutil.copytree(tmp_path / "outbox", tmp_path / "copy" / "outbox")
        with way(tmp_path, broker) as both, way(tmp_path / "copy", broker) as copy:
            until(
                lambda: any(
                    "has another device the same outbox" in line
                    for line in both.said + copy.said
                )
            )


@needs_mosquitto
def test_answers_cross_a_bridge_by_topic(tmp_path):
    """What docs/sources.md says of other systems: two topics, and no more than MQTT 3.1.1."""
    device = tmp_path / "device"
    device.mkdir()
    with mosquitto(tmp_path) as centre:
        bridge = (
            f"allow_anonymous true\nconnection centre\naddress 127.0.0.1:{centre.port}\n"
            "topic site/+ out 1\ntopic site/+/ack/+ in 1\n"
        )
        with (
            mosquitto(device, bridge) as near,
            way(device, Broker("127.0.0.1", near.port)) as both,
        ):
            both.broker = Broker("127.0.0.1", centre.port)
            both.collect()
            both.put(*range(30))
            until(lambda: both.outbox.count == 0)
            assert both.collected() == list(range(30))


@needs_mosquitto
def test_an_answer_that_no_broker_takes_does_not_block_the_others(tmp_path):
    settings = "allow_anonymous true\nmax_packet_size 5000\n"
    with (
        mosquitto(tmp_path, settings) as server,
        way(tmp_path, Broker("127.0.0.1", server.port)) as both,
    ):
        both.collect()
        both.outbox.put([("big", json.dumps({"n": 0, "x": "y" * 6000}))])
        both.put(1)
        until(lambda: both.outbox.count == 0)
        assert both.collected() == [1] and both.publisher.refused == 1
