"""The one format of models and updates: the same bytes in simulation and on the wire."""

from fedlearn.wire.hashing import digest
from fedlearn.wire.header import (
    CARRIED,
    DIFFERENCE,
    FRESH,
    GRADIENT,
    NO_FEEDBACK,
    SNAPSHOT,
    UPDATE,
    Header,
    Metric,
)
from fedlearn.wire.message import Bytes
from fedlearn.wire.payload import (
    RAW,
    decode,
    decode_difference,
    decode_model,
    encode,
    encode_difference,
    encode_model,
    raw_length,
    read_header,
    read_message,
)

__all__ = [
    "CARRIED",
    "DIFFERENCE",
    "FRESH",
    "GRADIENT",
    "NO_FEEDBACK",
    "RAW",
    "SNAPSHOT",
    "UPDATE",
    "Bytes",
    "Header",
    "Metric",
    "decode",
    "decode_difference",
    "decode_model",
    "digest",
    "encode",
    "encode_difference",
    "encode_model",
    "raw_length",
    "read_header",
    "read_message",
]
