"""A notebook runs an experiment on a model of its own cell.

Ctrl-C leaves a run to go on with.
"""

import json
import os
import signal
import threading
import time

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FIRST = """
import os
from pathlib import Path
import numpy as np
from torch import nn
import fedlearn as fl

Path("pid").write_text(str(os.getpid()))

class Net(nn.Module):
    def __init__(self, input_shape, classes, width=16):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(int(np.prod(input_shape)), width), nn.ReLU(),
            nn.Linear(width, classes),
        )

    def forward(self, x):
        return self.layers(x)

config = {
    "experiment": {"name": "cell", "rounds": 4, "checkpoint_every": 1},
    "data": {"name": "digits", "partition": {"kind": "iid", "clients": 8}},
    "train": {"lr": 0.5},
    "strategy": {"fraction_train": 0.5},
    "engine": {"kind": "pool", "workers": 2},
}
"""

RUN = 'run = fl.run(config, model=Net, out="run")\nrun'

LOOK = """
assert run.frame().loc[4, "accuracy"] == run.summary["accuracy"] > 0.5
assert len(run.predict(np.zeros((3, 8, 8), np.uint8))) == 3
assert run.plot().axes
print(run.summary["model_sha256"])
"""

LONG = """
config["experiment"]["rounds"] = 400
fl.run(config, model=Net, out="long", callbacks=[Slow()])
"""

# Slower than the hand that interrupts it.
SLOW = """
import time
class Slow(fl.Callback):
    def after_round(self, line, weights):
        time.sleep(0.05)
"""

RESUME = """
config["experiment"]["rounds"] = 12
run = fl.run(config, model=Net, out="long", resume=True, quiet=True)
whole = fl.run(config, model=Net, out="whole", quiet=True)
print(run.summary["rounds"], run.summary["model_sha256"] == whole.summary["model_sha256"])
"""


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """Return a function that runs a cell and returns its outputs; the kernel lives on."""
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    book = nbformat.v4.new_notebook()
    client = NotebookClient(
        book,
        timeout=110,
        kernel_name="python3",
        resources={"metadata": {"path": tmp_path}},
    )
    with client.setup_kernel():

        def cell(source: str):
            book.cells.append(nbformat.v4.new_code_cell(source))
            client.execute_cell(book.cells[-1], len(book.cells) - 1)
            return book.cells[-1].outputs

        yield cell


def text(outputs) -> str:
    return "".join(output.get("text", "") for output in outputs)


@pytest.mark.filterwarnings("ignore")
def test_a_class_of_a_cell_is_trained_shown_and_given_back(notebook):
    notebook(FIRST)
    outputs = notebook(RUN)
    html = [o["data"]["text/html"] for o in outputs if "text/html" in o.get("data", {})]
    # The progress is one table, which ends with the last round; then the run shows itself.
    assert "4/4" in html[0] and "model hash" in html[0]
    assert "data:image/png;base64," in html[-1]
    assert len(text(notebook(LOOK)).strip()) == 64


def interrupt_after_rounds(folder, rounds: int) -> None:
    """Interrupt the kernel, as the stop button does, once so many rounds are recorded."""
    lines = folder / "long" / "metrics.jsonl"
    until = time.monotonic() + 90
    while time.monotonic() < until:
        if lines.exists() and len(lines.read_text().splitlines()) > rounds:
            os.kill(int((folder / "pid").read_text()), signal.SIGINT)
            return
        time.sleep(0.02)


@pytest.mark.filterwarnings("ignore")
def test_an_interrupted_cell_leaves_a_run_that_is_resumed(notebook, tmp_path):
    notebook(FIRST)
    notebook(SLOW)
    hand = threading.Thread(target=interrupt_after_rounds, args=(tmp_path, 3))
    hand.start()
    with pytest.raises(CellExecutionError, match="KeyboardInterrupt"):
        notebook(LONG)
    hand.join()
    done = [json.loads(line) for line in (tmp_path / "long" / "metrics.jsonl").open()]
    assert 3 <= done[-1]["round"] < 12
    assert text(notebook(RESUME)).strip() == "12 True"
