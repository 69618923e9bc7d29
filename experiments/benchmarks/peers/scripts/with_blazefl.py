# mypy: ignore-errors
# The peer is installed in its own environment alone.
"""BlazeFL: the FedAvg of its ``contrib``, one client after another or on threads.

python with_blazefl.py WORKLOAD.npz WORKERS

2.0.3 asks for Python 3.12 and runs on 3.11, for which there is a CPU build of torch. 3.0 asks
for 3.14, whose threads can be without a global lock: its threads are faster there than here.
"""

import sys

import seam
import textbook
import torch
from blazefl.contrib.fedavg import (
    FedAvgBaseClientTrainer,
    FedAvgBaseServerHandler,
    FedAvgThreadPoolClientTrainer,
)
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Data:
    """Clients' samples, as it wants them."""

    def __init__(self, clients):
        """Take them."""
        self.sets = [
            TensorDataset(torch.from_numpy(x), torch.from_numpy(y)) for x, y in clients
        ]

    def get_dataloader(self, type_, cid, batch_size=None, generator=None):
        """Return a client's loader."""
        return DataLoader(
            self.sets[cid], batch_size=batch_size, shuffle=True, generator=generator
        )


class Classes(nn.Module):
    """A model whose classes are the second axis, where its loss looks for them."""

    def __init__(self, inner):
        """Take the model."""
        super().__init__()
        self.inner = inner

    def forward(self, x):
        """Return the scores (B, K, T)."""
        return self.inner(x).transpose(1, 2)


class Models:
    """Makes models by name."""

    def select_model(self, name):
        """Return a new one."""
        model = textbook.MODELS[name]()
        return Classes(model) if name == "W3" else model


def main():
    """Do rounds until told to stop."""
    torch.set_num_threads(1)
    turns, work, workers = seam.Turns(), seam.Work(sys.argv[1]), int(sys.argv[2])
    both = {
        "model_selector": Models(),
        "model_name": work.name,
        "dataset": Data(work.clients),
        "num_clients": len(work.clients),
        "device": "cpu",
        "batch_size": work.batch_size,
        "seed": 0,
    }
    server = FedAvgBaseServerHandler(
        global_round=work.rounds, sample_ratio=work.cohort / len(work.clients), **both
    )
    clients = {"epochs": 1, "lr": seam.LR} | both
    trainer = (
        FedAvgThreadPoolClientTrainer(num_parallels=workers, **clients)
        if workers > 1
        else FedAvgBaseClientTrainer(**clients)
    )
    for number in turns.rounds(textbook.parameters(server.model), workers):
        trainer.local_process(server.downlink_package(), work.draw(number))
        for package in trainer.uplink_package():
            server.load(package)


if __name__ == "__main__":
    main()
