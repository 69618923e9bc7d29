"""The slot: what can be loaded, and how another version takes its place."""

import asyncio
import json
import os

import pytest

from fedlearn.clients.infer import record, slot
from fedlearn.clients.infer.model import load
from fedlearn.errors import ModelError, UserError
from tests.clients.infer import graphs


def test_a_model_says_what_it_takes(tmp_path):
    model = load(graphs.scaled(tmp_path / "m.onnx"))
    assert [(port.name, port.datatype, port.shape) for port in model.inputs] == [
        ("x", "FP32", (-1, 3))
    ]
    assert model.batches and model.labels == graphs.LABELS
    assert model.raw is not None and model.raw.divide == 255
    assert len(model.version) == 12 and model.run_s > 0
    # The same bytes are the same version, wherever they lie.
    again = load(graphs.scaled(tmp_path / "n.onnx"))
    assert again.version == model.version
    assert load(graphs.scaled(tmp_path / "o.onnx", 3.0)).version != model.version


def test_what_is_no_model_is_named(tmp_path):
    with pytest.raises(UserError, match="there is no model at"):
        load(tmp_path / "nothing.onnx")
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"not a graph")
    with pytest.raises(ModelError, match="no ONNX model that this runtime can load"):
        load(bad)
    with pytest.raises(UserError, match="give a package"):
        load(tmp_path)


def test_a_shadow_comes_and_goes_without_loading_the_model_again(tmp_path):
    graphs.scaled(tmp_path / "a.onnx")
    graphs.scaled(tmp_path / "b.onnx", 3.0)
    path = tmp_path / "serving.json"
    lines: list[str] = []

    def write(model, **more):
        path.write_text(json.dumps({"model": model, **more}))

    async def go():
        write("a.onnx")
        place = slot.ModelSlot(path, lines.append)
        first = place.model
        write("b.onnx", shadow="a.onnx", share=0.25)
        await place.swap()
        second = place.model
        # What served before is the shadow as it is.
        assert place.shadow is not None and place.shadow.model is first
        assert (place.shadow.share, place.swaps.count) == (0.25, 1)
        write("b.onnx")
        await place.swap()
        assert place.shadow is None and place.model is second
        assert place.swaps.count == 1
        # The same once more means: load it again.
        await place.swap()
        assert place.model is not second and place.swaps.count == 2
        write("b.onnx", shadow="nothing.onnx", share=0.25)
        await place.swap()
        assert place.shadow is None and place.swaps.failed == 0

    asyncio.run(go())
    assert "answers are not compared: there is no model at" in lines[-1]


@pytest.mark.parametrize(
    "more",
    [
        {"shadow": "a"},
        {"shadow": "a", "share": 2},
        {"shadow": "a", "share": True},
        {"shadow": "", "share": 0.1},
        {"shadow": 3, "share": 0.1},
    ],
)
def test_a_shadow_that_cannot_be_is_refused(tmp_path, more):
    path = tmp_path / "serving.json"
    path.write_text(json.dumps({"model": "m", **more}))
    with pytest.raises(UserError, match="a shadow has to be as in"):
        record.read(path)


def test_a_swap_that_fails_changes_nothing(tmp_path):
    path = graphs.scaled(tmp_path / "m.onnx")
    lines: list[str] = []

    async def go():
        place = slot.ModelSlot(path, lines.append)
        before = place.model
        path.write_bytes(b"half a file")
        await place.swap()
        assert place.model is before
        assert (place.swaps.count, place.swaps.failed) == (0, 1)
        assert "can load" in place.swaps.error
        graphs.scaled(path, 5.0)
        await place.swap()
        assert place.model is not before
        assert (place.swaps.count, place.swaps.error) == (1, "")

    asyncio.run(go())
    assert "goes on" in lines[0] and "serves in the place of" in lines[1]


def test_a_record_that_is_replaced_is_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(slot, "WATCH_S", 0.01)
    graphs.scaled(tmp_path / "1.onnx", 1.0)
    graphs.scaled(tmp_path / "2.onnx", 2.0)
    path = tmp_path / "serving.json"

    def name(model):
        part = tmp_path / "part"
        part.write_text(json.dumps({"model": model}))
        os.replace(part, path)

    async def go():
        name("1.onnx")
        place = slot.ModelSlot(path, lambda text: None)
        task = asyncio.create_task(place.watch())
        first = place.model.version
        # Neither a name of nothing nor a record that is away ends the watch.
        name("3.onnx")
        while not place.swaps.failed:
            await asyncio.sleep(0.01)
        path.unlink()
        await asyncio.sleep(0.05)
        name("2.onnx")
        while not place.swaps.count:
            await asyncio.sleep(0.01)
        task.cancel()
        assert place.model.version == load(tmp_path / "2.onnx").version != first

    asyncio.run(go())


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"model": 7}', '{"model": ""}', "[" * 9999]
)
def test_a_record_that_names_nothing_is_refused(tmp_path, text):
    path = tmp_path / "serving.json"
    path.write_text(text)
    with pytest.raises(UserError, match="names no model"):
        record.target(path)
