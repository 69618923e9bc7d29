"""What the commands share: arguments and endings, where whatever goes wrong is one line on standard error."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from fedlearn.errors import FedlearnError, RunError, UserError, one_line

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line on standard error, with exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Exit with the line."""
        self.exit(
            UserError.exit_code,
            f"fedlearn: {one_line(UserError(message))}; see {self.prog} --help\n",
        )


def ended(command: Callable[[], int | None]) -> int:
    """Run a command and return its exit code; an error that has a reason is told in one line, without a traceback.

    Besides our own errors these are the system's: a disk, a path or a standard output that cannot be used, and memory.
    """
    if sys.stdout is None:  # started with standard output closed
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # as long as the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="replace"
            )  # a terminal that knows only ASCII gets "?", not an exception
    try:
        code = command() or 0
        sys.stdout.flush()
        return code
    except FedlearnError as error:
        return _told(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # what reads our output has seen enough, as `| head` does
        _drop_output()
        return 0
    except OSError as error:
        _drop_output()
        place = f"'{error.filename}'" if error.filename else "the system refuses"
        return _told(RunError(f"{place}: {error.strerror or error}"))
    except MemoryError:
        return _told(
            RunError(
                "out of memory; use a smaller model, a smaller batch_size or fewer engine.workers"
            )
        )


def _told(error: FedlearnError) -> int:
    with contextlib.suppress(
        OSError
    ):  # standard error may be as full or as closed as anything else
        print(f"fedlearn: {one_line(error)}", file=sys.stderr, flush=True)
    return error.exit_code


def _drop_output() -> None:
    """Send what standard output still holds to nowhere, or the interpreter would complain of it at its end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
