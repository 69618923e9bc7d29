from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Key(_message.Message):
    __slots__ = ("round", "kind", "turn")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    round: int
    kind: str
    turn: int
    def __init__(self, round: _Optional[int] = ..., kind: _Optional[str] = ..., turn: _Optional[int] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("oldest", "newest", "software", "client", "installs", "diagnoses", "fetches")
    OLDEST_FIELD_NUMBER: _ClassVar[int]
    NEWEST_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    INSTALLS_FIELD_NUMBER: _ClassVar[int]
    DIAGNOSES_FIELD_NUMBER: _ClassVar[int]
    FETCHES_FIELD_NUMBER: _ClassVar[int]
    oldest: int
    newest: int
    software: str
    client: int
    installs: bool
    diagnoses: bool
    fetches: bool
    def __init__(self, oldest: _Optional[int] = ..., newest: _Optional[int] = ..., software: _Optional[str] = ..., client: _Optional[int] = ..., installs: bool = ..., diagnoses: bool = ..., fetches: bool = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("key", "offset", "total", "data", "checksum")
    KEY_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    key: Key
    offset: int
    total: int
    data: bytes
    checksum: int
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ..., offset: _Optional[int] = ..., total: _Optional[int] = ..., data: _Optional[bytes] = ..., checksum: _Optional[int] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("key", "reason", "text")
    class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        FAILED: _ClassVar[Failure.Reason]
        DECLINED: _ClassVar[Failure.Reason]
        LACKING: _ClassVar[Failure.Reason]
    FAILED: Failure.Reason
    DECLINED: Failure.Reason
    LACKING: Failure.Reason
    KEY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    key: Key
    reason: Failure.Reason
    text: str
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ..., reason: _Optional[_Union[Failure.Reason, str]] = ..., text: _Optional[str] = ...) -> None: ...

class Renewal(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: bytes
    def __init__(self, request: _Optional[bytes] = ...) -> None: ...

class Facts(_message.Message):
    __slots__ = ("json",)
    JSON_FIELD_NUMBER: _ClassVar[int]
    json: str
    def __init__(self, json: _Optional[str] = ...) -> None: ...

class Release(_message.Message):
    __slots__ = ("name", "counter", "digest")
    NAME_FIELD_NUMBER: _ClassVar[int]
    COUNTER_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    counter: int
    digest: bytes
    def __init__(self, name: _Optional[str] = ..., counter: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class Figures(_message.Message):
    __slots__ = ("requests", "errors", "p99_ms", "unsure", "drift", "disagreement")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    P99_MS_FIELD_NUMBER: _ClassVar[int]
    UNSURE_FIELD_NUMBER: _ClassVar[int]
    DRIFT_FIELD_NUMBER: _ClassVar[int]
    DISAGREEMENT_FIELD_NUMBER: _ClassVar[int]
    requests: int
    errors: float
    p99_ms: float
    unsure: float
    drift: float
    disagreement: float
    def __init__(self, requests: _Optional[int] = ..., errors: _Optional[float] = ..., p99_ms: _Optional[float] = ..., unsure: _Optional[float] = ..., drift: _Optional[float] = ..., disagreement: _Optional[float] = ...) -> None: ...

class Installed(_message.Message):
    __slots__ = ("instance", "sequence", "committed", "trial", "target", "failed", "failed_rollout", "reason", "stage", "waiting", "figures")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    FAILED_ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    instance: str
    sequence: int
    committed: Release
    trial: Release
    target: Release
    failed: Release
    failed_rollout: int
    reason: str
    stage: str
    waiting: str
    figures: Figures
    def __init__(self, instance: _Optional[str] = ..., sequence: _Optional[int] = ..., committed: _Optional[_Union[Release, _Mapping]] = ..., trial: _Optional[_Union[Release, _Mapping]] = ..., target: _Optional[_Union[Release, _Mapping]] = ..., failed: _Optional[_Union[Release, _Mapping]] = ..., failed_rollout: _Optional[int] = ..., reason: _Optional[str] = ..., stage: _Optional[str] = ..., waiting: _Optional[str] = ..., figures: _Optional[_Union[Figures, _Mapping]] = ...) -> None: ...

class Finding(_message.Message):
    __slots__ = ("name", "state", "text", "fix")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    FIX_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: str
    text: str
    fix: str
    def __init__(self, name: _Optional[str] = ..., state: _Optional[str] = ..., text: _Optional[str] = ..., fix: _Optional[str] = ...) -> None: ...

class Diagnosis(_message.Message):
    __slots__ = ("number", "findings", "reason")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    number: int
    findings: _containers.RepeatedCompositeFieldContainer[Finding]
    reason: str
    def __init__(self, number: _Optional[int] = ..., findings: _Optional[_Iterable[_Union[Finding, _Mapping]]] = ..., reason: _Optional[str] = ...) -> None: ...

class AgentFrame(_message.Message):
    __slots__ = ("hello", "heartbeat", "chunk", "failure", "renewal", "ack", "facts", "installed", "diagnosis")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    RENEWAL_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    INSTALLED_FIELD_NUMBER: _ClassVar[int]
    DIAGNOSIS_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    heartbeat: Heartbeat
    chunk: Chunk
    failure: Failure
    renewal: Renewal
    ack: Ack
    facts: Facts
    installed: Installed
    diagnosis: Diagnosis
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ..., renewal: _Optional[_Union[Renewal, _Mapping]] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ..., facts: _Optional[_Union[Facts, _Mapping]] = ..., installed: _Optional[_Union[Installed, _Mapping]] = ..., diagnosis: _Optional[_Union[Diagnosis, _Mapping]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("version", "run", "experiment", "idle_ms", "busy_ms", "lease_ms", "limit_bytes", "round", "releases")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    IDLE_MS_FIELD_NUMBER: _ClassVar[int]
    BUSY_MS_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    RELEASES_FIELD_NUMBER: _ClassVar[int]
    version: int
    run: bytes
    experiment: str
    idle_ms: int
    busy_ms: int
    lease_ms: int
    limit_bytes: int
    round: int
    releases: bool
    def __init__(self, version: _Optional[int] = ..., run: _Optional[bytes] = ..., experiment: _Optional[str] = ..., idle_ms: _Optional[int] = ..., busy_ms: _Optional[int] = ..., lease_ms: _Optional[int] = ..., limit_bytes: _Optional[int] = ..., round: _Optional[int] = ..., releases: bool = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("key", "plan", "sizes", "base", "residual", "feedback", "initial", "keep", "repair")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    RESIDUAL_FIELD_NUMBER: _ClassVar[int]
    FEEDBACK_FIELD_NUMBER: _ClassVar[int]
    INITIAL_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    REPAIR_FIELD_NUMBER: _ClassVar[int]
    key: Key
    plan: str
    sizes: _containers.RepeatedScalarFieldContainer[int]
    base: int
    residual: int
    feedback: bool
    initial: int
    keep: bool
    repair: bool
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ..., plan: _Optional[str] = ..., sizes: _Optional[_Iterable[int]] = ..., base: _Optional[int] = ..., residual: _Optional[int] = ..., feedback: bool = ..., initial: _Optional[int] = ..., keep: bool = ..., repair: bool = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("key", "offset", "stored", "again")
    KEY_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    AGAIN_FIELD_NUMBER: _ClassVar[int]
    key: Key
    offset: int
    stored: bool
    again: bool
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ..., offset: _Optional[int] = ..., stored: bool = ..., again: bool = ...) -> None: ...

class Wanted(_message.Message):
    __slots__ = ("rollout", "release", "manifest", "signatures")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    rollout: int
    release: Release
    manifest: bytes
    signatures: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, rollout: _Optional[int] = ..., release: _Optional[_Union[Release, _Mapping]] = ..., manifest: _Optional[bytes] = ..., signatures: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Offered(_message.Message):
    __slots__ = ("manifest", "signatures")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    manifest: bytes
    signatures: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, manifest: _Optional[bytes] = ..., signatures: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("key", "reason")
    KEY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    key: Key
    reason: str
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("key", "reason")
    KEY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    key: Key
    reason: str
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ("reason", "again_min_ms", "again_max_ms", "done")
    REASON_FIELD_NUMBER: _ClassVar[int]
    AGAIN_MIN_MS_FIELD_NUMBER: _ClassVar[int]
    AGAIN_MAX_MS_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    reason: str
    again_min_ms: int
    again_max_ms: int
    done: bool
    def __init__(self, reason: _Optional[str] = ..., again_min_ms: _Optional[int] = ..., again_max_ms: _Optional[int] = ..., done: bool = ...) -> None: ...

class Certificate(_message.Message):
    __slots__ = ("certificate", "expires")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    expires: int
    def __init__(self, certificate: _Optional[bytes] = ..., expires: _Optional[int] = ...) -> None: ...

class Diagnose(_message.Message):
    __slots__ = ("number",)
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    number: int
    def __init__(self, number: _Optional[int] = ...) -> None: ...

class CoordinatorFrame(_message.Message):
    __slots__ = ("welcome", "task", "chunk", "ack", "refusal", "cancel", "goodbye", "certificate", "heartbeat", "wanted", "diagnose")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    DIAGNOSE_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    task: Task
    chunk: Chunk
    ack: Ack
    refusal: Refusal
    cancel: Cancel
    goodbye: Goodbye
    certificate: Certificate
    heartbeat: Heartbeat
    wanted: Wanted
    diagnose: Diagnose
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., task: _Optional[_Union[Task, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ..., certificate: _Optional[_Union[Certificate, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., wanted: _Optional[_Union[Wanted, _Mapping]] = ..., diagnose: _Optional[_Union[Diagnose, _Mapping]] = ...) -> None: ...

class EnrolRequest(_message.Message):
    __slots__ = ("secret", "request")
    SECRET_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    secret: str
    request: bytes
    def __init__(self, secret: _Optional[str] = ..., request: _Optional[bytes] = ...) -> None: ...

class EnrolReply(_message.Message):
    __slots__ = ("certificate", "client", "expires")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    client: int
    expires: int
    def __init__(self, certificate: _Optional[bytes] = ..., client: _Optional[int] = ..., expires: _Optional[int] = ...) -> None: ...
