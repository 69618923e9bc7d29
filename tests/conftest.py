"""A test has its own random numbers and signals, whichever tests ran before it."""

import signal
from typing import Any

import pytest

_started: dict[str, Any] = {}


@pytest.fixture(scope="session", autouse=True)
def _own_state_home(tmp_path_factory):
    """Keep what tests remember of their authorities away from the user's own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


def pytest_collection_modifyitems(items):
    """Remember where each module's generator stands once the module is imported."""
    for item in items:
        random = getattr(item.module, "RANDOM", None)
        if random is not None:
            _started.setdefault(item.module.__name__, random.bit_generator.state)


@pytest.fixture(autouse=True)
def the_same_numbers(request):
    """Put the module's generator back where it began."""
    if request.module.__name__ in _started:
        request.module.RANDOM.bit_generator.state = _started[request.module.__name__]


def handlers() -> dict[signal.Signals, Any]:
    """Return what handles the signals that commands set."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    return {number: signal.getsignal(number) for number in numbers}


@pytest.fixture(autouse=True)
def the_same_signals():
    """Fail a test that leaves a signal to its own handler: a later child would have it."""
    before = handlers()
    yield
    after = handlers()
    # A test cluster of Ray's leaves its own, which swallows a signal: it is put back.
    home = getattr(after[signal.SIGTERM], "__module__", None) or ""
    if home.split(".")[0] == "ray":
        signal.signal(signal.SIGTERM, before[signal.SIGTERM])
        after[signal.SIGTERM] = before[signal.SIGTERM]
    assert after == before
