"""A mini-batch of one sample and BatchNorm: what to change is said, and said at once."""

import numpy as np
import pytest
import torch
from torch import nn

from fedlearn.clients.batches import Tensors
from fedlearn.clients.normal import single_sample_fault
from fedlearn.clients.train import train
from fedlearn.errors import ClientError
from fedlearn.models import layout, read_state
from fedlearn.plan import Plan
from tests.jobs import CONFIG, run
from tests.wrong import BatchNormed

PICTURES = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten())


def test_pictures_have_pixels_to_normalise_over_and_features_have_none():
    module = BatchNormed((5,), 3)
    fault = single_sample_fault(module, torch.zeros(1, 5))
    assert fault.startswith(
        "the layer '2' (BatchNorm1d) cannot normalise over one sample"
    )
    assert "train.batch_size" in fault
    assert module[2].num_batches_tracked == 0
    assert single_sample_fault(PICTURES, torch.zeros(1, 1, 6, 6)) == ""
    assert PICTURES[1].num_batches_tracked == 0
    # One pixel is left of each.
    assert "BatchNorm2d" in single_sample_fault(PICTURES, torch.zeros(1, 1, 3, 3))
    assert single_sample_fault(nn.Linear(5, 3), torch.zeros(1, 4)) == ""


def test_a_client_of_one_sample_is_told_what_to_change():
    module = BatchNormed((5,), 3)
    data = Tensors("features", torch.ones(1, 5), torch.tensor([2]))
    with pytest.raises(ClientError, match=r"client 8: .*\(BatchNorm1d\).*GroupNorm"):
        train(
            module,
            layout(module),
            Plan(1, 0),
            read_state(module, layout(module)),
            data,
            8,
        )


def test_a_batch_size_of_one_is_refused_before_a_round(tmp_path, capsys):
    config = CONFIG.replace('"logistic"', '"tests.wrong:BatchNormed"')
    ran = run(tmp_path / "run", "train.batch_size=1", config=config)
    assert ran.code == 2
    assert "[train] batch_size = 1: the layer '2'" in capsys.readouterr().err
    assert not ran.folder.exists()


def test_pictures_train_one_by_one(tmp_path):
    sets = ("train.batch_size=1", "train.steps=2", "experiment.rounds=1")
    config = CONFIG.replace('"logistic"', '"mobilenet-small"\nnorm = "batch"')
    ran = run(tmp_path / "run", *sets, config=config)
    assert ran.code == 0
    assert ran.lines[1]["failed"] == 0
    assert np.isfinite(ran.lines[1]["loss"])
