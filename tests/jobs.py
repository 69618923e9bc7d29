"""Small whole runs for tests: digits, a tiny model, a few rounds, in this process."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlearn.commands.simulate import main

CONFIG = """\
[experiment]
name = "tiny"
rounds = 3
checkpoint_every = 1

[data]
name = "digits"

[data.partition]
kind = "dirichlet"
clients = 12
alpha = 1.0

[model]
name = "logistic"

[train]
lr = 0.5

[strategy]
name = "fedavg"
fraction_train = 0.5
"""


@dataclass(frozen=True)
class Ran:
    """What a run left: its exit code, folder, summary and lines."""

    code: int
    folder: Path

    @property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return found

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [
            json.loads(line)
            for line in (self.folder / "metrics.jsonl").read_text().splitlines()
        ]

    @property
    def failures(self) -> list[dict[str, Any]]:
        """Return the clients that failed in each round, with their reasons."""
        return [line["failures"] for line in self.lines]

    @property
    def sha256(self) -> str:
        return str(self.summary["model_sha256"])


def run(
    folder: Path,
    *sets: str,
    config: str = CONFIG,
    resume: bool = False,
    engine: str = "serial",
) -> Ran:
    """Run a small experiment into ``folder``; ``sets`` are --set arguments."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.with_suffix(".toml")
    file.write_text(config)
    arguments = [
        str(file),
        "--quiet",
        "--out",
        str(folder),
        "--set",
        f"engine.kind={engine}",
    ]
    for text in sets:
        arguments += ["--set", text]
    return Ran(main([*arguments, "--resume"] if resume else arguments), folder)


def strategy(name: str, **options: Any) -> str:
    """Return `CONFIG` with another ``[strategy]``; options are TOML values, already written."""
    lines = [
        f'name = "{name}"',
        *(f"{key} = {value}" for key, value in options.items()),
    ]
    return CONFIG.split("[strategy]")[0] + "[strategy]\n" + "\n".join(lines) + "\n"
