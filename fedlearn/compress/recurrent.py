"""Pruning of recurrent layers: hidden units go, with their gates and with what reads them.

A unit's rank is the L1 norm of all weights that hang on it, as Li et al. rank filters
("Pruning Filters for Efficient ConvNets", ICLR 2017): its rows in every gate, and the
columns that read it, in the layer itself and in the next one.

Legend: H hidden units, I inputs, G gates (LSTM 4, GRU 3, plain 1).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from fedlearn.compress.order import computing_order
from fedlearn.errors import ModelError
from fedlearn.models.resize import resize

# Parameters of a layer in a stack: rows of these are gates, columns of the first inputs.
_FROM_INPUT = "weight_ih"
_FROM_STATE = "weight_hh"


def prune_recurrent(
    module: nn.Module, sample: Tensor, share: float, multiple: int
) -> nn.Module:
    """Return a copy of a module whose recurrent layers have lost a share of their units.

    sample: (B, …) inputs. multiple: of the units that stay. Raises ModelError for
    recurrent layers in two directions, with projections, or read by anything but a dense
    or a recurrent layer.
    """
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    order = computing_order(module, sample)
    for place, (name, layer) in enumerate(order):
        if isinstance(layer, nn.RNNBase):
            reader = _reader(name, layer, order[place + 1 :])
            _prune_layer(state, name, layer, reader, share, multiple)
    pruned = copy.deepcopy(module)
    resize(type(module).__name__, pruned, {k: t.shape for k, t in state.items()})
    pruned.load_state_dict(state)
    for layer in pruned.modules():
        if isinstance(layer, nn.RNNBase):
            # Its own list of weights still has those before.
            layer.flatten_parameters()
    return pruned


def _reader(name: str, layer: nn.RNNBase, later: list[tuple[str, nn.Module]]) -> str:
    """Return the name of the tensor whose columns read a layer's outputs."""
    if layer.bidirectional or layer.proj_size:
        raise ModelError(
            f"recurrent layer '{name}' works in two directions or with a projection, which "
            "pruning does not know; leave out --prune"
        )
    if later:
        next_name, next_layer = later[0]
        if (
            isinstance(next_layer, nn.Linear)
            and next_layer.in_features == layer.hidden_size
        ):
            return f"{next_name}.weight"
        if (
            isinstance(next_layer, nn.RNNBase)
            and next_layer.input_size == layer.hidden_size
        ):
            return f"{next_name}.weight_ih_l0"
    raise ModelError(
        f"what reads the recurrent layer '{name}' is no dense or recurrent layer of "
        f"{layer.hidden_size} inputs; leave out --prune"
    )


def _prune_layer(
    state: dict[str, Tensor],
    name: str,
    layer: nn.RNNBase,
    reader: str,
    share: float,
    multiple: int,
) -> None:
    """Take units out of each layer of a stack, and their columns out of what reads them."""
    hidden = layer.hidden_size
    size = remaining(hidden, share, multiple)
    for level in range(layer.num_layers):
        is_last = level == layer.num_layers - 1
        # Layers of one stack read one another.
        next_weight = reader if is_last else f"{name}.{_FROM_INPUT}_l{level + 1}"
        own_names = [
            f"{name}.{kind}_l{level}"
            for kind in (_FROM_INPUT, _FROM_STATE, "bias_ih", "bias_hh")
        ]
        own_names = [own_name for own_name in own_names if own_name in state]
        columns = (f"{name}.{_FROM_STATE}_l{level}", next_weight)
        units = _strongest(state, own_names, columns, hidden, size)
        for own_name in own_names:
            state[own_name] = _rows_of(state[own_name], units, hidden)
        for column_name in columns:
            state[column_name] = state[column_name][:, units]


def remaining(hidden: int, share: float, multiple: int) -> int:
    """Return how many of some units stay: the nearest multiple, all where there are fewer."""
    nearest = multiple * round(hidden * (1 - share) / multiple)
    return min(hidden, max(multiple, nearest))


def _strongest(
    state: dict[str, Tensor],
    rows: list[str],
    columns: tuple[str, ...],
    hidden: int,
    size: int,
) -> Tensor:
    """Return the positions of the units with the largest L1 norms, in their order, (size,)."""
    norms = torch.zeros(hidden)
    for name in rows:
        # (G · H, …) → (G, H, …): the gates of one unit stand H rows apart.
        norms += (
            state[name].abs().reshape(-1, hidden, state[name][0].numel()).sum((0, 2))
        )
    for name in columns:
        norms += state[name].abs().sum(0)
    return norms.topk(size).indices.sort().values


def _rows_of(tensor: Tensor, units: Tensor, hidden: int) -> Tensor:
    """Return the rows of some units in every gate of a tensor (G · H, …)."""
    gates = len(tensor) // hidden
    rows = torch.cat([units + gate * hidden for gate in range(gates)])
    return tensor[rows]
