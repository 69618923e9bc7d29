"""What the commands share: arguments, signals, and endings of one line on stderr."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

from fedlearn.errors import FedlearnError, RunError, UserError, one_line

# The exit code after Ctrl-C, as shells have it: 128 + SIGINT.
INTERRUPTED = 130

# What some command handles in its own way.
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

OUT_OF_MEMORY = (
    "out of memory; use a smaller model, a smaller batch_size or fewer engine.workers"
)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line on stderr, with exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Exit with the line."""
        # argparse would print its usage first, which takes more than one line.
        self.exit(
            UserError.exit_code,
            # One line, as every error of a command: logs are read line by line.
            f"fedlearn: {one_line(UserError(message))}; see {self.prog} --help\n",
        )


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the argument that names an experiment."""
    parser.add_argument(
        "config",
        nargs="?",
        help="a TOML file or the name of a shipped experiment "
        "(default: the embedded default)",
    )


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--quiet``."""
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")


def add_old_spelling(
    parser: argparse.ArgumentParser, old: str, dest: str, kind: Callable[[str], object]
) -> None:
    """Accept an option under a name that it had before, which ``--help`` does not show.

    dest: the attribute of the option that replaces it. kind: its type.
    """
    parser.add_argument(
        old,
        dest=dest,
        type=kind,
        # The default is that of the option that replaces it.
        default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
    )


def interrupt(number: int, frame: object) -> None:
    """Handle SIGTERM as Ctrl-C is handled, so that what runs ends in order and can go on.

    A second SIGTERM is ignored: it must not break off what the first began.
    """
    # Ignored first: a second SIGTERM between the two lines must not come through.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def ended(command: Callable[[], int | None]) -> int:
    """Run a command and return its exit code; an error with a reason is one line.

    Such errors are our own, and the system's: a disk, a path or a standard output that
    cannot be used, and memory. Any other keeps its traceback: it is a bug.
    """
    with _signals_kept():
        return _ended(command)


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Give the signals back to a program that calls a command's ``main``."""
    # Only the main thread may set them, so no command in another thread has.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            # None: not set by Python, which could not set it again.
            if handler is not None:
                signal.signal(number, handler)


def _ended(command: Callable[[], int | None]) -> int:
    _prepare_streams()
    try:
        code = command() or 0
        # Here and not at the interpreter's end, where an error could not be told.
        sys.stdout.flush()
        return code
    except FedlearnError as error:
        return _report(error)
    # Without a word: whoever pressed Ctrl-C knows why.
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever reads our output has enough of it, as `| head`.
        _drop_output()
        return 0
    # Output that cannot be written is the same error again at the interpreter's end.
    except OSError as error:
        _drop_output()
        place = f"'{error.filename}'" if error.filename else "the system refuses"
        return _report(RunError(f"{place}: {error.strerror or error}"))
    except MemoryError:
        return _report(RunError(OUT_OF_MEMORY))


def _prepare_streams() -> None:
    """Have all three standard streams, though the program was started without some."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free is this one. Otherwise a file of the run
            # would get it, and with it all that anybody writes to standard error.
            os.open(os.devnull, os.O_RDWR)
    # None: closed when Python started. Both stay open as long as the process.
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # A terminal that knows only ASCII gets "?", not an exception.
        # A test, or a notebook, may have put another object in its place.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _report(error: FedlearnError) -> int:
    """Print an error in one line and return its exit code."""
    # Standard error may be as full or as closed as anything else.
    with contextlib.suppress(OSError):
        print(f"fedlearn: {one_line(error)}", file=sys.stderr, flush=True)
    return error.exit_code


def _drop_output() -> None:
    """Discard what standard output still holds.

    Otherwise the interpreter would complain of it when it ends.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
