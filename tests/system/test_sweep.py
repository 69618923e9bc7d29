"""File calls that go wrong: a short sweep over three runs, and what the sweep itself rests on.

`python -m tests.system.sweep OUT` is the whole of it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedlearn.clients.held import RESIDUALS, FileStorage
from fedlearn.errors import RunError
from tests.system.sweep import scenes, shim

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    shim.compiler() is None, reason="no C compiler: the shim cannot be built"
)


@pytest.mark.slow
@pytest.mark.timeout(300)  # 50 s where there are two idle cores
def test_a_file_call_may_go_wrong(tmp_path):
    command = [sys.executable, "-m", "tests.system.sweep", tmp_path, "--trials", "20"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [line["scene"] for line in lines] == list(scenes.SCENES)
    for line in lines:
        # Runs of several processes differ in a few calls: some trials meet none.
        assert line["struck"] > 10 and line["calls"] > 50
        assert sum(line["ended"].values()) == line["trials"]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return shim.build(tmp_path_factory.mktemp("shim"))


def struck(library, folder, at, fault, code):
    """Run Python code while a fault is planned below folder/out; return the process, the plan."""
    plan = shim.Plan.write(folder / f"{fault}-{at}", folder / "out", at, fault)
    environment = {**os.environ, **plan.environment, "LD_PRELOAD": str(library)}
    command = [sys.executable, "-c", code, folder / "out"]
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    return ended, plan


WRITES = """
import os, sys
for name in "abc":
    try:
        file = os.open(f"{sys.argv[1]}/{name}", os.O_WRONLY | os.O_CREAT)
        said = f"{name}: {os.write(file, b'12345678')} bytes"
    except OSError as error:
        said = f"{name}: {error.strerror}"
    print(said, flush=True)
"""


@pytest.mark.parametrize(
    ("fault", "at", "code", "said"),
    [
        ("once", 4, 0, ["a: 8 bytes", "b: Input/output error", "c: 8 bytes"]),
        (
            "forever",
            4,
            0,
            ["a: 8 bytes", *(f"{name}: No space left on device" for name in "bc")],
        ),
        ("before", 4, -9, ["a: 8 bytes"]),
        ("after", 4, -9, ["a: 8 bytes"]),
        # Of calls that move bytes this is the second; an open moves none.
        ("short", 2, 0, ["a: 8 bytes", "b: 4 bytes", "c: 8 bytes"]),
    ],
)
def test_each_fault_does_what_it_says(fault, at, code, said, library, tmp_path):
    (tmp_path / "out").mkdir()
    ended, plan = struck(library, tmp_path, at, fault, WRITES)
    assert (ended.returncode, ended.stdout.splitlines()) == (code, said)
    assert plan.struck and list(plan.calls) == [f"write {tmp_path}/out/b"]
    # Killed before it, nothing of the call is there; after it, all of it.
    half = (tmp_path / "out" / "b").read_bytes()
    sizes = {"once": 0, "forever": 0, "before": 0, "after": 8, "short": 4}
    assert len(half) == sizes[fault]


def test_a_call_that_no_process_makes_is_not_struck(library, tmp_path):
    (tmp_path / "out").mkdir()
    ended, plan = struck(library, tmp_path, 7, "before", WRITES)
    assert ended.returncode == 0 and not plan.struck


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (1, "Traceback (most recent call last):\n"),
        (3, "fedlearn: the disk is full\nfedlearn: and another line\n"),
        (3, ""),
    ],
)
def test_an_end_without_one_line_is_wrong(code, text):
    with pytest.raises(RunError):
        scenes.check_end(code, text)


READS = """
import sys
from pathlib import Path
from fedlearn.clients.held import RESIDUALS, FileStorage
vector = FileStorage(Path(sys.argv[1])).read(RESIDUALS, "07")
print(None if vector is None else vector.tolist())
"""


def test_a_vector_on_a_disk_that_fails_once_is_not_lost(library, tmp_path):
    """What is given up as lost changes what the client answers, and the model with it."""
    storage = FileStorage(tmp_path / "out")
    storage.write(RESIDUALS, "07", np.array([2, -3.5], np.float32))
    _, counting = struck(library, tmp_path, 0, "once", READS)
    assert len(counting.calls) >= 2
    for at in range(1, 1 + len(counting.calls)):
        ended, plan = struck(library, tmp_path, at, "once", READS)
        assert plan.struck and ended.stdout == "[2.0, -3.5]\n"
