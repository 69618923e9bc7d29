"""Strategies: ours, one algorithm per file, and any Flower strategy by import path."""

from fedlearn.names import Named

__all__ = ["STRATEGIES"]

# The registered strategies, by the name in ``[strategy]``; further keys of the table are
# their arguments. The classes are imported on use: naming them loads neither torch nor flwr.
STRATEGIES = {
    "fedavg": Named(
        "fedlearn.strategies.fedavg:FedAvg",
        "average of the clients' models, weighted by examples; server momentum",
    ),
    "fedprox": Named(
        "fedlearn.strategies.fedprox:FedProx",
        "fedavg whose clients are pulled towards the model that they were sent",
    ),
    "minibatch-sgd": Named(
        "fedlearn.strategies.minibatch_sgd:MinibatchSGD",
        "each client sends one mini-batch gradient, the server steps",
    ),
}
