"""The work on a release that takes numpy or the runtime, as a process of its own.

The agent stays small, and a release that takes all memory or never returns ends this process
and nothing else. ``python -m fedlearn.clients.device.release_work`` reads one JSON object and
writes one: "objection" is null where all is well; "failed" is there where nothing is known.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fedlearn.clients.device import probe
from fedlearn.clients.device.slots import INCOMING, InstallDisk
from fedlearn.errors import (
    FedlearnError,
    FormatError,
    PackageError,
    one_line,
    reason_of,
)
from fedlearn.exchange.releases import ReleaseId
from fedlearn.package import (
    accepting,
    content,
    difference,
    function_golden,
    function_run,
    golden,
    keys,
)
from fedlearn.package.content import Package
from fedlearn.package.manifest import Manifest, from_bytes
from fedlearn.package.parts import MANIFEST_FILE, WEIGHTS_FILE, Delta
from fedlearn.system import files

# Runs of one sample whose time is taken, after one that allocates.
RUNS = 20

Reply = dict[str, Any]


def work(order: Mapping[str, Any]) -> Reply:
    """Do a piece of work, and return what came of it; raises nothing of a package's."""
    steps = {
        "inspect": _inspect,
        "assemble": _assemble,
        "verify": _verify,
        "stage": _stage,
        "try": _try,
    }
    try:
        return steps[order["step"]](order)
    # Of this board at this moment, and not of the release.
    except MemoryError as error:
        return {"objection": one_line(error), "failed": True}
    except (FedlearnError, OSError) as error:
        return {"objection": one_line(error)}


def _release(order: Mapping[str, Any]) -> ReleaseId:
    return ReleaseId(order["name"], order["counter"], order["digest"])


def _incoming(order: Mapping[str, Any]) -> Path:
    return Path(order["folder"], INCOMING, order["digest"])


def _manifest(folder: Path) -> Manifest:
    return from_bytes((folder / MANIFEST_FILE).read_bytes())


def _inspect(order: Mapping[str, Any]) -> Reply:
    disk = InstallDisk(Path(order["folder"]))
    return {"objection": disk.objection(order["slot"], _release(order))}


def _assemble(order: Mapping[str, Any]) -> Reply:
    """Make the weights of differences; "needs": the next one that is not here."""
    folder = _incoming(order)
    target = _manifest(folder)
    disk = InstallDisk(Path(order["folder"]))
    bases = [disk.place(slot) for slot in ("a", "b")]
    by_base = {delta.base_sha256 for delta in target.deltas}
    for place in bases:
        if not content.is_package(place):
            continue
        base = content.read(place)
        if base.manifest.weights_sha256 in by_base:
            return _arrive(base, folder, target)
    return {"objection": "no slot has the weights that a difference leads on from"}


def _arrive(base: Package, folder: Path, target: Manifest) -> Reply:
    needed: list[str] = []

    def fetch(delta: Delta) -> bytes:
        path = folder / delta.file
        if not path.exists():
            needed.append(delta.file)
            raise FormatError(f"'{delta.file}' is not here yet")
        return path.read_bytes()

    shapes = [tensor.shape for tensor in target.tensors]
    try:
        weights = difference.arrive(
            base.weights(), shapes, target.weights_sha256, target.deltas, fetch
        )
    except FormatError as error:
        if needed:
            return {"objection": None, "needs": needed[0]}
        return {"objection": one_line(error)}
    data = weights.astype("<f4", copy=False).tobytes()
    files.replace(folder / WEIGHTS_FILE, data)
    return {"objection": None}


def _verify(order: Mapping[str, Any]) -> Reply:
    """Check every byte, who signed it, and whether it is for this device."""
    package = content.read(_incoming(order))
    accepted = {}
    for text in order["keys"]:
        pem = keys.public_key(text.encode(), "a release key of this device")
        accepted[keys.fingerprint(pem)] = pem
    # A board without a clock says 1970: nothing expires on it.
    now = datetime.now(timezone.utc)
    has_clock = now.year >= 2024
    terms = accepting.Terms(
        keys=accepted,
        names=tuple(order["names"]),
        floor=order["floor"],
        device=order["device"],
        now=now if has_clock else None,
        functions=order["functions"],
    )
    accepting.accept(package, terms)
    return {"objection": None}


def _stage(order: Mapping[str, Any]) -> Reply:
    disk = InstallDisk(Path(order["folder"]))
    disk.stage(content.read(_incoming(order)), order["slot"], _release(order))
    # The slot has all of it: a board's disk is small.
    shutil.rmtree(_incoming(order))
    return {"objection": None}


def _try(order: Mapping[str, Any]) -> Reply:
    """Run the golden inputs on this board, and take the time and memory of one sample."""
    disk = InstallDisk(Path(order["folder"]))
    package = content.read(disk.place(order["slot"]))
    golden.check(package)
    function_golden.check(package)
    if order.get("probe") is not None:
        probe.check(package, Path(order["probe"]), order["least_accuracy"])
    manifest = package.manifest
    health = manifest.health
    run_ms = _run_ms(package)
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    limit_ms = health.p99_ms
    reply: Reply = {"objection": None, "run_ms": run_ms, "megabytes": megabytes}
    if limit_ms is not None and run_ms > limit_ms:
        text = f"one sample takes {run_ms:.1f} ms, more than {limit_ms:g}"
        raise PackageError("latency", text)
    limit = order["most_megabytes"]
    if limit and megabytes > limit:
        text = f"it takes {megabytes} MB, and the owner lets {limit}"
        raise PackageError("memory", text)
    reply["limits"] = {
        "errors": health.errors,
        "p99_ms": health.p99_ms,
        "drift": health.drift,
        "unsure": health.unsure,
        "disagreement": health.disagreement,
    }
    reply["floor"] = 0 if manifest.rollback is None else manifest.rollback + 1
    return reply


def _run_ms(package: Package) -> float:
    """Return the median time of one sample, with the functions around the model."""
    inputs = golden.read(package).inputs[:1]
    session = golden.session(package)
    functions = function_run.load(package)
    # What clients send is no input of the model.
    samples = None
    if functions is not None and functions.before:
        samples = function_golden.read(package)[function_golden.INPUTS][:1]

    def run() -> None:
        if functions is not None and samples is not None:
            functions.prepare(samples)
        outputs = golden.run(session, package.manifest, inputs)
        if functions is not None:
            functions.answer(outputs)

    run()
    durations = []
    for _ in range(RUNS):
        began = time.perf_counter()
        run()
        durations.append(time.perf_counter() - began)
    return 1000 * sorted(durations)[RUNS // 2]


def main() -> None:
    """Do the work that standard input asks for."""
    try:
        reply = work(json.load(sys.stdin))
    # Whatever it is, the agent is told, in one line.
    except Exception as error:
        reply = {"objection": reason_of(error), "failed": True}
    print(json.dumps(reply))


if __name__ == "__main__":
    main()
