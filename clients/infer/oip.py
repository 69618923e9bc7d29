"""The Open Inference Protocol, version 2, over HTTP: paths, health, metadata, inference.

Source: the public specification (KServe community, 2023), with its extensions
``binary_tensor_data`` and Triton's ``classification``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import fedlearn
from fedlearn.clients.infer import answers, metrics, rest
from fedlearn.clients.infer.answers import HttpAnswer
from fedlearn.clients.infer.batching import Batcher, Computed, Query
from fedlearn.clients.infer.framing import HttpRequest
from fedlearn.clients.infer.metrics import Measures
from fedlearn.clients.infer.model import ServedModel
from fedlearn.clients.infer.observer import Observer
from fedlearn.clients.infer.placing import Placing
from fedlearn.clients.infer.question import InferQuestion
from fedlearn.clients.infer.refusal import Refusal, bad, internal
from fedlearn.clients.infer.slot import ModelSlot
from fedlearn.clients.placement.classes import ServiceClass, ServiceClasses
from fedlearn.text import printable

EXTENSIONS = ("binary_tensor_data", "classification")
PLATFORM = "onnxruntime_onnx"

_LENGTH_HEADER = b"inference-header-content-length"
_LENGTH_NAME = "inference-header-content-length"

Reply = Callable[[HttpAnswer], None]


@dataclass
class Served:
    """What both protocols answer from. deadline_s: how long a request waits at most.

    observer: None, answers are not observed. placing: asks a larger model too; None: all is
    computed here. classes: of service; None: all requests are alike. expected_rate: samples a
    second, as forecast.
    """

    name: str
    slot: ModelSlot
    batcher: Batcher
    measures: Measures
    deadline_s: float = math.inf
    is_stopping: bool = False
    observer: Observer | None = None
    placing: Placing | None = None
    classes: ServiceClasses | None = None
    expected_rate: float = 0.0

    def check(self, name: str, version: str) -> ServedModel:
        """Return the model of a name and a version, "" for any; raises Refusal, 404."""
        model = self.slot.model
        if name != self.name:
            raise Refusal(
                404,
                "unknown",
                f"there is no model '{printable(name[:100])}' here; it is '{self.name}'",
            )
        if version not in ("", model.version):
            raise Refusal(
                404,
                "unknown",
                f"version '{printable(version[:100])}' of '{self.name}' does not serve "
                f"here; it is '{model.version}'",
            )
        return model

    def ask(
        self,
        question: InferQuestion,
        model: ServedModel,
        deliver: Callable[[ServedModel, Computed], None],
    ) -> Query:
        """Queue a request; raises Refusal."""
        if self.is_stopping:
            raise Refusal(503, "stopping", "the server is stopping; try again", 1)
        inputs = model.checked(question.tensors)
        wait_s = min(question.timeout_s, self.deadline_s)
        kind = question.kind
        if self.classes is not None:
            wait_s = min(wait_s, self._class_of(question).deadline_s)
            kind = kind or self.classes.default
        deadline = time.monotonic() + wait_s
        query = Query(model, inputs, deliver, deadline, question.tensors, kind)
        if self.placing is not None:
            self.placing.ask(query)
        else:
            self.batcher.put(query)
        return query

    def _class_of(self, question: InferQuestion) -> ServiceClass:
        """Return the class of service that a request names; raises Refusal for none."""
        assert self.classes is not None
        if question.kind not in self.classes:
            raise bad(
                f"there is no class '{printable(question.kind[:60])}' here; there are "
                f"{self.classes.names}"
            )
        return self.classes.of(question.kind)

    def metadata(self) -> dict[str, Any]:
        """Return what the protocol tells of a model."""
        model = self.slot.model
        return {
            "name": self.name,
            "versions": [model.version],
            "platform": PLATFORM,
            "inputs": [_described(port) for port in model.inputs],
            "outputs": [_described(port) for port in model.outputs],
        }

    def status(self) -> dict[str, Any]:
        """Return how the server does, for `fedlearn status` and people."""
        swaps = self.slot.swaps
        status = {
            "name": self.name,
            "version": self.slot.model.version,
            "swaps": swaps.count,
            "failed_swaps": swaps.failed,
            "swap_error": swaps.error,
            "is_stopping": self.is_stopping,
            "waiting_samples": self.batcher.waiting_rows,
            "requests": self.measures.requests.total(),
            "errors": dict(self.measures.errors),
            "labels": list(self.slot.model.labels),
            "functions": self.slot.model.function_names,
            "upstreams": self.placing.status() if self.placing else [],
        }
        if self.observer is not None:
            status["observed"] = self.observer.status()
        return status

    def counted(self) -> str:
        """Return the page of metrics."""
        swaps = self.slot.swaps
        gauges: dict[str, float] = {
            "waiting_samples": self.batcher.waiting_rows,
            "swaps": swaps.count,
            "failed_swaps": swaps.failed,
            "expected_samples_per_second": self.expected_rate,
            "batch_limit": self.batcher.limit,
        }
        if self.observer is not None:
            gauges.update(self.observer.gauges())
        if self.placing is not None:
            gauges["upstream_failures"] = self.measures.upstream_failures
            gauges["upstreams_up"] = self.placing.up_count
        return self.measures.text(gauges, self.slot.model.version)


class OpenInference:
    """Answers requests of HTTP, each by one call of its ``reply``, now or later."""

    def __init__(self, served: Served) -> None:
        """Answer for a served model."""
        self._served = served
        # By far the most requests have this path: it needs no reading.
        self._infer_path = f"/v2/models/{served.name}/infer".encode()
        self._pages: dict[bytes, Callable[[], HttpAnswer]] = {
            b"/v2": self._server,
            b"/v2/health/live": self._live,
            b"/v2/health/ready": self._ready,
            b"/metrics": self._metrics,
            b"/status": lambda: answers.of_json(served.status()),
        }

    def handle(self, request: HttpRequest, reply: Reply) -> Query | None:
        """Answer a request; what is returned waits, and may be dropped."""
        begin = time.perf_counter()

        def end(answer: HttpAnswer) -> None:
            self._count(answer, time.perf_counter() - begin)
            reply(answer)

        try:
            if request.path == self._infer_path:
                answer = self._infer(request, "", end)
            else:
                answer = self._page(request, end)
        except Refusal as refusal:
            answer = self._refused(refusal)
        # One line for who asked, and the server goes on.
        except Exception as error:
            answer = self._refused(internal(error))
        if isinstance(answer, Query):
            return answer
        end(answer)
        return None

    def refuse(self, refusal: Refusal) -> HttpAnswer:
        """Return the answer to what is no request that can be read, and count it."""
        answer = self._refused(refusal)
        self._count(answer, 0.0)
        return answer

    def _count(self, answer: HttpAnswer, duration_s: float) -> None:
        measures = self._served.measures
        measures.requests["http", str(answer.status)] += 1
        measures.latency_s.add(duration_s)

    def _refused(self, refusal: Refusal) -> HttpAnswer:
        self._served.measures.errors[refusal.kind] += 1
        return answers.of_refusal(refusal)

    def _page(self, request: HttpRequest, end: Reply) -> HttpAnswer | Query:
        """Answer what is not the fast path; raises Refusal."""
        page = self._pages.get(request.path.rstrip(b"/"))
        if page is not None:
            refusal = _other_method(request, b"GET")
            return refusal or page()
        parts = request.path.decode("ascii").strip("/").split("/")
        if parts[:2] != ["v2", "models"] or len(parts) < 3:
            raise Refusal(404, "unknown", "there is nothing at this path; see GET /v2")
        name = parts[2]
        rest_of = parts[3:]
        version = ""
        if rest_of[:1] == ["versions"] and len(rest_of) > 1:
            version = rest_of[1]
            rest_of = rest_of[2:]
        self._served.check(name, version)
        if rest_of == ["infer"]:
            return self._infer(request, version, end)
        if rest_of not in ([], ["ready"]):
            raise Refusal(404, "unknown", "there is nothing at this path; see GET /v2")
        refusal = _other_method(request, b"GET")
        if refusal is not None:
            return refusal
        return self._ready() if rest_of else answers.of_json(self._served.metadata())

    def _infer(
        self, request: HttpRequest, version: str, end: Reply
    ) -> HttpAnswer | Query:
        """Queue an inference request; raises Refusal."""
        served = self._served
        refusal = _other_method(request, b"POST")
        if refusal is not None:
            return refusal
        model = served.check(served.name, version)
        coding = request.headers.get(b"content-encoding", b"identity")
        if coding.lower() != b"identity":
            raise Refusal(
                415, "unsupported", "bodies are taken as they are, not compressed"
            )
        question = rest.read(request.body, _header_length(request), model)

        def deliver(model: ServedModel, outcome: Computed) -> None:
            end(self._answer(question, model, outcome))

        return served.ask(question, model, deliver)

    def _answer(
        self, question: InferQuestion, model: ServedModel, outcome: Computed
    ) -> HttpAnswer:
        """Return the answer that a model's outputs are."""
        try:
            if isinstance(outcome, Refusal):
                raise outcome
            body, length = rest.write(question, self._served.name, model, outcome)
        except Refusal as refusal:
            return self._refused(refusal)
        # The answers of others in its batch must not be lost with it.
        except Exception as error:
            return self._refused(internal(error))
        if length is None:
            return HttpAnswer(200, body)
        headers = ((_LENGTH_NAME, str(length)),)
        return HttpAnswer(200, body, answers.BINARY, headers)

    def _server(self) -> HttpAnswer:
        about = {
            "name": "fedlearn",
            "version": fedlearn.__version__,
            "extensions": list(EXTENSIONS),
        }
        return answers.of_json(about)

    def _live(self) -> HttpAnswer:
        return answers.of_json({"live": True})

    def _ready(self) -> HttpAnswer:
        is_ready = not self._served.is_stopping
        return answers.of_json({"ready": is_ready}, 200 if is_ready else 503)

    def _metrics(self) -> HttpAnswer:
        page = self._served.counted().encode()
        return HttpAnswer(200, page, metrics.CONTENT_TYPE)


def _described(port: Any) -> dict[str, Any]:
    return {
        "name": port.name,
        "datatype": port.datatype,
        "shape": list(port.shape),
    }


def _other_method(request: HttpRequest, method: bytes) -> HttpAnswer | None:
    """Return the refusal of a method that a path does not have; None: it has it."""
    allowed = (b"GET", b"HEAD") if method == b"GET" else (method,)
    if request.method in allowed:
        return None
    names = b", ".join(allowed).decode()
    answer = answers.of_json({"error": f"this path takes {names} only"}, 405)
    answer.headers = (("allow", names),)
    return answer


def _header_length(request: HttpRequest) -> int | None:
    """Return how many bytes of JSON come before tensors; None: no tensors follow it."""
    value = request.headers.get(_LENGTH_HEADER)
    if value is None:
        return None
    if not value.isdigit() or len(value) > 15:
        raise bad("Inference-Header-Content-Length is no number of bytes")
    return int(value)
