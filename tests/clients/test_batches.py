"""Mini-batches of a client's samples."""

from itertools import islice

import numpy as np
import pytest
import torch

from fedlearn.clients.batches import batches_per_pass, passes, tensors
from fedlearn.data.samples import IGNORE, Samples
from fedlearn.seeds import generator


def numbered(samples: int):
    return tensors(
        Samples(np.arange(samples, dtype=np.float32)[:, None], np.arange(samples)),
        "features",
    )


@pytest.mark.parametrize(
    ("samples", "size", "merge", "sizes"),
    [
        (7, 3, False, [3, 3, 1]),
        (7, 3, True, [3, 4]),
        (7, 0, False, [7]),
        (1, 3, True, [1]),
        (6, 3, True, [3, 3]),
    ],
)
def test_a_pass_takes_every_sample_once(samples, size, merge, sizes):
    assert batches_per_pass(samples, size, merge) == len(sizes)
    batches = list(
        islice(
            passes(numbered(samples), size, generator(0, "x"), merge), 2 * len(sizes)
        )
    )
    assert [len(y) for _, y in batches] == 2 * sizes
    first = torch.cat([y for _, y in batches[: len(sizes)]])
    assert sorted(first.tolist()) == list(range(samples))
    assert all(torch.equal(x[:, 0].long(), y) for x, y in batches)


def test_each_pass_has_its_own_order():
    batches = passes(numbered(20), 0, generator(0, "x"))
    assert next(batches)[1].tolist() != next(batches)[1].tolist()


def test_images_become_floats_from_0_to_1():
    data = tensors(
        Samples(np.array([[[[0, 51, 255]]]], np.uint8), np.array([3])), "image"
    )
    assert data.x.dtype == torch.float32
    assert data.x.flatten().tolist() == pytest.approx([0, 0.2, 1])


def test_text_is_batched_by_length_and_cut_at_the_longest_line():
    lengths = [1, 9, 2, 8, 3, 7]
    y = np.full((6, 10), IGNORE, np.int16)
    for row, length in enumerate(lengths):
        y[row, :length] = length
    data = tensors(Samples(np.zeros((6, 10), np.uint8), y), "text")
    widths = sorted(
        x.shape[1] for x, _ in islice(passes(data, 2, generator(0, "x")), 3)
    )
    assert widths == [2, 7, 9]


def test_lines_of_which_the_last_character_counts_alone_are_cut_behind_it():
    y = np.full((4, 10), IGNORE, np.int16)
    y[range(4), [3, 9, 5, 4]] = 1
    data = tensors(Samples(np.zeros((4, 10), np.uint8), y), "text")
    found = sorted(
        (x.shape[1], int((y != IGNORE).sum()))
        for x, y in islice(passes(data, 2, generator(0, "x")), 2)
    )
    assert found == [(5, 2), (10, 2)]
