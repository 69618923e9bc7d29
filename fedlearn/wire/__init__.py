"""The one format of models and updates: the same bytes in simulation and on the wire."""

from fedlearn.wire.payload import (
    GRADIENT,
    SNAPSHOT,
    UPDATE,
    Header,
    Metric,
    decode,
    decode_model,
    digest,
    encode,
    encode_model,
    read_header,
)

__all__ = [
    "GRADIENT",
    "SNAPSHOT",
    "UPDATE",
    "Header",
    "Metric",
    "decode",
    "decode_model",
    "digest",
    "encode",
    "encode_model",
    "read_header",
]
