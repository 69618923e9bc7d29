"""What a process takes that has checked a package and loaded its model: memory, step by step.

    python -m fedlearn.experiments.benchmarks.serving_memory PACKAGE [--int8]

The resident memory of this process (VmRSS, in MB of 2²⁰ bytes) after each step. Run it in an
environment of numpy, protobuf, grpcio and onnxruntime alone to see a device's.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

# What no serving device may load.
HEAVY = {"torch", "flwr", "pydantic"}


def resident_mb() -> float:
    """Return this process's resident memory, in MB of 2²⁰ bytes."""
    status = Path("/proc/self/status").read_text()
    match = re.search(r"VmRSS:\s+(\d+)", status)
    return int(match[1]) / 1024 if match else float("nan")


def tell(step: str) -> None:
    """Print the memory after a step."""
    print(f"{step:<34}{resident_mb():6.1f} MB", flush=True)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path)
    parser.add_argument("--int8", action="store_true")
    arguments = parser.parse_args()
    tell("python")
    import numpy  # noqa: F401

    tell("+ numpy")
    from fedlearn.package import accepting, content, golden  # noqa: F401

    tell("+ fedlearn.package")
    import onnxruntime  # noqa: F401

    tell("+ onnxruntime")
    package = content.read(arguments.package)
    tell("+ every byte checked")
    # Held, as a server holds it.
    model = golden.session(package, arguments.int8)
    tell("+ the model loaded")
    samples = golden.read(package).inputs
    for _ in range(100):
        golden.run(model, package.manifest, samples[:1])
    tell("+ 100 requests")
    loaded = sorted(HEAVY & set(sys.modules))
    print(f"of {', '.join(sorted(HEAVY))}: {', '.join(loaded) or 'none'} loaded")


if __name__ == "__main__":
    main()
