"""How a cohort is chosen, and what is known of a strategy before it runs."""

from __future__ import annotations

from collections.abc import Sequence

from flwr.serverapp.strategy import FedAvg, FedAvgM, FedProx, Strategy

from fedlearn.errors import ConfigError
from fedlearn.seeds import generator

# Keys of Flower's strategies that decide how many clients are asked to train.
_SHARES = ("fraction_train", "min_train_nodes")


def cohort_size(clients: int, fraction_train: float, clients_per_round: int) -> int:
    """Return the clients of a round: the number given, else max(1, round(f × clients)).

    Raises ConfigError for a fraction outside (0, 1] and for more clients than there are.
    """
    if clients_per_round:
        if not 0 < clients_per_round <= clients:
            raise ConfigError(
                f"clients_per_round = {clients_per_round}: "
                f"the experiment has {clients} clients"
            )
        return clients_per_round
    if not 0 < fraction_train <= 1:
        raise ConfigError(
            f"fraction_train = {fraction_train:g}: "
            "it is a share of the clients, above 0 and at most 1"
        )
    # A round needs a client, however small the share.
    return max(1, round(fraction_train * clients))


def uniform(
    nodes: Sequence[int], size: int, seed: int, server_round: int, attempt: int
) -> list[int]:
    """Return ``size`` distinct nodes, uniformly at random, sorted.

    A function of its arguments alone: neither the order of the nodes nor earlier rounds
    matter.
    """
    # A range is in order already: a million clients cost no time and no memory.
    ordered = nodes if isinstance(nodes, range) else sorted(nodes)
    random = generator(seed, "cohort", server_round, attempt)
    positions = random.choice(len(ordered), size, replace=False, shuffle=False)
    return [ordered[position] for position in sorted(positions)]


def cohort_of(strategy: Strategy, clients: int) -> int:
    """Return how many clients a strategy, ours or Flower's, asks in a round.

    A strategy of neither kind may name no size: then it is all clients.
    """
    # Flower's wrappers for differential privacy hold the strategy that asks.
    asking = getattr(strategy, "strategy", strategy)
    cohort = getattr(asking, "cohort", None)
    if not cohort:
        # Flower's have the share as ``fraction_train``, ours the number as ``cohort``.
        cohort = round(getattr(asking, "fraction_train", 1.0) * clients)
    at_least = getattr(asking, "min_train_nodes", 1)
    return min(clients, max(1, cohort, at_least))


def shares(strategy: Strategy) -> str:
    """Return a strategy's keys that decide how many clients train, as " (…)"; "": none."""
    # Flower's wrappers for differential privacy hold the strategy that asks.
    asking = getattr(strategy, "strategy", strategy)
    values = [(key, getattr(asking, key, None)) for key in _SHARES]
    texts = [f"{key} = {value}" for key, value in values if value is not None]
    return f" ({', '.join(texts)})" if texts else ""


def takes_payloads(strategy: Strategy) -> bool:
    """Tell whether a strategy adds updates one by one, straight from their payloads.

    Ours do (`fedlearn.strategies.streaming`); Flower's want each client's whole model as
    arrays.
    """
    return bool(getattr(strategy, "takes_payloads", False))


def averages(strategy: Strategy) -> bool:
    """Tell whether a strategy is known to average updates, so that unbiased noise cancels.

    Others may compare, clip or rescale updates one by one: medians, Krum, the wrappers
    for differential privacy, adaptive server optimisers.
    """
    if takes_payloads(strategy):
        # Above one group it is the median of the groups' means.
        return getattr(strategy, "groups", 1) == 1
    # A subclass may do anything with an update.
    return type(strategy) in (FedAvg, FedAvgM, FedProx)
