"""Memory that a pool and its workers share: models go out in it, payloads come back."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import replace

from fedlearn.engine.task import Outcome

# Outcomes without payloads, with the lengths of these in bytes; None: it had none.
Stripped = list[tuple[Outcome, int | None]]


class SharedModel:
    """What the pool shows all workers: the cohort's payload, or a state to score."""

    def __init__(self, size_bytes: int, is_payload: bool) -> None:
        """Take memory before workers are forked: they share what there is then."""
        self.memory = mmap.mmap(-1, size_bytes)
        self.is_payload = is_payload
        self.length = 0
        # A worker reads again when this changes, and not at each task of a round.
        self.version = 0

    def write(self, *parts: bytes | memoryview) -> None:
        """Show the workers some bytes; none of them works on those before."""
        length = sum(memoryview(part).nbytes for part in parts)
        offset = self._offset(length)
        for part in parts:
            end = offset + memoryview(part).nbytes
            self.memory[offset:end] = part
            offset = end
        self.length = length
        self.version += 1

    def read(self, length: int) -> memoryview:
        """Return a view of the bytes; called in a worker, which was told their length."""
        offset = self._offset(length)
        data = memoryview(self.memory)[offset : offset + length]
        # Models are shared: a worker that wrote to one would change it for all.
        return data.toreadonly()

    def _offset(self, length: int) -> int:
        # A state begins with its floats.
        if not self.is_payload:
            return 0
        return _aligned(0, length)


class Answers:
    """Where one worker leaves payloads: the pool reads one half while it writes the other."""

    def __init__(self, half_bytes: int) -> None:
        """Take memory for two halves. Raises OSError when the system has none."""
        self.half_bytes = half_bytes
        self.memory = mmap.mmap(-1, 2 * half_bytes)

    def leave(self, outcomes: Sequence[Outcome], half: int) -> Stripped:
        """Leave the payloads of outcomes where `read` finds them; called in a worker."""
        stripped: Stripped = []
        offset = half * self.half_bytes
        for outcome in outcomes:
            length = None
            if outcome.payload is not None:
                length = len(outcome.payload)
                offset = _aligned(offset, length)
                self.memory[offset : offset + length] = outcome.payload
                offset += length
            stripped.append((replace(outcome, payload=None), length))
        return stripped

    def read(self, stripped: Stripped, half: int) -> list[Outcome]:
        """Return outcomes with views of their payloads, which hold until the half's next."""
        outcomes = []
        offset = half * self.half_bytes
        for outcome, length in stripped:
            if length is None:
                outcomes.append(outcome)
                continue
            offset = _aligned(offset, length)
            payload = memoryview(self.memory)[offset : offset + length].toreadonly()
            outcomes.append(replace(outcome, payload=payload))
            offset += length
        return outcomes


def _aligned(offset: int, length: int) -> int:
    """Return the first place from ``offset`` on at which a payload's float32 are aligned."""
    # A payload ends with its float32 values and five more bytes.
    misalignment = (5 - offset - length) % 4
    return offset + misalignment
