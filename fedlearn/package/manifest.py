"""The manifest: what a package holds and for whom, as one canonical JSON object.

A strict reader: each field has its type, its range and its limit, and what has another is
refused by its place. So a manifest that was read may be trusted to be what it says, and no
bytes of a stranger end a program.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import Any

from fedlearn.errors import PackageError
from fedlearn.package import canonical, parts
from fedlearn.package.fields import LARGEST_WHOLE, Fields, text_of
from fedlearn.package.functions import Function, check_chain, read_functions
from fedlearn.package.parts import (
    FLOAT_BYTES,
    INT8_GRAPH_FILE,
    MANIFEST_FILE,
    MOST_WEIGHT_BYTES,
    WEIGHTS_FILE,
    Delta,
    Health,
    ListedFile,
    ListedTensor,
    Origin,
    Port,
    Preprocessing,
    Support,
)
from fedlearn.text import first_few

FORMAT = 1

# An int8 recipe has a number for each output channel, 20 bytes each: 200,000 of them.
MOST_BYTES = 4 << 20
MOST_LABELS = 100_000
MOST_KEYS = 8
# Tensors that are rebuilt as int8.
MOST_RECIPES = 10_000

_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_KEY = re.compile(
    r"-----BEGIN PUBLIC KEY-----\n[A-Za-z0-9+/=\n]+-----END PUBLIC KEY-----\n"
)


@dataclass(frozen=True)
class Manifest:
    """All that a package says of itself; docs/package.md describes each field.

    counter: grows with every release. rollback: None, or up to which floor of a device this
    release may take the place of a newer one. expires: "YYYY-MM-DDThh:mm:ssZ", or None.
    keys: None, or the public keys (PEM) that a device accepts from now on. functions: steps
    before and after the model, in the order in which they run.
    """

    name: str
    counter: int
    targets: tuple[Support, ...]
    files: Mapping[str, ListedFile]
    tensors: tuple[ListedTensor, ...]
    input: Port
    output: Port
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    run: Origin
    health: Health
    expires: str | None = None
    rollback: int | None = None
    keys: tuple[str, ...] | None = None
    int8: Mapping[str, Any] | None = None
    deltas: tuple[Delta, ...] = ()
    functions: tuple[Function, ...] = ()

    @property
    def weights_sha256(self) -> str:
        """Return the SHA-256 of weights.bin, 64 hex digits."""
        return self.files[WEIGHTS_FILE].sha256

    @property
    def expiry(self) -> datetime | None:
        """Return when it expires, in UTC; None: never."""
        return None if self.expires is None else moment(self.expires)

    @property
    def listed(self) -> dict[str, ListedFile]:
        """Return every file that may lie beside the manifest, the differences too."""
        files = dict(self.files)
        for delta in self.deltas:
            files[delta.file] = ListedFile(delta.sha256, delta.bytes)
        return files

    def with_deltas(self, deltas: Sequence[Delta]) -> Manifest:
        """Return the manifest with other differences, in the order of their files."""
        ordered = sorted(deltas, key=lambda delta: delta.file)
        return replace(self, deltas=tuple(ordered))

    def with_functions(
        self, functions: Sequence[Function], files: Mapping[str, ListedFile]
    ) -> Manifest:
        """Return the manifest with functions, and their files beside its own."""
        return replace(self, functions=tuple(functions), files={**self.files, **files})

    def to_bytes(self) -> bytes:
        """Return the manifest's one form in bytes. Raises PackageError for values it refuses."""
        data = self._form()
        # What the reader refuses is never written.
        from_bytes(data)
        return data

    def _form(self) -> bytes:
        value = asdict(self)
        value["health"] = self.health.fields()
        # No manifest had them at first: one without them has the bytes that it had.
        if not self.functions:
            del value["functions"]
        value["format"] = FORMAT
        value["weights_sha256"] = self.weights_sha256
        return canonical.dumps(value)


def moment(text: str) -> datetime:
    """Return the time that "YYYY-MM-DDThh:mm:ssZ" names. Raises ValueError."""
    if not _TIME.fullmatch(text):
        raise ValueError(text)
    # Python 3.10 reads no Z.
    return datetime.fromisoformat(text.removesuffix("Z")).replace(tzinfo=timezone.utc)


def now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(timezone.utc)


def from_bytes(data: bytes) -> Manifest:
    """Return the manifest that bytes hold.

    Raises PackageError for any that are not the one form of a sound manifest.
    """
    value = canonical.loads(data, MANIFEST_FILE, MOST_BYTES)
    fields = Fields(value, "manifest")
    _check_format(fields)
    manifest = Manifest(
        name=fields.text("name", 64, parts.NAME),
        counter=fields.whole("counter", least=1),
        targets=parts.read_targets(fields),
        files=parts.read_files(fields),
        tensors=parts.read_tensors(fields),
        input=parts.read_port(fields.table("input")),
        output=parts.read_port(fields.table("output")),
        preprocessing=parts.read_preprocessing(fields.table("preprocessing")),
        labels=fields.texts("labels", MOST_LABELS, 200),
        run=parts.read_origin(fields.table("run")),
        health=parts.read_health(fields.table("health")),
        expires=_expires(fields),
        rollback=_rollback(fields),
        keys=_keys(fields),
        int8=None if fields.is_null("int8") else fields.names("int8", MOST_RECIPES),
        deltas=parts.read_deltas(fields),
        functions=read_functions(fields),
    )
    weights_sha256 = fields.sha256("weights_sha256")
    fields.end()
    _check_weights(manifest, weights_sha256)
    _check_functions(manifest)
    # A number that is a float here may stand there without its ".0".
    if manifest._form() != data:
        raise PackageError("canonical", f"{MANIFEST_FILE} is not in its one form")
    return manifest


def _check_format(fields: Fields) -> None:
    number = fields.whole("format", least=1)
    if number != FORMAT:
        raise PackageError(
            "format",
            f"the package has format {number}, and this fedlearn reads {FORMAT}: update "
            "fedlearn on this device",
        )


def _expires(fields: Fields) -> str | None:
    if fields.is_null("expires"):
        return None
    text = fields.text("expires", 20, _TIME)
    try:
        moment(text)
    except ValueError:
        raise PackageError(
            "manifest", f"manifest.expires is no time: {text!r}"
        ) from None
    return text


def _rollback(fields: Fields) -> int | None:
    if fields.is_null("rollback"):
        return None
    return fields.whole("rollback", least=1, most=LARGEST_WHOLE - 1)


def _keys(fields: Fields) -> tuple[str, ...] | None:
    if fields.is_null("keys"):
        return None
    values = fields.items("keys", MOST_KEYS, least=1)
    keys = []
    for index, value in enumerate(values):
        keys.append(text_of(value, f"manifest.keys[{index}]", 1000, _KEY))
    return tuple(keys)


def _check_weights(manifest: Manifest, weights_sha256: str) -> None:
    """Refuse tensors that do not fill weights.bin, before anything is allocated."""
    values = sum(tensor.size for tensor in manifest.tensors)
    expected = FLOAT_BYTES * values
    if expected > MOST_WEIGHT_BYTES:
        raise PackageError(
            "tensor",
            f"the tensors have {expected:,} bytes, more than {MOST_WEIGHT_BYTES:,}",
        )
    listed = manifest.files[WEIGHTS_FILE]
    if listed.bytes != expected:
        raise PackageError(
            "tensor",
            f"the tensors have {expected:,} bytes and {WEIGHTS_FILE} {listed.bytes:,}",
        )
    if listed.sha256 != weights_sha256:
        raise PackageError(
            "manifest", f"manifest.weights_sha256 is not that of {WEIGHTS_FILE}"
        )
    if (manifest.int8 is None) == (INT8_GRAPH_FILE in manifest.files):
        raise PackageError(
            "manifest", f"{INT8_GRAPH_FILE} and the recipe of its weights come together"
        )


def _check_functions(manifest: Manifest) -> None:
    """Refuse functions that do not fit together, or that have other files than theirs."""
    listed = {path for path in manifest.files if parts.is_function_file(path)}
    expected = {parts.function_file(function.name) for function in manifest.functions}
    if manifest.functions:
        expected.add(parts.FUNCTIONS_GOLDEN_FILE)
    if listed != expected:
        names = first_few(sorted(listed ^ expected))
        raise PackageError(
            "manifest", f"manifest.files and manifest.functions differ in: {names}"
        )
    check_chain(
        manifest.functions,
        manifest.input,
        manifest.preprocessing.dtype,
        manifest.output,
    )
