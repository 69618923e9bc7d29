"""The parts of a manifest: what each one is, and how it is read from its fields."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from math import prod

from fedlearn.errors import PackageError
from fedlearn.package.fields import Fields, shape_of
from fedlearn.text import shortened

MANIFEST_FILE = "manifest.json"
GRAPH_FILE = "graph.onnx"
WEIGHTS_FILE = "weights.bin"
GOLDEN_FILE = "golden.npz"
# Of the golden file, what follows from the test samples alone: releases of a model share it.
SAMPLES_FILE = "samples.npz"
# Its weights are rebuilt by the manifest's recipe, and lie in no package.
INT8_GRAPH_FILE = "int8.onnx"
INT8_WEIGHTS_FILE = "int8.bin"
DELTAS_FOLDER = "deltas"
FUNCTIONS_FOLDER = "functions"
# What each function of a package must give.
FUNCTIONS_GOLDEN_FILE = f"{FUNCTIONS_FOLDER}/golden.npz"

# The files that every package has besides its manifest and its signature.
REQUIRED = (GRAPH_FILE, WEIGHTS_FILE, GOLDEN_FILE)
OPTIONAL = (SAMPLES_FILE, INT8_GRAPH_FILE)

MOST_TENSORS = 10_000
MOST_FILES = 16
MOST_DELTAS = 64
MOST_FUNCTIONS = 8
MOST_OPSET = 1000
# Of weights.bin: what one protobuf graph may point into, and a device may map.
MOST_WEIGHT_BYTES = 1 << 31
# Of any other file.
MOST_FILE_BYTES = 1 << 30
# Of a function's graph, its constants included.
MOST_FUNCTION_BYTES = 8 << 20

# Values of a tensor take 4 bytes each.
FLOAT_BYTES = 4

# An answer is unsure whose highest probability is below, where the manifest says no other.
CONFIDENCE = 0.5

# Limits of `Health` that no manifest had at first.
_LATER_LIMITS = ("unsure", "disagreement", "confidence")

DTYPES = ("float32", "int64", "uint8", "int16")

# Of packages, runtimes and the like.
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_FUNCTION_FILE = re.compile(rf"{FUNCTIONS_FOLDER}/[a-z0-9][a-z0-9._-]{{0,63}}\.onnx")
_DTYPE = re.compile("|".join(DTYPES))


@dataclass(frozen=True)
class ListedFile:
    """A file's SHA-256, 64 hex digits, and its size."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class ListedTensor:
    """A float32 tensor of weights.bin: its name in the model's state, and its shape."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Return the number of values."""
        return prod(self.shape)


@dataclass(frozen=True)
class Port:
    """The graph's input or output; a length of None is any length, such as the batch's."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class Support:
    """What a device must have: a runtime, an opset, and a class that is named, if any is.

    devices: names of the owner's choice, such as "jetson"; empty: every device.
    """

    runtime: str
    opset: int
    devices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preprocessing:
    """How a raw sample becomes the graph's input: cast, then divided by ``divide`` if any."""

    dtype: str
    cast: str
    divide: float | None = None


@dataclass(frozen=True)
class Health:
    """What a device watches after it has switched, and goes back on; None: not watched.

    errors: the largest share of failed requests. p99_ms: the longest 99th percentile of a
    request's time. drift: the largest population stability index against the golden
    histograms. unsure: the largest share of answers whose highest probability is below
    confidence. disagreement: the largest share of answers that the release before labels
    otherwise.
    """

    errors: float | None = None
    p99_ms: float | None = None
    drift: float | None = None
    unsure: float | None = None
    disagreement: float | None = None
    confidence: float | None = None

    @property
    def least_confidence(self) -> float:
        """Return the probability below which an answer is unsure, 0 to 1."""
        return CONFIDENCE if self.confidence is None else self.confidence

    def fields(self) -> dict[str, float | None]:
        """Return the limits as the manifest has them: those that came later only if any.

        So a package of before is read, and one without them has the bytes that it had.
        """
        limits = asdict(self)
        for name in _LATER_LIMITS:
            if limits[name] is None:
                del limits[name]
        return limits


@dataclass(frozen=True)
class Origin:
    """The run that the weights come from. codec: of its updates, as the config has it."""

    model: str
    model_sha256: str
    config_sha256: str
    codec: str = ""


@dataclass(frozen=True)
class Delta:
    """A difference that leads from other weights to these.

    base_sha256: of the other package's weights.bin.
    """

    base_sha256: str
    file: str
    sha256: str
    bytes: int


def delta_file(base_sha256: str) -> str:
    """Return the path of the difference from weights of this SHA-256, in a package."""
    return f"{DELTAS_FOLDER}/{base_sha256[:16]}.fl"


def function_file(name: str) -> str:
    """Return the path of a function's graph, in a package."""
    return f"{FUNCTIONS_FOLDER}/{name}.onnx"


def is_function_file(path: str) -> bool:
    """Tell whether a path is one that functions have: a graph's, or their golden file's."""
    is_graph = _FUNCTION_FILE.fullmatch(path) is not None
    return is_graph or path == FUNCTIONS_GOLDEN_FILE


def read_targets(fields: Fields) -> tuple[Support, ...]:
    """Return what devices must have, from the field ``targets``. Raises PackageError."""
    targets = []
    for index, value in enumerate(fields.items("targets", most=64, least=1)):
        target = Fields(value, f"manifest.targets[{index}]")
        support = Support(
            runtime=target.text("runtime", 64, NAME),
            opset=target.whole("opset", least=1, most=MOST_OPSET),
            devices=target.texts("devices", 64, 64),
        )
        target.end()
        targets.append(support)
    return tuple(targets)


def read_files(fields: Fields) -> dict[str, ListedFile]:
    """Return the files by their paths, from the field ``files``. Raises PackageError."""
    files = {}
    for path, value in fields.names("files", MOST_FILES).items():
        check_path(path)
        entry = Fields(value, f"manifest.files['{path}']")
        limit = _most_bytes(path)
        files[path] = ListedFile(
            entry.sha256("sha256"), entry.whole("bytes", most=limit)
        )
        entry.end()
    for path in REQUIRED:
        if path not in files:
            raise PackageError("manifest", f"manifest.files lacks '{path}'")
    # A device would keep a file that nothing here reads, whatever it is.
    for path in files:
        if path not in (*REQUIRED, *OPTIONAL) and not is_function_file(path):
            raise PackageError("manifest", f"manifest.files has '{path[:100]}'")
    return files


def _most_bytes(path: str) -> int:
    """Return how large a file of a package may be."""
    if path == WEIGHTS_FILE:
        return MOST_WEIGHT_BYTES
    is_function = path.endswith(".onnx") and is_function_file(path)
    return MOST_FUNCTION_BYTES if is_function else MOST_FILE_BYTES


def check_path(path: str) -> None:
    """Refuse a path that could lead out of a package. Raises PackageError, "path"."""
    parts = path.split("/")
    is_sound = len(path) <= 200 and len(parts) <= 4
    if not is_sound or not all(_PART.fullmatch(part) for part in parts):
        raise PackageError(
            "path", f"{path[:200]!r} is no plain path of a file inside the package"
        )
    # Of the package itself: these are never listed.
    if path == MANIFEST_FILE or path.endswith(".sig"):
        raise PackageError(
            "path", f"the manifest lists '{path}', which lies outside it"
        )


def read_tensors(fields: Fields) -> tuple[ListedTensor, ...]:
    """Return the tensors of weights.bin in their order. Raises PackageError."""
    tensors = []
    names = set()
    for index, value in enumerate(fields.items("tensors", MOST_TENSORS)):
        place = f"manifest.tensors[{index}]"
        tensor = Fields(value, place)
        name = tensor.text("name", 500)
        shape = shape_of(tensor.value("shape"), f"{place}.shape")
        tensor.end()
        if name in names:
            raise PackageError(
                "manifest", f"{place} names '{shortened(name, 100)}' again"
            )
        names.add(name)
        # No axis is open here.
        lengths = tuple(length or 0 for length in shape)
        tensors.append(ListedTensor(name, lengths))
    return tuple(tensors)


def read_port(fields: Fields) -> Port:
    """Return an input or output. Raises PackageError."""
    port = Port(
        name=fields.text("name", 200),
        shape=shape_of(fields.value("shape"), "manifest input or output", is_open=True),
        dtype=fields.text("dtype", 16, _DTYPE),
    )
    fields.end()
    return port


def read_preprocessing(fields: Fields) -> Preprocessing:
    """Return how samples become inputs. Raises PackageError."""
    steps = Preprocessing(
        dtype=fields.text("dtype", 16, _DTYPE),
        cast=fields.text("cast", 16, _DTYPE),
        divide=fields.optional_number("divide", 1e-30, 1e30),
    )
    fields.end()
    return steps


def read_origin(fields: Fields) -> Origin:
    """Return where the weights come from. Raises PackageError."""
    origin = Origin(
        model=fields.text("model", 200),
        model_sha256=fields.sha256("model_sha256"),
        config_sha256=fields.sha256("config_sha256"),
        codec=fields.text("codec", 200),
    )
    fields.end()
    return origin


def read_health(fields: Fields) -> Health:
    """Return what a device watches. Raises PackageError."""
    health = Health(
        errors=fields.optional_number("errors", 0, 1),
        p99_ms=fields.optional_number("p99_ms", 0, 1e9),
        drift=fields.optional_number("drift", 0, 1e9),
        **{
            name: fields.number(name, 0, 1)
            for name in _LATER_LIMITS
            if fields.has(name)
        },
    )
    fields.end()
    return health


def read_deltas(fields: Fields) -> tuple[Delta, ...]:
    """Return the differences in the order of their files. Raises PackageError."""
    deltas: list[Delta] = []
    for index, value in enumerate(fields.items("deltas", MOST_DELTAS)):
        place = f"manifest.deltas[{index}]"
        entry = Fields(value, place)
        delta = Delta(
            base_sha256=entry.sha256("base_sha256"),
            file=entry.text("file", 200),
            sha256=entry.sha256("sha256"),
            bytes=entry.whole("bytes", most=MOST_FILE_BYTES),
        )
        entry.end()
        if delta.file != delta_file(delta.base_sha256):
            raise PackageError(
                "path", f"{place}.file is not '{delta_file(delta.base_sha256)}'"
            )
        # In one order, so that a package has one manifest; and each base once.
        if deltas and deltas[-1].file >= delta.file:
            raise PackageError("manifest", f"{place} is not in the order of the files")
        deltas.append(delta)
    return tuple(deltas)
