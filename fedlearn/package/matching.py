"""Whether a graph is the manifest's: its tensors, where they lie, its ports and its opset."""

from __future__ import annotations

from fedlearn.errors import PackageError
from fedlearn.package import graph
from fedlearn.package.int8 import LARGEST_EXTRA_BYTES
from fedlearn.package.manifest import Manifest
from fedlearn.package.parts import (
    FLOAT_BYTES,
    INT8_GRAPH_FILE,
    INT8_WEIGHTS_FILE,
    WEIGHTS_FILE,
)
from fedlearn.text import shortened

# A graph has no weights; this is a hundred times resnet-50's.
MOST_GRAPH_BYTES = 16 << 20


def check_graph(manifest: Manifest, data: bytes, file: str) -> None:
    """Refuse a graph that a package may not have, or that is not the manifest's.

    Raises PackageError, "graph", "tensor" or "path".
    """
    if len(data) > MOST_GRAPH_BYTES:
        raise PackageError(
            "limits", f"{file} has {len(data):,} bytes, more than {MOST_GRAPH_BYTES:,}"
        )
    content = inspected(manifest, data, file)
    for port, ports in (
        (manifest.input, content.inputs),
        (manifest.output, content.outputs),
    ):
        if ports != {port.name: port.dtype}:
            raise PackageError(
                "graph",
                f"{file} has other inputs or outputs than the manifest's '{port.name}'",
            )
    opset = content.opsets.get("", 0)
    if all(opset > target.opset for target in manifest.targets):
        raise PackageError("graph", f"{file} has opset {opset}, which no target has")


def inspected(manifest: Manifest, data: bytes, file: str) -> graph.Graph:
    """Return what a graph has, whose tensors are the manifest's own. Raises PackageError."""
    weight_bytes = manifest.files[WEIGHTS_FILE].bytes
    if file == INT8_GRAPH_FILE:
        # As many as a recipe may give.
        limit = weight_bytes + LARGEST_EXTRA_BYTES
        content = graph.inspect(data, file, INT8_WEIGHTS_FILE, limit)
        _check_rebuilt(manifest, content)
        return content
    content = graph.inspect(data, file, WEIGHTS_FILE, weight_bytes)
    _check_places(manifest, content, file)
    return content


def _check_rebuilt(manifest: Manifest, content: graph.Graph) -> None:
    """Refuse an int8 graph of other tensors than its recipe gives."""
    entries = (manifest.int8 or {}).get("tensors")
    names = set()
    if isinstance(entries, list):
        tables = [entry for entry in entries if isinstance(entry, dict)]
        names = {str(table.get("name")) for table in tables}
    if set(content.external) - names:
        raise PackageError("tensor", f"{INT8_GRAPH_FILE} has tensors of no recipe")


def _check_places(manifest: Manifest, content: graph.Graph, file: str) -> None:
    """Refuse tensors that the graph looks for elsewhere than the manifest puts them."""
    places = {}
    offset = 0
    for tensor in manifest.tensors:
        length = FLOAT_BYTES * tensor.size
        places[tensor.name] = graph.External(offset, length, is_float=True)
        offset += length
    for name, place in content.external.items():
        if places.get(name) != place:
            raise PackageError(
                "tensor",
                f"{file} has '{shortened(name, 100)}' at another place of {WEIGHTS_FILE} "
                "than the manifest",
            )
