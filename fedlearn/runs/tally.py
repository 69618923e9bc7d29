"""`RoundTally`: what a round cost, in bytes as encoded and in seconds by phase."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from fedlearn.engine.task import Outcome


def _seconds() -> dict[str, float]:
    """Return seconds by name, 0 where nothing was spent."""
    return defaultdict(float)


@dataclass
class RoundTally:
    """What happened since the round began.

    clients: those asked to train. failures: client → reason. bytes_raw: what float32
    would have taken, both ways. whole_models: sent where a difference was to be sent and
    would have closed too little. damaged: clients whose vectors on disk were not what had
    been written. unusable: name of a metric that was no finite number → its clients.
    codec_s: seconds of the codecs' work: "up_encode", "up_decode", and
    "down" (both ends of it, and the copies). training_s: of local training, summed over
    clients and divided by the workers. seconds: by phase, of which training is one.
    """

    clients: int = 0
    failures: dict[int, str] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0
    bytes_raw: int = 0
    messages_up: int = 0
    messages_down: int = 0
    whole_models: int = 0
    damaged: int = 0
    unusable: dict[str, set[int]] = field(default_factory=dict)
    codec_s: dict[str, float] = field(default_factory=_seconds)
    training_s: float = 0.0
    seconds: dict[str, float] = field(default_factory=_seconds)

    def repeat(self) -> None:
        """Begin another attempt: bytes and seconds add up, clients count anew."""
        # Bytes of a void attempt were sent all the same, and stay counted.
        self.clients = 0
        # The clients' numbers are those of the attempt that counts; bytes were sent all
        # the same.
        self.failures = {}
        self.unusable = {}

    def note_unusable(self, client: int, names: Sequence[str]) -> None:
        """Note the metrics that were left out of a client's report."""
        for name in names:
            self.unusable.setdefault(name, set()).add(client)

    def publish(self, seconds: float) -> None:
        """Count the encoding of a model for all."""
        self.seconds["prepare"] += seconds
        self.codec_s["down"] += seconds

    def ask(self, tasks: int, raw_bytes: int, train: bool) -> None:
        """Count tasks that go out. raw_bytes: of the model as float32."""
        self.bytes_raw += tasks * raw_bytes
        if train:
            # Only training asks clients in the sense of the record.
            self.clients += tasks

    def download(self, outcome: Outcome, fallback: bool, beside_bytes: int = 0) -> None:
        """Count what a client was sent.

        fallback: all were sent the whole model. beside_bytes: of what went beside it, which
        is the same uncompressed.
        """
        self.bytes_down += outcome.bytes_down
        self.bytes_raw += beside_bytes
        self.messages_down += 1
        self.whole_models += outcome.fallback or fallback
        self.damaged += outcome.damaged

    def work(self, outcome: Outcome, workers: int, train: bool) -> None:
        """Count a client's seconds; ``workers`` of them passed at the same time."""
        self.codec_s["down"] += outcome.receive_s
        self.codec_s["up_encode"] += outcome.encode_s
        # Phases add up to the wall time of the round, so parallel work is divided.
        phase = "train" if train else "evaluate"
        # Divided by the workers, so that phases add up to about the round's own
        # seconds.
        self.seconds[phase] += outcome.train_s / workers
        self.seconds["prepare"] += outcome.receive_s / workers
        self.seconds["encode"] += outcome.encode_s / workers
        if train:
            self.training_s += outcome.train_s / workers

    def upload(self, bytes_up: int, raw_bytes: int) -> None:
        """Count an update that came."""
        self.bytes_up += bytes_up
        self.messages_up += 1
        self.bytes_raw += raw_bytes
