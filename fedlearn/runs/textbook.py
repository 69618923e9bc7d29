"""FedAvg as on a blackboard: choose, train, add, step. No Flower, no engine, no payload.

It is the round's readable twin, and the tests' oracle: with ``raw32`` both ways and
``server_momentum = 0`` its model has the hash of `fedlearn.runs.simulation.simulate`.

Source: McMahan, Moore, Ramage, Hampson and Agüera y Arcas, "Communication-Efficient
Learning of Deep Networks from Decentralized Data" (AISTATS 2017), Algorithm 1.
"""

from __future__ import annotations

import numpy as np

from fedlearn.arrays import State, model_sha256
from fedlearn.clients.local import Local
from fedlearn.clients.train import train
from fedlearn.config import Experiment
from fedlearn.engine.runner import single_thread
from fedlearn.runs.parts import build_parts
from fedlearn.strategies.aggregate import ExactSum
from fedlearn.strategies.cohorts import cohort_of, uniform
from fedlearn.strategies.plans import plan as plan_of


def fedavg(experiment: Experiment) -> str:
    """Return the hash of the model that an experiment ends with, 64 hex digits."""
    single_thread()
    parts = build_parts(experiment)
    seed = experiment.experiment.seed
    layout = parts.layout
    module = parts.module
    local = Local(module, layout, parts.population, seed)
    size = cohort_of(parts.strategy, parts.clients)
    model = parts.start
    for round in range(1, experiment.experiment.rounds + 1):
        # Step 1: choose a cohort, and say what it is asked to do.
        cohort = uniform(range(parts.clients), size, seed, round, attempt=0)
        plan = plan_of(experiment, round, {})
        total = ExactSum(layout.floats, layout.integers, size)
        for client in cohort:
            # Step 2: train each client from the same model.
            with local.alone("train", plan, client):
                data = local.tensors(client)
                update = train(module, layout, plan, model, data, client)
            # Step 3: add its update, weighted by its examples.
            total.add(update.difference, update.examples)
        # Step 4: step to the mean.
        floats, integers = total.mean()
        # Back to float32, as float64 would be another model than the one that is sent.
        stepped = (model.floats + floats).astype(np.float32)
        model = layout.tie(State(stepped, model.integers + integers))
    return model_sha256(layout, model)
