"""Scores add up exactly."""

import numpy as np
import pytest
import torch
from torch import nn

from fedlearn.clients.batches import tensors
from fedlearn.clients.evaluate import Score, add, evaluate
from fedlearn.data.samples import IGNORE, Samples


class Fixed(nn.Module):
    """Answers class 0 with certainty of a score of 0 against -inf-like others."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack(
            [torch.zeros(x.shape[:1]), torch.full(x.shape[:1], -np.log(3.0))], -1
        )


def test_loss_and_accuracy_by_hand():
    # softmax(0, -log 3) = 3/4, 1/4
    data = tensors(
        Samples(np.zeros((4, 1), np.float32), np.array([0, 0, 0, 1])), "features"
    )
    score = evaluate(Fixed(), data, batch_size=3)
    assert (score.correct, score.targets, score.samples) == (3, 4, 4)
    assert score.loss == pytest.approx((3 * np.log(4 / 3) + np.log(4)) / 4)
    assert score.accuracy == 0.75


def test_characters_count_and_padding_does_not():
    class Bytes(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.one_hot(x, 256).float() * 50

    y = np.array([[65, 66, IGNORE], [65, IGNORE, IGNORE]], np.int16)
    score = evaluate(
        Bytes(), tensors(Samples(np.full((2, 3), 65, np.uint8), y), "text")
    )
    assert (score.correct, score.targets, score.samples) == (2, 3, 2)


def test_parts_add_up_in_any_order():
    parts = [Score(0.1 * k, k, 10, 5) for k in range(10)]
    assert add(parts) == add(parts[::-1]) == Score(4.5, 45, 100, 50)
    assert np.isnan(add([]).accuracy)
