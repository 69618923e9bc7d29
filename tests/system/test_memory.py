"""Memory does not grow with the number of clients: they are drawn when their turn comes."""

import json
import subprocess
import sys

import pytest

CONFIG = """\
[experiment]
name = "many"
rounds = 3

[data]
name = "synthetic"
clients = {clients}

[model]
name = "logistic"

[strategy]
name = "fedavg"
clients_per_round = 10

[codec]
up = "ef+eden1"
down = "eden1"
downlink = "{downlink}"

[evaluate]
clients = true
max_clients = 10

[engine]
workers = 2
"""

# Without the pictures drawn at the end: they need more than the run, and would hide what it needs.
MEASURED = """\
import json, resource, sys
from pathlib import Path
from fedlearn.config import read
from fedlearn.runs.simulation import simulate
from fedlearn.reporting.progress import Progress
from fedlearn.records.writing import RunFolder

summary = simulate(read(sys.argv[1]), RunFolder(Path(sys.argv[2])), Progress(quiet=True))
whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
peak = [resource.getrusage(who).ru_maxrss / 1024 for who in whose]
print(json.dumps([summary["clients"], *peak]))
"""


def start(folder, clients, downlink):
    config = folder / f"{clients}.toml"
    config.write_text(CONFIG.format(clients=clients, downlink=downlink))
    arguments = [
        sys.executable,
        "-c",
        MEASURED,
        str(config),
        str(folder / str(clients)),
    ]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("downlink", ["shadow", "cast"])
def test_a_million_clients_need_at_most_50_mb_more_than_a_hundred_and_no_larger_checkpoints(
    downlink, tmp_path
):
    # Peak resident MiB of the process, and of its largest worker; both workers may grow, so it
    # counts twice.
    processes = {
        clients: start(tmp_path, clients, downlink) for clients in (100, 1_000_000)
    }
    peaks, sizes = {}, {}
    for asked, process in processes.items():
        clients, own, worker = json.loads(process.communicate(timeout=60)[0])
        peaks[clients] = own + 2 * worker
        kept = [
            path
            for path in (tmp_path / str(asked) / "checkpoint").iterdir()
            if path.suffix == ".safetensors"
        ]
        sizes[clients] = max(path.stat().st_size for path in kept)
    assert peaks[100] > 100
    assert peaks[1_000_000] - peaks[100] <= 50, peaks
    assert abs(sizes[1_000_000] - sizes[100]) < 500, sizes
