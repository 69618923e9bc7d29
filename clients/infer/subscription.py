"""A topic as a source: each message is a sample, acknowledged when its answer is stored.

A message is a PNG or JPEG picture, an array as numpy saves it, or JSON: a list of numbers, or
an object with them as ``data`` and maybe a name as ``sample`` and an ``id``.
"""

from __future__ import annotations

import hashlib
import io
import json
import queue
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from fedlearn.clients.infer.arrivals import Arrival, Kind, key_of
from fedlearn.clients.infer.pictures import JPEG, PNG, decoded
from fedlearn.clients.infer.tensors import Array
from fedlearn.clients.messages.broker import Broker, properties, taken
from fedlearn.clients.messages.topics import is_acknowledgement
from fedlearn.errors import DataError, reason_of
from fedlearn.text import shortened

ARRAY = b"\x93NUMPY"

# Of one message: a picture of a camera has some hundred kilobytes.
MOST_BYTES = 16 << 20

# Messages that the broker may send before their answers are stored.
WINDOW = 200

# How long a broker keeps messages for a device that is away, where it does.
_SESSION_S = 7 * 86400

_NAME_CHARACTERS = 200

# Of so many answered messages it is known that they were, should they come again.
KEYS = 1000


class Subscription:
    """The messages of a topic, which may have wildcards."""

    def __init__(
        self, broker: Broker, topic: str, name: str, say: Callable[[str], None]
    ) -> None:
        """Begin to connect; raises UserError without paho-mqtt.

        name: this stream's for the broker, the same over restarts.
        """
        self._broker = broker
        self._topic = topic
        self._say = say
        self._state = ""
        self._connection = 0
        self._count = 0
        self._last_keys: deque[str] = deque(maxlen=KEYS)
        self._arrived: queue.Queue[Arrival] = queue.Queue()
        self._client = broker.client(f"fedlearn-infer-{name}", manual_ack=True)
        self._client.on_connect = self._on_connect
        self._client.on_connect_fail = self._on_connect_fail
        self._client.on_disconnect = self._on_disconnect
        self._client.on_message = self._on_message
        # The broker sends no more before answers are stored: memory stays flat.
        limits = properties(
            "CONNECT", SessionExpiryInterval=_SESSION_S, ReceiveMaximum=WINDOW
        )
        self._client.connect_async(
            broker.host, broker.port, clean_start=False, properties=limits
        )
        self._client.loop_start()

    @property
    def is_over(self) -> bool:
        """Tell that more may come, always."""
        return False

    def take(self, most: int) -> list[Arrival]:
        """Return what has come; it waits for the first message, and for no other."""
        return taken(self._arrived, most)

    def note(self, arrivals: Sequence[Arrival]) -> None:
        """Acknowledge messages to the broker: their answers are stored."""
        for arrival in arrivals:
            receipt = arrival.receipt
            # A packet's number means another message in another connection.
            if isinstance(receipt, tuple) and receipt[0] == self._connection:
                self._client.ack(receipt[1], 1)
            self._last_keys.append(arrival.key)

    def is_noted(self, key: str) -> bool:
        """Tell whether one of the last messages is noted, in this process."""
        return key in self._last_keys

    def close(self) -> None:
        """End the connection; the broker may keep what comes meanwhile."""
        self._client.disconnect()
        self._client.loop_stop()

    def _tell(self, state: str) -> None:
        if state != self._state:
            self._state = state
            self._say(state)

    # The network's thread, below.

    def _on_connect(
        self, client: Any, data: Any, flags: Any, code: Any, _: Any
    ) -> None:
        if code.is_failure:
            self._tell(f"{self._broker.name} refuses this device: {code}")
            return
        self._connection += 1
        client.subscribe(self._topic, qos=1)
        self._tell(f"takes '{self._topic}' from {self._broker.name}")

    def _on_connect_fail(self, client: Any, data: Any) -> None:
        # It is called where the error is handled.
        reason = reason_of(sys.exc_info()[1] or OSError("no answer"))
        self._tell(f"{self._broker.name} cannot be reached ({reason})")

    def _on_disconnect(
        self, client: Any, data: Any, flags: Any, code: Any, _: Any
    ) -> None:
        self._connection += 1
        self._tell(f"{self._broker.name} is gone ({code})")

    def _on_message(self, client: Any, data: Any, message: Any) -> None:
        # Its own answers' acknowledgements, below a topic that a wildcard matches.
        if is_acknowledgement(message.topic):
            client.ack(message.mid, message.qos)
            return
        self._count += 1
        receipt = (self._connection, message.mid) if message.qos else None
        arrival = arrival_of(message.topic, message.payload, str(self._count))
        # Two messages may be alike without an id, and only the broker knows.
        is_again = arrival.may_be_again or message.dup
        self._arrived.put(replace(arrival, receipt=receipt, may_be_again=is_again))


def arrival_of(topic: str, payload: bytes, name: str) -> Arrival:
    """Return a message's sample; name: what it is called where it does not say so."""
    key = key_of(topic, hashlib.sha256(payload).hexdigest())
    if len(payload) > MOST_BYTES:
        kind = Kind.ARRAY
        read = partial(_refused, f"a message of {len(payload)} bytes is too large")
    elif payload.startswith((PNG, JPEG)):
        kind = Kind.PICTURE
        read = partial(decoded, payload, name)
    elif payload.startswith(ARRAY):
        kind = Kind.ARRAY
        read = partial(_array, payload)
    else:
        return _of_json(topic, payload, name, key)
    return Arrival(name, key, time.time(), kind, read, may_be_again=False)


def _of_json(topic: str, payload: bytes, name: str, key: str) -> Arrival:
    """Return the sample of a message in JSON, or of one that is nothing at all."""
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError):
        value = None
    has_id = False
    if isinstance(value, dict):
        has_id = isinstance(value.get("id"), str)
        if has_id:
            key = key_of(topic, value["id"])
        name = shortened(str(value.get("sample", name)), _NAME_CHARACTERS)
        value = value.get("data")
    read = partial(_numbers, value)
    return Arrival(name, key, time.time(), Kind.NUMBERS, read, may_be_again=has_id)


def _refused(reason: str) -> Array:
    raise DataError(reason)


def _array(payload: bytes) -> Array:
    try:
        array: Array = np.load(io.BytesIO(payload), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"no array of numpy: {reason_of(error)}") from None
    return array


def _numbers(value: object) -> Array:
    """Return JSON's numbers, in any layout; raises DataError for what is none."""
    if not isinstance(value, list):
        raise DataError(
            "the message is no picture, no array of numpy, no JSON list of numbers and no "
            'object with one as "data"'
        )
    try:
        array = np.asarray(value)
        is_numbers = array.dtype.kind in "iufb" and array.size > 0
    except (ValueError, OverflowError, RecursionError):
        is_numbers = False
    if not is_numbers:
        raise DataError("the message's data is no list of numbers")
    return array.astype(np.float64)
