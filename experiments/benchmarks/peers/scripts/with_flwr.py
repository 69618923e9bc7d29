# mypy: ignore-errors
# The peer is installed in its own environment alone.
"""Flower's own simulation engine, on Ray: a ClientApp as its tutorial has it, and FedAvg.

python with_flwr.py WORKLOAD.npz ACTORS

An actor for each core, of one thread each (Ray sees to that). FedAvg draws the cohort itself.
"""

import logging
import os
import sys

os.environ |= {
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}  # before they are imported

import seam
import textbook
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch.utils.data import DataLoader, TensorDataset

PATH = sys.argv[1]


class Strict(FedAvg):
    """Flower's FedAvg, which leaves out clients that fail; here one is enough to end."""

    def aggregate_train(self, server_round, replies):
        """Return the average of all replies."""
        replies = list(replies)
        if failed := [reply.error.reason for reply in replies if reply.has_error()]:
            raise RuntimeError(f"{len(failed)} clients failed: {failed[0]}")
        return super().aggregate_train(server_round, replies)


def client_app(path):
    """Return the app that trains one client."""
    app = ClientApp()

    @app.train()
    def train(message, context):
        told = seam.read(path)
        x, y = told.clients[int(context.node_config["partition-id"])]
        loader = DataLoader(
            TensorDataset(torch.from_numpy(x), torch.from_numpy(y)),
            batch_size=told.batch_size,
            shuffle=True,
        )
        model = textbook.MODELS[told.name]()
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        optimiser, total = torch.optim.SGD(model.parameters(), lr=seam.LR), 0.0
        model.train()
        for inputs, targets in loader:
            optimiser.zero_grad()
            loss = textbook.loss(model(inputs), targets)
            loss.backward()
            optimiser.step()
            total += loss.item()
        metrics = MetricRecord(
            {"train_loss": total / len(loader), "num-examples": len(y)}
        )
        return Message(
            RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}),
            reply_to=message,
        )

    return app


def server_app(told, turns, actors):
    """Return the app that asks for rounds."""
    app = ServerApp()

    @app.main()
    def main(grid, context):
        model = textbook.MODELS[told.name]()
        rounds = turns.rounds(textbook.parameters(model), actors)
        strategy = Strict(
            fraction_train=told.cohort / len(told.clients),
            fraction_evaluate=0.0,
            min_available_nodes=len(told.clients),
        )

        def turn(number, arrays):  # called before the first round and after each
            if next(rounds, None) is None:
                raise EOFError("no more turns")

        strategy.start(
            grid,
            ArrayRecord(model.state_dict()),
            num_rounds=told.rounds,
            evaluate_fn=turn,
        )

    return app


def main():
    """Do rounds until told to stop."""
    turns, told, actors = seam.Turns(), seam.read(PATH), int(sys.argv[2])
    logging.getLogger("flwr").setLevel(logging.ERROR)
    ray = {
        "address": "local",
        "num_cpus": actors,
        "include_dashboard": False,
        "log_to_driver": False,
    }
    config = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": ray}
    run_simulation(
        server_app(told, turns, actors),
        client_app(PATH),
        len(told.clients),
        backend_config=config,
    )


if __name__ == "__main__":
    main()
