"""A low-rank cut: a dense layer becomes two narrow ones, by its largest singular values.

By Eckart and Young, "The Approximation of One Matrix by Another of Lower Rank",
Psychometrika 1936, no other product of that rank is nearer. Applied to networks: Denton et
al., "Exploiting Linear Structure Within Convolutional Networks for Efficient Evaluation",
NeurIPS 2014. The factored layers are those of `fedlearn.models.factors`, which a run builds
from the tensors' shapes, so that clients can train them.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from fedlearn.compress.order import computing_order
from fedlearn.errors import ModelError
from fedlearn.models.factors import is_factorable
from fedlearn.models.resize import resize

# The input weights of the first layer of a recurrent stack; the others are as wide as high.
_FIRST_INPUT = "weight_ih_l0"


def cut_rank(module: nn.Module, sample: Tensor, share: float) -> nn.Module:
    """Return a copy of a module whose dense layers are products of two factors.

    sample: (B, …) inputs. share: of each layer's weights that go, 0 to 1, both excluded.
    The output layer stays. Of recurrent layers the weights of the inputs are factored.
    Raises ModelError where no layer becomes smaller.
    """
    state: dict[str, Tensor] = dict(module.state_dict())
    cuts = 0
    for name, layer in computing_order(module, sample)[:-1]:
        # A model that is one layer alone has no place for two.
        if not name or not is_factorable(layer):
            continue
        is_recurrent = isinstance(layer, nn.RNNBase)
        key = f"{name}.{_FIRST_INPUT if is_recurrent else 'weight'}"
        rank = rank_of(state[key], share)
        if rank:
            state = _factored(state, name, key, rank)
            cuts += 1
    if not cuts:
        raise ModelError(
            f"nothing of {type(module).__name__} can be cut to a lower rank at a share of "
            f"{share!r}: no dense or recurrent layer before its output is large enough"
        )
    cut = copy.deepcopy(module)
    resize(type(module).__name__, cut, {key: t.shape for key, t in state.items()})
    cut.load_state_dict(state)
    return cut


def rank_of(weight: Tensor, share: float) -> int:
    """Return the rank whose two factors have so much fewer weights; 0: there is none."""
    outputs, inputs = weight.shape
    return int((1 - share) * outputs * inputs / (outputs + inputs))


def factors(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return up (O, r) and down (r, I), whose product is nearest to a weight (O, I).

    Both have the roots of the singular values, so that one step moves both alike.
    """
    # In float64: singular vectors are then the same on most machines, and cost little.
    output_vectors, values, input_vectors = torch.linalg.svd(
        weight.double(), full_matrices=False
    )
    roots = values[:rank].sqrt()
    up = output_vectors[:, :rank] * roots
    down = roots[:, None] * input_vectors[:rank]
    return up.float(), down.float()


def _factored(
    state: dict[str, Tensor], name: str, key: str, rank: int
) -> dict[str, Tensor]:
    """Return a state in which a layer is two; its other tensors move below ``up``."""
    up, down = factors(state[key], rank)
    moved: dict[str, Tensor] = {}
    for tensor_name, tensor in state.items():
        if not tensor_name.startswith(f"{name}."):
            moved[tensor_name] = tensor
            continue
        if tensor_name == key:
            moved[f"{name}.down.weight"] = down
            tensor = up
        moved[f"{name}.up.{tensor_name.removeprefix(f'{name}.')}"] = tensor
    return moved
