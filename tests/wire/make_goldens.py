"""Keep payloads of today for the decoders of tomorrow: ``python -m
tests.wire.make_goldens``.

One file per codec in tests/wire/goldens, a payload for each kind. A file that is there is
never written again: bytes that were once sent must stay readable, and to the same floats.
A codec whose bytes must change gets another name.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedlearn.arrays import Change, Layout
from fedlearn.codec import codec
from fedlearn.errors import PayloadError
from fedlearn.wire import read_header
from tests.wire.corpus import KINDS, LARGE, SMALL, WIDE, Case, case, texts

FOLDER = Path(__file__).parent / "goldens"
LAYOUTS = {"small": SMALL, "large": LARGE, "wide": WIDE}
BULKY = ("raw32", "f16", "bf16")
BLOCKS = ("eden1", "uvq(0.1)", "cvq(0.5,0.5)")

SAME_BYTES = ("raw32", "f16", "bf16", "q8", "q4", "zero")
"""Codecs whose encoders give the same bytes on every machine: single IEEE operations, and
no sum that a library orders.

Others find scales by sums, or deflate with whatever zlib there is; their bytes may
differ, what is decoded may not.
"""


def sha256(change: Change) -> str:
    """Return the name of decoded floats and integers."""
    state = change.dense()
    return hashlib.sha256(
        state.floats.astype("<f4").tobytes() + state.integers.astype("<i8").tobytes()
    ).hexdigest()


def layouts(text: str, kind: str) -> dict[str, Layout]:
    """Return the models that a codec's goldens are of: small where values take many
    bytes, wide for blocks of 4,096.
    """
    if text in BULKY:
        return {"small": SMALL}
    return (
        {"large": LARGE, "wide": WIDE}
        if kind == "update" and text in BLOCKS
        else {"large": LARGE}
    )


def make(text: str, kind: str, name: str, known: bool) -> Case:
    """Return the case that a golden keeps; raises PayloadError where a codec carries no
    such kind.
    """
    return case(text, kind, LAYOUTS[name], known)


def golden(text: str) -> dict[str, Any]:
    """Return what a codec's file holds."""
    kept = []
    for kind in KINDS:
        for name in layouts(text, kind):
            for known in (False, True)[
                : 2 if codec(text).uses_moved and kind != "snapshot" else 1
            ]:
                try:
                    made = make(text, kind, name, known)
                except PayloadError:
                    continue
                if read_header(made.payload).codec != text:
                    continue
                _, change = made.take(made.payload)
                kept.append(
                    {
                        "kind": kind,
                        "model": name,
                        "moved": known,
                        "decoded": sha256(change),
                        "payload": made.payload.hex(),
                    }
                )
    return {"codec": text, "same_bytes": text in SAME_BYTES, "payloads": kept}


def write(folder: Path, codecs: Sequence[str]) -> list[Path]:
    """Write the files that are missing, and return their paths."""
    folder.mkdir(exist_ok=True)
    made = []
    for text in codecs:
        path = folder / (re.sub(r"[^a-z0-9.]+", "-", text).strip("-") + ".json")
        if not path.exists():
            path.write_text(json.dumps(golden(text), indent=1) + "\n", encoding="utf-8")
            made.append(path)
    return made


if __name__ == "__main__":
    for path in write(FOLDER, texts()):
        print(f"made {path.name}, {path.stat().st_size:,} bytes")
