"""What a fleet's agent has in memory while it waits: its own modules, gRPC, and the library's.

A bound of modules and not of megabytes, which depend on the machine. `python -m
fedlearn.experiments.benchmarks.device_memory` measures those.
"""

import subprocess
import sys

from fedlearn.commands import sign
from tests.system.fleets import ROOT

SETTINGS = """\
[agent]
coordinator = 127.0.0.1:1
client = 0
insecure = yes
state = state
[releases]
accept = small
keys = keys/release.pem
serve = --port 8000
"""

# All of an agent's life: its input ends at once, and so does the agent.
PROGRAM = """\
import sys
from fedlearn.commands import agent
agent.main(["--settings", "agent.ini", "--end-with-input"])
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""

# Of other packages, where they are installed.
PACKAGES = {"fedlearn", "google", "grpc", "grpc_health", "typing_extensions"}
PACKAGES |= {"cython_runtime", "coverage"}

# Of the library, each worth half a megabyte or more, and of no use to who waits.
HEAVY = {
    "isal",
    "sqlite3",
    "multiprocessing",
    "http",
    "email",
    "xml",
    "decimal",
    "zipfile",
}


def test_an_idle_agent_loads_nothing_but_grpc_and_little_of_the_library(tmp_path):
    sign.main(["--new-key", str(tmp_path / "keys")])
    (tmp_path / "agent.ini").write_text(SETTINGS)
    output = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input="",
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        check=True,
    )
    assert "ended" in output.stderr
    names = set(output.stdout.split())
    assert {"fedlearn", "grpc"} <= names
    others = names - set(sys.stdlib_module_names) - PACKAGES
    # Private ones are parts of the interpreter, of gRPC, and of how we are installed here.
    assert {name for name in others if not name.startswith("_")} == set()
    assert names & HEAVY == set()
