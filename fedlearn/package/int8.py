"""int8 weights made on a device from float weights and the scales of a recipe.

An int8 model changes with every version in nearly all of its bytes. So none is sent: the
float weights are, by a difference, and each device rounds them again. A recipe is plain JSON:

    {"folds": [{"weight": …, "bias": …, "gamma": …, "beta": …, "mean": …, "variance": …,
                "epsilon": …, "source_bias": …}, …],
     "tensors": [{"name": …, "source": …},
                 {"name": …, "source": …, "scale": …, "axis": …, "dtype": "int8" | "int32"},
                 {"name": …, "dtype": …, "shape": […], "values": BASE64},
                 {"name": …, "dtype": …, "shape": […], "fill": …}, …]}

Tensors stand in the order of the file that the int8 graph reads. They are a copy of a float
tensor, a rounded one, or given values: scales and zero points. "scale" names one of those.
All steps are single roundings of IEEE 754, so that every machine gets the same bits.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.errors import FormatError, reason_of

Tensors = Mapping[str, NDArray[Any]]
Recipe = Mapping[str, Any]

# What a rebuilt tensor may be of, little-endian as in the file.
DTYPES = {
    "float32": "<f4",
    "int8": "|i1",
    "uint8": "|u1",
    "int32": "<i4",
    "int64": "<i8",
}

# Given values are scales and zero points: more bytes than this besides those of the float
# weights are no recipe of ours.
LARGEST_EXTRA_BYTES = 2**20


def rebuild(tensors: Tensors, recipe: Recipe) -> dict[str, NDArray[Any]]:
    """Return the tensors of an int8 graph's file, in its order.

    tensors: float32, of the model whose recipe it is. Raises FormatError for a recipe that
    cannot be followed.
    """
    try:
        _check_size(tensors, recipe)
        floats = folded(tensors, recipe["folds"])
        values = dict(_given(recipe["tensors"]))
        rebuilt: dict[str, NDArray[Any]] = {}
        for entry in recipe["tensors"]:
            name = _text(entry["name"])
            if name in rebuilt:
                raise FormatError(f"the int8 recipe has '{name}' twice")
            if name in values:
                rebuilt[name] = values[name]
            else:
                rebuilt[name] = _from_source(entry, floats, values)
        return rebuilt
    except FormatError:
        raise
    # A recipe comes with a download: whatever is wrong with it, it is not followed.
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise FormatError(
            f"the int8 recipe cannot be followed: {reason_of(error)}"
        ) from error


def file_bytes(rebuilt: Tensors) -> bytes:
    """Return the bytes of the file that the int8 graph reads."""
    parts = []
    for tensor in rebuilt.values():
        little = tensor.dtype.newbyteorder("<")
        parts.append(np.ascontiguousarray(tensor, dtype=little).tobytes())
    return b"".join(parts)


def folded(
    tensors: Tensors, folds: Sequence[Mapping[str, Any]]
) -> dict[str, NDArray[Any]]:
    """Return float tensors with each BatchNorm multiplied into the convolution before it.

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", CVPR 2018, section 3.2. It is computed in float64
    and rounded once.
    """
    floats = dict(tensors)
    for fold in folds:
        statistics = [
            floats.pop(_text(fold[key])).astype(np.float64)
            for key in ("gamma", "beta", "mean", "variance")
        ]
        gamma, beta, mean, variance = statistics
        factor = gamma / np.sqrt(variance + float(fold["epsilon"]))
        weight = floats[_text(fold["weight"])].astype(np.float64)
        # A factor for each output channel, which is the first axis.
        factors = _along(factor, 0, weight.shape)
        bias: NDArray[Any] = np.zeros_like(mean)
        if "source_bias" in fold:
            bias = floats[_text(fold["source_bias"])].astype(np.float64)
        floats[fold["weight"]] = (weight * factors).astype(np.float32)
        floats[_text(fold["bias"])] = (beta + (bias - mean) * factor).astype(np.float32)
    return floats


def rounded(
    tensor: NDArray[Any], scale: NDArray[Any], axis: int | None, dtype: str
) -> NDArray[Any]:
    """Return a float tensor as whole numbers of ``scale``: int8, or int32 of a bias.

    scale: of all values, or one for each index of ``axis``. Raises FormatError for a scale
    that is not above 0.
    """
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise FormatError("the int8 recipe has a scale that is not above 0")
    if not np.isfinite(tensor).all():
        raise FormatError("the weights have values that are not finite")
    divisor = scale
    if axis is not None or scale.size != 1:
        divisor = _along(scale, axis, tensor.shape)
    # ONNX Runtime's quantiser divides weights as float32, and biases as float64.
    precision = np.float32 if dtype == "int8" else np.float64
    limits = np.iinfo(np.int8 if dtype == "int8" else np.int32)
    with np.errstate(over="ignore"):
        quotient = tensor.astype(precision) / np.asarray(divisor, precision)
    clipped = np.clip(np.rint(quotient), limits.min, limits.max)
    whole_numbers: NDArray[Any] = clipped.astype(limits.dtype)
    return whole_numbers


def _along(
    factors: NDArray[Any], axis: int | None, shape: tuple[int, ...]
) -> NDArray[Any]:
    """Return one factor for each index of an axis, in a shape that multiplies a tensor's.

    Raises FormatError for another number of them, before anything is multiplied.
    """
    if axis is None or factors.size != shape[axis]:
        raise FormatError(
            f"the int8 recipe has {factors.size} factors for axis {axis} of {list(shape)}"
        )
    along = [1] * len(shape)
    along[axis] = factors.size
    return factors.reshape(along)


def _from_source(
    entry: Mapping[str, Any], floats: Tensors, values: Tensors
) -> NDArray[Any]:
    """Return a tensor that is made of a float one. Raises FormatError."""
    source = _text(entry["source"])
    if source not in floats:
        raise FormatError(
            f"the int8 recipe asks for '{source}', which the weights lack"
        )
    if "scale" not in entry:
        return floats[source]
    scale = values.get(_text(entry["scale"]))
    if scale is None:
        raise FormatError(f"the int8 recipe has no scale '{entry['scale']}'")
    dtype = entry["dtype"]
    if dtype not in ("int8", "int32"):
        raise FormatError(f"the int8 recipe rounds to {dtype!r}; known: int8, int32")
    return rounded(floats[source], scale, entry["axis"], dtype)


def _given(entries: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the name and the values of each tensor that the recipe holds itself."""
    for entry in entries:
        if "source" in entry:
            continue
        dtype = np.dtype(DTYPES[entry["dtype"]])
        shape = tuple(entry["shape"])
        if "fill" in entry:
            values = np.full(shape, entry["fill"], dtype)
        else:
            raw = base64.b64decode(entry["values"], validate=True)
            values = np.frombuffer(raw, dtype).reshape(shape)
        yield _text(entry["name"]), values


def _check_size(tensors: Tensors, recipe: Recipe) -> None:
    """Raise FormatError for a recipe of more bytes than any of ours has."""
    limit = LARGEST_EXTRA_BYTES + sum(tensor.nbytes for tensor in tensors.values())
    total = 0
    for entry in recipe["tensors"]:
        # Before anything is made: a shape is a few characters, its tensor may be terabytes.
        if "source" in entry:
            continue
        sizes = [int(size) for size in entry["shape"]]
        if min(sizes, default=0) < 0:
            raise FormatError(f"the int8 recipe has the shape {entry['shape']}")
        total += prod(sizes) * np.dtype(DTYPES[entry["dtype"]]).itemsize
    if total > limit:
        raise FormatError(f"the int8 recipe gives {total} bytes of values, not {limit}")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise FormatError(f"the int8 recipe has {value!r} in the place of a name")
    return value
