"""A command gives the signals back to the program that called its ``main``."""

import signal
import threading

import pytest

from fedlearn.commands.arguments import INTERRUPTED, ended, interrupt
from fedlearn.errors import UserError

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def interrupted() -> None:
    interrupt(signal.SIGTERM, None)


def mistaken() -> None:
    raise UserError("a mistake")


@pytest.mark.parametrize(
    ("end", "code"), [(lambda: 0, 0), (mistaken, 2), (interrupted, INTERRUPTED)]
)
def test_a_command_leaves_the_signals_as_they_were(end, code):
    before = [signal.getsignal(number) for number in NUMBERS]

    def command():
        for number in NUMBERS:
            signal.signal(number, signal.SIG_IGN)
        return end()

    assert ended(command) == code
    assert [signal.getsignal(number) for number in NUMBERS] == before


def test_a_command_in_another_thread_leaves_them_alone():
    codes = []
    thread = threading.Thread(target=lambda: codes.append(ended(lambda: 3)))
    thread.start()
    thread.join()
    assert codes == [3]
