"""Numbers as people read them: bytes, times, energies, shares and ratios.

A number that is missing reads "-". The limits such as 999.5 are where rounding to the digits shown
would reach the next unit.
"""

from __future__ import annotations

import math

MISSING = "-"


def bytes_text(count: float | None) -> str:
    """Return a number of bytes with three digits and a decimal unit: "12.3 MB".

    1 MB is 1,000,000 bytes.
    """
    if count is None or not math.isfinite(count):
        return MISSING
    if count < 999.5:
        return f"{count:.0f} B"
    # Bytes beyond the last unit stay in it.
    for unit in ("kB", "MB", "GB", "TB"):
        count /= 1000
        if count < 999.5 or unit == "TB":
            break
    if count < 9.995:
        return f"{count:.2f} {unit}"
    if count < 99.95:
        return f"{count:.1f} {unit}"
    return f"{count:.0f} {unit}"


def time_text(seconds: float | None) -> str:
    """Return a duration in two units: "0.42 s", "42 s", "5 min 03 s", "2 h 05 min"."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 0.995:
        return f"{seconds:.2f} s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    # Rounded before it is split, or 119.6 s would read "1 min 60 s".
    full_seconds = round(seconds)
    if full_seconds < 60:
        return f"{full_seconds} s"
    if full_seconds < 3600:
        return f"{full_seconds // 60} min {full_seconds % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def short_time_text(seconds: float | None) -> str:
    """Return a duration as `time_text` does, below one second in milliseconds: "0.31 ms"."""
    if seconds is None or seconds >= 0.9995:
        return time_text(seconds)
    return f"{1000 * seconds:.3g} ms"


def joules_text(joules: float | None) -> str:
    """Return an energy with three digits: "820 J", "12.3 kJ", "4.56 MJ"."""
    if joules is None:
        return MISSING
    for factor, unit in ((1e6, "MJ"), (1e3, "kJ")):
        if joules >= 0.9995 * factor:
            return f"{joules / factor:.3g} {unit}"
    return f"{joules:.3g} J"


def percent_text(share: float | None) -> str:
    """Return a share of 1 as a percentage with two decimals: 0.8123 reads "81.23 %"."""
    if share is None or not math.isfinite(share):
        return MISSING
    return f"{100 * share:.2f} %"


def number_text(value: float | None, digits: int = 4) -> str:
    """Return a number with ``digits`` significant digits; NaN reads "nan"."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return str(value)
    # Very small and very large numbers with an exponent; 0 is neither.
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.{digits}g}"
    return f"{value:.{max(digits - 1, 0)}f}"


def count_text(value: float | None) -> str:
    """Return a whole number with thousands separated: "1,663,370"."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:,.0f}"


def ratio_text(raw_bytes: float | None, sent_bytes: float | None) -> str:
    """Return how many times fewer bytes were sent than the raw exchange: "31.7×".

    "-" when nothing was sent.
    """
    if not raw_bytes or not sent_bytes:
        return MISSING
    ratio = raw_bytes / sent_bytes
    # A damaged file may hold NaN.
    if not math.isfinite(ratio):
        return MISSING
    if ratio < 999.5:
        return f"{ratio:.3g}×"
    return f"{ratio:,.0f}×"


def against_raw(raw_bytes: float | None, sent_bytes: float | None) -> str:
    """Return how the bytes sent compare with the raw exchange: "31.7× fewer than float32".

    "" when nothing was sent.
    """
    ratio = ratio_text(raw_bytes, sent_bytes)
    if ratio == MISSING:
        return ""
    # Headers alone make a few per cent: that is no compression.
    if raw_bytes and sent_bytes and raw_bytes / sent_bytes < 1.05:
        return "as plain float32"
    return f"{ratio} fewer than float32"
