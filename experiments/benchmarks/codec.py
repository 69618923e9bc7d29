"""Rate and distortion of every codec on recorded updates, beside the limits of theory.

python -m fedlearn.experiments.benchmarks.codec RECORDINGS [--chains TEXT …] [--out DIR] [--seeds N]

RECORDINGS is a folder that `record_updates` wrote. "up" is a client's update x, with how far
its start had moved from the first model as what both ends know; "down" is the model minus the
copy that a client holds, with how far that copy had moved. Every chain encodes and decodes each
of them with N seeds. Left in DIR: ``results.jsonl`` (one line per recording, direction and
chain), ``table.txt`` and the plots of `codec_plots`.

error    ‖x − x̂‖² / ‖x‖², the mean over seeds, x̂ as the chain decodes it: unbiased estimates
         may exceed 1
shape    the same after x̂ is multiplied by the one number that makes it least: what the bytes
         say of x's direction
along    ⟨x, x̂⟩ / ‖x‖², the mean over seeds: near 1 where a chain is unbiased, below 1 where it
         only contracts
entropy  order-0 entropy of the symbols sent, in bits per value, and ``above``: how much more
         the body takes, in percent (below 0: it takes less). Scales and headers are in the body
         and not in the entropy. uvq and cvq have none here: nearly all of their symbols are of
         fixed length.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from fedlearn.arrays import Sparse
from fedlearn.codec import Codec, Context, codec
from fedlearn.commands.arguments import Parser, ended
from fedlearn.engine.runner import single_thread
from fedlearn.errors import ConfigError, DataError, FedlearnError, one_line
from fedlearn.experiments.benchmarks import codec_plots
from fedlearn.experiments.benchmarks.codec_entropy import entropy
from fedlearn.reporting.table import plain

Floats = NDArray[np.float32]

RATES = (0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1)
SHARES = (0.001, 0.0025, 0.01, 0.02, 0.05)
PACKS = ("rice", "gapz", "grid", "range")
CHAINS = (
    *("raw32", "f16", "bf16", "q8", "q4", "q4+deflate", "eden1", "sign"),
    *(f"uvq({r})" for r in RATES),
    *(
        f"{pred}cvq({r},{eta})"
        for pred in ("", "pred+")
        for eta in (0, 1)
        for r in RATES
    ),
    *(f"pred+topk({p})+q4c" for p in SHARES),
    *(
        f"topk({p})+{quantise}+{pack}"
        for quantise in ("tern", "q4c", "f16")
        for pack in PACKS
        for p in SHARES
    ),
    *(f"randk({p})+{quantise}" for quantise in ("q4", "raw32") for p in SHARES),
)
"""What is measured unless ``--chains`` says otherwise."""


@dataclass(frozen=True)
class Recording:
    """A vector to send, (P,) float32, and what both ends know besides the bytes."""

    name: str  # workload and stage, for example "2nn-iid-late"
    direction: str  # "up" or "down"
    values: Floats
    context: Context


@dataclass(frozen=True)
class Result:
    """What one chain makes of one recording; see the module's text for the words."""

    recording: str
    direction: str
    chain: str
    parameters: int
    bytes: int  # of the whole body, the mean over seeds
    bits: float  # per parameter
    error: float
    shape: float
    along: float
    encode_ms: float  # the shortest over seeds
    decode_ms: float
    copy_ms: float  # of the same values, in the same run
    entropy: (
        float | None
    )  # bits per parameter; None where a chain's symbols cannot be told from outside
    above: float | None  # percent


def recordings(folder: Path) -> Iterator[Recording]:
    """Yield the update and the difference of every recording of a folder; raises DataError for
    what is not one.
    """
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise DataError(
            f"{folder} holds no recordings (*.npz); make them with "
            f"fedlearn.experiments.benchmarks.record_updates"
        )
    for path in paths:
        yield from recorded(path)


def recorded(path: Path) -> tuple[Recording, Recording]:
    """Return the update and the difference of one recording; raises DataError for what is not
    one.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            w0, start, update, copy, model = (
                file[key].astype(np.float32)
                for key in ("w0", "start", "update", "copy", "model")
            )
            shapes = tuple(tuple(shape) for _, shape in json.loads(str(file["shapes"])))
        up, down = Context(shapes, start - w0), Context(shapes, copy - w0)
        size, difference = up.size, model - copy
    except (OSError, EOFError, BadZipFile, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a recording: {one_line(error)}") from error
    if not all(
        vector.shape == (size,) and np.isfinite(vector).all()
        for vector in (w0, update, difference)
    ):
        raise DataError(
            f"{path}: its vectors are not {size} finite values each, as its shapes say"
        )
    return Recording(path.stem, "up", update, up), Recording(
        path.stem, "down", difference, down
    )


def measure(made: Codec, chain: str, recording: Recording, seeds: int) -> Result:
    """Encode and decode one recording with each seed; raises PayloadError where the chain
    cannot carry it.
    """
    x, size = recording.values.astype(np.float64), recording.context.size
    energy = float(
        np.square(x).sum()
    )  # not x @ x: BLAS would start threads, which spin beside what is timed
    rows = []
    for seed in range(1, seeds + 1):
        begun = time.perf_counter()
        body = made.encode(recording.values, seed, recording.context)
        encoded = time.perf_counter()
        decoded = made.decode(body, seed, recording.context)
        done = time.perf_counter()
        found = (decoded.dense() if isinstance(decoded, Sparse) else decoded).astype(
            np.float64
        )
        along, own = (
            float((x * found).sum()) / energy,
            float(np.square(found).sum()) / energy,
        )
        shape = 1 - along**2 / own if own > 0 else 1.0
        rows.append(
            (
                len(body),
                float(np.square(x - found).sum()) / energy,
                shape,
                along,
                encoded - begun,
                done - encoded,
            )
        )
    body_bytes, *errors = np.mean(rows, axis=0).tolist()
    encode_s, decode_s = np.min(rows, axis=0).tolist()[-2:]
    bits = 8 * body_bytes / size
    least = entropy(chain, decoded, recording.context)
    return Result(
        recording=recording.name,
        direction=recording.direction,
        chain=chain,
        parameters=size,
        bytes=round(body_bytes),
        bits=bits,
        error=errors[0],
        shape=errors[1],
        along=errors[2],
        encode_ms=1e3 * encode_s,
        decode_ms=1e3 * decode_s,
        copy_ms=_copy_ms(recording.values),
        entropy=least,
        above=100 * (bits / least - 1) if least else None,
    )


def _copy_ms(values: Floats) -> float:
    into, taken = np.empty_like(values), []
    for _ in range(5):
        begun = time.perf_counter()
        np.copyto(into, values)
        taken.append(time.perf_counter() - begun)
    return 1e3 * min(taken)


def benchmark(folder: Path, chains: Iterable[str], seeds: int) -> Iterator[Result]:
    """Yield one result per recording, direction and chain; a chain that is not there, or
    cannot, is named and skipped.
    """
    made: dict[str, Codec] = {}
    for chain in chains:
        try:
            made[chain] = codec(chain)
        except FedlearnError as error:
            print(f"skipped {chain}: {one_line(error)}", file=sys.stderr)
    for recording in recordings(folder):
        print(f"{recording.name} {recording.direction}", file=sys.stderr, flush=True)
        if not recording.values.any():
            print("  skipped: nothing has changed", file=sys.stderr)
            continue
        for chain, coder in made.items():
            try:
                yield measure(coder, chain, recording, seeds)
            except FedlearnError as error:
                print(f"  skipped {chain}: {one_line(error)}", file=sys.stderr)


def report(results: Sequence[Result]) -> str:
    """Return the results as a text table, by recording and direction."""
    heads = (
        "recording",
        "",
        "chain",
        "bits",
        "x less",
        "error",
        "shape",
        "along",
        "encode ms",
        "decode ms",
        "copy ms",
        "entropy",
        "above",
    )
    rows = [
        (
            r.recording, r.direction, r.chain,
            f"{r.bits:.4f}", f"{32 / r.bits:.1f}", f"{r.error:.4g}", f"{r.shape:.4g}",
            f"{r.along:.3f}", f"{r.encode_ms:.2f}", f"{r.decode_ms:.2f}", f"{r.copy_ms:.2f}",
            "" if r.entropy is None else f"{r.entropy:.4f}",
            "" if r.above is None else f"{r.above:+.1f} %",
        )
        for r in results
    ]  # fmt: skip
    return plain([heads, *rows])


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    p = Parser(
        prog="python -m fedlearn.experiments.benchmarks.codec",
        description=(
            "Measure bits, error and time of codecs on recorded updates and "
            "model differences."
        ),
    )
    p.add_argument(
        "recordings",
        type=Path,
        metavar="RECORDINGS",
        help="folder of recordings, see record_updates",
    )
    p.add_argument(
        "--chains",
        nargs="+",
        metavar="TEXT",
        default=CHAINS,
        help=f"codecs to measure (default: {len(CHAINS)} of them)",
    )
    p.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=Path("codec-benchmark"),
        help="where the results go (default: %(default)s)",
    )
    p.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        default=3,
        help="how often each is encoded (default: %(default)s)",
    )
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    return ended(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    if arguments.seeds < 1:
        raise ConfigError(f"--seeds {arguments.seeds}: at least 1")
    if arguments.out.exists() and not arguments.out.is_dir():
        raise ConfigError(f"--out {arguments.out} is a file; name a folder")
    single_thread()
    results = list(benchmark(arguments.recordings, arguments.chains, arguments.seeds))
    if not results:
        raise ConfigError("nothing could be measured; see the lines above")
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "results.jsonl").write_text(
        "".join(json.dumps(asdict(r)) + "\n" for r in results)
    )
    text = report(results)
    (arguments.out / "table.txt").write_text(text)
    print(text)
    for path in codec_plots.draw(results, arguments.out):
        print(path)


if __name__ == "__main__":
    sys.exit(main())
