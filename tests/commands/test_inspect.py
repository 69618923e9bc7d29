"""``fedlearn inspect``: what it tells, and one line for everything that is no payload."""

import io
import json
import subprocess
import sys
import zlib
from types import SimpleNamespace

import numpy as np
import pytest

from fedlearn import wire
from fedlearn.__main__ import main as fedlearn
from fedlearn.arrays import Entry, Layout, State
from fedlearn.commands.inspect import main
from fedlearn.wire import payload_pb2

LAYOUT = Layout(
    (
        Entry("w", (300,), "float32", True),
        Entry("mean", (20,), "float32", False),
        Entry("n", (2,), "int64", False),
    ),
)
STATE = State(np.arange(320, dtype=np.float32), np.array([5, -7], np.int64))
HEADER = wire.Header(
    kind=wire.UPDATE,
    round=4,
    digest=b"12345678",
    codec="topk(0.1)+q4",
    seed=11,
    examples=1234,
    train_loss=0.5,
    residual=wire.CARRIED,
    metrics={"mae": 0.25, "c": [1, 2]},
)
UPDATE = wire.encode(LAYOUT, HEADER, STATE)
MODEL = wire.encode_model(LAYOUT, STATE, 7, "raw32", 0)[0]


@pytest.fixture
def write(tmp_path):
    def written(name, data):
        path = tmp_path / name
        path.write_bytes(data)
        return str(path)

    return written


def facts(out):
    """Return the lines of one payload as a dictionary."""
    lines = out.splitlines()[1:]
    width = min(len(line) - len(line[2:].split("  ", 1)[1].lstrip()) for line in lines)
    return {line[2:width].strip(): line[width:] for line in lines}


def resealed(message):
    message.ClearField("checksum")
    data = message.SerializeToString(deterministic=True)
    return data + b"\x7d" + zlib.crc32(data).to_bytes(4, "little")


def test_an_update_in_words(write, capsys):
    path = write("update.bin", UPDATE)
    assert main([path]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == path
    told = facts(out)
    assert told["kind"] == "update: a client's model minus the one that it was sent"
    assert told["codec"].startswith(
        "topk(0.1)+q4: the largest magnitudes; 4-bit levels"
    )
    assert (told["version"], told["digest"]) == (
        "4, the client started from",
        "3132333435363738",
    )
    assert told["schema"] == LAYOUT.schema.hex()
    assert (told["parameters"], told["integers"], told["examples"]) == (
        "320, 20 of them buffers",
        "2",
        "1,234",
    )
    assert (told["train loss"], told["metric mae"], told["metric c"]) == (
        "0.500",
        "0.25",
        "[1, 2]",
    )
    assert told["residual"].startswith("carried: ")
    assert "base digest" not in told


def test_the_parts_add_up(write, capsys):
    assert main([write("model.bin", MODEL), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kind"] == "SNAPSHOT"
    parts = told["bytes_of"]
    assert (parts["body"], parts["buffers"], parts["integers"], parts["checksum"]) == (
        1200,
        80,
        16,
        5,
    )
    assert sum(parts.values()) == told["bytes"] == len(MODEL)
    assert told["raw_bytes"] == 4 * 320 + 8 * 2
    assert told["ratio"] == pytest.approx(1296 / len(MODEL))
    assert told["bits_a_parameter"] == pytest.approx(8 * len(MODEL) / 320)


def test_several_payloads_are_one_line_of_json_each(write, capsys):
    assert main([write("a", UPDATE), write("b", MODEL), "--json"]) == 0
    assert [
        json.loads(line)["kind"] for line in capsys.readouterr().out.splitlines()
    ] == ["UPDATE", "SNAPSHOT"]
    assert main([write("a", UPDATE), write("b", MODEL)]) == 0
    assert len(capsys.readouterr().out.split("\n\n")) == 2


def test_a_difference_names_both_models(write, capsys):
    base = State(np.zeros(320, np.float32), STATE.integers)
    data, header, _ = wire.encode_difference(
        LAYOUT, base, wire.digest(base.floats), STATE, 8, "eden1", 3, None
    )
    assert main([write("d", data)]) == 0
    told = facts(capsys.readouterr().out)
    assert (told["digest"], told["base digest"]) == (
        header.digest.hex(),
        header.base_digest.hex(),
    )


def test_a_payload_from_standard_input(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(UPDATE)))
    assert main(["-"]) == 0
    assert facts(capsys.readouterr().out)["format"] == "1"


def test_what_this_version_does_not_know_is_said_to_be_unknown(write, capsys):
    message = payload_pb2.Payload.FromString(UPDATE)
    message.kind, message.codec, message.residual = 9, "zip\x1b[2J\nover", 7
    assert main([write("odd", resealed(message))]) == 0
    out = capsys.readouterr().out
    assert facts(out)["kind"] == "9: unknown to this version of fedlearn"
    assert (
        facts(out)["codec"] == "zip\\x1b[2J over: unknown to this version of fedlearn"
    )
    assert facts(out)["residual"] == "7: unknown to this version of fedlearn"


def test_a_model_without_parameters(write, capsys):
    layout = Layout((Entry("n", (1,), "int64", False),))
    data, _, _ = wire.encode_model(
        layout, State(np.empty(0, np.float32), np.array([3])), 0, "raw32", 1
    )
    assert main([write("empty", data)]) == 0
    assert "no parameters" in facts(capsys.readouterr().out)["together"]


def newer():
    message = payload_pb2.Payload.FromString(UPDATE)
    message.format = 2
    return resealed(message)


def cut_integers():
    message = payload_pb2.Payload.FromString(UPDATE)
    message.integers = b"123"
    return resealed(message)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is empty"),
        (b"hello", "not a payload"),
        (UPDATE[:-1], "cut short"),
        (UPDATE[:40], "cut short"),
        (UPDATE[:60] + b"\xff" + UPDATE[61:], "damaged: its checksum differs"),
        (newer(), "has format 2; this version of fedlearn reads format 1"),
        (cut_integers(), "no whole number of values"),
        (b"\x40\0\0\0\0\0\0\0" + b'{"w":{}}', "a safetensors file"),
        (b"PK\x03\x04" + bytes(40), "a zip archive"),
        (bytes(5000), "not a payload"),
        (b"\x7d" + bytes(4), "format 0"),
    ],
)
def test_what_is_no_payload_is_one_line_and_exit_code_2(data, told, write, capsys):
    path = write("file.bin", data)
    assert main([write("sound", UPDATE), path]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert (
        error.startswith(f"fedlearn: '{path}': ")
        and told in error
        and error.count("\n") == 1
    )


def test_what_is_no_file_is_one_line_and_exit_code_2(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").touch()
    for name, told in (
        ("nothing.bin", "No such file"),
        (".", "fedlearn report"),
        ("a\0b", "null"),
    ):
        assert main([str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1
    assert main(["/dev/null"]) == 2
    assert "is a device" in capsys.readouterr().err


def test_it_is_a_command(write, capsys):
    assert fedlearn(["inspect", write("a", UPDATE)]) == 0
    assert "update: " in capsys.readouterr().out
    assert fedlearn(["--help"]) == 0
    assert "  inspect " in capsys.readouterr().out


def test_it_loads_no_heavy_package(write):
    path = write("a", UPDATE)
    code = (
        f"import sys\nfrom fedlearn.commands.inspect import main\nmain([{path!r}])\n"
        "print({'torch', 'flwr', 'rich'} & set(sys.modules))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert out.splitlines()[-1] == "set()"
