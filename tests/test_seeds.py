"""Seeds are functions of their arguments, and leave the global generators alone."""

import random

import numpy as np
import torch

from fedlearn import seeds


def test_equal_arguments_equal_numbers_and_others_differ():
    assert seeds.derive(0, "batches", 1, 2) == seeds.derive(0, "batches", 1, 2)
    different = {
        seeds.derive(*a)
        for a in (
            (0, "batches", 1, 2),
            (0, "batches", 12),
            (0, "cohort", 1, 2),
            (1, "batches", 1, 2),
        )
    }
    assert len(different) == 4
    assert all(0 <= s < 2**63 for s in different)


def test_the_first_numbers_are_the_same_for_ever():
    # A changed stream would change every model hash: this is the contract "one config, one result".
    assert seeds.derive(0, "init") == 3330654677893223573
    assert seeds.derive(3, "batches", 2, 9) == 7958715969858244730
    assert seeds.generator(7, "partition").permutation(5).tolist() == [3, 4, 2, 0, 1]


def test_global_generators_stay_as_they_were():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = (random.random(), np.random.rand(), torch.rand(1).item())
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    (
        seeds.generator(0, "x").random(),
        torch.rand(1, generator=seeds.torch_generator(0, "x")),
    )
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
