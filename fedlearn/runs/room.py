"""How models reach the clients, and whether the disk has room for what clients keep.

Legend: P floats of the model's layout.
"""

from __future__ import annotations

from fedlearn.codec import codec, feedback
from fedlearn.config import CodecSection
from fedlearn.errors import ConfigError
from fedlearn.memory.vectors import SLOTS

_FLOAT_BYTES = 4


def downlink(section: CodecSection, clients: int, reached: int, floats: int) -> str:
    """Return "snapshot", "shadow" or "cast". Raises ConfigError for want of room.

    reached: clients that the run asks at most. floats: P.
    """
    differences = codec(section.down).for_differences
    kind = section.downlink
    # A codec for differences would lose most of a whole model, in every round.
    if kind == "snapshot" and differences:
        raise ConfigError(
            f'[codec] down = "{section.down}" is for differences, '
            'but downlink = "snapshot" sends whole models; leave downlink out, '
            "or use raw32, f16, bf16 or q8"
        )
    if kind == "auto" and not differences:
        kind = "snapshot"
    if kind == "auto":
        # Of all clients, not of those asked: a longer run must not change the kind.
        fits = _room_gb(clients, floats) <= section.copies_gb
        kind = "shadow" if fits else "cast"
    if kind == "shadow":
        instead = 'or send everybody the same differences: downlink = "cast"'
        _check("copies of the model", reached, floats, section.copies_gb, instead)
    return kind


def residuals(section: CodecSection, reached: int, floats: int) -> bool:
    """Return whether clients have residuals. Raises ConfigError for want of room."""
    feeds, _ = feedback(section.up)
    if feeds:
        _check("residuals", reached, floats, section.copies_gb, "or leave out ef+")
    return feeds


def _room_gb(clients: int, floats: int) -> float:
    """Return the gigabytes on disk that a vector per client can take."""
    # SLOTS vectors of float32 for each client; see docs/wire.md.
    return _FLOAT_BYTES * SLOTS * clients * floats / 1e9


def _check(
    vectors: str, reached: int, floats: int, limit_gb: float, instead: str
) -> None:
    needed_gb = _room_gb(reached, floats)
    if needed_gb > limit_gb:
        raise ConfigError(
            f"[codec] {vectors} of all clients asked take up to {needed_gb:.3g} GB "
            f"on disk, over copies_gb = {limit_gb:g}; raise it, {instead}"
        )
