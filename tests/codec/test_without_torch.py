"""A board that only decodes has numpy, and no torch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedlearn.codec.plain import BFloat16, Float16
from tests.codec.sizes import FILE, change, context, sha256

HEAVY = {"torch", "flwr", "pydantic"}
"""What a serving device must not need."""

BOARD = """
import base64, json, sys
import fedlearn.arrays, fedlearn.codec, fedlearn.wire
from fedlearn.codec import codec
from tests.codec.sizes import FILE, SEED, change, context, sha256

wrong = []
for golden in json.loads(FILE.read_text(encoding="utf-8")):
    text, size = golden["codec"], golden["size"]
    known = context(size, golden["moved"])
    body = base64.b64decode(golden["body"]) if "body" in golden else None
    if body is None:
        continue
    if sha256(codec(text).decode(body, SEED, known)) != golden["decoded"]:
        wrong.append([text, size])
for text in ("raw32", "f16", "bf16"):
    body = codec(text).encode(change(text, 4097), SEED, context(4097, False))
    codec(text).decode(body, SEED, context(4097, False))
print(json.dumps([wrong, sorted(sys.modules)]))
"""


WORKER = """
import os
import numpy as np
from fedlearn.codec import codec
from tests.codec.sizes import LARGE, SEED, change, context

np.ones((4096, 64), np.float32) @ np.ones((64, 64), np.float32)
for text in LARGE:
    known = context(105_866, True)
    body = codec(text).encode(change(text, 105_866), SEED, known)
    if not os.fork():
        codec(text).decode(body, SEED, known)
        print(len(os.listdir("/proc/self/task")), flush=True)
        os._exit(0)
    os.wait()
"""
"""A pool's worker: forked by a process whose OpenBLAS has its threads already."""


def run(options: list[str], code: str) -> str:
    """Return what a process of its own prints."""
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    ).stdout


def test_a_board_decodes_every_codec_without_torch():
    wrong, loaded = json.loads(run([], BOARD))
    assert wrong == []
    assert HEAVY & set(loaded) == set()


def test_payloads_are_read_without_torch():
    code = (
        "import sys\nfrom tests.wire.make_goldens import FOLDER\nimport json\n"
        "from fedlearn.wire import read_header, digest\n"
        "for path in FOLDER.glob('*.json'):\n"
        "    for golden in json.loads(path.read_text())['payloads']:\n"
        "        read_header(bytes.fromhex(golden['payload']))\n"
        "print(sorted(set(sys.modules) & {'torch', 'flwr', 'pydantic'}))"
    )
    assert run([], code).strip() == "[]"


EDGES = [0.0, 1.0, 1.001, 65504.0, 6.1e-5, 5.9e-8, 2.9e-8, 1e-42, 3.1e38]
"""Zero, ties, the largest half, the smallest halves and less, and a large number."""


@pytest.mark.parametrize("coder", [Float16(), BFloat16()])
def test_numpy_rounds_to_halves_as_torch_does(coder, monkeypatch):
    patterns = np.random.PCG64(4).random_raw(50_000).astype("<u8").view("<f4")
    values = patterns[np.isfinite(patterns)].astype(np.float32)
    values = np.concatenate([values, np.array(EDGES, np.float32)])
    limit = 65504 if isinstance(coder, Float16) else 3.38e38
    values = values[np.abs(values) <= limit]
    known = context(values.size, False)
    by_torch = coder.encode(values, 0, known)
    decoded = coder.decode(by_torch, 0, known)
    monkeypatch.setattr("fedlearn.codec.plain._torch", lambda: None)
    assert coder.encode(values, 0, known) == by_torch
    assert coder.decode(by_torch, 0, known).tobytes() == decoded.tobytes()


def test_both_read_every_half_alike(monkeypatch):
    """Infinite ones too; a NaN stays one, and the payload is refused."""
    body = np.arange(65536, dtype="<u2").tobytes()
    known = context(65536, False)
    by_torch = [coder.decode(body, 0, known) for coder in (Float16(), BFloat16())]
    monkeypatch.setattr("fedlearn.codec.plain._torch", lambda: None)
    by_numpy = [coder.decode(body, 0, known) for coder in (Float16(), BFloat16())]
    for one, other in zip(by_torch, by_numpy, strict=True):
        assert np.array_equal(one, other, equal_nan=True)
        assert np.array_equal(np.signbit(one), np.signbit(other))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="Linux counts threads")
def test_a_forked_worker_decodes_on_its_one_thread():
    """OpenBLAS starts threads for large products; a pool has a worker for each core already."""
    answer = run(["-W", "ignore"], WORKER)
    assert [int(count) for count in answer.split()] == [1, 1, 1, 1]


def test_the_board_of_these_tests_sees_a_wrong_bit():
    golden = json.loads(FILE.read_text(encoding="utf-8"))[0]
    values = change(golden["codec"], golden["size"])
    assert sha256(values + np.float32(1)) != golden["decoded"]
