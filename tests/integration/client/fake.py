"""A server that does as a test says: the contract's services on real gRPC, with scripted answers.

Runs on gRPC's own threads, so that a test's thread is free to be the client. `Threaded` is an AsyncClient
made to look like a Client, so that one test speaks for both.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import grpc
from google.protobuf.any_pb2 import Any as Packed
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health, health_pb2_grpc

import opsin
from opsin import v1 as pb

__all__ = ["Fake", "Threaded", "refuse"]

LIMIT = 32 << 20


class Fake(pb.InferenceServiceServicer, pb.ModelServiceServicer):
    """calls: (method, request, monotonic time, metadata) of every call. on_...: what a test replaces."""

    def __init__(self, port: int = 0, limit: int = LIMIT) -> None:
        self.calls: list[tuple[str, Any, float, dict[str, Any]]] = []
        self.on_detect: Callable[[Any, Any], Any] = found
        self.on_batch: Callable[[Any], Any] = lambda request: pb.DetectOutcome(response=found(request, None))
        self.on_stream: Callable[[Iterator[Any], Any], Iterator[Any]] = answer_all
        self.on_load: Callable[[Any, Any], Any] = lambda request, _: pb.LoadModelResponse(
            model=model(request.name)
        )
        self.health = health.HealthServicer()
        options = [
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_send_message_length", 2 * LIMIT),
            ("grpc.so_reuseport", 0),
        ]
        self.server = grpc.server(ThreadPoolExecutor(16), options=options)
        pb.add_InferenceServiceServicer_to_server(self, self.server)
        pb.add_ModelServiceServicer_to_server(self, self.server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{port}")
        self.target = f"127.0.0.1:{self.port}"
        self.server.start()

    def stop(self) -> None:
        """At once, as if killed."""
        self.server.stop(None).wait()

    def times(self, method: str) -> list[float]:
        return [at for name, _, at, _ in self.calls if name == method]

    def _note(self, method: str, request: Any, context: Any) -> None:
        self.calls.append((method, request, time.monotonic(), dict(context.invocation_metadata())))
        context.set_trailing_metadata((("opsin-request-id", f"request-{len(self.calls)}"),))

    def Detect(self, request: Any, context: Any) -> Any:
        self._note("Detect", request, context)
        return self.on_detect(request, context)

    def BatchDetect(self, request: Any, context: Any) -> Any:
        self._note("BatchDetect", request, context)
        return pb.BatchDetectResponse(outcomes=[self.on_batch(item) for item in request.requests])

    def Embed(self, request: Any, context: Any) -> Any:
        self._note("Embed", request, context)
        return vector()

    def BatchEmbed(self, request: Any, context: Any) -> Any:
        self._note("BatchEmbed", request, context)
        return pb.BatchEmbedResponse(outcomes=[pb.EmbedOutcome(response=vector()) for _ in request.requests])

    def StreamDetect(self, request_iterator: Any, context: Any) -> Any:
        self._note("StreamDetect", None, context)
        yield from self.on_stream(request_iterator, context)

    def LoadModel(self, request: Any, context: Any) -> Any:
        self._note("LoadModel", request, context)
        return self.on_load(request, context)

    def ListModels(self, request: Any, context: Any) -> Any:
        self._note("ListModels", request, context)
        return pb.ListModelsResponse(models=[model("a"), model("b")])

    def GetModel(self, request: Any, context: Any) -> Any:
        self._note("GetModel", request, context)
        return pb.GetModelResponse(model=model(request.name or "default"))

    def UnloadModel(self, request: Any, context: Any) -> Any:
        self._note("UnloadModel", request, context)
        return pb.UnloadModelResponse(model=model(request.name))

    def SetTraffic(self, request: Any, context: Any) -> Any:
        self._note("SetTraffic", request, context)
        return pb.SetTrafficResponse(models=[model(request.name)])

    def GetServerInfo(self, request: Any, context: Any) -> Any:
        self._note("GetServerInfo", request, context)
        return pb.GetServerInfoResponse(version="9.9", default_detect_model="a")


def found(request: Any, _: Any) -> Any:
    """One detection over the whole picture, labelled with the request's text or its picture's length."""
    label = request.text or str(len(request.image.encoded or request.image.raw.data))
    return detected(label)


def detected(label: str) -> Any:
    box = pb.Box(x_max=1, y_max=1)
    return pb.DetectResponse(
        detections=[pb.Detection(box=box, label=label, score=1)],
        image=pb.ImageInfo(width=64, height=32),
        model=pb.ModelRef(name="fake", version=1),
    )


def vector() -> Any:
    packed = b"\x00\x00\x80\x3f\x00\x00\x00\x40"  # 1.0 and 2.0
    dtype = pb.EmbeddingDtype.EMBEDDING_DTYPE_F32
    return pb.EmbedResponse(embedding=pb.Embedding(packed=packed, dtype=dtype, dimensions=2))


def model(name: str) -> Any:
    return pb.Model(name=name, version=1, state=pb.ModelState.MODEL_STATE_SERVING)


def ready(window: int, **fields: Any) -> Any:
    return pb.StreamDetectResponse(max_in_flight=window, ready=pb.StreamReady(stream_id="made-up", **fields))


def result(sequence: int, window: int = 4, token: bytes = b"") -> Any:
    body = pb.FrameResult(sequence=sequence, response=detected("frame"))
    body.age.FromMilliseconds(5)
    return pb.StreamDetectResponse(max_in_flight=window, resume_token=token, result=body)


def answer_all(requests: Iterator[Any], _: Any) -> Iterator[Any]:
    """One result a frame, in order."""
    assert next(requests).WhichOneof("kind") == "config"
    yield ready(4)
    for request in requests:
        if request.WhichOneof("kind") == "frame":
            yield result(request.frame.sequence)


def refuse(context: Any, code: grpc.StatusCode, reason: str, *, pushback: str | None = None) -> None:
    """End the call as an Opsin server does."""
    status = Status(code=code.value[0], message=f"{reason} it is")
    packed = Packed()
    packed.Pack(ErrorInfo(domain="opsin", reason=reason))
    status.details.append(packed)
    trailers: list[tuple[str, Any]] = [("grpc-status-details-bin", status.SerializeToString())]
    if pushback is not None:
        trailers.append(("grpc-retry-pushback-ms", pushback))
    context.set_trailing_metadata((("opsin-request-id", "refused"), *trailers))
    context.abort(code, status.message)


class Threaded:
    """An AsyncClient on an event loop of its own, with the methods of a Client."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        self._client = opsin.AsyncClient(*args, **settings)  # may refuse: nothing is left running then
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **settings: Any) -> Any:
            answer = getattr(self._client, name)(*args, **settings)
            return await answer if asyncio.iscoroutine(answer) else answer

        def run(*args: Any, **settings: Any) -> Any:
            answer = self.wait(call(*args, **settings))
            return _Iterated(self, answer) if hasattr(answer, "__anext__") else answer

        return run

    def wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.wait(self._client.close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


class _Iterated:
    """An async iterator, iterated over from ordinary code."""

    def __init__(self, owner: Threaded, inner: Any) -> None:
        self._owner = owner
        self._inner = inner

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        async def step() -> Any:
            return await anext(self._inner, _END)

        item = self._owner.wait(step())
        if item is _END:
            raise StopIteration
        return item

    def close(self) -> None:
        closing = getattr(self._inner, "close", None) or self._inner.aclose
        self._owner.wait(closing())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not callable(value):
            return value

        async def call(*args: Any, **settings: Any) -> Any:
            return value(*args, **settings)

        return lambda *args, **settings: self._owner.wait(call(*args, **settings))


_END = object()
