"""Python's own SHA-256 is hashlib's, and needs no OpenSSL."""

import hashlib
import subprocess
import sys

import pytest

from fedlearn.system.sha256 import sha256


@pytest.mark.parametrize("size", [0, 1, 55, 56, 63, 64, 65, 1000, 1 << 20])
def test_it_is_hashlibs(size):
    data = bytes(range(256)) * (size // 256 + 1)
    assert sha256(data[:size]).hexdigest() == hashlib.sha256(data[:size]).hexdigest()
    parts = sha256()
    for start in range(0, size, 1000):
        parts.update(memoryview(data)[start : min(start + 1000, size)])
    assert parts.digest() == hashlib.sha256(data[:size]).digest()


def test_a_device_that_serves_loads_no_openssl():
    code = (
        "from fedlearn.package import accepting, content, golden, signature\n"
        "import sys; print('_hashlib' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "False"
