"""Whether torch works here, told by ``python -m fedlearn.clients.device.kernel``.

That torch can be imported proves little. A build without this GPU's architecture fails at its
first kernel, and a broken driver may end or hang the process. Each step prints one line of
JSON, so whoever started this knows how far it came.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

# Side of the matrices. Products of their small whole numbers are exact in float32.
SIZE = 64


def main() -> int:
    """Print what works; returns the exit code."""
    if _load() and _start_gpu():
        _run_on_gpu()
    return 0


def _load() -> bool:
    """Load torch, and compute on the CPU; tell whether torch is there."""
    began = time.monotonic()
    try:
        # Here, not at the top: the failing import is what this process is for.
        import torch
    except ModuleNotFoundError as error:
        _tell(missing=str(error.name))
        return False
    # A library of another CUDA, or of another JetPack.
    except (ImportError, OSError) as error:
        _tell(broken=str(error))
        return False
    import_s = round(time.monotonic() - began, 1)
    version = str(torch.__version__)
    _tell(version=version, cuda=torch.version.cuda, import_s=import_s)
    _tell(cpu_wrong=_mistake("cpu"))
    return True


def _start_gpu() -> bool:
    """Start the GPU; tell whether there is one."""
    import torch

    # Any, as torch does not type it.
    start: Any = torch.cuda.init
    try:
        start()
    # No GPU, no driver, or a torch without CUDA.
    except (RuntimeError, AssertionError) as error:
        _tell(no_gpu=str(error))
        return False
    major, minor = torch.cuda.get_device_capability()
    _tell(
        gpu=torch.cuda.get_device_name(),
        capability=f"sm_{major}{minor}",
        built_for=torch.cuda.get_arch_list(),
    )
    return True


def _run_on_gpu() -> None:
    began = time.monotonic()
    try:
        mistake = _mistake("cuda")
        _tell(gpu_wrong=mistake, gpu_s=round(time.monotonic() - began, 2))
    except RuntimeError as error:
        _tell(gpu_error=str(error))


def _mistake(device: str) -> str | None:
    """Return what a device computes wrongly; None: nothing.

    It computes a matrix product, its gradient and a convolution.
    """
    import torch

    # Whole numbers below 7: a wrong kernel cannot hide in rounding.
    numbers = [[float((2 * i + j) % 7) for j in range(SIZE)] for i in range(SIZE)]
    row_sums = [sum(row) for row in numbers]
    column_sums = [sum(column) for column in zip(*numbers, strict=True)]
    matrix = torch.tensor(numbers, device=device, requires_grad=True)
    total: Any = (matrix @ matrix).sum()
    total.backward()
    pairs = zip(row_sums, column_sums, strict=True)
    expected = sum(row * column for row, column in pairs)
    if total.item() != expected:
        return f"a matrix product sums to {total.item()}, not {expected}"
    assert matrix.grad is not None
    # The derivative by the element (a, b) is the sum of column a plus that of row b.
    gradient = [[column + row for row in row_sums] for column in column_sums]
    if matrix.grad.cpu().tolist() != gradient:
        return "the gradient of a matrix product"
    image = torch.ones(1, 1, 8, 8, device=device)
    convolved = torch.nn.functional.conv2d(image, torch.ones(1, 1, 3, 3, device=device))
    # Some algorithms round.
    if not torch.allclose(convolved.cpu(), torch.full((1, 1, 6, 6), 9.0), rtol=1e-3):
        return "a convolution of ones"
    return None


def _tell(**facts: object) -> None:
    # Flushed: a process that dies at the next step has told of this one.
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    sys.exit(main())
