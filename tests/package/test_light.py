"""What a board needs to check and run a package: no torch, no flwr, no pydantic."""

import subprocess
import sys

from tests.package import small

HEAVY = {"torch", "flwr", "pydantic", "onnx", "safetensors", "rich", "cryptography"}

CODE = """
import sys
from pathlib import Path
from fedlearn.package import accepting, content, difference, golden, int8, signature
package = content.read(Path(sys.argv[1]))
if sys.argv[2] == "run":
    golden.check(package)
print(" ".join(sorted({name.split(".")[0] for name in sys.modules})))
"""


def loaded(folder, word):
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(folder), word],
        check=True,
        capture_output=True,
        text=True,
    )
    return set(done.stdout.split())


def test_reading_and_running_a_package_loads_nothing_heavy(tmp_path):
    small.written(tmp_path / "p")
    assert loaded(tmp_path / "p", "read") & (HEAVY | {"onnxruntime"}) == set()
    names = loaded(tmp_path / "p", "run")
    assert names & HEAVY == set()
    assert "onnxruntime" in names
