"""The first half of a scenario: train over the owners of data, and make a package."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fedlearn.errors import RunError
from fedlearn.scenarios.players import Troupe
from fedlearn.system import files


def trained(
    troupe: Troupe, name: str, config: str, labels: Sequence[str], counter: int = 1
) -> float:
    """Train as a config says, and make the package ``NAME``; the run is ``NAME-run``.

    labels: the classes' names. counter: of the package, its version. Returns the accuracy
    on held-out samples, 0 to 1. Raises RunError with what a command said last, where it
    fails.
    """
    files.replace(troupe.folder / f"{name}.toml", config.encode())
    run = f"{name}-run"
    said = troupe.run(f"simulate-{name}", "simulate", f"{name}.toml", "--out", run)
    words = ["--out", name, "--labels", ",".join(labels), "--counter", str(counter)]
    troupe.run(f"package-{name}", "package", run, *words)
    match = re.search(r"accuracy +([\d.]+) %", said)
    if match is None:
        raise RunError(f"the run tells no accuracy; see simulate-{name}.log")
    return float(match[1]) / 100
