"""What the agent reads of the page of figures of what serves."""

import pytest

from fedlearn.clients.agent.serving import page_of
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
