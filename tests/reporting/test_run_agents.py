"""The page's section of real agents: their devices, and what came of their work."""

import json

from fedlearn.records.reading import RunRecord
from fedlearn.reporting.agents import agents


def run_in(folder, **files):
    for name, told in files.items():
        (folder / f"{name}.json").write_text(
            told if isinstance(told, str) else json.dumps(told)
        )
    return RunRecord(folder, "", {}, {}, {}, ())


def test_a_simulation_has_no_agents(tmp_path):
    assert agents(run_in(tmp_path)) == ""


def test_each_client_has_a_row_with_its_device_and_its_work(tmp_path):
    work = {
        "asked": 5,
        "answered": 3,
        "declined": 2,
        "late": 0,
        "failed": 0,
        "refused": 0,
    }
    reasons = {"declined: thermal: 95 °C <at> tj": 2}
    device = {
        "board": "Orin <Nano>",
        "torch": "2.5.0",
        "memory_mb": 7620,
        "step_s": 0.0123,
        "up_mbps": 8.5,
        "joules": 41.2,
    }
    clients = {
        "10": {
            "train": {**work, "reasons": reasons},
            "evaluate": {**work, "reasons": {}},
        },
        "2": {},
    }
    page = agents(run_in(tmp_path, clients=clients, devices={"10": device}))
    assert page.index("<td>2</td>") < page.index("<td>10</td>")
    for text in (
        "Orin &lt;Nano&gt;",
        "7,620 MB",
        "12.3 ms",
        "8.5 Mbit/s",
        "41.2 J",
        "95 °C &lt;at&gt; tj",
        "1 reasons",
    ):
        assert text in page, text
    assert (
        ">10<" in page and ">6<" in page and ">4<" in page
    )  # of both kinds of work together


def test_damaged_files_are_none(tmp_path):
    assert agents(run_in(tmp_path, clients="{", devices="[]")) == ""
    assert "<td>1</td>" in agents(
        run_in(
            tmp_path, clients={"1": 3}, devices={"1": {"step_s": "x", "board": None}}
        )
    )
