"""Who waits for nodes and who merely asks often, told by two clocks of the tests' own."""

from fedlearn.runs.node_waits import NodeWaits


class Clocks:
    """Two clocks that a test moves: of the time that passes, and of the work done in it."""

    def __init__(self):
        self.passed_s = 0.0
        self.worked_s = 0.0
        self.waits = NodeWaits(lambda: self.passed_s, lambda: self.worked_s)

    def ask(self, passed_s=0.0, worked_s=0.0):
        self.passed_s += passed_s
        self.worked_s += worked_s
        return self.waits.asked()


def test_asking_often_is_no_waiting():
    clocks = Clocks()
    assert not any(clocks.ask(0.001, 0.001) for _ in range(10_000))


def test_five_sleeps_in_a_row_are_waiting_in_vain():
    clocks = Clocks()
    assert [clocks.ask(1.0) for _ in range(6)] == [False] * 5 + [True]


def test_whoever_computes_between_two_questions_does_not_wait():
    clocks = Clocks()
    assert not any(clocks.ask(3.0, 2.9) for _ in range(100))


def test_who_has_sent_messages_begins_to_wait_anew():
    clocks = Clocks()
    for _ in range(3):
        assert not any(clocks.ask(1.0) for _ in range(5))
        clocks.waits.end()


def test_a_loop_that_does_not_even_sleep_ends():
    clocks = Clocks()
    assert not any(clocks.ask() for _ in range(1_000_000))
    assert clocks.ask()
