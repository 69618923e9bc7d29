"""What the agent reads of the page of figures of what serves."""

from pathlib import Path

import pytest

from fedlearn.clients.agent.serving import with_socket
from fedlearn.clients.agent.serving_page import certain_share, page_of
from fedlearn.clients.infer.metrics import Measures
from fedlearn.exchange.releases import WatchFigures


def test_figures_are_those_since_the_release_began_to_serve():
    measures = Measures()
    measures.requests["http", "200"] += 5
    measures.latency_s.add(0.3)
    before = page_of(measures.text({}, "1"))
    assert (before.version, before.requests, before.failed) == ("1", 5, 0)
    measures.requests["http", "200"] += 90
    measures.requests["http", "404"] += 5
    measures.requests["http", "500"] += 5
    for _ in range(98):
        measures.latency_s.add(0.004)
    for _ in range(2):
        measures.latency_s.add(0.02)
    figures = page_of(measures.text({"queue": 1.0}, "2")).since(before)
    assert figures.requests == 100 and figures.errors == pytest.approx(0.05)
    assert figures.p99_ms == pytest.approx(25.0)


def test_a_process_without_requests_proves_nothing():
    page = page_of(Measures().text({}, "2"))
    assert page.since(page) == WatchFigures()


def test_shares_and_drift_are_those_of_the_version_that_serves():
    measures = Measures()
    before = page_of(measures.text({"observed_answers": 0}, "2"))
    measures.requests["http", "200"] += 100
    gauges = {
        "observed_answers": 100,
        "unsure_answers": 40,
        "compared_answers": 100,
        "disagreeing_answers": 90.0,
        "drift_inputs": 0.1,
        "drift_classes": 0.31,
    }
    figures = page_of(measures.text(gauges, "2")).since(before)
    assert figures.drift == 0.31
    assert figures.unsure == pytest.approx(certain_share(40, 100))
    assert figures.disagreement == pytest.approx(certain_share(90, 100))


def test_a_share_is_what_it_is_at_least():
    # Wilson's bound for all of n is n / (n + z²).
    assert certain_share(20, 20) == pytest.approx(20 / (20 + 3.09**2))
    assert certain_share(0, 0) == certain_share(0, 50) == 0
    # Bad luck of few is little, and many tell what they are.
    assert certain_share(2, 4) < 0.11
    assert 0.49 < certain_share(50_000, 100_000) < 0.5
    assert certain_share(0.5, 1.0) >= 0


@pytest.mark.parametrize(
    ("words", "added"),
    [
        ((), ("--port", "8000", "--unix", "F/infer.sock")),
        (("--port", "9"), ("--unix", "F/infer.sock")),
        (("--int8", "--port=9"), ("--unix", "F/infer.sock")),
        (("--cert", "a", "--key", "b"), ("--port", "8000", "--unix", "F/infer.sock")),
        (("--unix", "own.sock"), ()),
        (("--unix=own.sock", "--port", "9"), ()),
    ],
)
def test_the_agent_has_a_socket_of_its_own_for_figures(words, added):
    arguments, path = with_socket(Path("F"), words)
    assert arguments == words + added
    assert path == Path("F/infer.sock" if added else "own.sock")


def test_a_folder_with_a_long_name_has_its_socket_elsewhere(tmp_path):
    arguments, path = with_socket(tmp_path / ("x" * 100), ("--port", "9"))
    assert arguments == ("--port", "9", "--unix", str(path))
    assert len(str(path)) < 100 and path.parent.is_dir()
    path.parent.rmdir()
