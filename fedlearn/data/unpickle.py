"""A reader for one pickled dict of numpy arrays that can rebuild arrays and nothing else."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from fedlearn.errors import DataError


def _latin1(text: str, encoding: str) -> bytes:
    """Stand in for codecs.encode, with the one encoding that Python 2 pickles use for bytes.

    Raises pickle.UnpicklingError for any other.
    """
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r} is not allowed")
    return text.encode("latin1")


# numpy's own function, taken from an array because its module differs between versions.
_RECONSTRUCT = np.empty(0).__reduce__()[0]

# The globals that a pickle of arrays needs: (module, name) → what stands for it.
ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
}


class ArrayUnpickler(pickle.Unpickler):
    """An unpickler that knows five names; any other name in the file ends the reading."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Return one of `ALLOWED`; raises pickle.UnpicklingError for everything else."""
        if (module_name, global_name) not in ALLOWED:
            raise pickle.UnpicklingError(
                f"'{module_name}.{global_name}' is not allowed"
            )
        return ALLOWED[module_name, global_name]


def read_pickled_dict(data: bytes, where: str) -> dict[str, Any]:
    """Return the dict in an .npy file that holds one pickled dict.

    Raises DataError naming ``where``.
    """
    try:
        content = _unpickled(io.BytesIO(data))
    # A damaged pickle can raise nearly anything.
    except Exception as error:
        raise DataError(
            f"{where} cannot be read ({type(error).__name__}: {error}): "
            "download it again"
        ) from error
    if not isinstance(content, dict):
        raise DataError(
            f"{where} holds a {type(content).__name__}, not a dict of arrays: "
            "it is another version"
        )
    return content


def _unpickled(file: io.BytesIO) -> object:
    """Return the object in an .npy file; raises whatever damaged content leads to."""
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("not version 1.0 of the .npy format")
    np.lib.format.read_array_header_1_0(file)
    content = ArrayUnpickler(file).load()
    # numpy.save wraps any object in an array of one element.
    if isinstance(content, np.ndarray) and content.size == 1:
        return content.item()
    return content
