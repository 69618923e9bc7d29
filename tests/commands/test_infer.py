"""``fedlearn infer``: arguments that make no sense are one line, before anything is loaded."""

import subprocess
import sys

import pytest

from fedlearn.commands.infer import main


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no.onnx"], "there is no model at 'no.onnx'"),
        (["no.json"], "'no.json' cannot be read"),
        (["m.onnx", "--name", "a/b"], "--name 'a/b'"),
        (["m.onnx", "--port", "70000"], "--port 70000"),
        (["m.onnx", "--grpc-port", "-1"], "--grpc-port -1"),
        (["m.onnx", "--batch", "0"], "--batch 0"),
        (["m.onnx", "--deadline-ms", "nan"], "numbers from 0"),
        (["m.onnx", "--host", "0.0.0.0"], "give --cert, --key and --ca"),
        (["m.onnx", "--host", "0.0.0.0", "--cert", "c", "--key", "k"], "give --cert"),
        (["m.onnx", "--cert", "c"], "--cert and --key go together"),
        (["m.onnx", "--ca", "c"], "--ca needs --cert"),
        (["m.onnx", "--once", "a", "--source", "csv:b"], "give one of them"),
        (["m.onnx", "--source", "csv:b"], "--source needs --to"),
        (["m.onnx", "--to", "csv:b"], "--to needs --source"),
        (
            ["m.onnx", "--source", "video:b", "--to", "csv:c"],
            "give camera:NUMBER, folder:DIR",
        ),
        (
            ["m.onnx", "--source", "csv:b", "--to", "c"],
            "give file:OUT, csv:OUT or mqtt:TOPIC",
        ),
        (["m.onnx", "--routing", "r.json"], "--routing needs --upstream"),
        (["m.onnx", "--upstream-ca", "c"], "--upstream-ca needs --upstream"),
        (["m.onnx", "--upstream", "h:80"], "--upstream 'h:80'"),
        (["m.onnx", "--upstream", "http://h", "--once", "x"], "is for a server"),
        (["m.onnx", "--upstream-cert", "c"], "--upstream-key go together"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, words, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_help_loads_neither_numpy_nor_a_runtime():
    code = (
        "import sys\nfrom fedlearn.commands.infer import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print('LOADED', {'numpy', 'onnxruntime', 'grpc', 'torch'} & set(sys.modules))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert ended.stdout.splitlines()[-1] == "LOADED set()"
