"""An outbox's way out: each message is sent at once, and again until it is settled.

Settled is, by `Until`, what a subscriber has on its disk and says so, or what the broker has
acknowledged. Who acknowledges only what is stored gives at-least-once delivery, and numbers
make exactly-once of it (Saltzer, Reed and Clark, "End-to-end arguments in system design",
ACM TOCS 1984): what lies between, such as a broker, need not be trusted.
"""

from __future__ import annotations

import enum
import json
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from fedlearn.clients.messages.broker import Broker, properties
from fedlearn.clients.messages.outbox import Outbox
from fedlearn.clients.messages.outbox_segments import OutboxMessage
from fedlearn.clients.messages.topics import acknowledgements
from fedlearn.errors import FedlearnError, RunError, reason_of
from fedlearn.text import first_few, shortened

# Messages that the broker has not acknowledged yet, and of those that are sent again.
WINDOW = 100

# Seconds until what nobody has settled is sent again: doubled each time, up to the second.
RESEND_S = 5.0
LONGEST_RESEND_S = 60.0

# So many connections in a row that last so few seconds are no accident.
_SHORT_CONNECTIONS = 3
_SHORT_S = 10.0

# MQTT's own limit of a packet, and what comes before a message in one: topics, properties.
_MOST_BYTES = 256 << 20
_HEAD_BYTES = 2 << 10

# An acknowledgement names ranges; a longer one comes from a stranger.
_ACK_BYTES = 64 << 10
_MOST_NUMBER = 1 << 63

Say = Callable[[str], None]
Pairs = list[tuple[int, int]]


class Until(enum.Enum):
    """How long a message stays in the outbox."""

    # A subscriber, `fedlearn collect`, has it on its disk.
    COLLECTED = "collected"
    # The broker has taken it, which is no promise that it keeps it.
    PUBACK = "puback"


class Publisher:
    """Sends an outbox's messages to a topic, in threads of its own."""

    def __init__(
        self,
        outbox: Outbox,
        broker: Broker,
        topic: str,
        until: Until,
        say: Say,
        resend_s: float = RESEND_S,
    ) -> None:
        """Prepare a connection, which `start` begins; raises UserError without paho-mqtt."""
        self._outbox = outbox
        self._broker = broker
        self._topic = topic
        self._until = until
        self._say = say
        self._resend_s = resend_s
        self._client = self._prepared()
        self._wake = threading.Event()
        self._is_connected = False
        # When it was, and how many connections before it ended soon.
        self._since = 0.0
        self._short = 0
        self._is_stopping = False
        self._state = ""
        self._error: FedlearnError | None = None
        # What the network's thread leaves for the sender's.
        self._pubacks: deque[tuple[int, str]] = deque()
        self._acks: deque[Pairs] = deque()
        # Packet → message's number.
        self._flying: dict[int, int] = {}
        # The last number that was sent a first time.
        self._cursor = 0
        self._again = _Again(resend_s)
        self.resent = 0
        # Too large for the broker; its own limit, of whole packets.
        self.refused = 0
        self._most_bytes = _MOST_BYTES
        self._sender = threading.Thread(target=self._work, name="fedlearn-outbox")

    def start(self) -> None:
        """Begin to connect and to send; a broker that is not there is waited for."""
        # The end of each message is in the outbox: the broker need not know us.
        self._client.connect_async(
            self._broker.host, self._broker.port, clean_start=True
        )
        self._client.loop_start()
        self._sender.start()

    def wake(self) -> None:
        """Have the sender look at the outbox now: something was put in."""
        self._wake.set()

    def check(self) -> None:
        """Raise the error that ended the sender, if one has."""
        if self._error is not None:
            raise self._error

    def drain(self, wait_s: float) -> int:
        """Wait until nothing waits in the outbox; returns how many do after ``wait_s``."""
        end = time.monotonic() + wait_s
        while self._outbox.count and time.monotonic() < end and self._error is None:
            time.sleep(0.02)
        return self._outbox.count

    def stop(self) -> None:
        """End the connection; what waits stays in the outbox."""
        self._is_stopping = True
        self._wake.set()
        self._sender.join()
        self._client.disconnect()
        self._client.loop_stop()

    def _prepared(self) -> Any:
        client = self._broker.client(f"fedlearn-{self._outbox.id}")
        client.max_inflight_messages_set(WINDOW)
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        return client

    def _work(self) -> None:
        try:
            while not self._is_stopping:
                self._wake.wait(self._resend_s / 4)
                self._wake.clear()
                self._take_pubacks()
                self._take_acks()
                if self._is_connected:
                    self._send_new()
                    self._send_again()
        except FedlearnError as error:
            self._error = error
        except OSError as error:
            self._error = RunError(f"'{self._outbox.folder}': {reason_of(error)}")

    @property
    def _room(self) -> int:
        return max(0, WINDOW - len(self._flying))

    def _send_new(self) -> None:
        messages = self._outbox.waiting(self._cursor, self._room)
        for message in messages:
            self._publish(message)
            self._cursor = message.number
        # There may be more than the window takes; the next answer of the broker goes on.
        if messages and self._room:
            self._wake.set()

    def _send_again(self) -> None:
        oldest = self._outbox.oldest
        after = self._again.due(oldest, self._cursor, time.monotonic())
        if after is None:
            return
        # Packets that a broker never acknowledged would fill the window for ever.
        if not self._room:
            self._flying.clear()
        messages = self._outbox.waiting(after, self._room)
        stale = [m for m in messages if m.number <= self._again.stale]
        for message in stale:
            self._publish(message)
        self.resent += len(stale)
        self._again.note(stale[-1].number if stale else self._again.stale)

    def _publish(self, message: OutboxMessage) -> None:
        name = f"{self._outbox.id}-{message.number}"
        payload = f'{{"id":"{name}",{message.body[1:]}'
        # The broker would end the connection, again and again.
        if len(payload) > self._most_bytes - _HEAD_BYTES:
            self._tell(f"{self._broker.name} takes no answer as large as {name}")
            self._outbox.settle([(message.number, message.number)])
            self.refused += 1
            return
        sending = self._client.publish(
            self._topic, payload, qos=1, properties=self._properties()
        )
        self._flying[sending.mid] = message.number

    def _properties(self) -> Any:
        """Return what MQTT 5 has for who reads: what it is, and where it is acknowledged."""
        # Lower numbers will not come again: they are settled, or dropped.
        values: dict[str, Any] = {"UserProperty": ("first", str(self._outbox.oldest))}
        if self._until is Until.COLLECTED:
            values["ResponseTopic"] = acknowledgements(self._topic, self._outbox.id)
        return properties(
            "PUBLISH",
            PayloadFormatIndicator=1,
            ContentType="application/json",
            **values,
        )

    def _take_pubacks(self) -> None:
        while self._pubacks:
            packet, refusal = self._pubacks.popleft()
            number = self._flying.pop(packet, None)
            if refusal:
                self._tell(f"{self._broker.name} refuses '{self._topic}': {refusal}")
            elif number is not None and self._until is Until.PUBACK:
                self._outbox.settle([(number, number)])

    def _take_acks(self) -> None:
        while self._acks:
            self._outbox.settle(self._acks.popleft())

    def _tell(self, state: str) -> None:
        """Say how the connection is, when that has changed."""
        if state != self._state:
            self._state = state
            self._say(state)

    # The network's thread, below: it holds locks of paho-mqtt, so it only leaves notes.

    def _on_connect(
        self, client: Any, data: Any, flags: Any, code: Any, limits: Any
    ) -> None:
        if code.is_failure:
            self._tell(f"{self._broker.name} refuses this device: {code}")
            return
        if self._until is Until.COLLECTED:
            client.subscribe(acknowledgements(self._topic, self._outbox.id), qos=1)
        self._is_connected = True
        self._since = time.monotonic()
        self._most_bytes = getattr(limits, "MaximumPacketSize", _MOST_BYTES)
        self._tell(f"connected to {self._broker.name}")
        self._wake.set()

    def _on_connect_fail(self, client: Any, data: Any) -> None:
        # It is called where the error is handled.
        reason = reason_of(sys.exc_info()[1] or OSError("no answer"))
        self._tell(f"{self._broker.name} cannot be reached ({reason}); answers wait")

    def _on_disconnect(
        self, client: Any, data: Any, flags: Any, code: Any, _: Any
    ) -> None:
        self._is_connected = False
        is_short = time.monotonic() - self._since < _SHORT_S
        self._short = self._short + 1 if is_short else 0
        # A broker ends a connection when another one has its name, and may not say why.
        if str(code) == "Session taken over" or self._short >= _SHORT_CONNECTIONS:
            self._tell(
                f"{self._broker.name} ends each connection at once: has another device the "
                f"same outbox, {self._outbox.id}? Was this one's disk copied, remove "
                f"'{self._outbox.folder}' on one of them"
            )
        elif not self._is_stopping:
            self._tell(f"{self._broker.name} is gone ({code}); answers wait")

    def _on_publish(self, client: Any, data: Any, mid: int, code: Any, _: Any) -> None:
        self._pubacks.append((mid, str(code) if code.is_failure else ""))
        self._wake.set()

    def _on_message(self, client: Any, data: Any, message: Any) -> None:
        pairs = acknowledged(message.payload)
        if pairs is None:
            self._tell(f"'{message.topic}' has what is no acknowledgement")
            return
        self._acks.append(pairs)
        self._wake.set()


class _Again:
    """When what nobody has settled is sent again, and from which number on."""

    def __init__(self, first_s: float) -> None:
        """first_s: the first wait; it doubles while nothing is settled."""
        self._first_s = first_s
        self._wait_s = first_s
        self._at = 0.0
        self._oldest = 0
        self._end = 0
        # Up to here, messages are late; those after it were sent meanwhile.
        self.stale = 0

    def due(self, oldest: int, cursor: int, now: float) -> int | None:
        """Return the number after which to send again; None: it is not time.

        oldest: the lowest number that waits. cursor: the highest one that was sent.
        """
        if oldest != self._oldest:
            self._oldest = oldest
            self._wait_s = self._first_s
            self._at = now + self._wait_s
        # Somebody listens again, and what is late goes out without a pause.
        if oldest <= self.stale:
            if oldest > self._end:
                return self._end
        else:
            self.stale = 0
        if oldest > cursor or now < self._at:
            return None
        self._wait_s = min(2 * self._wait_s, LONGEST_RESEND_S)
        self._at = now + self._wait_s
        self.stale = cursor
        return oldest - 1

    def note(self, last: int) -> None:
        """Note the last number that was sent again."""
        self._end = last


def acknowledged(payload: bytes) -> Pairs | None:
    """Return the ranges of an acknowledgement, a JSON list of [first, last]; None: it is none."""
    try:
        if len(payload) > _ACK_BYTES:
            return None
        value = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    pairs: Pairs = []
    for pair in value if isinstance(value, list) else [None]:
        if not isinstance(pair, list) or [type(end) for end in pair] != [int, int]:
            return None
        if not 0 < pair[0] <= pair[1] < _MOST_NUMBER:
            return None
        pairs.append((pair[0], pair[1]))
    return pairs


def described(outbox: Outbox, publisher: Publisher) -> str:
    """Return how an outbox does, for a log."""
    facts = [f"{outbox.count} answers wait", f"{publisher.resent} were sent again"]
    if outbox.dropped:
        facts.append(f"{outbox.dropped} were dropped, as the outbox was full")
    if publisher.refused:
        facts.append(f"{publisher.refused} were too large for the broker")
    if outbox.damaged:
        facts.append(f"{outbox.damaged} were damaged on the disk")
    return shortened(first_few(facts))
