"""The layers of a model in the order in which they compute, which its code alone knows."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

# Layers whose weights come from training, and that read what others write.
WEIGHTED = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.Embedding,
    nn.RNNBase,
)


def computing_order(module: nn.Module, sample: Tensor) -> list[tuple[str, nn.Module]]:
    """Return the names and layers of `WEIGHTED` that a forward pass calls, in its order.

    sample: (B, …) inputs. A layer that is called twice stands where it was called last.
    """
    import torch

    calls: dict[str, nn.Module] = {}
    hooks = []
    for name, layer in module.named_modules():
        if isinstance(layer, WEIGHTED):
            hooks.append(layer.register_forward_hook(_noting(calls, name)))
    try:
        with torch.no_grad():
            module(sample)
    finally:
        for hook in hooks:
            hook.remove()
    return list(calls.items())


def _noting(
    calls: dict[str, nn.Module], name: str
) -> Callable[[nn.Module, object, object], None]:
    """Return a hook that notes a call of the layer of a name."""

    def note(layer: nn.Module, inputs: object, outputs: object) -> None:
        # Popped first, so that a second call moves it to the end.
        calls.pop(name, None)
        calls[name] = layer

    return note
