"""What lowers a module for ExecuTorch, in a process of its own that may be ended.

``python -m fedlearn.export.lowering MODULE EXAMPLE OUT SECONDS``: two files of ``torch.save``
that the parent has just written, the ``.pte`` to write, and how long it may compute.
"""

from __future__ import annotations

import resource
import sys
import warnings
from pathlib import Path


def main(module_file: str, example_file: str, out: str, seconds: str) -> None:
    """Write the lowered module."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
        XnnpackPartitioner,
    )
    from executorch.exir import to_edge_transform_and_lower

    # From here on: how long the imports take says nothing about the model.
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used_s = usage.ru_utime + usage.ru_stime
    limit_s = int(used_s) + int(seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s + 5))
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    # Our parent's own files, not a stranger's.
    module = torch.load(module_file, weights_only=False)
    inputs = torch.load(example_file, weights_only=True)
    with torch.no_grad():
        program = torch.export.export(module, (inputs,))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    Path(out).write_bytes(lowered.to_executorch().buffer)


if __name__ == "__main__":
    main(*sys.argv[1:])
