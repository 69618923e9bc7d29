"""Whether a model's Python code decides by values: an exported model takes one way for all inputs.

Exporters run ``forward`` once and note its operations. An ``if`` on a tensor, a loop that is
as long as one says, or a number that is read out of one becomes what it was for that input.
Parity on a test set may hold by luck. So reads of values are looked for in ``forward`` itself,
and where there are some, what an exporter would note is asked other inputs besides.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fedlearn.errors import ModelError
from fedlearn.export.parity import TOLERANCE
from fedlearn.runs.trained import Trained
from fedlearn.text import first_few

# What takes a value out of a tensor, into Python. Sizes are none: exporters follow those.
_READS: frozenset[Callable[..., Any]] = frozenset(
    {
        Tensor.__array__,
        Tensor.__bool__,
        Tensor.__complex__,
        Tensor.__contains__,
        Tensor.__float__,
        Tensor.__index__,
        Tensor.__int__,
        Tensor.allclose,
        Tensor.equal,
        Tensor.is_nonzero,
        Tensor.item,
        Tensor.numpy,
        Tensor.tolist,
        torch.allclose,
        torch.equal,
        torch.is_nonzero,
    }
)

_TORCH = str(Path(torch.__file__).parent)


class _Reads(TorchFunctionMode):
    """Notes where Python code reads a tensor's value: "file.py:12", the first time first."""

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, None] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in _READS:
            self.places[_place()] = None
        return func(*args, **(kwargs or {}))


def check(trained: Trained, module: nn.Module, zeros: Tensor) -> tuple[str, ...]:
    """Return what an exported model's user should know of its conditions, a sentence each.

    module: as an exporter takes it. zeros: (2, …), the input that exporters run it with. Raises
    ModelError for a model whose traced form answers an input otherwise than the model.
    """
    places = _reads(module, trained, zeros)
    if not places:
        return ()
    lines = first_few(places)
    traced = _traced(module, zeros)
    count = 0
    for name, inputs in _probes(trained, zeros):
        expected = _answer(module, inputs)
        # The model may refuse what is no sample, such as pixels of noise.
        if expected is None:
            continue
        count += 1
        if not _is_same(_answer(traced, inputs), expected):
            raise ModelError(
                f"model '{trained.experiment.model.name}' cannot be exported: its forward "
                f"reads values of tensors in Python ({lines}), and an exported model goes "
                f"one way for all inputs: {name} are answered otherwise; write it with "
                "torch.where, or without the condition"
            )
    return (
        f"the model's forward reads values of tensors in Python ({lines}); what is exported "
        f"goes the way of an input of zeros. {count} other inputs agreed; torch.where in "
        "its place is sure to",
    )


def _reads(module: nn.Module, trained: Trained, zeros: Tensor) -> list[str]:
    """Return where a module reads values, for zeros and for other inputs."""
    reads = _Reads()
    for inputs in (zeros, *(probe for _, probe in _probes(trained, zeros))):
        with reads:
            _answer(module, inputs)
    return list(reads.places)


def _probes(trained: Trained, zeros: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield inputs (2, …) as a model takes them, other than zeros, and what they are."""
    generator = torch.Generator().manual_seed(0)
    if zeros.dtype == torch.int64:
        classes = trained.population.classes
        yield "the last character", torch.full_like(zeros, classes - 1)
        yield (
            "random characters",
            torch.randint(classes, zeros.shape, generator=generator),
        )
        return
    yield "ones", torch.ones_like(zeros)
    yield "values of noise", torch.rand(zeros.shape, generator=generator)
    # Pixels are from 0 to 1; others may be anything.
    if trained.population.modality != "image":
        yield "large values", 10 * torch.randn(zeros.shape, generator=generator)
        yield "negative values", -torch.ones_like(zeros)


def _answer(module: Callable[[Tensor], Any], inputs: Tensor) -> Tensor | None:
    """Return a module's scores; None: it raises."""
    try:
        with torch.no_grad():
            scores: Tensor = module(inputs)
    # The module may be a user's.
    except Exception:
        return None
    return scores


def _traced(module: nn.Module, inputs: Tensor) -> Callable[[Tensor], Any]:
    """Return a module as exporters note it; one that cannot be traced is told by those."""
    with warnings.catch_warnings(), torch.no_grad():
        # Of what is looked for here.
        warnings.simplefilter("ignore")
        try:
            traced: Callable[[Tensor], Any] = torch.jit.trace(  # type: ignore[no-untyped-call]
                module, inputs, check_trace=False
            )
        except Exception:
            return module
    return traced


def _is_same(scores: Tensor | None, expected: Tensor) -> bool:
    if scores is None or scores.shape != expected.shape:
        return False
    room = TOLERANCE * max(1.0, float(expected.abs().max()))
    return bool(torch.allclose(scores, expected, rtol=0.0, atol=room, equal_nan=True))


def _place() -> str:
    """Return the line of code that called, outside of torch and of this file."""
    for frame in reversed(traceback.extract_stack()):
        if frame.filename == __file__ or frame.filename.startswith(_TORCH):
            continue
        return f"{Path(frame.filename).name}:{frame.lineno}"
    return "torch"
