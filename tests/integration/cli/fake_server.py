"""A server of a few lines, made from the stubs: it answers what a test tells it to, at once and every time.

What an input says decides: picture bytes that begin with `bad` are refused as undecodable, with `busy` for
overload, with `broken` as the detector's fault. The model `missing` is not there; `closed` asks who you are.
"""

import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from opsin.v1 import (
    Box,
    Detection,
    DetectRequest,
    DetectResponse,
    EmbedRequest,
    EmbedResponse,
    FrameDropped,
    FrameFailed,
    FrameResult,
    GetModelResponse,
    GetServerInfoResponse,
    ImageInfo,
    InferenceServiceServicer,
    Label,
    ListModelsResponse,
    Model,
    ModelRef,
    ModelServiceServicer,
    StreamDetectResponse,
    StreamReady,
    Timings,
    add_InferenceServiceServicer_to_server,
    add_ModelServiceServicer_to_server,
)

REFUSALS = {
    b"bad": (
        grpc.StatusCode.INVALID_ARGUMENT,
        "IMAGE_UNDECODABLE",
        "the bytes cannot be decoded as a picture",
    ),
    b"busy": (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", "the queue is full"),
    b"broken": (grpc.StatusCode.INTERNAL, "DETECTOR_FAILED", "the detector failed"),
}
MISSING = (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", "there is no model 'missing'")
REF = ModelRef(name="fake", version=1, device="cpu")
TIMINGS = Timings(total_us=4200, decode_us=1000, queue_us=100, infer_us=3000, batch_size=2)
MODEL = Model(
    name="fake",
    version=1,
    state=3,  # SERVING
    detector="fake",
    source="/srv/models/of/a/long/name/in/a/folder/far/below/weights.safetensors",
    tasks=[1, 4],
    classes=["person", "cat"],
    embedding_dimensions=4,
    device="cpu",
    dtype="float32",
    traffic_weight=1,
    memory_bytes=7_600_000,
)


def status_of(code: grpc.StatusCode, reason: str, message: str) -> status_pb2.Status:
    detail = AnyMessage()
    detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="opsin"))
    return status_pb2.Status(code=code.value[0], message=message, details=[detail])


def refuse(context: grpc.ServicerContext, code: grpc.StatusCode, reason: str, message: str) -> None:
    metadata = [("grpc-status-details-bin", status_of(code, reason, message).SerializeToString())]
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        metadata.append(("grpc-retry-pushback-ms", "-1"))
    context.set_trailing_metadata(tuple(metadata))
    context.abort(code, message)


class Inference(InferenceServiceServicer):
    """Finds one person in everything, in the left half."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.metadata: dict[str, Any] = {}
        self._awaited: list[tuple[int, threading.Event]] = []

    def enough(self, number: int) -> threading.Event:
        """Set once so many requests have come."""
        event = threading.Event()
        self._awaited.append((number, event))
        return event

    def Detect(self, request: DetectRequest, context: grpc.ServicerContext) -> DetectResponse:
        self._note(request, context)
        return answer(text=request.text)

    def Embed(self, request: EmbedRequest, context: grpc.ServicerContext) -> EmbedResponse:
        self._note(request, context)
        response = EmbedResponse(model=REF, timings=TIMINGS)
        response.embedding.dimensions = 4
        if request.encoding == 2:  # PACKED
            import numpy as np

            response.embedding.packed = np.array([0.5, -0.5, 0.5, -0.5], "<f4").tobytes()
            response.embedding.dtype = 1  # F32
        else:
            response.embedding.values.extend([0.5, -0.5, 0.5, -0.5])
        return response

    def StreamDetect(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        config = next(requests).config
        self._note(config, context)
        yield StreamDetectResponse(max_in_flight=4, ready=StreamReady(stream_id="s1", model=REF))
        for count, request in enumerate((r.frame for r in requests), 1):
            yield StreamDetectResponse(
                max_in_flight=4, **_reply(count, request.sequence, request.capture_time)
            )

    def _note(self, request: Any, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        for number, event in self._awaited:
            if len(self.requests) >= number:
                event.set()
        self.metadata = dict(context.invocation_metadata())
        if request.model == "missing":
            refuse(context, *MISSING)
        data = request.image.encoded if hasattr(request, "image") else b""
        for start, refusal in REFUSALS.items():
            if data.startswith(start):
                refuse(context, *refusal)


def answer(text: str = "") -> DetectResponse:
    label = Label(name="kind" if text else "outdoors", score=0.9)
    if text:
        return DetectResponse(labels=[label], flagged=False, model=REF, timings=TIMINGS, cache=1)
    person = Detection(box=Box(x_min=0.1, y_min=0.2, x_max=0.5, y_max=0.9), label="person", score=0.73)
    return DetectResponse(
        detections=[person],
        labels=[label],
        image=ImageInfo(width=64, height=48),
        model=REF,
        timings=TIMINGS,
        cache=1,
    )


def _reply(count: int, sequence: int, taken: Any) -> dict[str, Any]:
    """Every fifth frame is dropped, every seventh fails."""
    if count % 5 == 0:
        return {"dropped": FrameDropped(sequence=sequence, capture_time=taken, reason=1)}
    if count % 7 == 0:
        return {"failed": FrameFailed(sequence=sequence, error=status_of(*REFUSALS[b"bad"]))}
    return {"result": FrameResult(sequence=sequence, capture_time=taken, response=answer())}


class Models(ModelServiceServicer):
    """One model."""

    def GetServerInfo(self, request: Any, context: grpc.ServicerContext) -> GetServerInfoResponse:
        return GetServerInfoResponse(version="9.9.9", default_detect_model="fake")

    def ListModels(self, request: Any, context: grpc.ServicerContext) -> ListModelsResponse:
        return ListModelsResponse(models=[MODEL])

    def GetModel(self, request: Any, context: grpc.ServicerContext) -> GetModelResponse:
        if request.name == "missing":
            refuse(context, *MISSING)
        return GetModelResponse(model=MODEL)


class Health(health_pb2_grpc.HealthServicer):
    """SERVING but for `model/slow`."""

    def Check(self, request: Any, context: grpc.ServicerContext) -> health_pb2.HealthCheckResponse:
        if request.service == "nobody":
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return health_pb2.HealthCheckResponse(status=2 if request.service == "model/slow" else 1)

    def Watch(self, request: Any, context: grpc.ServicerContext) -> Iterator[health_pb2.HealthCheckResponse]:
        yield health_pb2.HealthCheckResponse(status=2)
        if request.service == "forever":
            gone = threading.Event()
            context.add_callback(gone.set)
            gone.wait(60)
        yield health_pb2.HealthCheckResponse(status=1)


class FakeServer:
    """Where it listens, and what it was asked."""

    def __init__(self, target: str, inference: Inference) -> None:
        self.target = target
        self.inference = inference

    @property
    def last(self) -> Any:
        """The last request."""
        return self.inference.requests[-1]


@contextmanager
def running() -> Iterator[FakeServer]:
    """The fake server on a free port."""
    server = grpc.server(futures.ThreadPoolExecutor(8))
    inference = Inference()
    add_InferenceServiceServicer_to_server(inference, server)
    add_ModelServiceServicer_to_server(Models(), server)
    health_pb2_grpc.add_HealthServicer_to_server(Health(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield FakeServer(f"127.0.0.1:{port}", inference)
    finally:
        server.stop(None).wait()
