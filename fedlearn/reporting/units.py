"""Numbers as people read them: bytes, times, shares and ratios. A number that is missing reads "-"."""

from __future__ import annotations

import math

MISSING = "-"


def bytes_text(count: float | None) -> str:
    """Return a number of bytes with three digits and a decimal unit (1 MB = 1,000,000 bytes): "12.3 MB"."""
    if count is None or not math.isfinite(count):
        return MISSING
    if count < 999.5:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB", "TB"):
        count /= 1000
        if count < 999.5 or unit == "TB":
            break
    decimals = 2 if count < 9.995 else 1 if count < 99.95 else 0
    return f"{count:.{decimals}f} {unit}"


def time_text(seconds: float | None) -> str:
    """Return a duration in the two units that matter: "0.42 s", "42 s", "5 min 03 s", "2 h 05 min"."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 9.95:
        return f"{seconds:.2f} s" if seconds < 0.995 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def percent_text(share: float | None) -> str:
    """Return a share of 1 as a percentage with two decimals: 0.8123 reads "81.23 %"."""
    return (
        MISSING if share is None or not math.isfinite(share) else f"{100 * share:.2f} %"
    )


def number_text(value: float | None, digits: int = 4) -> str:
    """Return a number with so many significant digits; not a number reads "nan", absent reads "-"."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return str(value)
    return (
        f"{value:.{digits}g}"
        if value and not 1e-3 <= abs(value) < 1e5
        else f"{value:.{max(digits - 1, 0)}f}"
    )


def count_text(value: float | None) -> str:
    """Return a whole number with thousands separated: "1,663,370"."""
    return MISSING if value is None or not math.isfinite(value) else f"{value:,.0f}"


def against_raw(raw: float | None, sent: float | None) -> str:
    """Return what the bytes sent are beside the raw exchange: "31.7× fewer than float32"; "" when nothing was sent."""
    ratio = ratio_text(raw, sent)
    if ratio == MISSING:
        return ""
    return (
        "as plain float32"
        if raw and sent and raw / sent < 1.05
        else f"{ratio} fewer than float32"
    )


def ratio_text(raw: float | None, sent: float | None) -> str:
    """Return how many times fewer bytes were sent than the raw exchange: "31.7×"; "-" when nothing was sent."""
    if not raw or not sent or not math.isfinite(raw / sent):
        return MISSING
    return f"{raw / sent:.3g}×" if raw / sent < 999.5 else f"{raw / sent:,.0f}×"
