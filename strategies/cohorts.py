"""How a cohort is chosen, and what is known of a strategy before it runs."""

from __future__ import annotations

from collections.abc import Sequence

from flwr.serverapp.strategy import FedAvg, FedAvgM, FedProx, Strategy

from fedlearn.errors import ConfigError
from fedlearn.seeds import generator


def cohort_size(clients: int, fraction_train: float, clients_per_round: int) -> int:
    """Return the clients of a round: the number given, else max(1, round(fraction * clients)).

    Raises ConfigError for a fraction outside (0, 1] and for more clients than there are.
    """
    if clients_per_round:
        if not 0 < clients_per_round <= clients:
            raise ConfigError(
                f"clients_per_round = {clients_per_round}: the experiment has {clients} clients"
            )
        return clients_per_round
    if not 0 < fraction_train <= 1:
        raise ConfigError(
            f"fraction_train = {fraction_train:g}: it is a share of the clients, above 0 and at most 1"
        )
    return max(1, round(fraction_train * clients))


def uniform(
    nodes: Sequence[int], size: int, seed: int, round: int, attempt: int
) -> list[int]:
    """Return ``size`` distinct nodes, uniformly at random, sorted; a function of its arguments alone."""
    order = (
        nodes if isinstance(nodes, range) else sorted(nodes)
    )  # a range is in order, and a million clients take no time
    chosen = generator(seed, "cohort", round, attempt).choice(
        len(order), size, replace=False, shuffle=False
    )
    return [order[i] for i in sorted(chosen)]


def cohort_of(strategy: Strategy, clients: int) -> int:
    """Return how many clients a strategy, ours or Flower's, will ask in a round; all of them where it does not tell."""
    inner = getattr(
        strategy, "strategy", strategy
    )  # Flower's DP wrappers hold the one that asks
    told = getattr(inner, "cohort", None) or round(
        getattr(inner, "fraction_train", 1.0) * clients
    )
    return min(clients, max(1, told, getattr(inner, "min_train_nodes", 1)))


def takes_payloads(strategy: Strategy) -> bool:
    """Tell whether a strategy adds updates one by one, straight from their payloads.

    Ours do (`fedlearn.strategies.streaming`); Flower's want each client's whole model as
    arrays.
    """
    return bool(getattr(strategy, "takes_payloads", False))


def averages(strategy: Strategy) -> bool:
    """Tell whether a strategy is known to average updates, so that unbiased noise cancels.

    Others may compare, clip or rescale them one by one: medians, Krum, the DP wrappers, adaptive server optimisers.
    """
    if getattr(strategy, "takes_payloads", False):
        return getattr(strategy, "groups", 1) == 1
    return type(strategy) in (FedAvg, FedAvgM, FedProx)
