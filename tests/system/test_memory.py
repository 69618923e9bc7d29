"""Memory does not grow with the number of clients: they are drawn when their turn comes."""

import json
import subprocess
import sys

CONFIG = """\
[experiment]
name = "many"
rounds = 2

[data]
name = "synthetic"
clients = {clients}

[model]
name = "logistic"

[strategy]
name = "fedavg"
clients_per_round = 10

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
from fedlearn.engine.simulation import simulate
from fedlearn.progress import Progress
from fedlearn.record import RunFolder

summary = simulate(read(sys.argv[1]), RunFolder(Path(sys.argv[2])), Progress(quiet=True))
peak = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps([summary["clients"], *peak]))
"""


def start(folder, clients):
    config = folder / f"{clients}.toml"
    config.write_text(CONFIG.format(clients=clients))
    arguments = [sys.executable, "-c", MEASURED, str(config), str(folder / str(clients))]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def test_ten_thousand_clients_need_at_most_50_mb_more_than_a_hundred(tmp_path):
    # Peak resident MiB of the process, and of its largest worker; both workers may grow, so it counts twice.
    processes = {clients: start(tmp_path, clients) for clients in (100, 10_000)}
    peaks = {}
    for process in processes.values():
        clients, own, worker = json.loads(process.communicate(timeout=60)[0])
        peaks[clients] = own + 2 * worker
    assert peaks[100] > 100
    assert peaks[10_000] - peaks[100] <= 50, peaks
