"""``fedlearn inspect FILE [FILE …]``: what a payload says of itself, and where its bytes go."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
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

LARGEST_BYTES = 2**31 - 1
"""No protobuf message is longer."""

CHECKSUM_BYTES = 5
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

EPILOG = """The checksum and the format are verified, and that buffers and integers fill their bytes; whether the values
are sound is known to a receiver of the same model only. exit codes: 0 done, 2 not a payload that can be read"""


@dataclass(frozen=True)
class Inspected:
    """A payload without its values; sizes in bytes. ``digest``, ``base_digest`` and ``schema`` are the 8 bytes in hex."""

    file: str
    format: int
    kind: str
    codec: str
    seed: int
    version: int
    digest: str
    base_digest: str | None  # of a DIFFERENCE
    schema: str
    parameters: int  # floats of the model: those in the body and the buffers
    buffers: int
    integers: int
    examples: int
    train_loss: float | None
    metrics: Mapping[str, Metric]
    residual: str
    bytes: int
    bytes_of: Mapping[str, int]  # header, body, buffers, integers, checksum

    @property
    def bits_a_parameter(self) -> float | None:
        """Return the bits of the whole payload per parameter; None where there is no parameter."""
        return 8 * self.bytes / self.parameters if self.parameters else None

    @property
    def raw_bytes(self) -> int:
        """Return the bytes of the same values as plain float32 and int64."""
        return 4 * self.parameters + 8 * self.integers


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    made = Parser(
        prog="fedlearn inspect",
        description="Tell what payloads are: codec, versions, digests, bytes by part.",
        epilog=EPILOG,
    )
    made.add_argument(
        "files", nargs="+", metavar="FILE", help="a payload; - for standard input"
    )
    made.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object per payload, each on its own line",
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 2 not a payload that this version reads."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    found = [inspect(name, _read(name)) for name in arguments.files]
    print(
        "\n".join(map(as_json, found))
        if arguments.json
        else "\n\n".join(map(text, found))
    )


def inspect(file: str, data: bytes) -> Inspected:
    """Return what a payload says of itself; ``file`` names it. Raises UserError for bytes that are none, or no sound one."""
    try:
        header, message = read_message(data)
    except FormatError as error:
        raise UserError(f"'{file}': {_why(data, str(error))}") from None
    parts = {
        "body": len(message.body),
        "buffers": len(message.buffers),
        "integers": len(message.integers),
    }
    if (
        parts["buffers"] % 4
        or parts["integers"] % 8
        or parts["buffers"] > 4 * message.parameters
    ):
        raise UserError(
            f"'{file}': {parts['buffers']} bytes of buffers or {parts['integers']} of integers are no whole number of values"
        )
    return Inspected(
        file=file,
        format=message.format,
        kind=_name(payload_pb2.Payload.Kind, header.kind),
        codec=header.codec,
        seed=header.seed,
        version=header.round,
        digest=header.digest.hex(),
        base_digest=header.base_digest.hex()
        if header.kind == payload_pb2.Payload.DIFFERENCE
        else None,
        schema=message.schema.to_bytes(8, "little").hex(),
        parameters=message.parameters,
        buffers=parts["buffers"] // 4,
        integers=parts["integers"] // 8,
        examples=header.examples,
        train_loss=_finite(header),
        metrics=header.metrics,
        residual=_name(payload_pb2.Payload.Residual, header.residual),
        bytes=len(data),
        bytes_of={
            "header": len(data) - sum(parts.values()) - CHECKSUM_BYTES,
            **parts,
            "checksum": CHECKSUM_BYTES,
        },
    )


def text(found: Inspected) -> str:
    """Return a payload for people: one line per fact."""
    where = (
        "of the model"
        if found.kind in ("SNAPSHOT", "DIFFERENCE")
        else "the client started from"
    )
    lines = {
        "kind": f"{found.kind.lower()}: {KINDS.get(found.kind, UNKNOWN)}",
        "format": str(found.format),
        "codec": f"{found.codec[:LONGEST]}: {codec_text(found.codec)}",
        "seed": str(found.seed),
        "version": f"{found.version}, {where}",
        "digest": found.digest,
        "base digest": found.base_digest,
        "schema": found.schema,
        "parameters": count_text(found.parameters)
        + (f", {count_text(found.buffers)} of them buffers" if found.buffers else ""),
        "integers": count_text(found.integers) if found.integers else None,
        "examples": count_text(found.examples) if found.examples else None,
        "train loss": None
        if found.train_loss is None
        else number_text(found.train_loss),
        **{f"metric {name}": str(value) for name, value in found.metrics.items()},
        "residual": None
        if found.residual == "NO_FEEDBACK"
        else f"{found.residual.lower()}: {RESIDUALS.get(found.residual, UNKNOWN)}",
        "bytes": ", ".join(
            f"{name} {count_text(count)}"
            for name, count in found.bytes_of.items()
            if count
        ),
        "together": f"{count_text(found.bytes)} bytes, {_density(found)}",
    }
    width = max(map(len, lines))
    facts = [
        f"  {_clean(key).ljust(width)}  {_clean(value)}"
        for key, value in lines.items()
        if value is not None
    ]
    return "\n".join([_clean(found.file), *facts])


def as_json(found: Inspected) -> str:
    """Return a payload as one line of JSON, with full precision."""
    ratio = found.raw_bytes / found.bytes
    return json.dumps(
        asdict(found)
        | {
            "bits_a_parameter": found.bits_a_parameter,
            "raw_bytes": found.raw_bytes,
            "ratio": ratio,
        }
    )


def codec_text(codec: str) -> str:
    """Return in words how a body is encoded: for a chain, its stages one after another. Imports no codec."""
    if codec == ZERO:
        return "no bytes at all: every value is 0"
    try:
        return "; ".join(STAGES[stage.name].about for stage in parse(codec).stages)
    except ConfigError:
        return UNKNOWN


def _density(found: Inspected) -> str:
    if found.bits_a_parameter is None:
        return "no parameters"
    return f"{found.bits_a_parameter:.3g} bits a parameter, {ratio_text(found.raw_bytes, found.bytes)} fewer than float32"


def _read(name: str) -> bytes:
    """Return a file's bytes; raises UserError for what is no file, or too long for a payload."""
    if name == "-":
        if sys.stdin is None:
            raise UserError("standard input is closed; give a file")
        return sys.stdin.buffer.read()
    path = Path(name)
    try:
        if path.is_dir():
            told = (
                " (of a run folder: fedlearn report)"
                if (path / LINES_FILE).exists()
                else ""
            )
            raise UserError(f"'{name}' is a folder; give the file of a payload{told}")
        if path.exists() and not (path.is_file() or path.is_fifo()):
            raise UserError(f"'{name}' is a device; give the file of a payload")
        with path.open("rb") as file:
            if path.is_file() and path.stat().st_size > LARGEST_BYTES:
                raise UserError(f"'{name}' is no payload: it is longer than 2 GB")
            return file.read()
    except OSError as error:
        raise UserError(f"'{name}': {error.strerror or error}") from None
    except ValueError as error:  # a name with a null byte
        raise UserError(f"'{name}': {error}") from None


def _why(data: bytes, reason: str) -> str:
    """Return why bytes are no payload that can be read, as far as one can tell from them."""
    if not data:
        return "the file is empty"
    if data[8:10] == b'{"' or data[:4] == b"PK\x03\x04":
        kind = (
            "a safetensors file"
            if data[8:9] == b"{"
            else "a zip archive, such as a PyTorch or NumPy file"
        )
        return (
            f"not a payload but {kind}; payloads are what clients and server exchange"
        )
    begins = data[:3] in {
        b"\x08\x01" + tag for tag in (b"\x10", b"\x19")
    }  # format 1, then kind or schema
    if begins and reason.startswith("not a payload"):
        return "the payload is damaged or cut short: it begins like one, but does not end with its checksum"
    return reason


def _name(enum: Any, number: int) -> str:
    return str(enum.Name(number)) if number in enum.values() else str(number)


def _finite(header: Header) -> float | None:
    return (
        header.train_loss
        if header.train_loss is not None and math.isfinite(header.train_loss)
        else None
    )


def _clean(words: str) -> str:
    return one_line(UserError(words))


if __name__ == "__main__":
    sys.exit(main())
