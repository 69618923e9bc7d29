"""The machine's peak: rates of whichever product works, from processes of their own."""

import os

import pytest
import torch

from fedlearn.devices import peak


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(peak, "SECONDS", 0.01)
    monkeypatch.setattr(peak, "SIDE", 64)


def measured(processes):
    found = peak.measure(processes)
    assert found
    return found


def test_one_process_and_several(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    alone, several, every = measured(1), measured(2), measured(99)
    assert [(found.processes, found.cores) for found in (alone, several, every)] == [
        (1, 3),
        (2, 3),
        (3, 3),
    ]
    assert alone.one_gflops == alone.all_gflops > 0
    assert several.all_gflops > 0 and every.all_gflops > 0


def test_this_process_keeps_its_threads():
    before = torch.get_num_threads()
    assert peak.measure(1)
    assert torch.get_num_threads() == before


def broken(x, w):
    raise RuntimeError("no such operator")


def test_a_torch_without_onednn_uses_its_own_product(monkeypatch):
    monkeypatch.setitem(peak.PRODUCTS, "oneDNN", broken)
    assert measured(1).by == "torch.mm"


def test_without_any_product_there_is_no_peak(monkeypatch):
    for name in peak.PRODUCTS:
        monkeypatch.setitem(peak.PRODUCTS, name, broken)
    assert peak.measure(1) is None


def killed(x, w):
    raise SystemExit(1)


def test_a_process_that_dies_is_no_peak(monkeypatch):
    monkeypatch.setitem(peak.PRODUCTS, "oneDNN", killed)
    assert peak.measure(1) is None


@pytest.mark.parametrize("name", peak.PRODUCTS)
def test_the_products_multiply(name):
    x, w = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    try:
        product = peak.PRODUCTS[name](x, w)
    except (AttributeError, RuntimeError, NotImplementedError):
        pytest.skip(f"this torch has no {name}")
    assert product.tolist() == [[3.0, 8.0]]
