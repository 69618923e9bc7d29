"""The same models with few test samples, for tests of what does not depend on their number."""

from dataclasses import replace

import numpy as np

from tests.export.models import untrained


def short(name, *changes, samples=12, seed=0):
    trained = untrained(name, *changes, seed=seed)
    test = trained.population.test.take(np.arange(samples))
    return replace(trained, population=replace(trained.population, test=test))
