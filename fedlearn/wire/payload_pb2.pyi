from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Payload(_message.Message):
    __slots__ = ("format", "kind", "schema", "version", "digest", "codec", "seed", "parameters", "examples", "train_loss", "metrics", "integers", "base_digest", "body", "checksum", "buffers", "residual")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNKNOWN: _ClassVar[Payload.Kind]
        SNAPSHOT: _ClassVar[Payload.Kind]
        UPDATE: _ClassVar[Payload.Kind]
        GRADIENT: _ClassVar[Payload.Kind]
        DIFFERENCE: _ClassVar[Payload.Kind]
    UNKNOWN: Payload.Kind
    SNAPSHOT: Payload.Kind
    UPDATE: Payload.Kind
    GRADIENT: Payload.Kind
    DIFFERENCE: Payload.Kind
    class Residual(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        NO_FEEDBACK: _ClassVar[Payload.Residual]
        FRESH: _ClassVar[Payload.Residual]
        CARRIED: _ClassVar[Payload.Residual]
    NO_FEEDBACK: Payload.Residual
    FRESH: Payload.Residual
    CARRIED: Payload.Residual
    class Metric(_message.Message):
        __slots__ = ("name", "values", "whole", "list", "record", "large")
        NAME_FIELD_NUMBER: _ClassVar[int]
        VALUES_FIELD_NUMBER: _ClassVar[int]
        WHOLE_FIELD_NUMBER: _ClassVar[int]
        LIST_FIELD_NUMBER: _ClassVar[int]
        RECORD_FIELD_NUMBER: _ClassVar[int]
        LARGE_FIELD_NUMBER: _ClassVar[int]
        name: str
        values: _containers.RepeatedScalarFieldContainer[float]
        whole: bool
        list: bool
        record: str
        large: _containers.RepeatedScalarFieldContainer[int]
        def __init__(self, name: _Optional[str] = ..., values: _Optional[_Iterable[float]] = ..., whole: bool = ..., list: bool = ..., record: _Optional[str] = ..., large: _Optional[_Iterable[int]] = ...) -> None: ...
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    TRAIN_LOSS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    INTEGERS_FIELD_NUMBER: _ClassVar[int]
    BASE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    BUFFERS_FIELD_NUMBER: _ClassVar[int]
    RESIDUAL_FIELD_NUMBER: _ClassVar[int]
    format: int
    kind: Payload.Kind
    schema: int
    version: int
    digest: int
    codec: str
    seed: int
    parameters: int
    examples: int
    train_loss: float
    metrics: _containers.RepeatedCompositeFieldContainer[Payload.Metric]
    integers: bytes
    base_digest: int
    body: bytes
    checksum: int
    buffers: bytes
    residual: Payload.Residual
    def __init__(self, format: _Optional[int] = ..., kind: _Optional[_Union[Payload.Kind, str]] = ..., schema: _Optional[int] = ..., version: _Optional[int] = ..., digest: _Optional[int] = ..., codec: _Optional[str] = ..., seed: _Optional[int] = ..., parameters: _Optional[int] = ..., examples: _Optional[int] = ..., train_loss: _Optional[float] = ..., metrics: _Optional[_Iterable[_Union[Payload.Metric, _Mapping]]] = ..., integers: _Optional[bytes] = ..., base_digest: _Optional[int] = ..., body: _Optional[bytes] = ..., checksum: _Optional[int] = ..., buffers: _Optional[bytes] = ..., residual: _Optional[_Union[Payload.Residual, str]] = ...) -> None: ...
