"""The crossing of the scenario ``traffic``: which vehicles pass when, and the camera there.

    python -m fedlearn.scenarios.crossing FOLDER SEED VEHICLES RATE

is the camera: a process that writes a picture for every vehicle that passes.
"""

from __future__ import annotations

import struct
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedlearn.scenarios import roads

# Shares of the classes early and late in the day; they change evenly in between.
_EARLY = np.array([0.45, 0.10, 0.40, 0.05])
_LATE = np.array([0.05, 0.15, 0.45, 0.35])

BEGINS = "the camera begins at"


@dataclass(frozen=True)
class Passage:
    """A vehicle that passes. at_s: since the camera began. label: its class's place."""

    at_s: float
    label: int


def passages(count: int, rate: float, seed: int) -> list[Passage]:
    """Return who passes, in order. rate: vehicles a second, on average."""
    generator = np.random.default_rng([seed, 2])
    times_s = np.cumsum(generator.exponential(1 / rate, count))
    entries = []
    for number, at_s in enumerate(times_s.tolist()):
        late = number / count
        shares = (1 - late) * _EARLY + late * _LATE
        entries.append(Passage(at_s, int(generator.choice(len(shares), p=shares))))
    return entries


def watch(folder: Path, passing: Sequence[Passage], seed: int) -> None:
    """Write a picture of each vehicle, in its time, into a folder that is there."""
    generator = np.random.default_rng([seed, 3])
    begin_s = time.time()
    print(f"{BEGINS} {begin_s:.3f}", flush=True)
    for number, passage in enumerate(passing):
        time.sleep(max(0.0, begin_s + passage.at_s - time.time()))
        # Drawn after the pause: on a busy machine the next one makes up for it.
        content = png(roads.draw(passage.label, generator))
        # Renamed when it is whole: nobody reads half a picture.
        part = folder / f".{number:04}.png"
        part.write_bytes(content)
        part.rename(folder / f"{number:04}.png")


def png(picture: roads.Picture) -> bytes:
    """Return a gray picture (H, W) as the bytes of a PNG file.

    Format: PNG, Third Edition, W3C 2025, with lines that are not filtered.
    """
    height, width = picture.shape
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    # Each line begins with the number of its filter: none.
    lines = np.insert(picture, 0, 0, axis=1).tobytes()
    chunks = [
        _chunk(b"IHDR", head),
        _chunk(b"IDAT", zlib.compress(lines)),
        _chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return (
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
    )


def main(argv: Sequence[str]) -> None:
    """Be the camera."""
    folder, seed, count, rate = argv
    watch(Path(folder), passages(int(count), float(rate), int(seed)), int(seed))


if __name__ == "__main__":
    main(sys.argv[1:])
