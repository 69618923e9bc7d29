"""Functions run within their time and their memory, and say which of the two they exceeded."""

import threading

import numpy as np
import pytest

from fedlearn.errors import PackageError, UserError
from fedlearn.package import function_run
from fedlearn.package.function_run import FunctionError, Step
from fedlearn.package.functions import PRE, ROWS, Function
from fedlearn.package.parts import Port
from fedlearn.package.watchdog import Watchdog
from tests.package import function_graphs as graphs
from tests.package import functional, small

SCORES = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_a_chain_is_what_a_reader_computes(tmp_path):
    functions = function_run.load(functional.written(tmp_path / "p"))
    assert functions is not None and functions.outputs is not None
    assert functions.input == Port("pairs", (None, 12), "uint8")
    assert [port.name for port in functions.outputs] == ["share", "class"]
    np.testing.assert_array_equal(functions.prepare(functional.PAIRS), small.SAMPLES)
    scores = small.SAMPLES.astype(np.float32) / 255 @ small.W + small.B
    shares, classes = functions.answer(scores)
    best, places = functional.expected(small.SAMPLES)
    np.testing.assert_allclose(shares, best, atol=1e-6)
    np.testing.assert_array_equal(classes, places)


def test_more_samples_than_a_run_may_have_go_through_it_in_turns():
    data = graphs.halved(3)
    port = Port("raw", (None, 3), "float32")
    outputs = (Port("x", (None, 3), "float32"),)
    function = Function("half", PRE, port, outputs, graphs.PATIENT_MS)
    step = Step(function, data)
    runs = []
    session = step._session

    class Session:
        def run(self, names, inputs, options):
            runs.append(len(inputs["raw"]))
            return session.run(names, inputs, options)

    step._session = Session()
    samples = np.arange(3 * (2 * ROWS + 1), dtype=np.float32).reshape(-1, 3)
    np.testing.assert_array_equal(step.run(samples)[0], samples / 2)
    assert runs == [ROWS, ROWS, 1]


def test_a_run_that_takes_too_long_is_ended():
    step = Step(functional.answer(time_ms=1), graphs.slow())
    with pytest.raises(FunctionError, match="took more than its 1 ms for 2") as caught:
        step.run(SCORES)
    assert caught.value.reason == function_run.TIME
    # It was ended, and not only found late; and the next run has a time of its own.
    patient = Step(functional.answer(), graphs.slow())
    np.testing.assert_allclose(patient.run(SCORES)[0], SCORES)


@pytest.mark.parametrize("data", [graphs.swelling(), graphs.swollen_at_loading()])
def test_memory_beyond_the_limit_is_not_to_be_had(data):
    step = Step(functional.answer(memory_mb=4), data)
    with pytest.raises(FunctionError, match="more memory than its 4 MB") as caught:
        step.run(SCORES)
    assert caught.value.reason == function_run.MEMORY


def test_each_function_has_a_limit_of_its_own():
    large = Step(functional.answer(memory_mb=64), graphs.swelling())
    small_step = Step(functional.answer(memory_mb=4), graphs.swelling())
    for _ in range(2):
        np.testing.assert_array_equal(large.run(SCORES)[0], SCORES)
        with pytest.raises(FunctionError):
            small_step.run(SCORES)


def test_outputs_of_another_shape_than_promised_are_no_answer():
    from onnx import helper

    # Samples whose lowest score is 0 are left out, which no shape says.
    nodes = [
        helper.make_node("ReduceMin", ["scores"], ["lowest"], axes=[1], keepdims=0),
        helper.make_node("Cast", ["lowest"], ["is_above"], to=9),
        helper.make_node("Compress", ["scores", "is_above"], ["answer"], axis=0),
    ]
    ports = ([("scores", 1, ["n", 3])], [("answer", 1, ["n", 3])])
    data = graphs.graph(nodes, *ports)
    with pytest.raises(FunctionError, match=r"of shape \[1, 3\] for 2 samples"):
        Step(functional.answer(), data).run(SCORES)


def test_a_graph_of_another_shape_than_the_manifest_says_is_refused():
    from onnx import helper

    nodes = [helper.make_node("Identity", ["scores"], ["answer"])]
    data = graphs.graph(nodes, [("scores", 1, ["n", 4])], [("answer", 1, ["n", 4])])
    with pytest.raises(PackageError, match="'scores' of another shape"):
        Step(functional.answer(), data)


def test_an_onnxruntime_that_bounds_no_memory_is_not_taken(monkeypatch):
    assert [function_run.is_older(text) for text in ("1.20.1", "1.23.0", "1.32.0")] == [
        *(True, False, False),
    ]
    monkeypatch.setattr("onnxruntime.__version__", "1.22.1")
    with pytest.raises(
        UserError, match=r"need onnxruntime 1\.23 or newer.* is 1\.22\.1"
    ):
        Step(functional.answer(), graphs.swelling())


class Options:
    """RunOptions, as far as the watchdog knows them; set: once it was told to end."""

    def __init__(self):
        self.ended = threading.Event()

    def __setattr__(self, name, value):
        if name == "terminate":
            self.ended.set()
        else:
            super().__setattr__(name, value)


def test_the_watchdog_ends_what_is_late_and_nothing_else():
    dog = Watchdog()
    patient = Options()
    late = [Options() for _ in range(3)]
    with dog.watching(patient, 1000) as run:
        for options in late:
            with dog.watching(options, 0.001) as short:
                # Set by the watchdog's thread, however long that takes here.
                assert options.ended.wait(60)
            assert short.is_ended
    assert not run.is_ended
    assert not patient.ended.is_set()


def test_what_nobody_could_end_is_late_all_the_same():
    dog = Watchdog()
    # Of no time at all: it is over before the thread can look.
    with dog.watching(Options(), -1) as run:
        pass
    assert run.is_ended
