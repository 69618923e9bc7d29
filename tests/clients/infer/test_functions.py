"""A package's functions before and after the model: over REST, gRPC, in batches and streams."""

import asyncio
import json
import re
import threading
from dataclasses import replace

import numpy as np
import pytest

from fedlearn.clients.infer import once, rpc, stream, stream_state
from fedlearn.clients.infer.batching import Query, computed, one_by_one
from fedlearn.clients.infer.followed_rows import FollowedRows
from fedlearn.clients.infer.joining import scores_place
from fedlearn.clients.infer.model import load
from fedlearn.clients.infer.observer import disagreement
from fedlearn.clients.infer.outlets import FileOutlet
from fedlearn.clients.infer.outputs import Outputs
from fedlearn.clients.infer.refusal import Refusal
from fedlearn.errors import UserError
from fedlearn.exchange import inference_pb2 as pb
from fedlearn.package import content
from fedlearn.package.function_run import Step
from tests.clients.infer import test_rpc as rpcs
from tests.clients.infer.serving import HEAD, serving
from tests.package import function_graphs as graphs
from tests.package import functional, small

PAIRS = functional.PAIRS[:5]
SHARES, CLASSES = functional.expected(small.SAMPLES[:5])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return functional.written(tmp_path_factory.mktemp("packages") / "p").folder


@pytest.fixture(scope="module")
def hurried(tmp_path_factory):
    """A package whose function takes longer than it may, on any board, once it serves."""
    place = tmp_path_factory.mktemp("packages") / "p"
    wishes = (functional.wish("slow", "post", graphs.slow()),)
    return functional.written(place, wishes, None).folder


def in_a_hurry(model):
    """Return a model whose functions have one millisecond from now on."""
    [step] = model.functions.after
    step.function = replace(step.function, time_ms=1)
    return model


def body(**more):
    entry = {"name": "pairs", "shape": [5, 12], "datatype": "UINT8"}
    return json.dumps({"inputs": [{**entry, "data": PAIRS.ravel().tolist()}], **more})


def asked(folder, *requests, change=lambda served: None):
    """Return the bodies of the answers to requests: (head, body)."""

    async def go():
        async with serving(folder) as here:
            change(here.served)
            answers = []
            for head, text in requests:
                data = text.encode()
                length = b"content-length: %d\r\nconnection: close\r\n\r\n" % len(data)
                answers.append(await here.exchange(head + length + data))
            return [answer.partition(b"\r\n\r\n") for answer in answers]

    return asyncio.run(go())


def get(path):
    return b"GET %s HTTP/1.1\r\nhost: h\r\n" % path.encode(), ""


def test_rest_takes_and_gives_what_is_outside(folder):
    answers = asked(
        folder,
        (HEAD, body()),
        get("/v2/models/m"),
        get("/status"),
        (HEAD, body().replace('"UINT8"', '"FP32"')),
    )
    value = json.loads(answers[0][2])
    outputs = {entry["name"]: entry for entry in value["outputs"]}
    assert outputs["class"]["data"] == CLASSES.ravel().tolist()
    assert outputs["class"]["datatype"] == "INT64"
    np.testing.assert_allclose(outputs["share"]["data"], SHARES.ravel(), atol=1e-6)
    about = json.loads(answers[1][2])
    assert about["inputs"] == [
        {"name": "pairs", "datatype": "UINT8", "shape": [-1, 12]}
    ]
    assert [entry["name"] for entry in about["outputs"]] == ["share", "class"]
    assert json.loads(answers[2][2])["functions"] == ["single", "shares", "best"]
    assert b"400" in answers[3][0] and b"the model takes UINT8" in answers[3][2]


def test_grpc_takes_and_gives_the_same(folder):
    metadata = ("ModelMetadata", pb.ModelMetadataRequest(name="m"))
    question = rpcs.infer(PAIRS, name="pairs", datatype="UINT8")
    answer, about = rpcs.called(folder, question, metadata)
    classes = np.frombuffer(answer.raw_output_contents[1], np.int64)
    np.testing.assert_array_equal(classes, CLASSES.ravel())
    shares = np.frombuffer(answer.raw_output_contents[0], np.float32)
    np.testing.assert_allclose(shares, SHARES.ravel(), atol=1e-6)
    assert [port.name for port in about.inputs] == ["pairs"]
    assert list(about.inputs[0].shape) == [-1, 12]


def test_a_function_that_takes_too_long_fails_its_request_and_is_counted(hurried):
    x = {"name": "x", "shape": [1, 6], "datatype": "UINT8", "data": [0] * 6}
    text = json.dumps({"inputs": [x]})
    answers = asked(
        hurried,
        (HEAD, text),
        get("/metrics"),
        change=lambda served: in_a_hurry(served.slot.model),
    )
    assert b" 500 " in answers[0][0]
    error = json.loads(answers[0][2])["error"]
    assert error == "function 'slow' took more than its 1 ms for 1 samples"
    page = answers[1][2].decode()
    assert re.search(
        r'^fedlearn_infer_errors_total{kind="function_time"} 1$', page, re.M
    )
    # The server's fault: the gates of a trial count it.
    assert 'requests_total{protocol="http",code="500"} 1' in page


def test_grpc_says_so_too(hurried):
    async def go():
        async with serving(hurried) as here:
            in_a_hurry(here.served.slot.model)
            question = rpcs.infer(np.zeros((1, 6), np.uint8), datatype="UINT8")[1]
            service = rpc.InferenceService(here.served)

            class Context:
                def time_remaining(self):
                    return None

                async def abort(self, code, details, trailer):
                    raise ValueError(code.name, details)

            with pytest.raises(ValueError, match="took more than its 1 ms") as caught:
                await service._model_infer(question, Context())
            assert caught.value.args[0] == "INTERNAL"
            assert here.served.measures.errors["function_time"] == 1

    asyncio.run(go())


def test_values_that_a_function_cannot_take_are_the_requests_fault(tmp_path):
    from onnx import helper

    # The place that a sample's first score names, of a table of three rows.
    nodes = [
        helper.make_node("Cast", ["scores"], ["places"], to=graphs.INT64),
        helper.make_node("Slice", ["places", "zero", "one", "one"], ["place"]),
        helper.make_node("Squeeze", ["place", "one"], ["row"]),
        helper.make_node("Gather", ["table", "row"], ["answer"]),
    ]
    constants = {
        "zero": np.array([0]),
        "one": np.array([1]),
        "table": np.eye(10, 3, dtype=np.float32),
    }
    ports = ([("scores", 1, ["n", 3])], [("answer", 1, ["n", 3])])
    data = graphs.graph(nodes, *ports, constants)
    wish = functional.wish("lookup", "post", data)
    model = load(functional.written(tmp_path / "p", (wish,), None).folder)
    with pytest.raises(
        Refusal, match="function 'lookup' cannot compute this"
    ) as caught:
        model.run({"x": np.full((1, 6), 1e4, np.float32)})
    assert (caught.value.status, caught.value.kind) == (400, "function")


def test_requests_computed_together_are_answered_as_apart(folder):
    model = load(folder)
    queries = [
        Query(model, {"pairs": functional.PAIRS[start : start + 3]}, lambda *_: None)
        for start in (0, 7, 20)
    ]
    for joined, apart in zip(computed(queries), one_by_one(queries), strict=True):
        assert isinstance(joined, Outputs) and isinstance(apart, Outputs)
        for first, second in zip(joined, apart, strict=True):
            np.testing.assert_allclose(first, second, atol=1e-6)
        # What the model itself took and gave goes along.
        np.testing.assert_allclose(joined.inputs["x"], apart.inputs["x"])
        np.testing.assert_allclose(joined.scores[0], apart.scores[0], atol=1e-6)


def test_a_batch_larger_than_a_function_takes_at_once(folder):
    model = load(folder)
    pairs = np.concatenate([functional.PAIRS] * 3)
    shares, classes = model.run(model.checked({"pairs": pairs}))
    expected, places = functional.expected(np.concatenate([small.SAMPLES] * 3))
    np.testing.assert_allclose(shares, expected, atol=1e-6)
    np.testing.assert_array_equal(classes, places)


def test_drift_and_disagreement_are_of_the_model_itself(folder, tmp_path):
    plain = functional.wish("single", "pre", graphs.doubled())
    shadow = load(functional.written(tmp_path / "q", (plain,)).folder)
    model = load(folder)
    tensors = {"pairs": functional.PAIRS}
    query = Query(model, model.checked(tensors), lambda *_: None, asked=tensors)
    outcome = model.run(query.inputs)
    # Answers are of other shapes, and the scores behind them the same.
    assert disagreement(shadow, query, outcome) == 0
    permuted = small.files(-10 * small.W)
    manifest, files = functional.made((plain,))
    files = {**files, **permuted}
    listed = {path: content.listed(data) for path, data in files.items()}
    other = content.write(tmp_path / "r", replace(manifest, files=listed), files)
    # The others all say "high".
    scores = small.SAMPLES.astype(np.float32) / 255 @ (-10 * small.W) + small.B
    count = (scores.argmax(1) != 2).sum()
    assert disagreement(load(other.folder), query, outcome) == count > 30

    async def go():
        async with serving(folder) as here:
            from fedlearn.clients.infer.observer import Observer

            observer = Observer(here.served.slot, lambda text: None)
            served = here.served.slot.model
            queries = [Query(served, {"pairs": functional.PAIRS[:8]}, lambda *_: None)]
            for _ in range(30):
                observer._budget = 50
                observer.answered(queries, computed(queries))
            assert observer.trouble == ""
            return observer.counts.answers, observer.drift

    answers, drift = asyncio.run(go())
    assert answers == 240
    assert drift.inputs is not None


def test_labels_name_shares_and_nothing_else(folder, tmp_path):
    assert load(folder).labels == ()
    shares = functional.wish("shares", "post", graphs.shares())
    model = load(functional.written(tmp_path / "q", (shares,), None).folder)
    assert model.labels == ("low", "mid", "high")
    # Raw samples are taken as without functions: no function is before the model.
    outputs = model.run(model.checked({"x": small.SAMPLES}))
    np.testing.assert_allclose(outputs[0].sum(1), 1, rtol=1e-5)


def test_routes_need_the_models_own_scores(folder, tmp_path):
    with pytest.raises(UserError, match="--routing reads the model's own scores"):
        scores_place(load(folder), "")
    pre = functional.wish("single", "pre", graphs.doubled())
    assert (
        scores_place(load(functional.written(tmp_path / "q", (pre,)).folder), "") == 0
    )


def test_a_batch_has_the_answers_of_the_functions(tmp_path):
    wishes = (functional.WISHES[0], functional.WISHES[1])
    package = functional.written(tmp_path / "p", wishes)
    np.save(tmp_path / "x.npy", PAIRS)
    lines: list[str] = []
    once.print_answers(load(package.folder), tmp_path / "x.npy", 4, lines.append)
    rows = [line.strip().split(",") for line in lines]
    names = ("low", "mid", "high")
    assert [row[2] for row in rows] == [names[place] for place in CLASSES[:, 0]]
    np.testing.assert_allclose([float(row[3]) for row in rows], SHARES[:, 0], atol=1e-6)


def test_a_stream_has_them_too(tmp_path):
    wishes = (functional.WISHES[0], functional.WISHES[1])
    package = functional.written(tmp_path / "p", wishes)
    table = tmp_path / "x.csv"
    table.write_text("\n".join(",".join(map(str, row)) for row in PAIRS) + "\n")
    state = stream_state.StreamState(tmp_path / "state")
    stopping = threading.Event()
    source = FollowedRows(table, state.folder, False, stopping)
    outlet = FileOutlet(tmp_path / "out.jsonl")
    watched = stream.WatchedModel(package.folder, False, lambda text: None)
    stream.Stream(
        watched,
        source,
        outlet,
        stream.StreamSettings(),
        lambda text: None,
        stopping,
    ).run()
    source.close()
    outlet.close(0)
    state.close()
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    answers = [json.loads(line) for line in lines]
    np.testing.assert_allclose(
        [answer["score"] for answer in answers], SHARES[:, 0], atol=1e-6
    )
    assert [answer["label"] for answer in answers] == ["high"] * 5


def test_the_step_is_the_devices_own_session(folder):
    model = load(folder)
    assert model.functions is not None
    for step in (*model.functions.before, *model.functions.after):
        assert isinstance(step, Step)
        options = step._session.get_session_options()
        assert options.intra_op_num_threads == 1
