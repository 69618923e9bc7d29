"""Optional packages: found when they are needed, and missed in one line."""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType

from fedlearn.errors import UserError, reason_of
from fedlearn.package import runtime


def required(module: str, extra: str, purpose: str) -> ModuleType:
    """Return a module of an optional package.

    extra: of fedlearn, which brings the package. purpose: begins the message, for example
    "ONNX". Raises UserError that names the line to install it by.
    """
    try:
        # What a package warns of while it is imported is between it and Python.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if module == "onnxruntime":
                return runtime.load()
            return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise UserError(
            f"{purpose} needs {package}: pip install 'fedlearn[{extra}]' "
            f"({reason_of(error)})"
        ) from error
