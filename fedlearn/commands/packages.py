"""What the commands print of packages: their checks, their content, their differences."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from fedlearn.package import content, function_golden, golden, keys, signature
from fedlearn.package.accepting import Terms, accept, check_expiry
from fedlearn.package.content import Package
from fedlearn.package.functions import Function
from fedlearn.package.manifest import Manifest
from fedlearn.package.parts import GRAPH_FILE, WEIGHTS_FILE, Port
from fedlearn.reporting.units import bytes_text, count_text
from fedlearn.text import first_few

# Characters of a hash where it is shown beside others.
_SHORT = 12

# Of the first column.
_WIDTH = 14


def verified(
    folder: Path,
    key_paths: Sequence[Path],
    floor: int,
    device: str,
    runs: bool,
) -> Iterator[str]:
    """Yield a line for each check that a package passes.

    floor, device: as `Terms` has them. runs: the golden inputs too. Raises PackageError at
    the first check that it fails, UserError.
    """
    now = datetime.now(timezone.utc)
    pems = [keys.read(path) for path in key_paths]
    package = content.read(folder)
    manifest = package.manifest
    yield _row(
        "package", f"{manifest.name} {manifest.counter}, sha256 {package.sha256}"
    )
    yield _row("content", f"{_files_text(manifest)}: every byte as listed")
    if pems:
        accepted = {keys.fingerprint(pem): pem for pem in pems}
        terms = Terms(accepted, floor=floor, device=device, now=now)
        acceptance = accept(package, terms)
        signers = [signer[:_SHORT] for signer in acceptance.signers]
        yield _row("signature", f"by the key {' and '.join(signers)}")
        yield _row(
            "accepted", f"{_limits(manifest)}; the next floor: {acceptance.floor}"
        )
    else:
        check_expiry(manifest, now)
        yield _row("signature", "not checked: name the key, as in --key release.pem")
    if not runs:
        return
    for int8 in (False, True)[: 1 if manifest.int8 is None else 2]:
        check = golden.check(package, int8)
        name = "golden int8" if int8 else "golden"
        yield _row(
            name,
            f"{check.runtime}: at most {check.difference:.1e} off, {check.tolerance:.1e} "
            "is allowed",
        )
    functions = function_golden.check(package)
    if functions is not None:
        names = first_few(functions.names)
        yield _row(
            "functions",
            f"{names}: at most {functions.difference:.1e} off, within time and memory",
        )


def shown(package: Package) -> Iterator[str]:
    """Yield lines that say what a package is."""
    manifest = package.manifest
    yield _row("package", f"{manifest.name} {manifest.counter}")
    yield _row("sha256", package.sha256)
    yield _row("limits", _limits(manifest))
    for target in manifest.targets:
        devices = first_few(target.devices) or "any device"
        yield _row("for", f"{target.runtime}, opset {target.opset}, {devices}")
    yield _row("model", manifest.run.model)
    yield _row("model sha256", manifest.run.model_sha256)
    yield _row("config sha256", manifest.run.config_sha256)
    values = sum(tensor.size for tensor in manifest.tensors)
    yield _row("weights", f"{count_text(values)} in {len(manifest.tensors)} tensors")
    for port, name in ((manifest.input, "input"), (manifest.output, "output")):
        yield _row(name, _port_text(port))
    steps = manifest.preprocessing
    divided = "" if steps.divide is None else f", divided by {steps.divide:g}"
    yield _row("samples", f"{steps.dtype}, cast to {steps.cast}{divided}")
    yield _row("labels", first_few(manifest.labels))
    for function in manifest.functions:
        yield _row(function.role, _function_text(function))
    yield _row("int8", "none" if manifest.int8 is None else "rebuilt on the device")
    yield _row("watched", _health_text(manifest))
    for path, entry in manifest.listed.items():
        yield _row(
            "file", f"{path}, {bytes_text(entry.bytes)}, {entry.sha256[:_SHORT]}"
        )
    yield _row("signed by", _signers_text(package))


def compared(old: Package, new: Package) -> Iterator[str]:
    """Yield lines that say how one package differs from another."""
    yield _row("old", f"{old.manifest.name} {old.manifest.counter}, {old.sha256}")
    yield _row("new", f"{new.manifest.name} {new.manifest.counter}, {new.sha256}")
    if old.sha256 == new.sha256:
        yield _row("same", "every byte but the signatures'")
        return
    yield from _fields_compared(old.manifest, new.manifest)
    for path in sorted({*old.manifest.files, *new.manifest.files}):
        before = old.manifest.files.get(path)
        after = new.manifest.files.get(path)
        if before == after:
            yield _row("same", path)
        elif after is None:
            yield _row("gone", path)
        else:
            yield _row("differs", f"{path}, {bytes_text(after.bytes)}")
    yield from _weights_compared(old, new)
    yield _row("to fetch", _fetch_text(old.manifest, new.manifest))


def _port_text(port: Port) -> str:
    lengths = ["any" if length is None else str(length) for length in port.shape]
    return f"'{port.name}' ({', '.join(lengths)}) {port.dtype}"


def _function_text(function: Function) -> str:
    outputs = ", ".join(_port_text(port) for port in function.outputs)
    return (
        f"{function.name}: {_port_text(function.input)} → {outputs}, up to "
        f"{function.time_ms} ms and {function.memory_mb} MB"
    )


def _fields_compared(old: Manifest, new: Manifest) -> Iterator[str]:
    """Yield the fields of two manifests that differ, but for hashes of files."""
    before = json.loads(old.to_bytes())
    after = json.loads(new.to_bytes())
    # An optional field may be in one of them alone.
    for key in sorted({*before, *after}):
        if key in ("files", "deltas", "tensors", "weights_sha256", "int8"):
            continue
        if before.get(key) != after.get(key):
            yield _row(key, f"{_short(before.get(key))} → {_short(after.get(key))}")


def _weights_compared(old: Package, new: Package) -> Iterator[str]:
    """Yield how far the weights are apart, or that they are of other shapes."""
    if old.manifest.tensors != new.manifest.tensors:
        yield _row("weights", "of other names or shapes")
        return
    before = old.weights().astype(np.float64)
    change = new.weights() - before
    length = float(np.linalg.norm(before))
    moved = float(np.linalg.norm(change))
    share = f"{100 * moved / length:.2f} % of their norm" if length else "from 0"
    differing = int(np.count_nonzero(change))
    yield _row("weights", f"{count_text(differing)} of {change.size} moved, by {share}")


def _fetch_text(old: Manifest, new: Manifest) -> str:
    """Return what a device has to fetch that has the old package."""
    total = len(new.to_bytes())
    for path, entry in new.files.items():
        if path != WEIGHTS_FILE and old.files.get(path) != entry:
            total += entry.bytes
    if old.weights_sha256 == new.weights_sha256:
        return f"{bytes_text(total)}, no weights"
    whole_bytes = total + new.files[WEIGHTS_FILE].bytes
    for delta in new.deltas:
        if delta.base_sha256 == old.weights_sha256:
            by_delta = bytes_text(total + delta.bytes)
            return f"{by_delta} by a difference, {bytes_text(whole_bytes)} whole"
    return f"{bytes_text(whole_bytes)}; there is no difference from the old weights"


def _files_text(manifest: Manifest) -> str:
    size = sum(entry.bytes for entry in manifest.files.values())
    graph = manifest.files[GRAPH_FILE].bytes
    return f"{len(manifest.files)} files, {bytes_text(size)}, graph {bytes_text(graph)}"


def _limits(manifest: Manifest) -> str:
    expires = "never expires"
    if manifest.expires is not None:
        expires = f"expires {manifest.expires}"
    text = f"counter {manifest.counter}, {expires}"
    if manifest.rollback is not None:
        text += f", takes back releases up to {manifest.rollback}"
    if manifest.keys is not None:
        text += f", hands over to {len(manifest.keys)} keys"
    return text


def _health_text(manifest: Manifest) -> str:
    health = manifest.health
    texts = []
    if health.errors is not None:
        texts.append(f"errors up to {health.errors:g}")
    if health.p99_ms is not None:
        texts.append(f"p99 up to {health.p99_ms:g} ms")
    if health.drift is not None:
        texts.append(f"drift up to {health.drift:g}")
    if health.unsure is not None:
        least = health.least_confidence
        texts.append(f"unsure (below {least:g}) up to {health.unsure:g}")
    if health.disagreement is not None:
        texts.append(f"disagreement up to {health.disagreement:g}")
    return ", ".join(texts) or "nothing"


def _signers_text(package: Package) -> str:
    """Return whose signatures a package has; show verifies none of them."""
    names = []
    for name, data in package.signatures().items():
        names.append(signature.read(data, name).key[:_SHORT])
    if not names:
        return "nobody"
    return f"{' and '.join(names)}, not checked: fedlearn package verify DIR --key PEM"


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _row(name: str, text: str) -> str:
    return f"{name:<{_WIDTH}}{text}"
