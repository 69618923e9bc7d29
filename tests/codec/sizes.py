"""Bodies of every codec at sizes where blocks begin and end: ``python -m tests.codec.sizes``.

The file keeps what the decoders made of them when they still ran on torch. Like the
goldens of tests/wire it is never written again: a codec whose bytes must change gets
another name.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.arrays import Sparse
from fedlearn.codec import ZERO, Context, codec
from tests.wire.corpus import texts, values
from tests.wire.make_goldens import SAME_BYTES

FILE = Path(__file__).parent / "sizes.json"
SEED = 77

# One value; a part of a small block; a large one and a value more; cnn-small.
SIZES = (1, 511, 4097, 105_866)

# Their bodies are an eighth of a byte a value or more: kept up to 4,097 values. The blocks
# of 4,096 that a large model has are kept by the codecs that have blocks.
LARGE = ("eden1", "uvq(0.1)", "cvq(1,1)", "pred+cvq(1,1)")


def shapes(size: int) -> tuple[tuple[int, ...], ...]:
    """Return a matrix of 7 rows in tiles or not, and a vector with what is left."""
    rows = 56 if size > 5000 else 7
    return ((rows, size // rows), (size % rows,))


def context(size: int, known: bool) -> Context:
    """Return what both ends know of ``size`` values."""
    if not known:
        return Context(shapes(size))
    # Rows unlike one another, some of which did not move.
    unlike = (np.arange(size) // 11 % 5).astype(np.float32)
    return Context(shapes(size), values(size, 3, 2.0**-22) * unlike)


def change(text: str, size: int) -> NDArray[np.float32]:
    """Return the values (size,) that a codec is given."""
    if text == ZERO:
        return np.zeros(size, np.float32)
    return values(size, 2, 2.0**-24)


def sha256(decoded: NDArray[np.float32] | Sparse) -> str:
    """Return the name of what a decoder made."""
    dense = decoded.dense() if isinstance(decoded, Sparse) else decoded
    assert dense.dtype == np.float32
    return hashlib.sha256(dense.astype("<f4").tobytes()).hexdigest()


def cases() -> Iterator[tuple[str, int, bool]]:
    """Yield each codec with a size, and whether the movement is known."""
    for text in dict.fromkeys([*texts(), *LARGE]):
        for size in SIZES:
            if size > 5000 and text not in (*LARGE, *SAME_BYTES):
                continue
            yield text, size, False
            if codec(text).uses_moved:
                yield text, size, True


def golden(text: str, size: int, known: bool) -> dict[str, Any]:
    """Return what the file holds of one case; bodies that all machines make, as a hash."""
    given = context(size, known)
    body = codec(text).encode(change(text, size), SEED, given)
    made = {
        "codec": text,
        "size": size,
        "moved": known,
        "decoded": sha256(codec(text).decode(body, SEED, given)),
    }
    if text in SAME_BYTES:
        return made | {"body_sha256": hashlib.sha256(body).hexdigest()}
    return made | {"body": base64.b64encode(body).decode()}


if __name__ == "__main__":
    if FILE.exists():
        raise SystemExit(f"{FILE} is there; goldens are never written again")
    FILE.write_text(
        json.dumps([golden(*case) for case in cases()], indent=1) + "\n",
        encoding="utf-8",
    )
    print(f"made {FILE.name}, {FILE.stat().st_size:,} bytes")
