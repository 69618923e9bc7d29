"""An error of a signal's handler is not the fault of the code that it hit."""

import os
import signal
import sys
from functools import partial

import pytest

from fedlearn.errors import pass_on_signal
from tests.jobs import CONFIG, run
from tests.wrong import X, Y


class Program:
    """A program that ends in order on SIGTERM."""

    def end(self, number, frame):
        sys.exit(0)


def _end(number, frame):
    raise SystemExit(number)


def terminated():
    """Be hit by SIGTERM, and give no error of one's own."""
    os.kill(os.getpid(), signal.SIGTERM)


def mod(message, context, call_next):
    """A mod that SIGTERM hits when it trains client 3."""
    if context.node_config["partition-id"] == 3:
        terminated()
    return call_next(message, context)


def loader():
    """A data set that SIGTERM hits while it is loaded."""
    terminated()
    return X, Y, X, Y


@pytest.fixture(params=[_end, lambda *_: sys.exit(3), Program().end])
def handler(request):
    before = signal.signal(signal.SIGTERM, request.param)
    yield request.param
    signal.signal(signal.SIGTERM, before)


def caught(work):
    """Return the SystemExit of some work."""
    with pytest.raises(SystemExit) as info:
        work()
    return info.value


def test_a_handlers_error_is_passed_on_and_codes_own_is_not(handler):
    with pytest.raises(SystemExit):
        pass_on_signal(caught(terminated))
    pass_on_signal(caught(partial(sys.exit, 3)))
    pass_on_signal(ValueError("of the code's own"))
    pass_on_signal(KeyError())


@pytest.mark.parametrize(
    "config",
    [
        CONFIG + '[client]\nmods = ["tests.test_errors:mod"]\n',
        CONFIG.replace('"digits"', '"tests.test_errors:loader"'),
    ],
    ids=["a client", "a data set"],
)
def test_sigterm_ends_a_run_whoever_is_at_work(config, handler, tmp_path):
    with pytest.raises(SystemExit):
        run(tmp_path / "run", config=config)


def test_a_client_that_exits_by_itself_fails_alone(handler, tmp_path):
    config = CONFIG + '[client]\nmods = ["tests.test_errors:exits"]\n'
    ran = run(tmp_path / "run", config=config)
    assert ran.code == 0
    assert {"3": "SystemExit: goodbye"} in ran.failures


def exits(message, context, call_next):
    """A mod that ends client 3."""
    if context.node_config["partition-id"] == 3:
        sys.exit("goodbye")
    return call_next(message, context)
