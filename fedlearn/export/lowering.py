"""A model lowered by torch.export, in a process of its own that may be ended.

Some models never end: torch unrolls an LSTM, step by step. ``python -m
fedlearn.export.lowering`` is that process; `lowered` starts it.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlearn.errors import ModelError
from fedlearn.text import shortened

if TYPE_CHECKING:
    from fedlearn.runs.trained import Trained

# Seconds of CPU that a model may take. By the clock it may be more on a busy machine.
LIMIT_S = 60
CLOCK_LIMIT_S = 600

# What its parent and the child call the files between them.
_MODULE = "module.pt"
_EXAMPLE = "example.pt"
_OUT = "lowered"


def lowered(trained: Trained, target: str, limit_s: int = LIMIT_S) -> bytes:
    """Return the file of a model for batches of one sample.

    target: a key of `TARGETS`. limit_s: seconds of CPU, imports apart. Raises ModelError for
    a model that cannot be lowered, or not in time.
    """
    import torch

    from fedlearn.export.onnx import example, plain_module

    label = f"model '{trained.experiment.model.name}'"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(plain_module(trained), folder / _MODULE)
        torch.save(example(trained, 1), folder / _EXAMPLE)
        code, errors = _run(target, folder, limit_s)
        # SIGXCPU, or SIGKILL where the first was ignored; None: the clock.
        if code in (None, -signal.SIGXCPU, -signal.SIGKILL):
            raise ModelError(
                f"{label} is not lowered for {target} after {limit_s} s of CPU, and was "
                "given up; export it to ONNX"
            )
        if code:
            # The last line of a traceback is its error.
            lines = errors.strip().splitlines()
            reason = shortened(lines[-1] if lines else f"exit code {code}")
            raise ModelError(f"{label} cannot be lowered for {target}: {reason}")
        return (folder / _OUT).read_bytes()


def _run(target: str, folder: Path, limit_s: int) -> tuple[int | None, str]:
    """Run the child; return its exit code, None if it ran too long, and its errors."""
    command = [sys.executable, "-m", "fedlearn.export.lowering"]
    # Where this process finds a user's modules, the child does, too.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        child = subprocess.run(
            [*command, target, str(folder), str(limit_s)],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=CLOCK_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, ""
    return child.returncode, child.stderr.decode(errors="replace")


def _executorch(module: Any, inputs: Any, out: Path, limit_s: int) -> None:
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
        XnnpackPartitioner,
    )
    from executorch.exir import to_edge_transform_and_lower

    _limit(limit_s)
    program = torch.export.export(module, (inputs,))
    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    out.write_bytes(edge.to_executorch().buffer)


def _litert(module: Any, inputs: Any, out: Path, limit_s: int) -> None:
    import litert_torch

    _limit(limit_s)
    litert_torch.convert(module, (inputs,)).export(str(out))


# What a model may be lowered for.
TARGETS = {"ExecuTorch": _executorch, "LiteRT": _litert}


def _limit(seconds: int) -> None:
    """End this process after so many more seconds of CPU."""
    # From here on: how long the imports took says nothing about the model.
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used_s = int(usage.ru_utime + usage.ru_stime)
    resource.setrlimit(resource.RLIMIT_CPU, (used_s + seconds, used_s + seconds + 5))


def main(target: str, name: str, seconds: str) -> None:
    """Lower what the parent left in a folder, and leave the file there."""
    import torch

    folder = Path(name)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    # Our parent's own files, not a stranger's.
    module = torch.load(folder / _MODULE, weights_only=False)
    inputs = torch.load(folder / _EXAMPLE, weights_only=True)
    with torch.no_grad():
        TARGETS[target](module, inputs, folder / _OUT, int(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
