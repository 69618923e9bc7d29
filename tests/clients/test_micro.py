"""Mini-batches in parts: the same step as the whole one, found out by running out of memory,
and declined where it would differ.
"""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedlearn.clients.batches import Tensors, tensors
from fedlearn.clients.micro import NoRoom, Room, ran_out
from fedlearn.clients.train import Update, train
from fedlearn.data.samples import IGNORE, Samples
from fedlearn.errors import ClientError
from fedlearn.models import layout, read_state
from fedlearn.plan import Plan

PLAN = Plan(round=2, seed=5, epochs=3, batch_size=8, lr=0.1, momentum=0.9)


class Small(nn.Module):
    """A device that has room for so many samples at once."""

    def __init__(
        self, most: int, *layers: nn.Module, error: type[Exception] = RuntimeError
    ) -> None:
        super().__init__()
        self.most, self.error, self.sizes = most, error, list[int]()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.layers = nn.Sequential(
                nn.Linear(6, 8), *layers, nn.ReLU(), nn.Linear(8, 3)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(x))
        if len(x) > self.most:
            raise self.error("CUDA out of memory. Tried to allocate 2.00 GiB")
        found = self.layers(x)
        assert isinstance(found, torch.Tensor)
        return found


def data(samples: int = 22) -> Tensors:
    random = np.random.default_rng(0)
    return tensors(
        Samples(
            random.normal(size=(samples, 6)).astype(np.float32),
            random.integers(0, 3, samples),
        ),
        "features",
    )


def update(
    module: nn.Module,
    plan: Plan = PLAN,
    samples: Tensors | None = None,
    halvings: int = 0,
) -> Update:
    shape = layout(module)
    return train(
        module,
        shape,
        plan,
        read_state(module, shape),
        data() if samples is None else samples,
        3,
        halvings,
    )


def apart(a: Update, b: Update) -> float:
    return float(np.abs(a.difference.floats - b.difference.floats).max())


@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"accumulate": 3},
        {"batch_size": 0},
        {"label_smoothing": 0.1},
        {"clip_norm": 0.3},
        {"answer": "gradient", "accumulate": 2},
    ],
    ids=str,
)
def test_parts_make_the_same_steps(changes, error):
    plan = replace(PLAN, **changes)
    whole, small = update(Small(99), plan), update(Small(3, error=error), plan)
    assert (
        small.halvings == (2 if plan.batch_size else 3) and whole.halvings == 0
    )  # 8 → 4 → 2; 22 → 11 → 6 → 3
    assert 0 < apart(small, whole) < 1e-6
    assert np.abs(whole.difference.floats).max() > 0.01
    assert small.train_loss == pytest.approx(whole.train_loss, rel=1e-6)
    assert (small.steps, small.examples) == (whole.steps, whole.examples)


def test_once_found_the_size_stays_for_the_rest():
    module = Small(3)
    update(module, replace(PLAN, epochs=0, steps=2))
    assert module.sizes == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]


def test_a_device_known_to_be_small_begins_with_parts():
    known, found = Small(3), Small(3)
    assert apart(update(known, halvings=2), update(found)) == 0
    assert max(known.sizes) == 2


def test_without_trouble_every_batch_is_computed_once_and_whole():
    module = Small(99)
    update(module)
    assert (
        module.sizes.count(8) == 6
        and module.sizes.count(6) == 3
        and len(module.sizes) == 9
    )  # 22 samples, three times
    x, y, share = next(Room().parts(batch := torch.ones(4, 2), torch.zeros(4)))
    assert x is batch and len(y) == 4 and share == 1.0


def test_targets_that_do_not_count_have_no_weight():
    class Bytes(Small):
        def __init__(self, most: int) -> None:
            super().__init__(most)
            with torch.random.fork_rng():
                torch.manual_seed(2)
                self.layers = nn.Sequential(nn.Embedding(256, 16), nn.Linear(16, 256))

    y = np.full((6, 8), IGNORE, np.int16)
    for line, length in enumerate((8, 1, 3, 0, 0, 5)):
        y[line, :length] = 65 + line
    lines = tensors(Samples(np.full((6, 8), 65, np.uint8), y), "text")
    plan = replace(PLAN, batch_size=0)
    whole, small = update(Bytes(99), plan, lines), update(Bytes(1), plan, lines)
    assert small.halvings == 3 and 0 < apart(whole, small) < 1e-6


def test_dropout_is_a_function_of_the_sizes_not_of_what_failed():
    known, found, whole = (
        Small(most, nn.Dropout(0.5), nn.Tanh(), nn.Dropout(0.5)) for most in (3, 3, 99)
    )
    assert apart(update(known, halvings=2), parts := update(found)) == 0
    assert apart(parts, update(whole)) > 1e-3  # other values are dropped


def test_a_model_that_needs_its_batches_whole_declines():
    with pytest.raises(
        NoRoom,
        match=(
            r"memory: its batches do not fit, and layer 'layers\.1' \(BatchNorm1d\) "
            r"needs them whole"
        ),
    ):
        update(Small(3, nn.BatchNorm1d(8)))
    with pytest.raises(NoRoom, match="BatchNorm1d"):
        update(Small(99, nn.BatchNorm1d(8)), halvings=1)
    assert update(Small(99, nn.BatchNorm1d(8))).halvings == 0
    assert update(Small(3, nn.LayerNorm(8))).halvings == 2


def test_a_device_without_room_for_one_sample_declines():
    with pytest.raises(NoRoom, match="memory: not even one sample at a time fits"):
        update(Small(0))
    assert issubclass(NoRoom, ClientError)


def test_other_errors_are_not_taken_for_want_of_memory():
    class Broken(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        update(Broken(9))
    assert ran_out(
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate "
            "memory: you tried 9 bytes"
        )
    )
    assert ran_out(
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")
    )
    assert ran_out(torch.OutOfMemoryError("CUDA out of memory.")) and not ran_out(
        ValueError("out of memory")
    )


def test_parts_cover_a_batch_in_its_order():
    x, y = torch.arange(5.0), torch.tensor([0, 1, 2, IGNORE, IGNORE])
    parts = [(a.tolist(), b.tolist(), share) for a, b, share in Room(1).parts(x, y)]
    assert parts == [([0, 1, 2], [0, 1, 2], 1.0), ([3, 4], [IGNORE, IGNORE], 0.0)]
    assert [Room(n).size(22) for n in range(6)] == [22, 11, 6, 3, 2, 1]


LIMITED = """
import resource
import numpy as np, torch
from torch import nn
from fedlearn.clients.batches import tensors
from fedlearn.clients.train import train
from fedlearn.data.samples import Samples
from fedlearn.models import layout, read_state
from fedlearn.plan import Plan

torch.set_num_threads(1)
torch.manual_seed(0)
module = nn.Sequential(nn.Linear(4, 4096), nn.ReLU(), nn.Linear(4096, 2))
random = np.random.default_rng(0)
features = random.normal(size=(4096, 4)).astype(np.float32)
data = tensors(Samples(features, random.integers(0, 2, 4096)), "features")
shape, plan = layout(module), Plan(round=1, seed=1, epochs=0, steps=1, batch_size=0)
start = read_state(module, shape)
small = train(module, shape, plan, start, data, 0, halvings=6)  # what is allocated once is there
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
# The step needs 64 MB and more for each of its activations.
resource.setrlimit(resource.RLIMIT_AS, (used + (48 << 20), -1))
limited = train(module, shape, plan, start, data, 0)
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
whole = train(module, shape, plan, start, data, 0)
gap = np.abs(limited.difference.floats - whole.difference.floats).max()
print(limited.halvings, whole.halvings, float(gap))
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="limits and reads its own memory as Linux does"
)
def test_memory_that_really_runs_out():
    told = subprocess.run(
        [sys.executable, "-c", LIMITED], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr[-2000:]
    limited, whole, difference = told.stdout.split()
    assert int(limited) >= 2 and whole == "0" and float(difference) < 1e-6
