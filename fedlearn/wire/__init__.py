"""The one format of models and updates: the same bytes in simulation and on the wire."""

from fedlearn.wire.payload import (
    DIFFERENCE,
    GRADIENT,
    SNAPSHOT,
    UPDATE,
    Header,
    Metric,
    decode,
    decode_difference,
    decode_model,
    digest,
    encode,
    encode_difference,
    encode_model,
    read_header,
)

__all__ = [
    "DIFFERENCE",
    "GRADIENT",
    "SNAPSHOT",
    "UPDATE",
    "Header",
    "Metric",
    "decode",
    "decode_difference",
    "decode_model",
    "digest",
    "encode",
    "encode_difference",
    "encode_model",
    "read_header",
]
