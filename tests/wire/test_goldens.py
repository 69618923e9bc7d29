"""Bytes that were sent once stay readable, to the same floats; see `make_goldens`."""

import json

import pytest

from tests.wire import make_goldens
from tests.wire.corpus import texts

FILES = sorted(make_goldens.FOLDER.glob("*.json"))


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_old_bytes_decode_to_the_same_values(path):
    golden = read(path)
    assert golden["payloads"]
    for one in golden["payloads"]:
        case = make_goldens.make(
            golden["codec"], one["kind"], one["model"], one["moved"]
        )
        _, change = case.take(bytes.fromhex(one["payload"]))
        assert make_goldens.sha256(change) == one["decoded"], (
            one["kind"],
            one["model"],
            one["moved"],
        )
        if golden["same_bytes"]:
            assert case.payload.hex() == one["payload"], (one["kind"], one["model"])


def test_every_codec_has_goldens():
    assert {read(path)["codec"] for path in FILES} >= set(texts())


def test_goldens_are_never_written_again(tmp_path):
    (tmp_path / "q8.json").write_text("as it was")
    assert [
        path.name for path in make_goldens.write(tmp_path, ["q8", "topk(0.01)+tern"])
    ] == ["topk-0.01-tern.json"]
    assert (tmp_path / "q8.json").read_text() == "as it was"
    assert make_goldens.write(tmp_path, ["q8", "topk(0.01)+tern"]) == []
