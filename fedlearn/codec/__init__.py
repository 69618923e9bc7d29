"""Codecs: how the floats of a model or an update become bytes, and back.

A codec is named by a text: one stage, such as ``eden1``, or several, such as
``topk(0.01)+tern`` (see `chain`).
"""

from __future__ import annotations

from functools import lru_cache

from fedlearn.codec.chain import find, parse
from fedlearn.codec.chain import split as feedback
from fedlearn.codec.protocol import AUTO, FEEDBACK, ZERO, Codec, Context
from fedlearn.codec.stages import QUANTISE, STAGES, WHOLE
from fedlearn.errors import ConfigError, FedlearnError, FormatError
from fedlearn.names import handed, is_handed

__all__ = [
    "AUTO",
    "CODECS",
    "FEEDBACK",
    "STAGES",
    "ZERO",
    "Codec",
    "Context",
    "canonical",
    "codec",
    "feedback",
]

# The stages that are a codec by themselves, without a number. `tern` is left out: it
# writes what a select leaves.
CODECS = {
    name: stage
    for name, stage in STAGES.items()
    if stage.role in (QUANTISE, WHOLE) and not stage.takes and name != "tern"
}


# Every payload names its codec by text, and a run has few of them.
def canonical(text: str, error: type[FedlearnError] = FormatError) -> str:
    """Return a codec's text as payloads write it, without error feedback.

    Raises ``error`` for a text that means no codec.
    """
    if is_handed(text):
        _handed_codec(text, error)
        return text
    return _canonical(text, error)  # type: ignore[arg-type]  # a class can be hashed


def codec(text: str, error: type[FedlearnError] = FormatError) -> Codec:
    """Return the codec of a text, without error feedback.

    Raises ``error`` for a text that means no codec.
    """
    if is_handed(text):
        return _handed_codec(text, error)
    return _codec(text, error)  # type: ignore[arg-type]  # a class can be hashed


def _handed_codec(text: str, error: type[FedlearnError]) -> Codec:
    """Return a codec that a program handed over; never cached: it lives as long as its run."""
    try:
        own: Codec = handed("codec", text)
    except ConfigError as problem:
        raise error(str(problem)) from None
    return own


@lru_cache(maxsize=32)
def _canonical(text: str, error: type[FedlearnError] = FormatError) -> str:
    if text == ZERO:
        return text
    return parse(text, error).text


@lru_cache(maxsize=32)
def _codec(text: str, error: type[FedlearnError] = FormatError) -> Codec:
    if text == ZERO:
        from fedlearn.codec.zero import Zero

        return Zero()
    return find(text, error)
