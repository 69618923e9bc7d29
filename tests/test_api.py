"""What ``import fedlearn`` offers: one list, lazy, documented, the same for everybody."""

import inspect
import subprocess
import sys

import pytest

import fedlearn as fl

NAMES = [
    "Callback",
    "Codec",
    "Comparison",
    "ConfigError",
    "DataError",
    "Dataset",
    "Experiment",
    "FedlearnError",
    "ModelError",
    "Plan",
    "Population",
    "RecordError",
    "Run",
    "RunError",
    "UserError",
    "__version__",
    "compare",
    "dataset",
    "load",
    "run",
    "serve",
]


def test_the_list_is_the_list():
    assert fl.__all__ == NAMES == sorted(NAMES)
    assert set(NAMES) <= set(dir(fl))


def test_every_name_is_there_and_documented():
    for name in set(NAMES) - {"__version__"}:
        value = getattr(fl, name)
        assert value.__doc__, name
        if inspect.isclass(value):
            for method, function in inspect.getmembers(value, inspect.isfunction):
                own = function.__module__.startswith("fedlearn.")
                if own and not method.startswith("_"):
                    assert function.__doc__, f"{name}.{method}"


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="runn"):
        fl.runn  # noqa: B018


def test_nothing_heavy_is_imported_before_it_is_used():
    code = (
        "import fedlearn, sys\n"
        "heavy = {'numpy', 'torch', 'flwr', 'pydantic', 'grpc', 'matplotlib'}\n"
        "print(heavy & set(sys.modules))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert ended.stdout.strip() == "set()"
