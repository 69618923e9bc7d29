"""Inference requests and answers as HTTP carries them: JSON, with tensors in it or behind it.

The binary tensors are the protocol's extension ``binary_tensor_data``: the body begins with
the JSON, whose length a header tells, and the tensors' bytes follow in order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fedlearn.clients.infer import json_text, tensors
from fedlearn.clients.infer import question as asking
from fedlearn.clients.infer.model import ServedModel
from fedlearn.clients.infer.question import InferQuestion, Output
from fedlearn.clients.infer.refusal import bad
from fedlearn.clients.infer.tensors import Array

SIZE = "binary_data_size"

# Inputs and outputs in one request; a model that serves here has a few.
_MOST_TENSORS = 64


def read(body: bytes, header_length: int | None, model: ServedModel) -> InferQuestion:
    """Return what a body asks; header_length: bytes of JSON before tensors, None: all of it.

    Raises Refusal, which names what is wrong.
    """
    if header_length == 0:
        return InferQuestion("", _raw_input(body, model), is_binary=True)
    if header_length is not None and header_length > len(body):
        raise bad("the body is shorter than Inference-Header-Content-Length says")
    head = _json(body if header_length is None else body[:header_length])
    tail = memoryview(body)[header_length or len(body) :]
    inputs = _list(head, "inputs", "the request")
    arrays: dict[str, Array] = {}
    start = 0
    for value in inputs:
        name, array, start = tensor(value, tail, start)
        if name in arrays:
            raise bad(f"input '{name}' comes twice")
        arrays[name] = array
    if start != len(tail):
        raise bad(f"{len(tail) - start} bytes follow the last tensor")
    parameters = _object(head.get("parameters", {}), "parameters")
    is_binary = asking.parameter(parameters, "binary_data_output", bool, False)
    outputs = _outputs(head, is_binary) if "outputs" in head else ()
    asking.check_outputs(outputs, model)
    return InferQuestion(
        id=_id(head),
        tensors=arrays,
        outputs=outputs,
        is_binary=is_binary,
        timeout_s=asking.timeout_s(parameters),
        kind=asking.parameter(parameters, asking.CLASS, str, ""),
        since_s=asking.since_s(parameters),
    )


def write(
    question: InferQuestion, name: str, model: ServedModel, outputs: Sequence[Array]
) -> tuple[bytes, int | None]:
    """Return an answer's body, and how much of it is JSON before tensors; None: all.

    name: the model's. Raises Refusal for values that JSON cannot carry.
    """
    entries = []
    blobs = []
    for spec, value in asking.wanted_outputs(question, model, outputs):
        entry, blob = _output(spec, value)
        entries.append(entry)
        blobs.append(blob)
    answer: dict[str, Any] = {"model_name": name, "model_version": model.version}
    if question.id:
        answer["id"] = question.id
    if question.since_s is not None:
        passed_s = time.perf_counter() - question.since_s
        answer["parameters"] = {asking.TIMING: math.ceil(1e6 * passed_s)}
    answer["outputs"] = entries
    head = json_text.dumps(answer)
    if all(blob is None for blob in blobs):
        return head, None
    return b"".join([head, *(blob for blob in blobs if blob is not None)]), len(head)


def _json(data: bytes) -> dict[str, Any]:
    try:
        value = json_text.loads(data)
    except ValueError:
        raise bad("the body is no JSON in UTF-8") from None
    if not isinstance(value, dict):
        raise bad("the body is no JSON object")
    return value


def tensor(value: object, tail: memoryview, start: int) -> tuple[str, Array, int]:
    """Return an input's or an answer's name and tensor, and where the next one begins.

    tail: the bytes behind the JSON; start: of them, where a binary tensor lies. Raises
    Refusal.
    """
    entry = _object(value, "an input")
    name = entry.get("name")
    if not isinstance(name, str):
        raise bad("an input has no name")
    name = name[:200]
    dtype = tensors.dtype_of(entry.get("datatype"), name)
    shape = tensors.shape_of(entry.get("shape"), name)
    size = asking.parameter(_object(entry.get("parameters", {}), name), SIZE, int, None)
    if size is None:
        data = entry.get("data")
        if not isinstance(data, list):
            raise bad(f"input '{name}' has neither data nor {SIZE}")
        return name, tensors.from_values(data, dtype, shape, name), start
    if "data" in entry:
        raise bad(f"input '{name}' has both data and {SIZE}")
    if not 0 <= size <= len(tail) - start:
        raise bad(f"input '{name}': {size} bytes are not in the body")
    end = start + size
    return name, tensors.from_bytes(tail[start:end], dtype, shape, name), end


def _raw_input(body: bytes, model: ServedModel) -> dict[str, Array]:
    """Return a body as the model's only input: a raw binary request, without any JSON.

    One axis at most may have any length: it is what the bytes leave.
    """
    if len(model.inputs) != 1:
        raise bad("a body without JSON goes with a model of one input only")
    port = model.inputs[0]
    values = math.prod(length for length in port.shape if length >= 0)
    sample = values * port.dtype.itemsize
    if port.shape.count(-1) != 1 or not sample or len(body) % sample:
        raise bad(
            f"a body of {len(body)} bytes is no input of shape {list(port.shape)} of "
            f"{port.datatype}"
        )
    length = len(body) // sample
    shape = tuple(length if axis < 0 else axis for axis in port.shape)
    return {port.name: tensors.from_bytes(body, port.dtype, shape, port.name)}


def _outputs(head: Mapping[str, Any], is_binary: bool) -> list[Output]:
    specs = []
    for value in _list(head, "outputs", "the request"):
        entry = _object(value, "an output")
        name = entry.get("name")
        if not isinstance(name, str):
            raise bad("an output has no name")
        parameters = _object(entry.get("parameters", {}), name)
        count = asking.parameter(parameters, "classification", int, 0)
        if count < 0:
            raise bad("the parameter 'classification' is a number of classes from 1")
        binary = asking.parameter(parameters, "binary_data", bool, is_binary)
        specs.append(Output(name, binary, count))
    return specs


def _output(
    spec: Output, value: Array | list[list[str]]
) -> tuple[dict[str, Any], bytes | None]:
    """Return an output's entry in the JSON, and its bytes; None: the entry has its values."""
    blob, datatype, shape = tensors.raw(value)
    entry: dict[str, Any] = {"name": spec.name, "datatype": datatype, "shape": shape}
    if spec.is_binary:
        entry["parameters"] = {SIZE: len(blob)}
        return entry, blob
    if isinstance(value, list):
        entry["data"] = [text for row in value for text in row]
    else:
        entry["data"] = tensors.to_values(value, spec.name)
    return entry, None


def _id(head: Mapping[str, Any]) -> str:
    value = head.get("id", "")
    if not isinstance(value, str) or len(value) > asking.MOST_ID:
        raise bad(f"the id is no text of at most {asking.MOST_ID} characters")
    return value


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise bad(f"{what[:60]} is no JSON object")
    return value


def _list(head: Mapping[str, Any], key: str, what: str) -> list[Any]:
    value = head.get(key)
    if not isinstance(value, list) or not 1 <= len(value) <= _MOST_TENSORS:
        raise bad(f"{what} has no list of 1 to {_MOST_TENSORS} '{key}'")
    return value
