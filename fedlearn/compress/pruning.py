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

import torch
from torch import Tensor, nn

from fedlearn.compress.order import WEIGHTED, computing_order
from fedlearn.compress.recurrent import prune_recurrent, remaining
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
            f"nothing can be pruned of {type(module).__name__} at a share of {share!r}: no "
            f"layer before its output can lose filters and keep a multiple of {ROUND_TO}"
        )
    return pruned


def _pruned_by_groups(module: nn.Module, sample: Tensor, share: float) -> nn.Module:
    """Return a pruned copy by torch-pruning, without what it cannot prune."""
    order = computing_order(module, sample)
    if not order:
        raise ModelError(
            f"{type(module).__name__} cannot be pruned: it has no dense layer or convolution "
            "of torch's own; leave out --prune"
        )
    output = order[-1][0]
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
            pruning_ratio_dict=_shares(pruned, share),
            pruning_ratio=share,
            ignored_layers=[layers[name] for name in ignored],
        )
        pruner.step()
    with torch.no_grad():
        pruned(sample)
    return pruned


def _shares(module: nn.Module, share: float) -> dict[nn.Module, float]:
    """Return the share that each layer loses, so that it keeps a multiple of `ROUND_TO`.

    torch-pruning's own rounding leaves a layer whole where it would keep fewer than that,
    and asks for a multiple in every group of a GroupNorm.
    """
    shares: dict[nn.Module, float] = {}
    for layer in module.modules():
        size = getattr(layer, "out_channels", getattr(layer, "out_features", 0))
        if isinstance(layer, WEIGHTED) and size:
            # Half a filter more, because it cuts off what floats leave of a whole one.
            rest_size = remaining(size, share, ROUND_TO) + 0.5
            shares[layer] = max(0.0, 1 - rest_size / size)
    return shares
