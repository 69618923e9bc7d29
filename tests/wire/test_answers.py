"""Lies in well-formed answers end no run; ``python -m tests.wire.answers`` tries 100,000."""

import pytest

from tests.wire import answers


# Ours and four of Flower's, with exact, sparse and quantised payloads and error feedback.
@pytest.mark.parametrize("number", [10, 11, 21, 44, 58, 88, 102])
def test_no_run_ends_by_an_answer(number):
    (told,) = answers.runs(seed=1, first=number, count=1)
    assert told.fault == ""
    assert told.lies >= answers.ANSWERS
    # Most are refused before they are stored; of the others each is a trial.
    assert told.stored > answers.ANSWERS / 5
