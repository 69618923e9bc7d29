"""onnxruntime says nothing of its own on standard error, where a command's line stands."""

import os
import subprocess
import sys

import numpy as np
import pytest

from fedlearn.errors import PackageError
from fedlearn.package import golden, runtime
from tests.package import small

# A graph with a tensor that nothing reads, of which onnxruntime warns.
ADVISED = """
import numpy as np, onnxruntime
from onnx import TensorProto, helper, numpy_helper
port = helper.make_tensor_value_info
nodes = [helper.make_node("Relu", ["x"], ["y"])]
spare = [numpy_helper.from_array(np.ones(3, np.float32), "spare")]
ports = [port("x", TensorProto.FLOAT, [1])], [port("y", TensorProto.FLOAT, [1])]
graph = helper.make_graph(nodes, "advised", *ports, spare)
model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
onnxruntime.InferenceSession(model.SerializeToString())
"""
LOADED = "from fedlearn.package import runtime; runtime.load()\n"


def stderr(script, **environment):
    process = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.getcwd(), **environment},
        check=True,
    )
    return process.stderr


def test_its_own_lines_are_off_for_every_session_of_the_process():
    assert "[W:onnxruntime" in stderr(ADVISED)
    assert stderr(LOADED + ADVISED) == ""


def test_what_it_refuses_is_one_error(capfd):
    with pytest.raises(PackageError, match="does not load the graph"):
        golden.loaded(small.model().SerializeToString(), {"w": np.zeros(3, np.float32)})
    assert capfd.readouterr().err == ""


BANNER = """
import os
lines = (
    b"\\x1b[0;93m2026-11-30 16:28:29.1 [W:onnxruntime:Default, device_discovery.cc:164 "
    b"DiscoverDevicesForPlatform] GPU device discovery failed\\x1b[m\\n"
    b"somebody else's line\\n"
)
os.write(2, lines)
def set_default_logger_severity(level):
    os.write(2, b"level %d\\n" % level)
"""


def test_what_it_writes_while_it_is_imported_is_kept_off(tmp_path):
    # Its banner depends on a machine's hardware: a module of its name writes the same lines.
    (tmp_path / "onnxruntime.py").write_text(BANNER)
    path = f"{tmp_path}{os.pathsep}{os.getcwd()}"
    lines = stderr(LOADED, PYTHONPATH=path).splitlines()
    assert lines == ["somebody else's line", "level 4"]


def test_a_standard_error_that_is_closed_is_no_error():
    script = f"{sys.executable} -c '{LOADED.strip()}' 2>&-"
    process = subprocess.run(
        ["bash", "-c", script],
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert process.returncode == 0


def test_loading_it_twice_gives_one_module():
    assert runtime.load() is runtime.load()
