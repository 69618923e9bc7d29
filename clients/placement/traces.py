"""Traces of requests and of what both places would have taken for each: drawn, or from a file.

A trace knows what no device does: the cost of the place that was not used. So a choice can
be compared with the best one in hindsight.

Legend: N requests.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import DataError, UserError
from fedlearn.names import nearest
from fedlearn.system import files

Floats = NDArray[np.float64]

COLUMNS = ("at_s", "size_bytes", "edge_s", "turn_s", "byte_s", "cloud_s")

# Requests of a trace that is drawn.
_LENGTH = 3000

# A small board and a server behind a radio link: seconds, requests a second, bytes, bits.
_EDGE_S = 0.008
_CLOUD_S = 0.0015
_TURN_S = 0.004
_LINK_BPS = 20e6
_RATE = 50.0
_SIZE_BYTES = 3136

# Spread of measured times, as that of their logarithm. 2,000 runs of a small CNN on a busy
# machine had 0.06 without their slowest hundredth (experiments/benchmarks/NOTES-placement.md).
_SPREAD = 0.1


@dataclass(frozen=True)
class Trace:
    """N requests in the order of their arrival, each value (N,).

    at_s: arrivals. size_bytes: of a request and its answer. edge_s: on this device, without
    waiting. turn_s, byte_s: the link's round trip, and its seconds a byte. cloud_s: at the
    centre, with its waiting; infinite: no answer comes, as the link is dead.
    """

    at_s: Floats
    size_bytes: NDArray[np.int64]
    edge_s: Floats
    turn_s: Floats
    byte_s: Floats
    cloud_s: Floats

    def __len__(self) -> int:
        """Return N."""
        return len(self.at_s)

    @property
    def whole_cloud_s(self) -> Floats:
        """Return the seconds (N,) from a request to the centre's answer."""
        return self.turn_s + self.size_bytes * self.byte_s + self.cloud_s


def link_dies(seed: int) -> Trace:
    """Return a trace whose centre is the faster place, but for two times without a link."""
    trace = _steady(seed)
    share = np.arange(len(trace)) / len(trace)
    is_dead = ((share > 0.3) & (share < 0.5)) | ((share > 0.7) & (share < 0.75))
    trace.cloud_s[is_dead] = np.inf
    return trace


def load_doubles(seed: int) -> Trace:
    """Return a trace whose arrivals double twice: the queue here grows, the centre's too."""
    trace = _steady(seed, edge_s=0.006, turn_s=0.009)
    share = np.arange(len(trace)) / len(trace)
    factor = np.where(share > 0.3, 2.0, 1.0) * np.where(share > 0.6, 2.0, 1.0)
    gaps = np.diff(trace.at_s, prepend=0.0) / factor
    trace.at_s[:] = np.cumsum(gaps)
    trace.cloud_s[:] *= factor**0.5
    return trace


def device_heats(seed: int) -> Trace:
    """Return a trace whose device slows down to a third as it heats, and cools down again."""
    trace = _steady(seed, edge_s=0.004, turn_s=0.005)
    share = np.arange(len(trace)) / len(trace)
    # Up from a fifth to two fifths of the time, down from seven to eight tenths.
    factor = np.interp(share, [0.2, 0.4, 0.7, 0.8], [1.0, 3.0, 3.0, 1.0])
    trace.edge_s[:] *= factor
    return trace


def radio_fades(seed: int) -> Trace:
    """Return a trace whose link's rate wanders over two orders of magnitude."""
    trace = _steady(seed)
    generator = np.random.default_rng([seed, 1])
    # A walk that is drawn back to its middle, seconds of memory long.
    steps = generator.normal(0.0, 0.05, len(trace))
    level = 0.0
    walk = np.empty(len(trace))
    for number, step in enumerate(steps):
        level = 0.998 * level + step
        walk[number] = level
    trace.byte_s[:] *= np.exp(walk)
    return trace


TRACES: dict[str, Callable[[int], Trace]] = {
    "link-dies": link_dies,
    "load-doubles": load_doubles,
    "device-heats": device_heats,
    "radio-fades": radio_fades,
}


def _steady(seed: int, edge_s: float = _EDGE_S, turn_s: float = _TURN_S) -> Trace:
    """Return a trace on which nothing changes, but by chance."""
    generator = np.random.default_rng([seed, 0])

    def around(value: float) -> Floats:
        return value * np.exp(generator.normal(0.0, _SPREAD, _LENGTH))

    return Trace(
        at_s=np.cumsum(generator.exponential(1 / _RATE, _LENGTH)),
        size_bytes=np.full(_LENGTH, _SIZE_BYTES),
        edge_s=around(edge_s),
        turn_s=around(turn_s),
        byte_s=around(8 / _LINK_BPS),
        cloud_s=around(_CLOUD_S),
    )


def load(source: str, seed: int = 0) -> Trace:
    """Return a trace by its name, or of a CSV file with `COLUMNS`.

    Raises UserError for a name that is none, and DataError for a file that is no trace.
    """
    if source in TRACES:
        return TRACES[source](seed)
    path = Path(source).expanduser()
    if not path.is_file():
        raise UserError(
            f"there is no trace '{source}'.{nearest(source, TRACES)} "
            f"Known: {', '.join(TRACES)}, or a CSV file"
        )
    return _read(path)


def write(path: Path, trace: Trace) -> None:
    """Write a trace as CSV, microseconds and bytes exact. Raises OSError."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for number in range(len(trace)):
        values = [getattr(trace, name)[number] for name in COLUMNS]
        rows.writerow([f"{value:.9g}" for value in values])
    files.replace(path, text.getvalue().encode(), files.PUBLIC)


def _read(path: Path) -> Trace:
    """Return a file's trace; raises DataError, which names the line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"'{path}' cannot be read as CSV: {error}") from None
    rows = list(csv.reader(lines))
    if not rows or tuple(rows[0]) != COLUMNS:
        raise DataError(f"'{path}': the first line has to be {','.join(COLUMNS)}")
    values = []
    for number, row in enumerate(rows[1:], 2):
        values.append(_numbers(path, number, row))
    if not values:
        raise DataError(f"'{path}' has no requests")
    columns = np.array(values).T
    if (np.diff(columns[0]) < 0).any():
        raise DataError(f"'{path}': the arrivals at_s are not in their order")
    sizes = columns[1].astype(np.int64)
    return Trace(columns[0], sizes, columns[2], columns[3], columns[4], columns[5])


def _numbers(path: Path, line: int, row: list[str]) -> list[float]:
    """Return a line's values; raises DataError for what is no number from 0."""
    try:
        values = [float(cell) for cell in row]
    except ValueError:
        values = []
    is_sound = len(values) == len(COLUMNS) and all(value >= 0 for value in values)
    # A centre that never answers is infinitely slow; nothing else may be.
    is_sound = is_sound and bool(np.isfinite(values[:-1]).all())
    if not is_sound:
        raise DataError(
            f"'{path}' line {line}: {len(COLUMNS)} numbers from 0, of which cloud_s alone "
            "may be inf"
        )
    return values
