"""What an ONNX graph may be in a package: standard operations, and weights in one file.

A reader of ONNX's protobuf by hand, so that a device needs no package ``onnx``. It knows
every field of onnx.proto (IR version 13) that may stand in a package and refuses all others:
a field that it passed over could mean something to the runtime.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Final

from fedlearn.errors import PackageError
from fedlearn.package.protobuf import Message, Schemas
from fedlearn.text import shortened

# Domains whose operations are part of ONNX; "" is the main one.
DOMAINS = ("", "ai.onnx", "ai.onnx.ml")

# Operations that ONNX Runtime itself adds for quantised models. Its domain has others, such
# as EPContext, which loads compiled code from a file.
RUNTIME_DOMAIN = "com.microsoft"
RUNTIME_OPERATIONS = (
    "DequantizeLinear",
    "DynamicQuantizeLSTM",
    "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat",
    "QuantizeLinear",
)

# Graphs inside the attributes of nodes: the branches of an If, the body of a Loop.
MOST_GRAPHS_DEEP = 8

_EXTERNAL = 1

# TensorProto.DataType → bits of a value. Texts and complex numbers have no place in a model.
_FLOAT: Final = 1
_BITS: Final = {
    **{1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64},
    **{12: 32, 13: 64, 16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4},
}

# TensorProto's number → its dtype in a manifest.
_DTYPES: Final = {1: "float32", 2: "uint8", 5: "int16", 7: "int64"}

# The fields of onnx.proto that a package may have. Those that are not looked into cannot
# name a file or an operation. Functions, training and placement on devices are not among
# them.
SCHEMAS: Final[Schemas] = {
    "ModelProto": {
        1: ("ir_version", "whole"),
        2: ("producer_name", "text"),
        3: ("producer_version", "text"),
        4: ("domain", "text"),
        5: ("model_version", "whole"),
        6: ("doc_string", "text"),
        7: ("graph", "GraphProto"),
        8: ("opset_import", "OperatorSetIdProto*"),
        14: ("metadata_props", "data*"),
    },
    "OperatorSetIdProto": {1: ("domain", "text"), 2: ("version", "whole")},
    "GraphProto": {
        1: ("node", "NodeProto*"),
        2: ("name", "text"),
        5: ("initializer", "TensorProto*"),
        10: ("doc_string", "text"),
        11: ("input", "ValueInfoProto*"),
        12: ("output", "ValueInfoProto*"),
        13: ("value_info", "data*"),
        14: ("quantization_annotation", "data*"),
        15: ("sparse_initializer", "SparseTensorProto*"),
        16: ("metadata_props", "data*"),
    },
    "NodeProto": {
        1: ("input", "text*"),
        2: ("output", "text*"),
        3: ("name", "text"),
        4: ("op_type", "text"),
        5: ("attribute", "AttributeProto*"),
        6: ("doc_string", "text"),
        7: ("domain", "text"),
        8: ("overload", "text"),
        9: ("metadata_props", "data*"),
    },
    "AttributeProto": {
        1: ("name", "text"),
        2: ("f", "float"),
        3: ("i", "whole"),
        4: ("s", "data"),
        5: ("t", "TensorProto"),
        6: ("g", "GraphProto"),
        7: ("floats", "float*"),
        8: ("ints", "whole*"),
        9: ("strings", "data*"),
        10: ("tensors", "TensorProto*"),
        11: ("graphs", "GraphProto*"),
        13: ("doc_string", "text"),
        14: ("tp", "data"),
        15: ("type_protos", "data*"),
        20: ("type", "whole"),
        22: ("sparse_tensor", "SparseTensorProto"),
        23: ("sparse_tensors", "SparseTensorProto*"),
    },
    "TensorProto": {
        1: ("dims", "whole*"),
        2: ("data_type", "whole"),
        4: ("float_data", "float*"),
        5: ("int32_data", "whole*"),
        7: ("int64_data", "whole*"),
        8: ("name", "text"),
        9: ("raw_data", "data"),
        10: ("double_data", "double*"),
        11: ("uint64_data", "whole*"),
        12: ("doc_string", "text"),
        13: ("external_data", "StringStringEntryProto*"),
        14: ("data_location", "whole"),
        16: ("metadata_props", "data*"),
    },
    "SparseTensorProto": {
        1: ("values", "TensorProto"),
        2: ("indices", "TensorProto"),
        3: ("dims", "whole*"),
    },
    "StringStringEntryProto": {1: ("key", "text"), 2: ("value", "text")},
    "ValueInfoProto": {
        1: ("name", "text"),
        2: ("type", "TypeProto"),
        3: ("doc_string", "text"),
        4: ("metadata_props", "data*"),
    },
    # Of inputs and outputs: tensors alone, no sequences and maps.
    "TypeProto": {1: ("tensor_type", "Tensor"), 6: ("denotation", "text")},
    "Tensor": {1: ("elem_type", "whole"), 2: ("shape", "data")},
}


@dataclass(frozen=True)
class External:
    """Where in its file a tensor lies, in bytes; float: whether it is float32."""

    offset: int
    length: int
    is_float: bool


@dataclass
class Graph:
    """What was read of a graph.

    external: the tensors in the file of weights. opsets: domain → version. inputs, outputs:
    name → dtype, "" for one that a manifest cannot name. operations: names with their domain,
    such as "com.microsoft.QuantizeLinear"; without one in ONNX's main domain. nested: those
    that have graphs inside.
    """

    external: dict[str, External] = field(default_factory=dict)
    opsets: dict[str, int] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    operations: set[str] = field(default_factory=set)
    nested: set[str] = field(default_factory=set)


def inspect(
    data: bytes, file: str, weights_file: str | None, weight_bytes: int
) -> Graph:
    """Return what a graph has, after all of it was checked.

    file: the graph's, for errors. weights_file: the only one that it may read, and its
    largest size; None: it may read none, and no tensor in it is larger. Raises PackageError,
    "graph", "tensor" or "path".
    """
    return _Inspection(file, weights_file, weight_bytes).model(data)


class _Inspection:
    """The checks of one graph."""

    def __init__(self, file: str, weights_file: str | None, weight_bytes: int) -> None:
        self._file = file
        self._weights_file = weights_file
        self._weight_bytes = weight_bytes
        self._graph = Graph()

    def model(self, data: bytes) -> Graph:
        """Check a ModelProto."""
        model = Message(memoryview(data), "ModelProto", SCHEMAS, self._file)
        for opset in model.messages("opset_import"):
            domain = opset.text("domain")
            self._graph.opsets[domain] = opset.whole("version")
        graphs = list(model.messages("graph"))
        if len(graphs) != 1:
            raise self._wrong("graph", "has no graph")
        inputs = self._ports(graphs[0], "input")
        # Inputs that are initializers have values of their own.
        constants = {t.text("name") for t in graphs[0].messages("initializer")}
        self._graph.inputs = {
            name: dtype for name, dtype in inputs.items() if name not in constants
        }
        self._graph.outputs = self._ports(graphs[0], "output")
        self._check_graph(graphs[0], 0)
        return self._graph

    def _ports(self, graph: Message, name: str) -> dict[str, str]:
        ports = {}
        for port in graph.messages(name):
            dtype = ""
            for kind in port.messages("type"):
                for tensor in kind.messages("tensor_type"):
                    dtype = _DTYPES.get(tensor.whole("elem_type"), "")
            ports[port.text("name")] = dtype
        return ports

    def _check_graph(self, graph: Message, depth: int) -> None:
        if depth > MOST_GRAPHS_DEEP:
            raise self._wrong("graph", "has too many graphs inside one another")
        for tensor in graph.messages("initializer"):
            self._check_tensor(tensor)
        for sparse in graph.messages("sparse_initializer"):
            self._check_sparse(sparse)
        for node in graph.messages("node"):
            self._check_node(node, depth)

    def _check_node(self, node: Message, depth: int) -> None:
        domain = node.text("domain")
        operation = node.text("op_type")
        is_runtimes = domain == RUNTIME_DOMAIN and operation in RUNTIME_OPERATIONS
        if domain not in DOMAINS and not is_runtimes:
            name = shortened(f"{domain}.{operation}", 100)
            raise self._wrong(
                "graph", f"has the operation '{name}', which is none of ONNX's own"
            )
        full_name = f"{domain}.{operation}" if domain else operation
        self._graph.operations.add(full_name)
        for attribute in node.messages("attribute"):
            for name in ("t", "tensors"):
                for tensor in attribute.messages(name):
                    self._check_tensor(tensor)
            for name in ("sparse_tensor", "sparse_tensors"):
                for sparse in attribute.messages(name):
                    self._check_sparse(sparse)
            for name in ("g", "graphs"):
                for graph in attribute.messages(name):
                    self._graph.nested.add(full_name)
                    self._check_graph(graph, depth + 1)

    def _check_sparse(self, sparse: Message) -> None:
        # What it would be when it is dense: a few values may stand for gigabytes.
        self._value_bits(sparse.wholes("dims"), _FLOAT, "a sparse tensor")
        for name in ("values", "indices"):
            for tensor in sparse.messages(name):
                self._check_tensor(tensor)

    def _check_tensor(self, tensor: Message) -> None:
        name = tensor.text("name")
        shown = f"tensor '{shortened(name, 100)}'"
        kind = tensor.whole("data_type")
        bits = self._value_bits(tensor.wholes("dims"), kind, shown)
        place = {
            entry.text("key"): entry.text("value")
            for entry in tensor.messages("external_data")
        }
        if tensor.whole("data_location") != _EXTERNAL:
            if place:
                raise self._wrong("tensor", f"has {shown} inside and outside")
            self._check_inside(tensor, bits, kind, shown)
            return
        offset, length = self._outside(place, shown)
        if 8 * length != bits:
            raise self._wrong("tensor", f"has {shown} of {bits // 8} bytes at {length}")
        span = External(offset, length, kind == _FLOAT)
        if self._graph.external.setdefault(name, span) != span:
            raise self._wrong("tensor", f"has {shown} in two places")

    def _value_bits(self, dims: list[int], kind: int, shown: str) -> int:
        """Return the bits of a tensor's values, before anything is allocated."""
        if kind not in _BITS:
            raise self._wrong("tensor", f"has {shown} of the unknown type {kind}")
        if len(dims) > 8 or any(not 0 <= length < 2**31 for length in dims):
            raise self._wrong("tensor", f"has {shown} of no possible shape")
        bits = _BITS[kind] * prod(dims)
        # No tensor of a package is larger than all its weights together, with some room
        # for what is constant.
        limit_bytes = max(self._weight_bytes, 1 << 20)
        if bits > 8 * limit_bytes:
            raise self._wrong(
                "tensor",
                f"has {shown} of {bits // 8:,} bytes, more than {limit_bytes:,}",
            )
        return bits

    def _check_inside(self, tensor: Message, bits: int, kind: int, shown: str) -> None:
        """Refuse a tensor whose values are not as many as its shape says."""
        whole_bytes = -(-bits // 8)
        raw = tensor.data("raw_data")
        if len(raw):
            is_complete = len(raw) == whole_bytes
        else:
            values = bits // _BITS[kind]
            is_complete = _typed_values(tensor, kind) == values
        if not is_complete:
            raise self._wrong("tensor", f"has {shown} with another number of values")

    def _outside(self, place: Mapping[str, str], shown: str) -> tuple[int, int]:
        """Return where in weights.bin a tensor lies: offset and length in bytes."""
        if set(place) != {"location", "offset", "length"}:
            raise self._wrong("tensor", f"has {shown} outside at no full place")
        if place["location"] != self._weights_file:
            location = shortened(place["location"], 100)
            if self._weights_file is None:
                raise self._wrong(
                    "path", f"has {shown} in '{location}'; all of it has to be inside"
                )
            raise self._wrong(
                "path",
                f"has {shown} in '{location}'; only {self._weights_file} is allowed",
            )
        numbers = []
        for key in ("offset", "length"):
            text = place[key]
            if not (text.isascii() and text.isdigit() and len(text) < 16):
                raise self._wrong("tensor", f"has {shown} outside at no number")
            numbers.append(int(text))
        offset = numbers[0]
        length = numbers[1]
        if offset + length > self._weight_bytes:
            raise self._wrong("tensor", f"has {shown} outside of {self._weights_file}")
        return offset, length

    def _wrong(self, kind: str, what: str) -> PackageError:
        return PackageError(kind, f"{self._file} {what}")


def _typed_values(tensor: Message, kind: int) -> int:
    """Return how many values the typed fields of a tensor hold."""
    values = tensor.count("float_data", 4) + tensor.count("double_data", 8)
    for name in ("int32_data", "int64_data", "uint64_data"):
        values += tensor.count(name, 0)
    # Two values of 4 bits share one number.
    if _BITS[kind] == 4:
        return 2 * values
    return values
