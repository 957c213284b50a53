"""What the unary methods hold while they wait for the answer."""

import gc
import weakref
from typing import Any

import numpy as np
import pytest

from opsin.v1 import BatchDetectRequest, BatchEmbedRequest, DetectRequest, EmbeddingEncoding, EmbedRequest
from opsin_server.calls import DetectAnswer, EmbedAnswer, ModelRef
from opsin_server.config import LimitSettings
from opsin_server.errors import Failure, Reason
from opsin_server.media.pool import CpuPool
from opsin_server.rpc.edge import CallContext
from opsin_server.rpc.inference import InferenceService
from opsin_server.telemetry.metrics import Metrics

PACKED = EmbeddingEncoding.EMBEDDING_ENCODING_PACKED
CONTEXT = CallContext("Detect", "id", "ipv4:127.0.0.1:1", 0.0, float("inf"))
MODEL = ModelRef("echo", 1, "cpu")


class Parsed:
    """A message that can be watched: protobuf's own take no weak references."""

    def __init__(self, message: Any) -> None:
        self._message = message

    def __getattr__(self, name: str) -> Any:
        return getattr(self._message, name)


class Waiting:
    """A pipeline that notes, for each call, whether its message was let go of by then."""

    def __init__(self) -> None:
        self.message: weakref.ref[Parsed] | None = None
        self.gone: list[bool] = []

    async def detect(self, call: Any) -> DetectAnswer:
        self._look()
        return DetectAnswer(MODEL)

    async def embed(self, call: Any) -> EmbedAnswer:
        self._look()
        if call.source.text == "bad":
            raise Failure(Reason.QUEUE_FULL, "Full.", retry_after=1.0)
        return EmbedAnswer(MODEL, np.array([0.6, 0.8], np.float32))

    def _look(self) -> None:
        gc.collect()
        assert self.message is not None
        self.gone.append(self.message() is None)


async def asked(method: str, message: Any) -> tuple[Waiting, Any]:
    pipeline, pool = Waiting(), CpuPool(1)
    try:
        service = InferenceService(pipeline, LimitSettings(), Metrics(), pool)  # type: ignore[arg-type]
        parsed = Parsed(message)
        pipeline.message = weakref.ref(parsed)
        call = getattr(service, method)(parsed, CONTEXT)
        del parsed
        return pipeline, await call
    finally:
        pool.close()


TEXTS = [EmbedRequest(text="a", encoding=PACKED), EmbedRequest(text="bad"), EmbedRequest(text="b")]


@pytest.mark.parametrize(
    ("method", "message", "calls"),
    [
        ("detect", DetectRequest(text="a"), 1),
        ("embed", EmbedRequest(text="a"), 1),
        ("batch_detect", BatchDetectRequest(requests=[DetectRequest(text="a"), DetectRequest(text="b")]), 2),
        ("batch_embed", BatchEmbedRequest(requests=TEXTS), 3),
    ],
)
async def test_the_parsed_message_is_let_go_of_before_the_wait(method: str, message: Any, calls: int) -> None:
    pipeline, _ = await asked(method, message)
    assert pipeline.gone == [True] * calls


async def test_each_item_of_a_batch_is_answered_in_its_own_encoding() -> None:
    wrong = EmbedRequest(text="c", encoding=77)  # type: ignore[arg-type]
    _, reply = await asked("batch_embed", BatchEmbedRequest(requests=[*TEXTS, wrong]))
    first, refused, second, unknown = reply.outcomes
    assert first.response.embedding.packed
    assert not first.response.embedding.values
    assert refused.HasField("error")
    assert len(second.response.embedding.values) == 2
    assert unknown.HasField("error")
