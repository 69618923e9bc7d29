# mypy: ignore-errors
# The peer is installed in its own environment alone.
"""fedjax (Google): its FedAvg with models in haiku, its "jit" backend, XLA on as many
threads as it takes.

python with_fedjax.py WORKLOAD.npz

The release of 2023 still calls jax.tree_map, which jax dropped in 2024: it is put back here.
haiku's LSTM has one bias vector in the place of torch's two.
"""

import sys
from collections import OrderedDict

import jax

jax.tree_map = jax.tree_util.tree_map

import fedjax  # noqa: E402  # after what it misses is there
import haiku as hk  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402
import seam  # noqa: E402


def convolutions(x, kernel, channels, width):
    """Return W1's and W2's class scores."""
    x = jnp.transpose(x, (0, 2, 3, 1))
    for count in channels:
        x = hk.MaxPool((1, 2, 2, 1), (1, 2, 2, 1), "SAME")(
            jax.nn.relu(hk.Conv2D(count, kernel)(x))
        )
    return hk.Linear(10)(jax.nn.relu(hk.Linear(width)(hk.Flatten()(x))))


def recurrent(x, widths):
    """Return the outputs of the last of some LSTM layers."""
    core = hk.DeepRNN([hk.LSTM(width) for width in widths])
    return hk.dynamic_unroll(core, x, core.initial_state(x.shape[0]), time_major=False)[
        0
    ]


MODELS = {
    "W1": lambda x: convolutions(x, 3, (16, 32), 64),
    "W2": lambda x: convolutions(x, 5, (32, 64), 512),
    "W3": lambda x: hk.Linear(90)(recurrent(hk.Embed(90, 8)(x), (256, 256))),
    "W4": lambda x: hk.Linear(6)(recurrent(x, (64,)).mean(axis=1)),
}


def main():
    """Do rounds until told to stop."""
    turns = seam.Turns()
    work = seam.Work(sys.argv[1])
    net = hk.without_apply_rng(hk.transform(MODELS[work.name]))

    def loss(parameters, batch, _):
        return optax.softmax_cross_entropy_with_integer_labels(
            net.apply(parameters, batch["x"]), batch["y"]
        ).mean()

    data = fedjax.InMemoryFederatedData(
        OrderedDict((i, {"x": x, "y": y}) for i, (x, y) in enumerate(work.clients))
    )
    fedjax.set_for_each_client_backend("jit")
    algorithm = fedjax.algorithms.fed_avg.federated_averaging(
        jax.grad(loss),
        fedjax.optimizers.sgd(seam.LR),
        fedjax.optimizers.sgd(1.0),
        fedjax.ShuffleRepeatBatchHParams(
            batch_size=work.batch_size, num_epochs=1, drop_remainder=False
        ),
    )
    state = algorithm.init(
        net.init(jax.random.PRNGKey(0), jnp.asarray(work.clients[0][0][:2]))
    )
    count = sum(leaf.size for leaf in jax.tree_util.tree_leaves(state.params))
    for number in turns.rounds(count, None):
        cohort = work.draw(number)
        keys = jax.random.split(jax.random.PRNGKey(number), len(cohort))
        state, _ = algorithm.apply(
            state,
            [(c, data.get_client(c), key) for c, key in zip(cohort, keys, strict=True)],
        )
        jax.block_until_ready(state.params)


if __name__ == "__main__":
    main()
