"""The Open Inference Protocol over gRPC: ``inference.GRPCInferenceService``.

By generic handlers, so that the messages need not carry the service's package (see
fedlearn/exchange/inference.proto).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NoReturn

import grpc

import fedlearn
from fedlearn.clients.infer import question as asking
from fedlearn.clients.infer import tensors
from fedlearn.clients.infer.batching import Computed, Query
from fedlearn.clients.infer.model import ServedModel
from fedlearn.clients.infer.oip import EXTENSIONS, Served
from fedlearn.clients.infer.question import InferQuestion, Output
from fedlearn.clients.infer.refusal import Refusal, bad, internal
from fedlearn.clients.infer.tensors import Array
from fedlearn.clients.infer.tls import TlsFiles
from fedlearn.errors import one_line
from fedlearn.exchange import inference_pb2 as pb

SERVICE = "inference.GRPCInferenceService"

# Of a message besides its tensors.
_HEAD_BYTES = 64 << 10

# Where the values of each datatype stand, unless they come raw.
_CONTENTS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    404: grpc.StatusCode.NOT_FOUND,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
}

Context = Any
Method = Callable[[Any, Context], Awaitable[Any]]


def server(served: Served, body_bytes: int, connections: int) -> Any:
    """Return a gRPC server without a port; body_bytes: of the largest message."""
    options = (
        ("grpc.max_receive_message_length", body_bytes + _HEAD_BYTES),
        ("grpc.max_concurrent_streams", 128),
        # Two servers on one port would share its clients without a word.
        ("grpc.so_reuseport", 0),
        # A client that pings without end is sent away.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    )
    # Calls beyond it are refused before they are read.
    rpcs = grpc.aio.server(
        options=options, maximum_concurrent_rpcs=connections, compression=None
    )
    rpcs.add_generic_rpc_handlers((InferenceService(served).handlers(),))
    return rpcs


class InferenceService:
    """The methods of the service, each of one message in and one out."""

    def __init__(self, served: Served) -> None:
        """Answer for a served model."""
        self._served = served

    def handlers(self) -> Any:
        """Return what gRPC calls for each method."""
        methods: dict[str, tuple[Method, Any]] = {
            "ServerLive": (self._server_live, pb.ServerLiveRequest),
            "ServerReady": (self._server_ready, pb.ServerReadyRequest),
            "ModelReady": (self._model_ready, pb.ModelReadyRequest),
            "ServerMetadata": (self._server_metadata, pb.ServerMetadataRequest),
            "ModelMetadata": (self._model_metadata, pb.ModelMetadataRequest),
            "ModelInfer": (self._model_infer, pb.ModelInferRequest),
        }
        handlers = {}
        for name, (method, request) in methods.items():
            handlers[name] = grpc.unary_unary_rpc_method_handler(
                method,
                request_deserializer=request.FromString,
                response_serializer=_serialized,
            )
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    async def _server_live(self, request: Any, context: Context) -> Any:
        return pb.ServerLiveResponse(live=True)

    async def _server_ready(self, request: Any, context: Context) -> Any:
        return pb.ServerReadyResponse(ready=not self._served.is_stopping)

    async def _server_metadata(self, request: Any, context: Context) -> Any:
        return pb.ServerMetadataResponse(
            name="fedlearn", version=fedlearn.__version__, extensions=EXTENSIONS
        )

    async def _model_ready(self, request: Any, context: Context) -> Any:
        try:
            self._served.check(request.name, request.version)
        except Refusal as refusal:
            await self._end(context, refusal)
        return pb.ModelReadyResponse(ready=not self._served.is_stopping)

    async def _model_metadata(self, request: Any, context: Context) -> Any:
        try:
            self._served.check(request.name, request.version)
        except Refusal as refusal:
            await self._end(context, refusal)
        return pb.ModelMetadataResponse(**self._served.metadata())

    async def _model_infer(self, request: Any, context: Context) -> Any:
        begin = time.perf_counter()
        try:
            answer = await self._answer(request, context)
        except Refusal as refusal:
            await self._end(context, refusal)
        except Exception as error:
            await self._end(context, internal(error))
        self._served.measures.requests["grpc", "OK"] += 1
        self._served.measures.latency_s.add(time.perf_counter() - begin)
        return answer

    async def _answer(self, request: Any, context: Context) -> Any:
        """Return the answer to an inference request; raises Refusal."""
        served = self._served
        model = served.check(request.model_name, request.model_version)
        question = _question(request, model, context.time_remaining())
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[ServedModel, Computed]] = loop.create_future()

        def deliver(model: ServedModel, outcome: Computed) -> None:
            # The client may have gone meanwhile.
            if not future.done():
                future.set_result((model, outcome))

        query = served.ask(question, model, deliver)
        answerer, outcome = await _delivered(future, query)
        if isinstance(outcome, Refusal):
            raise outcome
        return _response(question, served.name, answerer, outcome)

    async def _end(self, context: Context, refusal: Refusal) -> NoReturn:
        """End a call with a status. Raises what gRPC ends calls with."""
        code = _CODES.get(refusal.status, grpc.StatusCode.INVALID_ARGUMENT)
        # A client that waited too long knows this code.
        if refusal.kind == "late":
            code = grpc.StatusCode.DEADLINE_EXCEEDED
        self._served.measures.requests["grpc", code.name] += 1
        self._served.measures.errors[refusal.kind] += 1
        trailer: tuple[tuple[str, str], ...] = ()
        if refusal.retry_s is not None:
            trailer = (("retry-after", str(refusal.retry_s)),)
        await context.abort(code, one_line(refusal), trailer)
        raise AssertionError("abort raises")


async def _delivered(
    future: asyncio.Future[tuple[ServedModel, Computed]], query: Query
) -> tuple[ServedModel, Computed]:
    """Wait for an answer; a call that is cancelled drops its request."""
    try:
        return await future
    except asyncio.CancelledError:
        query.is_dropped = True
        raise


def _question(
    request: Any, model: ServedModel, remaining_s: float | None
) -> InferQuestion:
    """Return what a message asks; remaining_s: until the call's deadline, None: none."""
    raw = request.raw_input_contents
    if len(raw) not in (0, len(request.inputs)):
        raise bad(f"{len(raw)} raw contents came for {len(request.inputs)} inputs")
    arrays: dict[str, Array] = {}
    for index, entry in enumerate(request.inputs):
        name = entry.name[:200]
        if name in arrays:
            raise bad(f"input '{name}' comes twice")
        arrays[name] = _tensor(entry, name, raw[index] if raw else None)
    outputs = [_wanted(entry) for entry in request.outputs]
    asking.check_outputs(outputs, model)
    if len(request.id) > asking.MOST_ID:
        raise bad(f"the id has more than {asking.MOST_ID} characters")
    parameters = _parameters(request.parameters)
    timeout_s = asking.timeout_s(parameters)
    return InferQuestion(
        id=request.id,
        tensors=arrays,
        outputs=outputs,
        is_binary=True,
        timeout_s=min(timeout_s, math.inf if remaining_s is None else remaining_s),
        kind=asking.parameter(parameters, asking.CLASS, str, ""),
    )


def _tensor(entry: Any, name: str, raw: bytes | None) -> Array:
    dtype = tensors.dtype_of(entry.datatype, name)
    shape = tensors.shape_of(list(entry.shape), name)
    if raw is not None:
        return tensors.from_bytes(raw, dtype, shape, name)
    field = _CONTENTS.get(entry.datatype)
    if field is None:
        raise bad(f"input '{name}': {entry.datatype} travels raw only")
    values = getattr(entry.contents, field)
    return tensors.from_values(list(values), dtype, shape, name)


def _wanted(entry: Any) -> Output:
    parameters = _parameters(entry.parameters)
    count = asking.parameter(parameters, "classification", int, 0)
    if count < 0:
        raise bad("the parameter 'classification' is a number of classes from 1")
    return Output(entry.name, is_binary=True, classes=count)


def _parameters(parameters: Any) -> dict[str, Any]:
    """Return the values of parameters, whatever type each has; those without one are left out."""
    values = {}
    for name, value in parameters.items():
        choice = value.WhichOneof("parameter_choice")
        if choice is not None:
            values[name] = getattr(value, choice)
    return values


def _response(
    question: InferQuestion, name: str, model: ServedModel, outputs: Sequence[Array]
) -> Any:
    """Return an answer's message; every output comes raw, as Triton's do."""
    response = pb.ModelInferResponse(
        model_name=name, model_version=model.version, id=question.id
    )
    for spec, value in asking.wanted_outputs(question, model, outputs):
        entry = response.outputs.add(name=spec.name)
        blob, datatype, shape = tensors.raw(value)
        entry.datatype = datatype
        entry.shape.extend(shape)
        response.raw_output_contents.append(blob)
    return response


def _serialized(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


def credentials(files: TlsFiles) -> Any:
    """Return a gRPC server's end of TLS; the files were read once before, for HTTP."""
    ca = files.ca.read_bytes() if files.ca else None
    pair = (files.key.read_bytes(), files.certificate.read_bytes())
    return grpc.ssl_server_credentials([pair], ca, require_client_auth=ca is not None)
