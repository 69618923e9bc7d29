"""The scenario soil, shortened: real servers, a real link that dies and comes back."""

import numpy as np
import pytest

from fedlearn.errors import RunError
from fedlearn.scenarios import fields, soil
from fedlearn.scenarios.radio import Radio
from fedlearn.scenarios.valley import (
    BACK,
    CENTRE,
    DEAD,
    EDGE,
    FALLING,
    GOOD,
    FieldAnswer,
    Valley,
)


def answers(phase: str, versions: str) -> list[FieldAnswer]:
    rows = np.arange(2)
    return [
        FieldAnswer(0.0, 0.01, 1e6, phase, version, rows, rows) for version in versions
    ]


def story(**versions: str):
    valley = Valley(0, Radio(0, 0.0), np.zeros((4, 48, 4), np.float32), 2, 0.0, print)
    for phase in (GOOD, FALLING, DEAD, BACK):
        name = phase.split()[-1]
        default = CENTRE * 3 if phase in (GOOD, BACK) else CENTRE + EDGE * 3
        valley.answers += answers(phase, versions.get(name, default))
    return valley


def test_a_place_that_is_not_the_right_one_is_named():
    soil.check_places(story())
    with pytest.raises(RunError, match="'it is dead' ends at the device"):
        soil.check_places(story(dead=EDGE * 3 + CENTRE))
    with pytest.raises(RunError, match="'it is back' ends at the centre"):
        soil.check_places(story(back=EDGE * 9))


# It starts a dozen processes: a busy machine needs longer than the usual limit.
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_request_fails_while_the_link_dies(tmp_path):
    size = soil.SoilSize(rounds=2, readings=200, rows=512, phase_s=0.5)
    outcome = soil.play_sized(tmp_path, 0, lambda text: None, size)
    facts = outcome.facts
    assert facts["readings"] == 200
    assert float(facts["dead_centre"]) < 0.5
    judged = [int(facts[f"batch_{name}"]) for name in fields.CLASSES]
    assert sum(judged) == 200
    assert outcome.picture.read_bytes().startswith(b"\x89PNG")
