"""Structured pruning: whole filters and units go, and the layers become narrower.

The least filters by their L1 norm go: Li et al., "Pruning Filters for Efficient ConvNets",
ICLR 2017. What hangs together (a filter, its bias and norm, the weights that read it, all
ends of a residual sum) goes together, and is ranked together: Fang et al., "DepGraph:
Towards Any Structural Pruning", CVPR 2023, whose package torch-pruning does it. Recurrent
layers, on which it fails, have code of ours: `fedlearn.compress.recurrent`.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from math import gcd

import torch
from torch import Tensor, nn

from fedlearn.compress.order import computing_order
from fedlearn.compress.recurrent import prune_recurrent
from fedlearn.errors import ConfigError, ModelError, reason_of
from fedlearn.models import layout

# Layers keep a multiple of so many filters: 12 and 24 ran slower than 16 and 32 in
# onnxruntime on x86.
ROUND_TO = 8


def require_torch_pruning() -> None:
    """Raise ConfigError with the install line where torch-pruning is missing."""
    if find_spec("torch_pruning") is None:
        raise ConfigError(
            "pruning needs torch-pruning: pip install 'fedlearn[compress]'"
        )


def prune(module: nn.Module, sample: Tensor, share: float) -> nn.Module:
    """Return a copy of a module without a share of each layer's filters, but the output's.

    sample: (B, …) inputs, which lead through the module. share: 0 to 1, both excluded; a
    layer keeps at least `ROUND_TO` filters, or all it has. Raises ModelError where nothing
    can go, and ConfigError without torch-pruning.
    """
    if any(isinstance(layer, nn.RNNBase) for layer in module.modules()):
        pruned = prune_recurrent(module, sample, share, ROUND_TO)
    else:
        require_torch_pruning()
        pruned = _pruned_by_groups(module, sample, share)
    if layout(pruned).floats >= layout(module).floats:
        raise ModelError(
            f"nothing can be pruned of {type(module).__name__} at a share of {share:g}: no "
            f"layer before its output can lose filters and keep a multiple of {ROUND_TO}"
        )
    return pruned


def _pruned_by_groups(module: nn.Module, sample: Tensor, share: float) -> nn.Module:
    """Return a pruned copy by torch-pruning, without what it cannot prune."""
    output = computing_order(module, sample)[-1][0]
    try:
        return _pruned(module, sample, share, [output])
    # torch-pruning follows a user's code, which may do anything with a tensor's shape.
    except Exception as error:
        fixed = _fixed_layers(module, sample, share, output)
        if not fixed:
            raise ModelError(
                f"{type(module).__name__} cannot be pruned: {reason_of(error)}; leave out "
                "--prune"
            ) from error
    return _pruned(module, sample, share, fixed)


def _fixed_layers(
    module: nn.Module, sample: Tensor, share: float, output: str
) -> list[str]:
    """Return the names of layers that have to keep their outputs; none: all fail.

    An attention's queries, for example, are divided by a number that its code has. Layers
    are freed one after another, as long as the pruned module runs.
    """
    names = [name for name, _ in computing_order(module, sample)]
    fixed = names
    for name in names:
        fewer = [rival for rival in fixed if rival != name]
        if name == output:
            continue
        with contextlib.suppress(Exception):
            _pruned(module, sample, share, fewer)
            fixed = fewer
    return fixed if fixed != names else []


def _pruned(
    module: nn.Module, sample: Tensor, share: float, ignored: Sequence[str]
) -> nn.Module:
    """Return a pruned copy; ignored: names of layers that keep their outputs.

    Raises what torch-pruning raises, and what a module raises that no longer runs.
    """
    import torch_pruning

    pruned = copy.deepcopy(module).eval()
    layers = dict(pruned.named_modules())
    with warnings.catch_warnings():
        # It warns of parameters that it does not follow, which then keep their shapes.
        warnings.simplefilter("ignore")
        pruner = torch_pruning.pruner.MagnitudePruner(
            pruned,
            sample,
            importance=torch_pruning.importance.MagnitudeImportance(p=1),
            pruning_ratio=share,
            ignored_layers=[layers[name] for name in ignored],
            round_to=_multiple(module),
        )
        pruner.step()
    with torch.no_grad():
        pruned(sample)
    return pruned


def _multiple(module: nn.Module) -> int | None:
    """Return what a layer's filters are a multiple of; None: GroupNorm sees to it.

    As many go from each group of a GroupNorm, so that eight groups give multiples of 8;
    torch-pruning would ask for a multiple in each group, and prune nothing.
    """
    groups = [
        layer.num_groups
        for layer in module.modules()
        if isinstance(layer, nn.GroupNorm)
    ]
    if groups and gcd(*groups) % ROUND_TO == 0:
        return None
    return ROUND_TO
