"""Detect, BatchDetect, Embed and BatchEmbed: convert, hand over, convert back.

Owns what a batch call is: items on their own, equal items once, refused as a whole only when nothing of it
could be admitted. How an input is answered is the pipeline's business.

A parsed request is a copy of its pictures, so it is let go of (`del`) before the wait for the answers.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from opsin.v1.detect_pb2 import BatchDetectRequest, BatchDetectResponse, DetectRequest, DetectResponse
from opsin.v1.embed_pb2 import BatchEmbedRequest, BatchEmbedResponse, EmbedRequest, EmbedResponse
from opsin_server.calls import DetectAnswer, DetectCall, EmbedAnswer, EmbedCall
from opsin_server.config import LimitSettings
from opsin_server.errors import Failure, Reason
from opsin_server.media.pool import CpuPool
from opsin_server.rpc import validate
from opsin_server.rpc.convert import detect_call, embed_call, packed_wanted
from opsin_server.rpc.edge import CallContext
from opsin_server.rpc.errors import REFUSALS, as_failure, retry_after, status_of
from opsin_server.rpc.replies import detect_response, embed_response, fill_detect, fill_embed
from opsin_server.rpc.seam import Pipeline
from opsin_server.rpc.twins import first_of_each, is_quick, marks_of
from opsin_server.telemetry.metrics import Metrics

__all__ = ["InferenceService"]

Request = TypeVar("Request", DetectRequest, EmbedRequest)
Call = TypeVar("Call", DetectCall, EmbedCall)
Answer = TypeVar("Answer", DetectAnswer, EmbedAnswer)


class InferenceService:
    """The unary methods of opsin.v1.InferenceService, as behaviours for `Edge`."""

    def __init__(self, pipeline: Pipeline, limits: LimitSettings, metrics: Metrics, pool: CpuPool) -> None:
        self._pipeline = pipeline
        self._pool = pool
        self._limits = limits
        self._metrics = metrics

    async def detect(self, request: DetectRequest, context: CallContext) -> DetectResponse:
        """Look at one input."""
        call = detect_call(request, context.caller(), self._limits)
        del request
        return detect_response(await self._pipeline.detect(call))

    async def embed(self, request: EmbedRequest, context: CallContext) -> EmbedResponse:
        """Embed one input."""
        call = embed_call(request, context.caller(), self._limits)
        packed = packed_wanted(request)
        del request
        return embed_response(await self._pipeline.embed(call), packed)

    async def batch_detect(self, request: BatchDetectRequest, context: CallContext) -> BatchDetectResponse:
        """Look at several inputs."""
        self._check_length(len(request.requests))
        caller = context.caller()
        calls = _each(request.requests, lambda item: detect_call(item, caller, self._limits))
        del request
        outcomes = await self._outcomes(calls, self._pipeline.detect)
        reply = BatchDetectResponse()
        for outcome in outcomes:
            if isinstance(outcome, Failure):
                reply.outcomes.add(error=status_of(outcome))
            else:
                fill_detect(reply.outcomes.add().response, outcome)
        return reply

    async def batch_embed(self, request: BatchEmbedRequest, context: CallContext) -> BatchEmbedResponse:
        """Embed several inputs."""
        self._check_length(len(request.requests))
        caller = context.caller()
        calls = _each(request.requests, lambda item: embed_call(item, caller, self._limits))
        packed = [
            not isinstance(call, Failure) and packed_wanted(item)
            for item, call in zip(request.requests, calls, strict=True)
        ]
        del request
        outcomes = await self._outcomes(calls, self._pipeline.embed)
        reply = BatchEmbedResponse()
        for outcome, wanted in zip(outcomes, packed, strict=True):
            if isinstance(outcome, Failure):
                reply.outcomes.add(error=status_of(outcome))
            else:
                fill_embed(reply.outcomes.add().response, outcome, wanted)
        return reply

    async def _outcomes(
        self, calls: Sequence[Call | Failure], answer: Callable[[Call], Awaitable[Answer]]
    ) -> list[Answer | Failure]:
        """One outcome for each call, in order. Raises the refusal when none was admitted."""
        firsts = await self._firsts(calls)
        runs: dict[int, asyncio.Task[Answer | Failure]] = {}
        for index, call in enumerate(calls):
            if not isinstance(call, Failure) and firsts[index] == index:
                runs[index] = asyncio.create_task(_outcome(answer(call)))
        try:
            await asyncio.gather(*runs.values())
        finally:
            for task in runs.values():
                task.cancel()
        outcomes = [
            call if isinstance(call, Failure) else runs[first].result()
            for first, call in zip(firsts, calls, strict=True)
        ]
        placed = [
            outcome.within(f"requests[{index}]") if isinstance(outcome, Failure) else outcome
            for index, outcome in enumerate(outcomes)
        ]
        _refuse_if_none_admitted(placed)
        for outcome in placed:
            if isinstance(outcome, Failure):
                self._metrics.failed(outcome.reason.value)
        return placed

    async def _firsts(self, calls: Sequence[Call | Failure]) -> list[int]:
        """For each item the first that is equal to it; large ones are compared off the event loop."""
        marks = marks_of(calls)
        if is_quick(calls, marks):
            return first_of_each(calls, marks)
        flow = next(call.caller.flow for call in calls if not isinstance(call, Failure))
        return await self._pool.run(first_of_each, calls, marks, flow=flow)

    def _check_length(self, count: int) -> None:
        if not count:
            raise Failure(Reason.INPUT_MISSING, "The batch is empty.", field="requests")
        validate.at_most(count, self._limits.max_batch_items, "items", "requests", Reason.BATCH_TOO_LARGE)


def _each(requests: Sequence[Request], convert: Callable[[Request], Call]) -> list[Call | Failure]:
    calls: list[Call | Failure] = []
    for request in requests:
        try:
            calls.append(convert(request))
        except Failure as failure:
            calls.append(failure)
    return calls


async def _outcome(answer: Awaitable[Answer]) -> Answer | Failure:
    try:
        return await answer
    except Exception as error:
        return as_failure(error)


def _refuse_if_none_admitted(outcomes: Sequence[object]) -> None:
    """Of several reasons the one that a wait helps against soonest: trying again may then admit something."""
    refusals = [o for o in outcomes if isinstance(o, Failure) and o.reason in REFUSALS and not o.admitted]
    if len(refusals) < len(outcomes):
        return
    waits = {failure: wait for failure in refusals if (wait := retry_after(failure)) is not None}
    raise min(waits, key=waits.__getitem__, default=refusals[0])
