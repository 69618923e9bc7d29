"""Messages as samples: every form, and what is none; over a real broker, each once."""

import io
import threading

import numpy as np
import pytest

from fedlearn.clients.infer import stream
from fedlearn.clients.infer.arrivals import Kind
from fedlearn.clients.infer.outlets import FileOutlet
from fedlearn.clients.infer.subscription import Subscription, arrival_of
from fedlearn.clients.messages.broker import Broker
from fedlearn.errors import DataError
from tests.clients.infer import graphs
from tests.clients.infer.test_stream import rows, until
from tests.clients.messages.brokers import mosquitto, needs_mosquitto


def saved(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_forms_of_messages():
    plain = arrival_of("t", b"[1, 2.5]", "7")
    assert (plain.name, plain.kind, plain.may_be_again) == ("7", Kind.NUMBERS, False)
    assert plain.read().tolist() == [1.0, 2.5]
    named = arrival_of("t", b'{"id":"x","sample":"a","data":[[1],[2]]}', "7")
    assert (named.name, named.may_be_again) == ("a", True)
    assert named.read().tolist() == [[1.0], [2.0]]
    # By its id, whatever else it says.
    assert named.key == arrival_of("t", b'{"id":"x","data":[3]}', "8").key
    assert named.key != arrival_of("u", b'{"id":"x","data":[3]}', "8").key
    array = arrival_of("t", saved(np.ones(3, np.float32)), "7")
    assert array.kind is Kind.ARRAY and array.read().dtype == np.float32


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"", "no JSON list of numbers"),
        (b"hello", "no JSON list of numbers"),
        (b'{"data":1}', "no JSON list of numbers"),
        (b"[]", "no list of numbers"),
        (b'["a"]', "no list of numbers"),
        (b"[[1],[1,2]]", "no list of numbers"),
        (b"[" * 100_000, "no JSON list of numbers"),
        (b"\x93NUMPYx", "no array of numpy"),
        (saved(np.array([{}], object)), "no array of numpy"),
        (b"\x89PNG\r\n\x1a\nx", "damaged PNG"),
        (b"1" * ((16 << 20) + 1), "is too large"),
    ],
)
def test_messages_that_are_no_samples(payload, words):
    with pytest.raises(DataError, match=words):
        arrival_of("t", payload, "7").read()


@needs_mosquitto
def test_messages_are_answered_and_acknowledged_after_that(tmp_path):
    pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed")
    model = graphs.scaled(tmp_path / "m.onnx", labels=False)
    out = tmp_path / "out"
    said: list[str] = []
    with mosquitto(
        tmp_path, "allow_anonymous true\nmax_inflight_messages 3\n"
    ) as server:
        broker = Broker("127.0.0.1", server.port)
        sender = broker.client("sender")
        sender.connect("127.0.0.1", server.port)
        sender.loop_start()

        def send(*payloads):
            for payload in payloads:
                sender.publish("in", payload, qos=1).wait_for_publish(30)

        def answering(count):
            """Answer so many messages in a stream of its own, and end it."""
            source = Subscription(broker, "in", "me", said.append)
            stopping = threading.Event()
            streaming = stream.Stream(
                stream.WatchedModel(model, False, said.append),
                source,
                outlet := FileOutlet(out),
                stream.StreamSettings(batch=2),
                said.append,
                stopping,
            )
            thread = threading.Thread(target=streaming.run)
            thread.start()
            yield
            until(lambda: len(rows(out)) >= count)
            stopping.set()
            thread.join()
            source.close()
            outlet.close(0.0)
            yield

        first = answering(5)
        next(first)
        until(lambda: any("takes 'in'" in line for line in said))
        # Two alike are two samples; one with an id comes once.
        send(b"[1,0,0]", b"[1,0,0]", b"x", b'{"id":"a","data":[2,0,0]}', b"[3,0,0]")
        next(first)
        # While the device is away the broker keeps what comes.
        send(b"[4,0,0]")
        second = answering(6)
        next(second)
        next(second)
        sender.disconnect()
        sender.loop_stop()
    answers = rows(out)
    assert [answer.get("score") for answer in answers] == [
        2.0,
        2.0,
        None,
        4.0,
        6.0,
        8.0,
    ]
    assert "no JSON list" in answers[2]["error"]


@needs_mosquitto
def test_what_was_not_acknowledged_comes_again_and_is_not_answered_twice(tmp_path):
    pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed")
    with mosquitto(tmp_path) as server:
        broker = Broker("127.0.0.1", server.port)
        said: list[str] = []
        first = Subscription(broker, "in", "me", said.append)
        until(lambda: said)
        sender = broker.client("sender")
        sender.connect("127.0.0.1", server.port)
        sender.loop_start()
        sender.publish("in", b"[1,0,0]", qos=1).wait_for_publish(30)
        [arrival] = _one(first)
        assert not arrival.may_be_again
        # It ends without a word to the broker: its answer was stored, and not noted.
        first.close()
        second = Subscription(broker, "in", "me", said.append)
        [again] = _one(second)
        assert again.may_be_again and again.key == arrival.key
        second.note([again])
        assert second.is_noted(again.key)
        second.close()
        third = Subscription(broker, "in", "me", said.append)
        sender.publish("in", b'{"sample":"new","data":[1,0,0]}', qos=1)
        assert [item.name for item in _one(third)] == ["new"]
        third.close()
        sender.disconnect()
        sender.loop_stop()


def _one(source):
    arrivals: list = []

    def has_come():
        arrivals.extend(source.take(1))
        return bool(arrivals)

    until(has_come)
    return arrivals
