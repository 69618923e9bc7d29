"""The subscriber that acknowledges: what it has on its disk, outboxes need not keep."""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fedlearn.clients.messages.broker import Broker, properties, taken
from fedlearn.clients.messages.collected import Answer, CollectedFile, answer_of
from fedlearn.clients.messages.ranges import Ranges
from fedlearn.clients.messages.topics import acknowledgements, is_acknowledgement
from fedlearn.errors import RunError, reason_of

# Answers that are written and synced together at most.
GROUP = 500

# Seconds between two lines of progress.
PROGRESS_S = 10.0

# How long a broker keeps messages for a collector that is away, where it does.
_SESSION_S = 7 * 86400

# Messages that wait here; the broker is not acknowledged before they are written.
_QUEUE = 2000

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Arrived:
    """A message, and the connection that brought it: only that one knows its packet."""

    packet: int
    connection: int
    answer: Answer | None


class Collector:
    """Takes the answers of a topic into a file, until it is stopped."""

    def __init__(
        self, file: CollectedFile, broker: Broker, topic: str, say: Say
    ) -> None:
        """Prepare a connection, which `run` begins; raises UserError without paho-mqtt."""
        self._file = file
        self._broker = broker
        self._topic = topic
        self._say = say
        self._arrived: queue.Queue[_Arrived] = queue.Queue()
        self._stopping = threading.Event()
        self._connection = 0
        self._state = ""
        self.strangers = 0
        self._client = broker.client(f"fedlearn-collect-{file.name}", manual_ack=True)
        self._client.on_connect = self._on_connect
        self._client.on_connect_fail = self._on_connect_fail
        self._client.on_disconnect = self._on_disconnect
        self._client.on_message = self._on_message

    def stop(self) -> None:
        """Have `run` return, from a signal's handler or another thread."""
        self._stopping.set()

    def run(self) -> None:
        """Collect until `stop`; raises RunError for a disk that takes no more."""
        self._client.connect_async(
            self._broker.host,
            self._broker.port,
            clean_start=False,
            properties=properties("CONNECT", SessionExpiryInterval=_SESSION_S),
        )
        self._client.loop_start()
        shown = time.monotonic()
        try:
            while not self._stopping.is_set():
                group = self._group()
                if group:
                    self._take(group)
                if time.monotonic() - shown >= PROGRESS_S:
                    shown = time.monotonic()
                    self._tell(self.described())
        finally:
            self._client.disconnect()
            self._client.loop_stop()

    def described(self) -> str:
        """Return what was collected, for a log."""
        words = [f"{len(self._file)} answers", f"{self._file.duplicates} came twice"]
        words.append(f"{self._file.lost} lost by full outboxes")
        if self.strangers:
            words.append(f"{self.strangers} messages were no answers")
        return ", ".join(words)

    def _group(self) -> list[_Arrived]:
        """Return what has come; it waits for the first message, and for no other."""
        return taken(self._arrived, GROUP)

    def _take(self, group: Sequence[_Arrived]) -> None:
        """Write a group, and only then acknowledge it to the broker and to the outboxes."""
        answers = [item.answer for item in group if item.answer is not None]
        self.strangers += len(group) - len(answers)
        try:
            self._file.write(answers)
        except OSError as error:
            raise RunError(
                f"'{self._file.path}' cannot be written ({reason_of(error)}); the answers "
                "stay in their outboxes"
            ) from None
        for item in group:
            # A packet's number means another message in another connection.
            if item.connection == self._connection:
                self._client.ack(item.packet, 1)
        self._acknowledge(answers)

    def _acknowledge(self, answers: Sequence[Answer]) -> None:
        numbers: dict[tuple[str, str], Ranges] = {}
        for answer in answers:
            ranges = numbers.setdefault((answer.topic, answer.outbox), Ranges())
            ranges.add(answer.number)
        for (topic, outbox), ranges in numbers.items():
            # What gets lost is asked for again: the outbox sends its message once more.
            payload = json.dumps(list(ranges))
            self._client.publish(acknowledgements(topic, outbox), payload, qos=0)

    def _tell(self, state: str) -> None:
        if state != self._state:
            self._state = state
            self._say(state)

    # The network's thread, below.

    def _on_connect(
        self, client: Any, data: Any, flags: Any, code: Any, _: Any
    ) -> None:
        if code.is_failure:
            self._tell(f"{self._broker.name} refuses this collector: {code}")
            return
        self._connection += 1
        client.subscribe(self._topic, qos=1)
        self._tell(f"collects '{self._topic}' from {self._broker.name}")

    def _on_connect_fail(self, client: Any, data: Any) -> None:
        # It is called where the error is handled.
        reason = reason_of(sys.exc_info()[1] or OSError("no answer"))
        self._tell(f"{self._broker.name} cannot be reached ({reason})")

    def _on_disconnect(
        self, client: Any, data: Any, flags: Any, code: Any, _: Any
    ) -> None:
        self._connection += 1
        if not self._stopping.is_set():
            self._tell(f"{self._broker.name} is gone ({code})")

    def _on_message(self, client: Any, data: Any, message: Any) -> None:
        if is_acknowledgement(message.topic):
            client.ack(message.mid, message.qos)
            return
        # As long as it is full, nothing more is read from the broker.
        while self._arrived.qsize() >= _QUEUE and not self._stopping.is_set():
            time.sleep(0.01)
        answer = answer_of(message.topic, message.payload, _first(message))
        packet = message.mid if message.qos else 0
        connection = self._connection if message.qos else -1
        self._arrived.put(_Arrived(packet, connection, answer))


def _first(message: Any) -> str:
    """Return the lowest number that a message's outbox still has, as it says."""
    properties = getattr(message, "properties", None)
    for name, value in getattr(properties, "UserProperty", ()):
        if name == "first":
            return str(value)
    return ""
