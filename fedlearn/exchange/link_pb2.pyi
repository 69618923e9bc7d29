from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Probe(_message.Message):
    __slots__ = ("data", "want")
    DATA_FIELD_NUMBER: _ClassVar[int]
    WANT_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    want: int
    def __init__(self, data: _Optional[bytes] = ..., want: _Optional[int] = ...) -> None: ...

class Echo(_message.Message):
    __slots__ = ("data", "time_us")
    DATA_FIELD_NUMBER: _ClassVar[int]
    TIME_US_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    time_us: int
    def __init__(self, data: _Optional[bytes] = ..., time_us: _Optional[int] = ...) -> None: ...
