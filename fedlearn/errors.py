"""Every exception that fedlearn raises on purpose.

FedlearnError                 one root; ``exit_code`` is what a command ends with
├── UserError          (2)    the input is wrong: the message names the thing, the place and the fix
│   ├── ConfigError           a key, a value or a file of an experiment
│   ├── DataError             a data set, a partition or a file of samples
│   └── ModelError            a model that cannot be built or does not fit the data
├── RunError           (3)    the run itself failed
│   ├── RoundError            no attempt of a round gave enough usable updates
│   ├── StrategyError         what a strategy makes of a round's answers cannot be used
│   └── RecordError           the run folder cannot be written or read
├── ExpectationError   (4)    the run ended, but an ``[expect]`` line of its config does not hold
├── PayloadError       (3)    bytes that a decoder refuses, or values that a codec cannot carry
│   ├── FormatError           not a payload, a newer format, or a damaged one
│   │   └── PackageError      a package that no device may run; its ``name`` says why
│   └── SchemaError           a payload for another model
└── ClientError        (3)    one client could not do what the plan asks; the round goes on
"""

import signal
import traceback
from types import CodeType

from fedlearn.text import shortened

# Characters of what a command prints of an error. Our own texts may list many names.
LINE_CHARACTERS = 2000


class FedlearnError(Exception):
    """Root of every error raised on purpose."""

    exit_code = 3


class UserError(FedlearnError):
    """The user's input is wrong; the message says what, where and how to mend it."""

    exit_code = 2


class ConfigError(UserError):
    """A key, a value or a file of an experiment is wrong."""


class DataError(UserError):
    """A data set, a partition or a file of samples is wrong or missing."""


class ModelError(UserError):
    """A model cannot be built or does not fit the data."""


class RunError(FedlearnError):
    """The run itself failed."""


class RunStopped(RunError):
    """Its operator stopped the run, which can go on later."""


class RoundError(RunError):
    """No attempt of a round gave enough usable updates."""


class StrategyError(RunError):
    """A strategy raised on a round's answers, or made a model of them that is none."""


class VerbError(StrategyError):
    """A verb of a strategy raised what is this error's cause; it may be meant as an end."""


class RecordError(RunError):
    """The run folder cannot be written or read."""


class UnwrittenError(RecordError):
    """What a run goes on from is not written; its checkpoint is sound still, if it has one."""


class ExpectationError(FedlearnError):
    """The run ended, but an expectation of its config does not hold."""

    exit_code = 4


class PayloadError(FedlearnError):
    """Bytes that a decoder refuses, or values that a codec cannot carry."""


class FormatError(PayloadError):
    """Not a payload, a payload of a newer format, or a damaged one."""


class PackageError(FormatError):
    """A package that no device may run, or that cannot be read.

    name: the kind of refusal in one word, such as "expired"; docs/package.md lists them.
    """

    def __init__(self, name: str, text: str) -> None:
        """Keep the kind beside the sentence."""
        super().__init__(f"refused ({name}): {text}")
        self.name = name


class SchemaError(PayloadError):
    """A payload for another model."""


class ClientError(FedlearnError):
    """One client could not do what the plan asks.

    It is recorded as failed, and the round goes on.
    """


def one_line(error: BaseException) -> str:
    """Return what a command prints of an error: one printable line.

    Line breaks become spaces, whatever a user's code raised.
    """
    return shortened(_text(error), LINE_CHARACTERS)


def reason_of(error: BaseException) -> str:
    """Return why something failed: one printable line of `fedlearn.text.REASON_CHARACTERS`.

    Errors raised on purpose say it in their text. Of any other the kind is told too: some
    texts say little, such as a KeyError's.
    """
    text = _text(error)
    if isinstance(error, FedlearnError):
        return shortened(text)
    kind = type(error).__name__
    return shortened(f"{kind}: {text}" if text.strip() else kind)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    # A user's own class of errors, whose text fails itself.
    except Exception:
        return ""


def pass_on_signal(error: BaseException) -> None:
    """Raise an error again that a signal's handler raised; return for any other.

    Python runs a handler inside whatever code is at work. A program that handles SIGTERM
    by `sys.exit`, as Ray does, means to end, and not to fail the client that was training.
    """
    if not isinstance(error, SystemExit):
        return
    codes = _handler_codes()
    frames = traceback.walk_tb(error.__traceback__)
    if any(frame.f_code in codes for frame, _ in frames):
        raise error


def _handler_codes() -> set[CodeType]:
    """Return the code of every signal handler that is written in Python."""
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    # A method's code is its function's.
    functions = [getattr(handler, "__func__", handler) for handler in handlers]
    codes = {getattr(function, "__code__", None) for function in functions}
    return {code for code in codes if code is not None}
