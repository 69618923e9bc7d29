"""What a release weighs beside what generic tools make of the same two versions.

python -m fedlearn.experiments.benchmarks.releases OLD NEW [OLD NEW …] [--chain RUN RUN …]

OLD, NEW: run folders of one model, NEW trained on from OLD. For each pair OLD is released
whole and NEW as a difference. A process of its own, which loads no torch, applies it. On the
same weights and the same ONNX files (weights inside), in the same run: ``zstd --patch-from``
(level 19, long distances), bsdiff and xdelta3 -9, towards the trained weights and towards the
released ones; the smallest counts.

--chain: one release after another, each as a difference from the one before. The process then
walks from the first to the last, and has to end where the whole weights are.

Needs the extra ``export``, xdelta3, and: pip install zstandard bsdiff4.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from fedlearn.commands.arguments import Parser, ended
from fedlearn.errors import UserError
from fedlearn.package.content import Package
from fedlearn.package.parts import GRAPH_FILE, WEIGHTS_FILE
from fedlearn.release.building import Release, base_of, inherited, release
from fedlearn.release.packing import Wishes
from fedlearn.release.registry import Registry
from fedlearn.runs.trained import Trained, load

NAME = "benchmark"

# A device: numpy and the package's reader. It holds OLD, and fetches differences from NEW.
DEVICE = """
import json, sys
from pathlib import Path
from fedlearn.package import content, difference
old, new = (content.read(Path(name)) for name in sys.argv[1:])
shapes = [tensor.shape for tensor in new.manifest.tensors]
fetched = []
def fetch(delta):
    fetched.append(delta.bytes)
    return new.file(delta.file)
weights = difference.arrive(
    old.weights(), shapes, new.manifest.weights_sha256, new.manifest.deltas, fetch
)
heavy = sorted({"torch", "flwr", "pydantic"} & set(sys.modules))
print(json.dumps([difference.weights_sha256(weights), fetched, heavy]))
"""


def patched(old: bytes, new: bytes) -> int:
    """Return the bytes of ``zstd --patch-from=old new`` at level 19."""
    import zstandard

    window = max(10, min(31, (len(old) + len(new)).bit_length() + 1))
    parameters = zstandard.ZstdCompressionParameters.from_level(
        19, window_log=window, enable_ldm=True
    )
    base = zstandard.ZstdCompressionDict(old, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    coder = zstandard.ZstdCompressor(dict_data=base, compression_params=parameters)
    return len(coder.compress(new))


def bsdiffed(old: bytes, new: bytes) -> int:
    """Return the bytes of bsdiff's patch."""
    import bsdiff4

    return len(bsdiff4.diff(old, new))


def xdelta(old: bytes, new: bytes) -> int:
    """Return the bytes of ``xdelta3 -9``'s patch."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "old").write_bytes(old)
        (folder / "new").write_bytes(new)
        command = ["xdelta3", "-9", "-f", "-e", "-s", "old", "new", "patch"]
        subprocess.run(command, cwd=folder, check=True)
        return (folder / "patch").stat().st_size


TOOLS: dict[str, Callable[[bytes, bytes], int]] = {
    "zstd": patched,
    "bsdiff": bsdiffed,
    "xdelta3": xdelta,
}


def onnx_file(package: Package) -> bytes:
    """Return a package's model as one ONNX file, weights inside."""
    import onnx

    model = onnx.load(package.folder / GRAPH_FILE)
    onnx.external_data_helper.convert_model_from_external_data(model)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def generic(old: Package, versions: Sequence[Package]) -> dict[str, tuple[int, float]]:
    """Return each tool's patch of the weights, in bytes and as a share of what it makes.

    The smallest share of the weights' and the ONNX file's, towards any of the versions.
    """
    best = {}
    for name, tool in TOOLS.items():
        sizes = []
        for new in versions:
            for read in (lambda package: package.file(WEIGHTS_FILE), onnx_file):
                whole = read(new)
                size = tool(read(old), whole)
                sizes.append((size, size / len(whole)))
        best[name] = min(sizes, key=lambda size: size[1])
    return best


def on_a_device(old: Package, new: Package) -> tuple[str, list[int]]:
    """Return the SHA-256 that a device arrives at, and the bytes of each difference."""
    command = [sys.executable, "-c", DEVICE, str(old.folder), str(new.folder)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    sha256, fetched, heavy = json.loads(output)
    if heavy:
        raise UserError(f"the device loaded {', '.join(heavy)}")
    return sha256, fetched


def released(
    trained: Trained, folder: Path, registry: Registry, whole: bool = False
) -> Release:
    """Release a model after those that the registry has."""
    base = base_of(registry, NAME)
    wishes = inherited(Wishes(name=NAME), base)
    # No gate: what it costs is what is measured here.
    made = release(trained, folder, wishes, base, gate=100, whole=whole)
    registry.add(made.package)
    return made


def compare(old: str, new: str, room: Path) -> dict[str, object]:
    """Return what a pair of runs gives."""
    with Registry(room / "registry", create=True) as registry:
        first = released(load(old), room / "old", registry)
        second = released(load(new), room / "new", registry)
    # What a generic tool would ship: the weights as they were trained.
    wishes = replace(Wishes(name=NAME), counter=2)
    plain = release(load(new), room / "plain", wishes, None)
    sha256, fetched = on_a_device(first.package, second.package)
    best = generic(first.package, [plain.package, second.package])
    whole = second.package.manifest.files[WEIGHTS_FILE].bytes
    smallest = min(size for size, _ in best.values())
    return {
        "model": second.package.manifest.run.model,
        "whole": whole,
        "difference": sum(fetched),
        **{name: size for name, (size, _) in best.items()},
        "times_smaller": smallest / sum(fetched),
        "before": first.accuracy,
        "trained": second.trained_accuracy,
        "released": second.accuracy,
        "same_sha256": sha256 == second.package.manifest.weights_sha256,
    }


def chained(runs: Sequence[str], room: Path) -> dict[str, object]:
    """Return what comes of releases one after another, from the first to the last."""
    builds = []
    with Registry(room / "registry", create=True) as registry:
        for number, run in enumerate(runs):
            builds.append(released(load(run), room / str(number), registry))
    last = builds[-1]
    listed = last.package.manifest
    ends = []
    links: list[int] = []
    for start in builds[:-1]:
        sha256, fetched = on_a_device(start.package, last.package)
        ends.append(sha256 == listed.weights_sha256)
        links = max(links, fetched, key=len)
    return {
        "releases": len(builds),
        "links": links,
        "whole": listed.files[WEIGHTS_FILE].bytes,
        "trained": [100 * build.trained_accuracy for build in builds],
        "released": [100 * build.accuracy for build in builds],
        "all_end_at_one_sha256": all(ends),
    }


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    p = Parser(
        prog="python -m fedlearn.experiments.benchmarks.releases",
        description="Weigh releases beside generic patches of the same versions.",
    )
    p.add_argument("runs", nargs="*", metavar="OLD NEW", help="pairs of run folders")
    p.add_argument("--chain", nargs="+", default=[], metavar="RUN")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    """Print a line of JSON for each pair, and one for the chain."""
    if len(arguments.runs) % 2:
        raise UserError("name runs in pairs: OLD NEW OLD NEW …")
    for place in range(0, len(arguments.runs), 2):
        with tempfile.TemporaryDirectory() as name:
            line = compare(arguments.runs[place], arguments.runs[place + 1], Path(name))
        print(json.dumps(line), flush=True)
    if arguments.chain:
        with tempfile.TemporaryDirectory() as name:
            print(json.dumps(chained(arguments.chain, Path(name))), flush=True)


if __name__ == "__main__":
    sys.exit(main())
