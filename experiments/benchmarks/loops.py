"""What our engines are measured against: the loops that people write by hand.

`naive` is what a tutorial's client does: a model, an optimiser and a DataLoader for every
client, lists of arrays between them. `lean` has none of these costs: one model that clients
take turns in, data that are tensors already, SGD in place, one flat sum. Both run textbook
models in torch's own memory format, on as many threads as they are told, with no bytes, no
record and no failure in mind.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from fedlearn.experiments.benchmarks.peers.scripts.textbook import MODELS
from fedlearn.experiments.benchmarks.workloads import WORKLOADS, Workload

LR = 0.05

Round = Callable[[int], None]
"""A round of one workload, by its number."""


def tensors(workload: Workload) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return each client's inputs and targets."""
    data = workload.population()
    out = []
    for client in range(len(data.clients)):
        samples = data.clients[client]
        x = torch.tensor(samples.x)
        x = (
            x.long()
            if data.modality == "text"
            else x.float() / (255 if data.modality == "image" else 1)
        )
        out.append((x, torch.tensor(samples.y.astype(np.int64))))
    return out


def lean(workload: Workload) -> Round:
    """Return the loop without the costs of convenience."""
    clients, module = tensors(workload), MODELS[workload.name]()
    weights: list[torch.Tensor] = list(module.parameters())
    model = torch.cat([w.detach().flatten() for w in weights])
    total = torch.empty_like(model)

    def load(flat: torch.Tensor) -> None:
        at = 0
        for weight in weights:
            weight.copy_(flat[at : at + weight.numel()].view(weight.shape))
            at += weight.numel()

    def one(x: torch.Tensor, y: torch.Tensor) -> None:
        for rows in torch.randperm(len(y)).split(workload.batch_size):  # type: ignore[no-untyped-call]
            loss = F.cross_entropy(module(x[rows]).flatten(0, -2), y[rows].flatten())
            gradients = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                torch._foreach_add_(weights, gradients, alpha=-LR)

    def round(number: int) -> None:
        chosen = np.random.default_rng(number).permutation(len(clients))[
            : workload.cohort
        ]
        examples = sum(len(clients[c][1]) for c in chosen)
        total.zero_()
        for client in chosen:
            x, y = clients[client]
            with torch.no_grad():
                load(model)
            one(x, y)
            with torch.no_grad():
                total.add_(
                    torch.cat([w.flatten() for w in weights]), alpha=len(y) / examples
                )
        model.copy_(total)

    return round


def naive(workload: Workload) -> Round:
    """Return the loop of a tutorial."""
    clients, make = tensors(workload), MODELS[workload.name]
    held = [[v.numpy().copy() for v in make().state_dict().values()]]

    def train(x: torch.Tensor, y: torch.Tensor) -> list[Any]:
        module = make()
        module.load_state_dict(
            {
                k: torch.tensor(v)
                for k, v in zip(module.state_dict(), held[0], strict=True)
            }
        )
        loader = DataLoader(
            TensorDataset(x, y), batch_size=workload.batch_size, shuffle=True
        )
        criterion, optimiser = (
            nn.CrossEntropyLoss(),
            torch.optim.SGD(module.parameters(), lr=LR),
        )
        module.train()
        loss_sum = 0.0
        for inputs, targets in loader:
            optimiser.zero_grad()
            loss = criterion(module(inputs).flatten(0, -2), targets.flatten())
            loss.backward()
            optimiser.step()
            loss_sum += loss.item()
        return [v.detach().cpu().numpy().copy() for v in module.state_dict().values()]

    def round(number: int) -> None:
        chosen = np.random.default_rng(number).permutation(len(clients))[
            : workload.cohort
        ]
        results = [(train(*clients[c]), len(clients[c][1])) for c in chosen]
        examples = sum(count for _, count in results)
        held[0] = [
            sum(arrays[i] * (count / examples) for arrays, count in results)
            for i in range(len(held[0]))
        ]

    return round


def serve(kind: str, name: str, threads: int, pipe: Any) -> None:
    """Be a process that does a round whenever it is told to, and answers with its seconds.
    threads: 0 = torch's default.
    """
    if threads:
        torch.set_num_threads(threads)
    round = {"lean": lean, "naive": naive}[kind](WORKLOADS[name])
    number = 0
    pipe.send("ready")
    while pipe.recv():
        begun = time.perf_counter()
        round(number)
        pipe.send(time.perf_counter() - begun)
        number += 1
