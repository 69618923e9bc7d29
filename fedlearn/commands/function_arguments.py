"""The options of ``fedlearn package`` for functions: steps before and after the model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlearn.errors import UserError, reason_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fedlearn.release.functions import FunctionWish


def add_functions(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    group = parser.add_argument_group(
        "functions",
        "steps as ONNX graphs, which travel with the package (docs/package.md)",
    )
    for role, where in (("pre", "before"), ("post", "after")):
        group.add_argument(
            f"--{role}",
            action="append",
            default=[],
            metavar="NAME=FILE.onnx",
            help=f"{where} the model; may be repeated, and they run in this order",
        )
    group.add_argument(
        "--limits",
        action="append",
        default=[],
        metavar="NAME=MS,MB",
        help="the most time and memory of a function for 32 samples (default: 1000,64); "
        "may be repeated",
    )
    group.add_argument(
        "--samples",
        type=Path,
        metavar="FILE.npy",
        help="16 samples or so as clients send them, (N, …), where they are not like the "
        "test samples",
    )


def functions_of(arguments: argparse.Namespace) -> tuple[FunctionWish, ...]:
    """Return the functions that options name, each of them checked.

    Raises UserError for an option that is none, PackageError for a graph that no package may
    have.
    """
    pairs = [("pre", text) for text in arguments.pre]
    pairs += [("post", text) for text in arguments.post]
    if not pairs:
        for option in ("limits", "samples"):
            if getattr(arguments, option):
                raise UserError(f"--{option} goes with --pre or --post: a function")
        return ()
    limits = _limits(arguments.limits)
    wishes = [_wish(role, text, limits) for role, text in pairs]
    # Both roles share their names: a limit says no role.
    names = [wish.name for wish in wishes]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two functions are called '{name}'; each has its own name")
    unknown = sorted(set(limits) - set(names))
    if unknown:
        raise UserError(f"--limits {unknown[0]}=…: there is no function '{unknown[0]}'")
    from fedlearn.release.functions import function_of

    # Before the run is loaded, which takes seconds.
    for wish in wishes:
        function_of(wish)
    return tuple(wishes)


def samples_of(arguments: argparse.Namespace) -> NDArray[Any] | None:
    """Return the samples of a file, (N, …); None: none is named. Raises UserError."""
    path: Path | None = arguments.samples
    if path is None:
        return None
    import numpy as np

    # Without pickle: a file of samples is no program.
    try:
        samples: np.ndarray[Any, Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"--samples {path} cannot be read: {reason_of(error)}"
        ) from None
    if not isinstance(samples, np.ndarray) or samples.ndim < 1:
        raise UserError(
            f"--samples {path} is no array of samples; save one by numpy.save"
        )
    return samples


def _wish(role: str, text: str, limits: dict[str, tuple[int, int]]) -> FunctionWish:
    """Return the function of "NAME=FILE". Raises UserError."""
    try:
        from fedlearn.release.functions import FunctionWish, read_file
    except ImportError:
        raise UserError(
            "functions need the packages onnx and onnxruntime: pip install 'fedlearn[export]'"
        ) from None
    from fedlearn.package.functions import MEMORY_MB, TIME_MS
    from fedlearn.package.parts import NAME

    name, _, file = text.partition("=")
    if not NAME.fullmatch(name) or len(name) > 64 or not file:
        raise UserError(
            f"--{role} {text}: give NAME=FILE.onnx, a name of up to 64 of a-z, 0-9, '.', "
            "'_' and '-'"
        )
    data = read_file(Path(file).expanduser(), f"--{role} {name}")
    time_ms, memory_mb = limits.get(name, (TIME_MS, MEMORY_MB))
    return FunctionWish(name, role, data, time_ms, memory_mb)


def _limits(texts: list[str]) -> dict[str, tuple[int, int]]:
    """Return the milliseconds and megabytes of each "NAME=MS,MB". Raises UserError."""
    from fedlearn.package.functions import MOST_MEMORY_MB, MOST_TIME_MS

    limits = {}
    for text in texts:
        name, _, values = text.partition("=")
        numbers = values.split(",")
        # Seven digits are beyond any limit, and a longer text costs time to read.
        is_sound = len(numbers) == 2 and all(
            number.isascii() and number.isdigit() and len(number) < 7
            for number in numbers
        )
        if is_sound:
            time_ms = int(numbers[0])
            memory_mb = int(numbers[1])
            is_sound = 1 <= time_ms <= MOST_TIME_MS and 1 <= memory_mb <= MOST_MEMORY_MB
        if not is_sound:
            raise UserError(
                f"--limits {text}: give NAME=MS,MB, milliseconds from 1 to {MOST_TIME_MS} "
                f"and megabytes from 1 to {MOST_MEMORY_MB}"
            )
        limits[name] = (time_ms, memory_mb)
    return limits
