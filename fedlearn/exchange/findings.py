"""What a device says of itself when its coordinator asks: findings, bounded and cleaned.

Plain values to protobuf and back. What comes from the other end is a stranger's: it is refused
as a whole where a part is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.release_frames import WrongFrame
from fedlearn.text import shortened

# States of a finding, as `fedlearn doctor` prints them.
FINDING_STATES = ("ok", "note", "FAILS", "-")

# Findings of a device, and characters of their texts.
MOST_FINDINGS = 32
FINDING_NAME = 32
FINDING_TEXT = 400


@dataclass(frozen=True)
class DeviceFinding:
    """One line: what was looked at, how it is, and what to do about it."""

    name: str
    state: str
    text: str
    fix: str = ""


def diagnosis_frame(
    number: int, findings: Sequence[DeviceFinding], reason: str = ""
) -> pb.AgentFrame:
    """Return the frame of an answer; what is too long is shortened, what is too much left out.

    reason: why there are no findings.
    """
    parts = []
    for finding in findings[:MOST_FINDINGS]:
        part = pb.Finding(
            name=shortened(finding.name, FINDING_NAME),
            state=finding.state,
            text=shortened(finding.text, FINDING_TEXT),
            fix=shortened(finding.fix, FINDING_TEXT),
        )
        parts.append(part)
    message = pb.Diagnosis(
        number=number, findings=parts, reason=shortened(reason, FINDING_TEXT)
    )
    return pb.AgentFrame(diagnosis=message)


def findings_of(message: pb.Diagnosis) -> tuple[DeviceFinding, ...]:
    """Return the findings of a frame, fit for a terminal. Raises WrongFrame."""
    if len(message.findings) > MOST_FINDINGS:
        raise WrongFrame(f"more than {MOST_FINDINGS} findings")
    findings = []
    for part in message.findings:
        if part.state not in FINDING_STATES:
            raise WrongFrame("a finding has a state that none has")
        findings.append(
            DeviceFinding(
                _line(part.name, FINDING_NAME),
                part.state,
                _line(part.text, FINDING_TEXT),
                _line(part.fix, FINDING_TEXT),
            )
        )
    return tuple(findings)


def reason_in(message: pb.Diagnosis) -> str:
    """Return why a frame has no findings, fit for a terminal. Raises WrongFrame."""
    return _line(message.reason, FINDING_TEXT)


def _line(text: str, most: int) -> str:
    """Return a text without what a terminal would obey. Raises WrongFrame for a long one."""
    if len(text) > most:
        raise WrongFrame(f"a text has {len(text)} characters, more than {most}")
    # Cleaned characters are longer, so it is cut anew.
    return shortened(text, most)
