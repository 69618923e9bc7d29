"""Findings in frames: bounded on the way out, refused or cleaned on the way in."""

import pytest

from fedlearn.exchange import exchange_pb2 as pb
from fedlearn.exchange.findings import (
    FINDING_TEXT,
    MOST_FINDINGS,
    DeviceFinding,
    diagnosis_frame,
    findings_of,
    reason_in,
)
from fedlearn.exchange.release_frames import WrongFrame


def test_findings_are_read_as_they_were_written():
    findings = (
        DeviceFinding("disk", "ok", "9 GB free"),
        DeviceFinding("x", "-", "", "y"),
    )
    message = diagnosis_frame(7, findings, "none").diagnosis
    assert (message.number, findings_of(message)) == (7, findings)
    assert reason_in(message) == "none"


def test_an_agent_says_no_more_than_is_taken():
    long = DeviceFinding("n" * 99, "note", "t" * 9999, "f" * 9999)
    message = diagnosis_frame(1, [long] * 99, "r" * 9999).diagnosis
    findings = findings_of(message)
    assert len(findings) == MOST_FINDINGS
    assert all(len(finding.text) <= FINDING_TEXT for finding in findings)
    assert len(message.SerializeToString()) < 40_000


def test_what_a_terminal_would_obey_is_shown_and_not_obeyed():
    part = pb.Finding(name="\x1b[2J", state="ok", text="a\nb\x07", fix="\x9b31m")
    finding = findings_of(pb.Diagnosis(findings=[part]))[0]
    assert (finding.name, finding.text) == (r"\x1b[2J", r"a b\x07")
    assert finding.fix.isprintable()


@pytest.mark.parametrize(
    "part",
    [
        pb.Finding(name="x" * 33, state="ok"),
        pb.Finding(name="x", state="fine"),
        pb.Finding(name="x", state="ok", text="x" * (FINDING_TEXT + 1)),
        pb.Finding(name="x", state="ok", fix="x" * (FINDING_TEXT + 1)),
    ],
)
def test_a_finding_that_no_agent_of_ours_sends_is_refused(part):
    with pytest.raises(WrongFrame):
        findings_of(pb.Diagnosis(findings=[part]))


def test_too_many_and_too_long_reasons_are_refused():
    part = pb.Finding(name="x", state="ok")
    with pytest.raises(WrongFrame):
        findings_of(pb.Diagnosis(findings=[part] * (MOST_FINDINGS + 1)))
    with pytest.raises(WrongFrame):
        reason_in(pb.Diagnosis(reason="x" * (FINDING_TEXT + 1)))
