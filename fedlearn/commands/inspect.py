"""The command ``fedlearn inspect FILE``: what a payload says of itself, byte by byte."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedlearn.codec import STAGES, ZERO
from fedlearn.codec.chain import LONGEST, parse
from fedlearn.commands.arguments import Parser, ended
from fedlearn.errors import ConfigError, FormatError, UserError, one_line
from fedlearn.records.names import LINES_FILE
from fedlearn.reporting.units import count_text, number_text, ratio_text
from fedlearn.wire import Header, Metric, payload_pb2, read_message

# No protobuf message is longer.
LARGEST_BYTES = 2**31 - 1

# A tag byte and the 4 bytes of a CRC-32, at the end of every payload.
CHECKSUM_BYTES = 5

# How a payload begins: format 1, then the tag of its kind or of its schema.
# Enough bytes to tell a payload from other files by its beginning.
BEGINNINGS = (b"\x08\x01\x10", b"\x08\x01\x19")

UNKNOWN = "unknown to this version of fedlearn"

KINDS = {
    "SNAPSHOT": "a whole model",
    "UPDATE": "a client's model minus the one that it was sent",
    "GRADIENT": "minus the gradient at the model that the client was sent",
    "DIFFERENCE": "a model minus the one that the receiver holds",
}
RESIDUALS = {
    "NO_FEEDBACK": "no error feedback",
    "FRESH": "error feedback that begins with this update",
    "CARRIED": "error feedback; the error of the client's last update is in this one",
}

EPILOG = (
    "The checksum and the format are verified, and that buffers and integers fill their "
    "bytes; whether the values are sound is known to a receiver of the same model only. "
    "exit codes: 0 done, 2 not a payload that can be read"
)


@dataclass(frozen=True)
class Inspected:
    """A payload without its values; sizes in bytes.

    digest, base_digest and schema: 8 bytes in hex. base_digest: of a DIFFERENCE.
    parameters: floats of the model, those in the body and the buffers. bytes_of: the
    bytes of header, body, buffers, integers and checksum.
    """

    file: str
    format: int
    kind: str
    codec: str
    seed: int
    version: int
    digest: str
    base_digest: str | None
    schema: str
    parameters: int
    buffers: int
    integers: int
    examples: int
    train_loss: float | None
    metrics: Mapping[str, Metric]
    residual: str
    bytes: int
    bytes_of: Mapping[str, int]

    @property
    def bits_a_parameter(self) -> float | None:
        """Return the bits of the whole payload per parameter; None without parameters."""
        return 8 * self.bytes / self.parameters if self.parameters else None

    @property
    def raw_bytes(self) -> int:
        """Return the bytes of the same values as plain float32 and int64."""
        return 4 * self.parameters + 8 * self.integers


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    parser = Parser(
        prog="fedlearn inspect",
        description="Tell what payloads are: codec, versions, digests, bytes by part.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="a payload; - for standard input"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object per payload, each on its own line",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    # All files are read before the first is shown: a wrong one is the only output.
    payloads = [inspect(name, _read(name)) for name in arguments.files]
    if arguments.json:
        print("\n".join(as_json(payload) for payload in payloads))
    else:
        print("\n\n".join(text(payload) for payload in payloads))


def inspect(file: str, data: bytes) -> Inspected:
    """Return what a payload says of itself; ``file`` names it.

    Raises UserError for bytes that are no payload, or no sound one.
    """
    try:
        header, message = read_message(data)
    # The decoder's reason is about formats; a person has mostly taken a wrong file.
    except FormatError as error:
        raise UserError(f"'{file}': {_why_unreadable(data, str(error))}") from None
    # The model is not known here, so only what any model would need is checked.
    _check_lengths(file, message)
    parts = {
        "body": len(message.body),
        "buffers": len(message.buffers),
        "integers": len(message.integers),
    }
    # What is neither a part nor the checksum: the header with its tags and lengths.
    header_bytes = len(data) - sum(parts.values()) - CHECKSUM_BYTES
    is_difference = header.kind == payload_pb2.Payload.DIFFERENCE
    return Inspected(
        file=file,
        format=message.format,
        kind=_name(payload_pb2.Payload.Kind, header.kind),
        codec=header.codec,
        seed=header.seed,
        version=header.round,
        digest=header.digest.hex(),
        # 0 elsewhere, where a digest would mislead.
        base_digest=header.base_digest.hex() if is_difference else None,
        schema=message.schema.to_bytes(8, "little").hex(),
        parameters=message.parameters,
        # float32 and int64.
        buffers=parts["buffers"] // 4,
        integers=parts["integers"] // 8,
        examples=header.examples,
        train_loss=_finite_loss(header),
        metrics=header.metrics,
        residual=_name(payload_pb2.Payload.Residual, header.residual),
        bytes=len(data),
        bytes_of={"header": header_bytes, **parts, "checksum": CHECKSUM_BYTES},
    )


def _check_lengths(file: str, message: payload_pb2.Payload) -> None:
    """Raise UserError for buffers or integers that are no whole number of values."""
    buffers = len(message.buffers)
    integers = len(message.integers)
    if buffers % 4 or integers % 8 or buffers > 4 * message.parameters:
        raise UserError(
            f"'{file}': {buffers} bytes of buffers or {integers} of integers are no "
            "whole number of values"
        )


def text(payload: Inspected) -> str:
    """Return a payload for people: one line per fact."""
    facts = list(_facts(payload))
    # As wide as the longest name that any payload has, so that outputs line up.
    width = max(len("base digest"), *(len(name) for name, _ in facts))
    lines = [f"  {_clean(name).ljust(width)}  {_clean(fact)}" for name, fact in facts]
    return "\n".join([_clean(payload.file), *lines])


def _facts(payload: Inspected) -> Iterator[tuple[str, str]]:
    """Yield (name, text) for every fact of a payload that it has."""
    kind = payload.kind
    yield "kind", f"{kind.lower()}: {KINDS.get(kind, UNKNOWN)}"
    yield "format", str(payload.format)
    yield "codec", f"{payload.codec[:LONGEST]}: {codec_text(payload.codec)}"
    yield "seed", str(payload.seed)
    yield "version", f"{payload.version}, {_version_owner(kind)}"
    yield "digest", payload.digest
    if payload.base_digest is not None:
        yield "base digest", payload.base_digest
    yield "schema", payload.schema
    yield "parameters", _parameters_text(payload)
    if payload.integers:
        yield "integers", count_text(payload.integers)
    if payload.examples:
        yield "examples", count_text(payload.examples)
    if payload.train_loss is not None:
        yield "train loss", number_text(payload.train_loss)
    for name, value in payload.metrics.items():
        yield f"metric {name}", str(value)
    residual = payload.residual
    if residual != "NO_FEEDBACK":
        yield "residual", f"{residual.lower()}: {RESIDUALS.get(residual, UNKNOWN)}"
    # Parts without bytes would be noise.
    parts = [f"{part} {count_text(n)}" for part, n in payload.bytes_of.items() if n]
    yield "bytes", ", ".join(parts)
    yield "together", f"{count_text(payload.bytes)} bytes, {_density(payload)}"


def _version_owner(kind: str) -> str:
    if kind in ("SNAPSHOT", "DIFFERENCE"):
        return "of the model"
    return "the client started from"


def _parameters_text(payload: Inspected) -> str:
    parameters = count_text(payload.parameters)
    if not payload.buffers:
        return parameters
    return f"{parameters}, {count_text(payload.buffers)} of them buffers"


def as_json(payload: Inspected) -> str:
    """Return a payload as one line of JSON, with full precision."""
    figures = {
        "bits_a_parameter": payload.bits_a_parameter,
        "raw_bytes": payload.raw_bytes,
        "ratio": payload.raw_bytes / payload.bytes,
    }
    return json.dumps(asdict(payload) | figures)


def codec_text(codec: str) -> str:
    """Return in words how a body is encoded: a chain's stages one after another.

    Imports no codec.
    """
    if codec == ZERO:
        return "no bytes at all: every value is 0"
    try:
        return "; ".join(STAGES[stage.name].about for stage in parse(codec).stages)
    except ConfigError:
        return UNKNOWN


def _density(payload: Inspected) -> str:
    if payload.bits_a_parameter is None:
        return "no parameters"
    fewer = ratio_text(payload.raw_bytes, payload.bytes)
    return (
        f"{payload.bits_a_parameter:.3g} bits a parameter, {fewer} fewer than float32"
    )


def _read(name: str) -> bytes:
    """Return a file's bytes; raises UserError for what is no file, or is too long."""
    if name == "-":
        if sys.stdin is None:
            raise UserError("standard input is closed; give a file")
        return sys.stdin.buffer.read()
    path = Path(name)
    try:
        _check_file(path, name)
        with path.open("rb") as file:
            # Before it is read: a disk image would fill the memory.
            if path.is_file() and path.stat().st_size > LARGEST_BYTES:
                raise UserError(f"'{name}' is no payload: it is longer than 2 GB")
            return file.read()
    except OSError as error:
        raise UserError(f"'{name}': {error.strerror or error}") from None
    # A name with a null byte.
    except ValueError as error:
        raise UserError(f"'{name}': {error}") from None


def _check_file(path: Path, name: str) -> None:
    if path.is_dir():
        is_run = (path / LINES_FILE).exists()
        hint = " (of a run folder: fedlearn report)" if is_run else ""
        raise UserError(f"'{name}' is a folder; give the file of a payload{hint}")
    # A device may never end; a pipe is how shells hand over a payload.
    if path.exists() and not (path.is_file() or path.is_fifo()):
        raise UserError(f"'{name}' is a device; give the file of a payload")


def _why_unreadable(data: bytes, reason: str) -> str:
    """Return why bytes are no payload that can be read, as far as they show it.

    reason: the decoder's, where nothing better is known.
    """
    if not data:
        return "the file is empty"
    file_kind = _other_kind(data)
    if file_kind is not None:
        return (
            f"not a payload but {file_kind}; payloads are what clients and server "
            "exchange"
        )
    if data.startswith(BEGINNINGS) and reason.startswith("not a payload"):
        return (
            "the payload is damaged or cut short: it begins like one, but does not end "
            "with its checksum"
        )
    return reason


def _other_kind(data: bytes) -> str | None:
    """Return what a file is that people take for a payload, by its first bytes."""
    # 8 bytes of a length, then the JSON of a header.
    if data[8:10] == b'{"':
        return "a safetensors file"
    if data.startswith(b"PK\x03\x04"):
        return "a zip archive, such as a PyTorch or NumPy file"
    return None


def _name(enum: Any, number: int) -> str:
    # Enums are open in protobuf: a newer version may send a number without a name.
    return str(enum.Name(number)) if number in enum.values() else str(number)


def _finite_loss(header: Header) -> float | None:
    """Return the training loss where JSON can hold it."""
    loss = header.train_loss
    # JSON has no NaN.
    return loss if loss is not None and math.isfinite(loss) else None


# Names and metrics come from others: no control sequence may reach the terminal.
def _clean(words: str) -> str:
    return one_line(UserError(words))


if __name__ == "__main__":
    sys.exit(main())
