"""Whether torch works here, told by a process of its own: ``python -m fedlearn.clients.device.kernel``.

That torch can be imported proves little: a build without this GPU's architecture fails at its first kernel, and a broken driver
may end or hang the process. Each step prints one line of JSON, so that whoever started this knows where it ended.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

SIZE = 64


def main() -> int:
    """Print what is found; returns the exit code."""
    began = time.monotonic()
    try:
        import torch
    except ModuleNotFoundError as error:
        _tell(missing=str(error.name))
        return 0
    except (
        ImportError,
        OSError,
    ) as error:  # a library of another CUDA, or of another JetPack
        _tell(broken=str(error))
        return 0
    _tell(
        version=str(torch.__version__),
        cuda=torch.version.cuda,
        import_s=round(time.monotonic() - began, 1),
    )
    _tell(cpu_wrong=_wrong("cpu"))
    start: Any = torch.cuda.init
    try:
        start()
    except (
        RuntimeError,
        AssertionError,
    ) as error:  # no GPU, no driver, or a torch without CUDA
        _tell(no_gpu=str(error))
        return 0
    major, minor = torch.cuda.get_device_capability()
    _tell(
        gpu=torch.cuda.get_device_name(),
        capability=f"sm_{major}{minor}",
        built_for=torch.cuda.get_arch_list(),
    )
    began = time.monotonic()
    try:
        _tell(gpu_wrong=_wrong("cuda"), gpu_s=round(time.monotonic() - began, 2))
    except RuntimeError as error:
        _tell(gpu_error=str(error))
    return 0


def _wrong(device: str) -> str | None:
    """Return what a device computes wrongly, or None: a matrix product, its gradient and a convolution, on small whole numbers."""
    import torch

    numbers = [[float((2 * i + j) % 7) for j in range(SIZE)] for i in range(SIZE)]
    rows, columns = (
        [sum(row) for row in numbers],
        [sum(column) for column in zip(*numbers, strict=True)],
    )
    matrix = torch.tensor(numbers, device=device, requires_grad=True)
    total: Any = (matrix @ matrix).sum()
    total.backward()
    right = sum(row * column for row, column in zip(rows, columns, strict=True))
    if total.item() != right:
        return f"a matrix product sums to {total.item()}, not {right}"
    assert matrix.grad is not None
    if matrix.grad.cpu().tolist() != [
        [columns[j] + rows[i] for i in range(SIZE)] for j in range(SIZE)
    ]:
        return "the gradient of a matrix product"
    ones = torch.nn.functional.conv2d(
        torch.ones(1, 1, 8, 8, device=device), torch.ones(1, 1, 3, 3, device=device)
    )
    if not torch.allclose(
        ones.cpu(), torch.full((1, 1, 6, 6), 9.0), rtol=1e-3
    ):  # some algorithms round
        return "a convolution of ones"
    return None


def _tell(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    sys.exit(main())
