"""A larger model at the centre: asked where it is faster or surer, and done without."""

import asyncio
import contextlib
import json
import time

import numpy as np
import pytest

from fedlearn.clients.infer.joining import fitting, merged, scores_place
from fedlearn.clients.infer.model import load
from fedlearn.clients.infer.pacing import Pacing
from fedlearn.clients.infer.placing import Placing, Way
from fedlearn.clients.infer.refusal import Refusal
from fedlearn.clients.infer.upstream import (
    Upstream,
    UpstreamAddress,
    UpstreamAnswer,
    UpstreamError,
    UpstreamFiles,
    UpstreamLateError,
    address_of,
)
from fedlearn.clients.placement.classes import ServiceClass, ServiceClasses
from fedlearn.clients.placement.place import Placer, PlaceSettings
from fedlearn.clients.placement.routing import Router, Routing
from fedlearn.errors import UserError
from tests.clients.infer import graphs
from tests.clients.infer.serving import HEAD, serving

# A test's machine may be busy for longer than a moment.
PATIENT = PlaceSettings(patience_s=10.0)

X = np.array([[1, 2, 3], [9, 1, 0]], np.float32)


def address(port: int) -> UpstreamAddress:
    return UpstreamAddress("127.0.0.1", port, is_secure=False, name="m")


@contextlib.asynccontextmanager
async def pair(tmp_path, ports=None, router=None, settings=None):
    """Serve y = 2x here and y = 3x at the centre; yields both servers."""
    small = graphs.scaled(tmp_path / "small.onnx", 2.0)
    large = graphs.scaled(tmp_path / "large.onnx", 3.0)
    lines: list[str] = []
    async with serving(large) as centre, serving(small) as device:
        ways = [
            Way(Upstream(address(port), "m"), Placer(settings or PATIENT))
            for port in ports or [centre.port]
        ]
        placing = Placing(
            ways, device.served.batcher, device.served.measures, lines.append, router
        )
        device.served.placing = placing
        try:
            yield device, centre, ways, lines
        finally:
            placing.close()


async def ask(port: int, values=X, **parameters) -> dict:
    """Return a server's JSON answer to some samples."""
    value = {
        "inputs": [
            {
                "name": "x",
                "datatype": "FP32",
                "shape": list(np.shape(values)),
                "data": np.asarray(values).ravel().tolist(),
            }
        ],
        "parameters": parameters,
    }
    body = json.dumps(value).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        data = await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return json.loads(data.partition(b"\r\n\r\n")[2])


def outputs(answer: dict) -> list[float]:
    return answer["outputs"][0]["data"]


async def silent_port(stack: contextlib.AsyncExitStack) -> int:
    """Return a port that takes connections and never answers."""

    async def hold(reader, writer):
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    stack.callback(server.close)
    return server.sockets[0].getsockname()[1]


def measured(ways, edge_s: float, cloud_s: float) -> None:
    """Let the estimates be so, as after many requests."""
    now_s = time.monotonic()
    for way in ways:
        for _ in range(40):
            way.placer.edge_done("", edge_s, now_s)
            way.placer.cloud_done("", X.nbytes, cloud_s, cloud_s / 2, now_s)


def test_an_upstream_gives_what_the_other_server_computes(tmp_path):
    model = graphs.scaled(tmp_path / "m.onnx", 3.0)

    async def go():
        async with serving(model) as centre:
            upstream = Upstream(address(centre.port), "m")
            answers = [await upstream.infer({"x": X}, 10) for _ in range(3)]
            ready_s = await upstream.ready_s(10)
            connections = len(centre.http.connections)
            upstream.close()
            return answers, ready_s, connections, centre.served.slot.model.version

    answers, ready_s, connections, version = asyncio.run(go())
    for answer in answers:
        assert np.array_equal(answer.outputs["y"], 3 * X)
        assert answer.version == version
        # The other server says how long a request was there.
        assert answer.service_s > 0
    assert ready_s > 0
    # One connection carried all of them.
    assert connections == 1


def test_a_connection_that_was_closed_meanwhile_is_made_anew(tmp_path):
    model = graphs.scaled(tmp_path / "m.onnx", 3.0)

    async def go():
        async with serving(model) as centre:
            upstream = Upstream(address(centre.port), "m")
            await upstream.infer({"x": X}, 10)
            for connection in list(centre.http.connections):
                connection.abort()
            await asyncio.sleep(0.05)
            answer = await upstream.infer({"x": X}, 10)
            upstream.close()
            return answer

    assert np.array_equal(asyncio.run(go()).outputs["y"], 3 * X)


def test_what_goes_wrong_is_one_sentence(tmp_path):
    model = graphs.scaled(tmp_path / "m.onnx", 3.0)

    async def go():
        async with contextlib.AsyncExitStack() as stack:
            centre = await stack.enter_async_context(serving(model))
            silent = await silent_port(stack)
            nobody = Upstream(address(1), "m")
            with pytest.raises(UpstreamError, match="does not answer"):
                await nobody.infer({"x": X}, 10)
            late = Upstream(address(silent), "m")
            with pytest.raises(UpstreamLateError, match=r"within 0\.05 s"):
                await late.infer({"x": X}, 0.05)
            assert late.on_their_way == 0
            upstream = Upstream(address(centre.port), "m")
            with pytest.raises(UpstreamError, match=r"refused \(400\): .*input"):
                await upstream.infer({"z": X}, 10)
            upstream.close()

    asyncio.run(go())


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n" + b'{"outputs":[5]}',
        b"HTTP/1.1 x\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a" * 100_000,
        b"",
    ],
)
def test_hostile_answers_are_errors_of_ours(answer):
    async def reply(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async def go():
        server = await asyncio.start_server(reply, "127.0.0.1", 0)
        upstream = Upstream(address(server.sockets[0].getsockname()[1]), "m")
        try:
            with pytest.raises(UpstreamError):
                await upstream.infer({"x": X}, 5)
        finally:
            upstream.close()
            server.close()

    asyncio.run(go())


def test_the_faster_place_answers(tmp_path):
    async def go():
        async with pair(tmp_path) as (device, centre, ways, _):
            first = await ask(device.port)
            measured(ways, edge_s=1.0, cloud_s=0.1)
            there = await ask(device.port)
            measured(ways, edge_s=0.001, cloud_s=0.1)
            here = await ask(device.port)
            versions = [s.served.slot.model.version for s in (device, centre)]
            return first, there, here, versions, device.served.measures.placed

    first, there, here, versions, placed = asyncio.run(go())
    assert outputs(first) == outputs(here) == (2 * X).ravel().tolist()
    assert outputs(there) == (3 * X).ravel().tolist()
    assert [there["model_version"], here["model_version"]] == versions[::-1]
    assert placed == {"edge": 2, "cloud": 1}


def test_a_centre_that_dies_is_left_at_once_and_used_again_later(tmp_path):
    settings = PlaceSettings(retry_s=0.05, longest_retry_s=0.05, unknown_s=0.2)

    async def go():
        async with contextlib.AsyncExitStack() as stack:
            servers = pair(tmp_path, settings=settings)
            device, _, ways, lines = await stack.enter_async_context(servers)
            silent = await silent_port(stack)
            measured(ways, edge_s=1.0, cloud_s=0.1)
            alive = ways[0].upstream.address
            ways[0].upstream.close()
            ways[0].upstream.address = address(silent)
            fallen = await ask(device.port)
            is_down = ways[0].placer.is_down
            # Nothing waits for the dead centre now.
            later = await ask(device.port)
            ways[0].upstream.address = alive
            for _ in range(200):
                await ask(device.port)
                if not ways[0].placer.is_down:
                    break
                await asyncio.sleep(0.02)
            measured(ways, edge_s=1.0, cloud_s=0.1)
            return fallen, is_down, later, await ask(device.port), lines

    fallen, is_down, later, back, lines = asyncio.run(go())
    assert outputs(fallen) == outputs(later) == (2 * X).ravel().tolist()
    assert is_down
    assert outputs(back) == (3 * X).ravel().tolist()
    assert "did not answer within" in lines[0] and "answers again" in lines[-1]


def test_a_client_in_a_hurry_does_not_bring_the_centre_down(tmp_path):
    async def go():
        async with contextlib.AsyncExitStack() as stack:
            silent = await silent_port(stack)
            servers = pair(tmp_path, ports=[silent])
            device, _, ways, _ = await stack.enter_async_context(servers)
            measured(ways, edge_s=100.0, cloud_s=10.0)
            await ask(device.port, timeout=200_000)
            return ways[0].placer.is_down

    assert not asyncio.run(go())


async def slow_port(stack: contextlib.AsyncExitStack, port: int) -> int:
    """Return a port whose answers are another one's, a fifth of a second later."""

    async def carry(reader, writer):
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(asyncio.CancelledError, OSError):
            while data := await reader.read(1 << 16):
                far_writer.write(data)
                answer = await far_reader.read(1 << 16)
                await asyncio.sleep(0.2)
                writer.write(answer)
        writer.close()
        far_writer.close()

    server = await asyncio.start_server(carry, "127.0.0.1", 0)
    stack.callback(server.close)
    return server.sockets[0].getsockname()[1]


def test_a_late_answer_of_the_centre_counts_where_the_device_has_none(
    tmp_path, monkeypatch
):
    hasty = PlaceSettings(patience_s=0.01, give_up_s=20.0)

    def full(query):
        raise Refusal(503, "busy", "the queue is full")

    async def go(is_full: bool):
        async with contextlib.AsyncExitStack() as stack:
            far = graphs.scaled(tmp_path / "far.onnx", 3.0)
            other = await stack.enter_async_context(serving(far))
            port = await slow_port(stack, other.port)
            servers = pair(tmp_path, ports=[port], settings=hasty)
            device, _, ways, _ = await stack.enter_async_context(servers)
            measured(ways, edge_s=10.0, cloud_s=0.001)
            if is_full:
                monkeypatch.setattr(device.served.batcher, "put", full)
            return await ask(device.port)

    # The device takes no fifth of a second.
    assert outputs(asyncio.run(go(is_full=False))) == (2 * X).ravel().tolist()
    assert outputs(asyncio.run(go(is_full=True))) == (3 * X).ravel().tolist()


def test_unsure_samples_alone_go_to_the_larger_model(tmp_path):
    # Margins of 2x are 2 and 16: the first sample is unsure.
    router = Router(Routing(threshold=5.0, share=1.0))

    async def go():
        async with pair(tmp_path, router=router) as (device, centre, *_):
            mixed = await ask(device.port)
            unsure = await ask(device.port, X[:1])
            sure = await ask(device.port, X[1:])
            rows = centre.served.measures.batch.sum
            versions = [s.served.slot.model.version for s in (device, centre)]
            return mixed, unsure, sure, rows, versions

    mixed, unsure, sure, rows, (small, large) = asyncio.run(go())
    assert outputs(mixed) == [*(3 * X[0]), *(2 * X[1])]
    assert outputs(unsure) == (3 * X[0]).tolist()
    assert outputs(sure) == (2 * X[1]).tolist()
    assert mixed["model_version"] == f"{small}+{large}"
    assert [unsure["model_version"], sure["model_version"]] == [large, small]
    assert rows == 2


def test_without_the_centre_unsure_answers_are_given_as_they_are(tmp_path):
    router = Router(Routing(threshold=5.0, share=1.0))

    async def go():
        async with pair(tmp_path, ports=[1], router=router) as (device, *_):
            return [await ask(device.port) for _ in range(3)]

    for answer in asyncio.run(go()):
        assert outputs(answer) == (2 * X).ravel().tolist()


def test_a_device_that_is_full_asks_the_centre(tmp_path):
    small = graphs.scaled(tmp_path / "small.onnx", 2.0)
    large = graphs.scaled(tmp_path / "large.onnx", 3.0)

    async def go():
        async with serving(large) as centre, serving(small, queue_rows=1) as device:
            ways = [Way(Upstream(address(centre.port), "m"))]
            served = device.served
            served.placing = Placing(
                ways, served.batcher, served.measures, lambda text: None
            )
            answers = await asyncio.gather(*(ask(device.port) for _ in range(30)))
            served.placing.close()
            return answers

    firsts = [outputs(answer)[0] for answer in asyncio.run(go())]
    assert set(firsts) <= {2.0, 3.0}


def test_what_the_other_model_gives_must_fit(tmp_path):
    model = load(graphs.scaled(tmp_path / "m.onnx"))
    good = UpstreamAnswer("1", {"y": X}, 0.0)
    assert fitting(model, good, 2)[0] is X
    for wrong in ({}, {"y": X[:1]}, {"y": X.astype(np.float64)}, {"y": X[:, :2]}):
        with pytest.raises(UpstreamError, match="no output 'y' of FP32"):
            fitting(model, UpstreamAnswer("1", wrong, 0.0), 2)


def test_rows_are_put_in_their_places():
    rows = np.array([2, 0])
    (joined,) = merged([np.zeros((3, 2))], [np.array([[1, 1], [2, 2]])], rows)
    assert joined.tolist() == [[2, 2], [0, 0], [1, 1]]


def test_routing_needs_scores(tmp_path):
    model = load(graphs.scaled(tmp_path / "m.onnx"))
    assert scores_place(model, "y") == scores_place(model, "") == 0
    with pytest.raises(UserError, match="no output 'z'; it has y"):
        scores_place(model, "z")
    with pytest.raises(UserError, match="scores of samples by classes"):
        scores_place(load(graphs.fixed(tmp_path / "f.onnx")), "")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h:8000", UpstreamAddress("h", 8000, False)),
        ("https://h", UpstreamAddress("h", 443, True)),
        ("http://[::1]:9/v2/models/big", UpstreamAddress("::1", 9, False, "big")),
    ],
)
def test_addresses(url, expected):
    assert address_of(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "h:8000",
        "ftp://h",
        "http://",
        "http://h:x",
        "http://h/models/m",
        "http://h/v2/models/a b",
        "http://h?x=1",
    ],
)
def test_what_is_no_address_is_told(url):
    with pytest.raises(UserError, match="--upstream"):
        address_of(url)


def test_files_that_are_no_certificates_are_told(tmp_path):
    with pytest.raises(UserError, match="--upstream-ca"):
        UpstreamFiles(tmp_path / "absent.pem").context()


def test_a_server_makes_ready_for_the_load_that_it_expects(tmp_path):
    async def go():
        async with pair(tmp_path) as (device, centre, ways, _):
            served = device.served
            served.classes = ServiceClasses({"a": ServiceClass(deadline_s=0.05)}, "a")
            pacing = Pacing(served, 32)
            measured(ways, edge_s=1.0, cloud_s=0.4)
            for samples in (0, 10, 20):
                served.batcher.samples = samples
                # Ten samples take half of the deadline.
                served.batcher._row_s = 0.0025
                pacing.step()
            for _ in range(100):
                if len(centre.http.connections) >= 4:
                    break
                await asyncio.sleep(0.01)
            connections = len(centre.http.connections)
            return served.expected_rate, served.batcher.limit, connections

    rate, limit, connections = asyncio.run(go())
    assert (rate, limit) == (10.0, 10)
    # Ten a second, of which each is 0.4 s on its way: four connections.
    assert connections in (4, 5)


def test_several_models_share_the_load(tmp_path):
    large = graphs.scaled(tmp_path / "other.onnx", 3.0)
    # The device is believed to be slow for long.
    often = PlaceSettings(newest=0.01, probe_s=0.02, patience_s=10.0)

    async def go():
        async with (
            serving(large) as second,
            pair(tmp_path, settings=often) as (device, centre, ways, _),
        ):
            served = device.served
            way = Way(Upstream(address(second.port), "m"), Placer(often))
            served.placing._ways.append(way)
            measured([*ways, way], edge_s=1.0, cloud_s=0.05)
            for _ in range(40):
                await ask(device.port)
                await asyncio.sleep(0.002)
            way.upstream.close()
            return [s.served.measures.batch.sum for s in (centre, second)]

    rows = asyncio.run(go())
    # Two samples a request, and some requests computed here too.
    assert sum(rows) > 40 and min(rows) >= 4
