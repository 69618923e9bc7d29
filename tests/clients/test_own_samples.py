"""Samples that a client has of its own: what its owner is told of them."""

import numpy as np
import pytest

from fedlearn import models
from fedlearn.brief import Brief
from fedlearn.clients.agent.pipe import Limits, WorkSetup
from fedlearn.clients.agent.work import _Worker

SHAPE = (1, 4, 4)


def brief() -> str:
    module = models.build("logistic", {}, input_shape=SHAPE, classes=3, seed=1)
    schema = models.layout(module).schema.hex()
    partition = {"kind": "iid", "clients": 2}
    return Brief(
        1, "digits", {}, partition, "logistic", {}, "image", 3, SHAPE, 0.0, schema
    ).to_json()


@pytest.mark.parametrize(("scale", "told"), [(1, True), (255, False)])
def test_an_owner_is_told_of_pictures_that_are_nearly_black(
    tmp_path, capfd, scale, told
):
    x = np.ones((5, 1, 4, 4), np.uint8) * np.uint8(scale)
    np.savez(tmp_path / "own.npz", x=x, y=np.zeros(5))
    setup = WorkSetup(str(tmp_path), 0, brief(), str(tmp_path / "own.npz"), Limits())
    desk = _Worker(setup)._build()
    assert len(desk.local.samples(0)) == 5
    text = capfd.readouterr().err
    # One class says nothing here: other clients have the others.
    assert ("its largest value is 1 of 255" in text) == told == bool(text)
