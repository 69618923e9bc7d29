"""Two servers in processes of their own: the centre is killed, and every request is answered."""

import asyncio
import json

from tests.clients.infer import graphs
from tests.clients.infer.serving import process
from tests.clients.infer.test_upstream import X, ask, outputs


def test_a_killed_centre_costs_no_answer(tmp_path):
    routing = tmp_path / "routing.json"
    values = {"format": "fedlearn-routing-1", "threshold": 5.0, "share": 1.0}
    routing.write_text(json.dumps(values))
    small = graphs.scaled(tmp_path / "small.onnx", 2.0)
    large = graphs.scaled(tmp_path / "large.onnx", 3.0)
    with process(large, "--port", "0") as centre:
        url = f"http://127.0.0.1:{centre.port()}/v2/models/m"
        options = ("--port", "0", "--upstream", url, "--routing", str(routing))
        with process(small, *options) as device:
            port = device.port()
            before = [outputs(asyncio.run(ask(port, X[:1]))) for _ in range(5)]
            centre.popen.kill()
            centre.popen.wait()
            after = [outputs(asyncio.run(ask(port, X[:1]))) for _ in range(5)]
            line = device.wait_for("meanwhile")
    assert (3 * X[0]).tolist() in before
    assert after == [(2 * X[0]).tolist()] * 5
    assert "requests are computed here meanwhile" in line


def test_classes_that_are_wrong_end_the_server_with_one_line(tmp_path, capsys):
    from fedlearn.commands.infer import main

    model = graphs.scaled(tmp_path / "m.onnx")
    classes = tmp_path / "classes.json"
    classes.write_text('{"format": "fedlearn-classes-1", "classes": {}}')
    assert main([str(model), "--port", "0", "--classes", str(classes)]) == 2
    error = capsys.readouterr().err
    assert "'classes' has to name one class at least" in error
    assert error.count("\n") == 1
