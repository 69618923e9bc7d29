"""What the protocol's paths answer, and what is counted."""

import asyncio
import http.client
import json

import pytest

import fedlearn
from tests.clients.infer.graphs import scaled
from tests.clients.infer.serving import serving

INPUT = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return scaled(tmp_path_factory.mktemp("model") / "scaled.onnx")


def asked(model, *requests, **options):
    """Return (status, body, headers) of each (method, path, body, headers)."""

    def ask(port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        answers = []
        for method, path, body, headers in requests:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            answers.append((answer.status, answer.read(), dict(answer.getheaders())))
        connection.close()
        return answers

    async def go():
        async with serving(model, **options) as here:
            return await asyncio.to_thread(ask, here.port)

    return asyncio.run(go())


def get(path):
    return ("GET", path, None, {})


def post(path, value):
    return ("POST", path, json.dumps(value), {})


def test_server_and_model_tell_of_themselves(model):
    server, about, live, ready, model_ready = asked(
        model,
        get("/v2"),
        get("/v2/models/m"),
        get("/v2/health/live"),
        get("/v2/health/ready"),
        get("/v2/models/m/ready"),
    )
    assert json.loads(server[1]) == {
        "name": "fedlearn",
        "version": fedlearn.__version__,
        "extensions": ["binary_tensor_data", "classification"],
    }
    described = json.loads(about[1])
    assert described["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
    assert described["platform"] == "onnxruntime_onnx"
    (version,) = described["versions"]
    assert [live[0], ready[0], model_ready[0]] == [200, 200, 200]
    by_version, other = asked(
        model,
        get(f"/v2/models/m/versions/{version}/ready"),
        post("/v2/models/m/versions/8/infer", {"inputs": [INPUT]}),
    )
    assert by_version[0] == 200
    assert other[0] == 404 and b"version '8' of 'm' does not serve here" in other[1]


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        (get("/"), 404, "nothing at this path"),
        (get("/v2/models/n"), 404, "there is no model 'n' here; it is 'm'"),
        (get("/v2/models/m/q"), 404, "nothing at this path"),
        (post("/v2/models/n/infer", {}), 404, "no model 'n'"),
        (post("/v2/models/m/infer", {}), 400, "no list of 1 to 64 'inputs'"),
        (
            ("POST", "/v2/models/m/infer", b"x", {"content-encoding": "gzip"}),
            415,
            "not compressed",
        ),
        (
            (
                "POST",
                "/v2/models/m/infer",
                b"x",
                {"Inference-Header-Content-Length": "-1"},
            ),
            400,
            "no number of bytes",
        ),
    ],
)
def test_errors_are_one_sentence(model, request_, status, words):
    ((code, body, _),) = asked(model, request_)
    assert code == status
    (error,) = json.loads(body).values()
    assert words in error and "\n" not in error


def test_what_happened_is_counted(model):
    version = "x"
    *_, page, status = asked(
        model,
        post("/v2/models/m/infer", {"inputs": [INPUT]}),
        post("/v2/models/m/infer", {"inputs": []}),
        get("/nothing"),
        get("/metrics"),
        get("/status"),
    )
    lines = page[1].decode().splitlines()
    assert page[2]["content-type"].startswith("text/plain; version=0.0.4")
    for line in (
        'fedlearn_infer_requests_total{protocol="http",code="200"} 1',
        'fedlearn_infer_requests_total{protocol="http",code="400"} 1',
        'fedlearn_infer_errors_total{kind="bad_request"} 1',
        'fedlearn_infer_errors_total{kind="unknown"} 1',
        'fedlearn_infer_batch_samples_bucket{le="1"} 1',
        'fedlearn_infer_batch_samples_bucket{le="+Inf"} 1',
        "fedlearn_infer_batch_samples_count 1",
        "fedlearn_infer_latency_seconds_count 3",
        "fedlearn_infer_waiting_samples 0",
        "fedlearn_infer_swaps 0",
    ):
        assert line in lines
    values = json.loads(status[1])
    version = values["version"]
    assert f'fedlearn_infer_version{{version="{version}"}} 1' in lines
    assert values["labels"] == ["low", "middle", "high"]
    assert values["errors"] == {"bad_request": 1, "unknown": 1}


def test_a_deadline_that_cannot_be_met_is_503_with_a_time_to_come_back(model):
    value = {"inputs": [INPUT], "parameters": {"timeout": 1}}

    async def go():
        async with serving(model) as here:
            # As if a sample took a minute.
            here.served.batcher._row_s = 60.0
            return await asyncio.to_thread(ask, here.port)

    def ask(port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("POST", "/v2/models/m/infer", json.dumps(value))
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, body, answer.headers["retry-after"]

    status, body, retry = asyncio.run(go())
    assert (status, retry) == (503, "1")
    assert b"the answer would take about 60.000 s" in body
