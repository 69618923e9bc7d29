# mypy: ignore-errors
# The peer is installed in its own environment alone.
"""FedLab: its standalone pipeline's steps, with its serial trainer and its synchronous server.

python with_fedlab.py WORKLOAD.npz THREADS

torchvision, which only its readers of data sets want, has no CPU build that goes with this
torch: a stand-in takes its place.
"""

import sys
from unittest.mock import MagicMock

import seam
import textbook
import torch
from torch.utils.data import DataLoader, TensorDataset

for part in (
    "",
    ".transforms",
    ".datasets",
    ".datasets.utils",
    ".datasets.folder",
    ".models",
):
    sys.modules["torchvision" + part] = MagicMock()

from fedlab.contrib.algorithm.basic_client import SGDSerialClientTrainer  # noqa: E402  # after the stand-in
from fedlab.contrib.algorithm.basic_server import SyncServerHandler  # noqa: E402


class Data:
    """Clients' samples, as it wants them."""

    def __init__(self, clients):
        """Take them."""
        self.sets = [
            TensorDataset(torch.from_numpy(x), torch.from_numpy(y)) for x, y in clients
        ]

    def get_dataloader(self, client, batch_size):
        """Return a client's loader."""
        return DataLoader(self.sets[client], batch_size=batch_size, shuffle=True)


def main():
    """Do rounds until told to stop."""
    turns, work = seam.Turns(), seam.Work(sys.argv[1])
    torch.set_num_threads(int(sys.argv[2]))
    make = textbook.MODELS[work.name]
    trainer = SGDSerialClientTrainer(make(), len(work.clients))
    trainer.setup_dataset(Data(work.clients))
    trainer.setup_optim(1, work.batch_size, seam.LR)
    trainer.criterion = textbook.loss
    server = SyncServerHandler(make(), work.rounds + 1, work.cohort / len(work.clients))
    for number in turns.rounds(
        textbook.parameters(server.model), torch.get_num_threads()
    ):
        trainer.local_process(server.downlink_package, work.draw(number))
        for upload in trainer.uplink_package:
            server.load(upload)


if __name__ == "__main__":
    main()
