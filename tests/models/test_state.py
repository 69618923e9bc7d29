"""A module's state as two flat vectors, and back, by hand-checkable numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedlearn.arrays import Entry, State
from fedlearn.errors import ModelError
from fedlearn.models import layout, read_state, write_state


def state_of(floats: list[float], integers: list[int] | None = None) -> State:
    return State(np.array(floats, np.float32), np.array(integers or [], np.int64))


class Tied(nn.Module):
    """One tensor under two names, as language models tie their first and last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, 2)
        self.output = nn.Linear(2, 3, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.output(self.embedding(x))
        return scores


class Mixed(nn.Module):
    """Every dtype, a frozen parameter and a scalar."""

    e: Tensor
    unsaved: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.bfloat16))
        self.b = nn.Parameter(
            torch.tensor([[0.5]], dtype=torch.float16), requires_grad=False
        )
        self.register_buffer("c", torch.tensor([7, -8], dtype=torch.int32))
        self.register_buffer("d", torch.tensor(0.25, dtype=torch.float64))
        self.register_buffer("e", torch.tensor([True, False]))
        self.register_buffer("unsaved", torch.tensor([9.0]), persistent=False)


class Hides(nn.Module):
    """A state without its first layer, and with a copy of its last weight."""

    def __init__(self, names: tuple[str, ...], frozen: bool = False) -> None:
        super().__init__()
        self.names = names
        self.first = nn.Linear(2, 3)
        self.last = nn.Linear(3, 1)
        self.first.requires_grad_(not frozen)

    def state_dict(self, *arguments: Any, **options: Any) -> Any:
        state = super().state_dict(*arguments, **options)
        shown = {name: state[name] for name in self.names if name in state}
        if "copy" in self.names:
            shown["last.weight"] = state["last.weight"].clone()
        return shown


ALL = ("first.weight", "first.bias", "last.weight", "last.bias")


@pytest.mark.parametrize(
    ("names", "hidden"),
    [
        (ALL[2:], "first.weight, first.bias"),
        (ALL[:3], "last.bias"),
        ((*ALL, "copy"), "last.weight"),
        ((), ", ".join(ALL)),
    ],
)
def test_trained_weights_that_no_state_holds_are_named(
    names: tuple[str, ...], hidden: str
) -> None:
    with pytest.raises(ModelError, match=f"Hides trains {hidden}, which"):
        layout(Hides(names))


def test_what_is_not_trained_need_not_be_in_the_state() -> None:
    assert layout(Hides(ALL)).trained == 13
    # A frozen first layer is the same for everybody, from the seed.
    assert layout(Hides(ALL[2:], frozen=True)).trained == 4


def test_layout_follows_state_dict() -> None:
    norm = layout(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))
    assert norm.entries[0] == Entry("0.weight", (2, 3), "float32", True)
    assert [e.name for e in norm.entries if not e.trained] == [
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
    ]
    assert (norm.floats, norm.integers, norm.trained) == (6 + 2 + 4 + 4, 1, 6 + 2 + 4)


def test_batchnorm_counts_and_statistics_travel() -> None:
    module = nn.BatchNorm1d(1)
    module(torch.tensor([[1.0], [3.0]]))
    names = layout(module)
    state = read_state(module, names)
    # momentum 0.1: mean 0.1·2 and variance 0.9·1 + 0.1·2, after one batch
    assert state.floats.tolist() == pytest.approx([1.0, 0.0, 0.2, 1.1])
    assert state.integers.tolist() == [1]
    fresh = nn.BatchNorm1d(1)
    write_state(fresh, names, state)
    assert fresh.num_batches_tracked is not None and int(fresh.num_batches_tracked) == 1
    assert fresh.running_var is not None and float(fresh.running_var) == pytest.approx(
        1.1
    )


def test_dtypes_are_kept() -> None:
    module = Mixed()
    names = layout(module)
    assert [(e.name, e.dtype, e.trained) for e in names.entries] == [
        ("a", "bfloat16", True),
        ("b", "float16", False),
        ("c", "int32", False),
        ("d", "float64", False),
        ("e", "bool", False),
    ]
    state = read_state(module, names)
    assert state.floats.dtype == np.float32 and state.floats.tolist() == [
        1.0,
        2.0,
        0.5,
        0.25,
    ]
    assert state.integers.dtype == np.int64 and state.integers.tolist() == [7, -8, 1, 0]
    write_state(module, names, state_of([3, 1 + 2**-9, 4, 5], [1, 2, 0, 1]))
    assert module.a.dtype == torch.bfloat16 and module.a.tolist() == [
        3.0,
        1.0,
    ]  # bfloat16 has 7 bits behind the point
    assert read_state(module, names).floats.tolist() == [3.0, 1.0, 4.0, 5.0]
    assert module.e.tolist() == [False, True]
    assert module.unsaved.tolist() == [9.0]


def test_a_state_shares_nothing_with_the_module() -> None:
    module = nn.Linear(2, 1, bias=False)
    weight = module.weight
    names = layout(module)
    state = state_of([1, 2])
    write_state(module, names, state)
    read = read_state(module, names)
    state.floats[:] = 9
    with torch.no_grad():
        module.weight.zero_()
    assert read.floats.tolist() == [1, 2]
    write_state(module, names, read)
    assert (
        module.weight is weight
        and weight.tolist() == [[1.0, 2.0]]
        and weight.requires_grad
    )


def test_a_read_only_state_is_written_without_a_warning() -> None:
    module = nn.Linear(2, 1, bias=False)
    state = State(
        np.frombuffer(np.array([1, 2], np.float32).tobytes(), np.float32),
        np.empty(0, np.int64),
    )
    write_state(module, layout(module), state)
    assert module.weight.tolist() == [[1.0, 2.0]]


def test_tied_weights_stay_tied_and_the_first_name_decides() -> None:
    module = Tied()
    names = layout(module)
    assert [(e.name, e.trained) for e in names.entries] == [
        ("embedding.weight", True),
        ("output.weight", False),
    ]
    assert (names.floats, names.trained) == (12, 6)
    before = read_state(module, names)
    assert (before.floats[:6] == before.floats[6:]).all()
    write_state(module, names, State(np.arange(12, dtype=np.float32), before.integers))
    assert module.output.weight is module.embedding.weight
    assert read_state(module, names).floats.tolist() == [0, 1, 2, 3, 4, 5] * 2


def test_other_memory_orders_are_read_in_the_same_order() -> None:
    module = nn.Conv2d(2, 2, 2, bias=False)
    names = layout(module)
    with torch.no_grad():
        module.weight.copy_(torch.arange(16.0).view(2, 2, 2, 2))
    module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert read_state(module, names).floats.tolist() == list(range(16))
    write_state(
        module,
        names,
        State(np.arange(16, 0, -1, dtype=np.float32), np.empty(0, np.int64)),
    )
    assert module.weight.flatten().tolist() == list(range(16, 0, -1))


def test_what_does_not_fit_is_refused() -> None:
    module = nn.Linear(2, 1)
    names = layout(module)
    with pytest.raises(
        ModelError,
        match="a state of 2 floats and 0 integers does not fit a layout of 3 and 0",
    ):
        write_state(
            module, names, State(np.zeros(2, np.float32), np.empty(0, np.int64))
        )
    with pytest.raises(
        ModelError,
        match=r"tensor 'weight' \(1, 3\) torch.float32 of Linear stands where .* 'weight' \(1, 2\)",
    ):
        read_state(nn.Linear(3, 1), names)
    with pytest.raises(ModelError, match="Linear has 1 tensors; the layout has 2"):
        read_state(nn.Linear(2, 1, bias=False), names)


def test_a_state_that_is_no_tensor_is_refused() -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> object:
            return {"calls": 1}

    with pytest.raises(
        ModelError,
        match="state '_extra_state' of Extra is a dict, which no payload carries",
    ):
        layout(Extra(1, 1))


def test_complex_weights_are_refused() -> None:
    with pytest.raises(ModelError, match="tensor 'weight' has dtype complex64"):
        layout(nn.Linear(1, 1, dtype=torch.complex64))
