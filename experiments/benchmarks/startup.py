"""How long a process takes to the end of its first round, beside `import torch`.

python -m fedlearn.experiments.benchmarks.startup [W1 W2 W3 W4] [--engines NAME …] [--times N]

The whole of `fedlearn simulate CONFIG`: interpreter, imports, config, data, model, workers, the
first evaluation, the first round. The clock stops when the round's line is in metrics.jsonl. A
start of each in turn; the figures are medians.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from fedlearn.commands.arguments import Parser, ended
from fedlearn.engine import ENGINES
from fedlearn.errors import RunError
from fedlearn.experiments.benchmarks.workloads import WORKLOADS, Workload

BESIDE = "import torch"

CONFIG = """
[experiment]
name = "startup"
rounds = 2

[data]
name = "{data}"

[model]
name = "{model}"

[train]
batch_size = {batch}
lr = 0.05

[strategy]
clients_per_round = {cohort}

[engine]
kind = "{engine}"
"""


def start(workload: Workload, engine: str, folder: Path) -> float:
    """Return the seconds until the first round of a workload is done."""
    config, lines = folder / "startup.toml", folder / "run" / "metrics.jsonl"
    data = f"fedlearn.experiments.benchmarks.workloads:{workload.population.__name__}"
    config.write_text(
        CONFIG.format(
            data=data,
            model=workload.model,
            batch=workload.batch_size,
            cohort=workload.cohort,
            engine=engine,
        )
    )
    begun = time.perf_counter()
    command = [
        sys.executable,
        "-m",
        "fedlearn.simulate",
        str(config),
        "--out",
        str(folder / "run"),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        while not (
            lines.exists() and lines.read_bytes().count(b"\n") >= 2
        ):  # the initial model's line comes first
            if process.poll() is not None:
                raise RunError(f"the run ended early:\n{process.communicate()[0]}")
            time.sleep(0.002)
        return time.perf_counter() - begun
    finally:
        process.communicate()


def beside() -> float:
    """Return the seconds of a process that imports torch and ends."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", BESIDE], check=True)
    return time.perf_counter() - begun


def measure(
    name: str, engines: Sequence[str], times: int
) -> tuple[list[float], dict[str, list[float]]]:
    """Return the seconds of so many imports, and of each engine's starts of a workload, in turn."""
    imports: list[float] = []
    ours: dict[str, list[float]] = {engine: [] for engine in engines}
    for _ in range(times):
        imports.append(beside())
        for engine, taken in ours.items():
            with tempfile.TemporaryDirectory() as folder:
                taken.append(start(WORKLOADS[name], engine, Path(folder)))
    return imports, ours


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = Parser(
        prog="python -m fedlearn.experiments.benchmarks.startup",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument(
        "workloads", nargs="*", metavar="W1 W2 W3 W4", help="which (default: W1)"
    )
    parser.add_argument(
        "--engines",
        nargs="+",
        default=["pool", "stacked", "auto"],
        choices=ENGINES,
        metavar="NAME",
        help="ours",
    )
    parser.add_argument(
        "--times", type=int, default=5, metavar="N", help="starts of each (default: 5)"
    )
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.workloads) - set(WORKLOADS):
        parser.error(
            f"unknown workloads: {', '.join(sorted(unknown))}; there are {', '.join(WORKLOADS)}"
        )
    for name in arguments.workloads or ["W1"]:
        imports, ours = measure(name, arguments.engines, arguments.times)
        print(f"{name}: {BESIDE} {statistics.median(imports):.2f} s", flush=True)
        for engine, taken in ours.items():
            ratio = statistics.median(
                a / b for a, b in zip(taken, imports, strict=True)
            )
            print(
                f"  {engine}: {statistics.median(taken):.2f} s to the end of round 1 "
                f"({ratio:.2f} of it)"
            )
    return 0


if __name__ == "__main__":
    sys.exit(ended(main))
