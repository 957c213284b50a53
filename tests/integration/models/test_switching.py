"""Traffic that is divided, moved and mirrored while calls come in: nobody lost, nobody misrouted.

The judge is that of the measurement `lifecycle`, which does the same for minutes (`bench/traffic.py`).
"""

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path

import grpc
import pytest

from bench.traffic import Change, Seen, astray, unsteady
from integration.models.test_lifecycle import gone, load, shadowed, traffic, until
from opsin.v1 import DetectRequest, Image, UnloadModelRequest
from serving import Serving, serving

SIGMAS = 5.0
"""A right split is further off once in 1.7 million runs."""
WAYS = ("", "stable", "key-1", "key-2", "key-3")


async def call(server: Serving, way: str, text: str) -> Seen:
    """One call: by name, by label, or by name with a routing key."""
    key = way if way.startswith("key") else ""
    model = "echo@stable" if way == "stable" else "echo"
    sent, version, error = time.monotonic(), 0, ""
    try:
        request = DetectRequest(model=model, text=text, routing_key=key)
        version = (await server.inference.Detect(request, timeout=30)).model.version
    except grpc.aio.AioRpcError as failed:
        error = f"{failed.code().name}: {failed.details()}"
    return Seen(sent, time.monotonic(), way, bool(key), version, error)


@contextlib.asynccontextmanager
async def calling(server: Serving) -> AsyncGenerator[list[Seen]]:
    """Callers of every way, without a pause."""
    seen: list[Seen] = []
    stop = asyncio.Event()

    async def caller(number: int) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            seen.append(await call(server, WAYS[number % len(WAYS)], f"{number} {turn}"))

    async with asyncio.TaskGroup() as group:
        for number in range(2 * len(WAYS)):
            group.create_task(caller(number))
        try:
            yield seen
        finally:
            stop.set()


class Operator:
    """Divides the traffic, and writes down what was in force when."""

    def __init__(self, server: Serving, seen: list[Seen]) -> None:
        self.changes = [Change(0.0, 0.0, {1: 1}, 1)]
        self._server = server
        self._seen = seen

    async def set(self, weights: dict[int, int], label: int, shadow: int = 0) -> None:
        begun = time.monotonic()
        named = {f"v{version}": weight for version, weight in weights.items()}
        await traffic(self._server, shadow=shadow, labels={"stable": label}, **named)
        self.changes.append(Change(begun, time.monotonic(), weights, label))
        count = len(self._seen)
        await until(lambda: len(self._seen) > count + 60)


async def test_promoting_and_rolling_back_under_traffic_loses_and_misroutes_no_call() -> None:
    async with (
        serving("echo=echo,delay_ms=1,labels=stable") as server,
        calling(server) as seen,
    ):
        operator = Operator(server, seen)
        for new in (2, 3):
            old = new - 1
            await load(server, settings={"delay_ms": "1"})
            await operator.set({old: 9, new: 1}, old)
            await operator.set({old: 1, new: 1}, old, shadow=new)
            await operator.set({new: 1}, new)
            await operator.set({old: 1}, old)  # rolled back
            await operator.set({new: 1}, new)
            await server.models.UnloadModel(UnloadModelRequest(name="echo", version=old))
            await gone(server, old)
    assert [one.error for one in seen if one.error] == []
    assert astray(seen, operator.changes) == 0
    assert unsteady(seen, operator.changes) == 0
    assert {one.version for one in seen} == {1, 2, 3}


def test_the_judge_sees_a_call_that_went_astray() -> None:
    changes = [Change(0.0, 0.0, {1: 1}, 1), Change(10.0, 11.0, {1: 0, 2: 1}, 2)]
    early, meanwhile, late = (1.0, 2.0), (9.0, 10.5), (12.0, 13.0)

    def wrong(span: tuple[float, float], asked: str, version: int) -> int:
        return astray([Seen(*span, asked, False, version)], changes)

    assert [wrong(early, "", 1), wrong(early, "", 2)] == [0, 1]
    assert [wrong(meanwhile, "", 1), wrong(meanwhile, "", 2)] == [0, 0]
    assert [wrong(late, "", 1), wrong(late, "", 2)] == [1, 0]
    assert [wrong(late, "stable", 1), wrong(late, "stable", 2)] == [1, 0]
    key = [Seen(1.0, 2.0, "key-1", True, version) for version in (1, 2)]
    assert unsteady(key, changes) == 1


@pytest.mark.parametrize("weights", [(1, 1), (9, 1), (3, 97)])
async def test_calls_fall_on_versions_within_binomial_bounds_and_the_metrics_say_so(
    weights: tuple[int, int],
) -> None:
    count, share = 600, weights[1] / sum(weights)
    async with serving("echo=echo,weight=1", "echo=echo,version=2") as server:
        await traffic(server, v1=weights[0], v2=weights[1])
        answers = await asyncio.gather(*(call(server, "", str(n)) for n in range(count)))
        sample = server.app.metrics.registry.get_sample_value
        told = {
            version: sample(
                "opsin_model_answers_total", {"model": "echo", "version": str(version), "reason": ""}
            )
            for version in (1, 2)
        }
    split = Counter(one.version for one in answers)
    assert abs(split[2] - count * share) <= SIGMAS * math.sqrt(count * share * (1 - share)), split
    assert told == {1: split[1], 2: split[2]}


async def test_keys_are_shared_as_the_weights_say_and_each_stays() -> None:
    count, share = 600, 0.25
    async with serving("echo=echo,weight=3", "echo=echo,version=2,weight=1") as server:
        keys = [f"key-{n}" for n in range(count)]
        first = [one.version for one in await asyncio.gather(*(call(server, key, "a") for key in keys))]
        again = [one.version for one in await asyncio.gather(*(call(server, key, "b") for key in keys))]
    assert first == again
    spread = math.sqrt(count * share * (1 - share))
    assert abs(first.count(2) - count * share) <= SIGMAS * spread, Counter(first)


async def test_answers_of_a_shadow_that_differ_are_counted_and_not_given(images: Path) -> None:
    photo = DetectRequest(model="echo", image=Image(encoded=(images / "astronaut.png").read_bytes()))
    async with serving("echo") as server:
        await load(server, source="nanodet", settings={})
        await traffic(server, shadow=2)
        reply = await server.inference.Detect(photo)
        assert [d.label for d in reply.detections] == ["echo"]
        await until(lambda: shadowed(server, "different") == 1)
        assert shadowed(server, "same") == 0


@pytest.fixture
def images() -> Path:
    return Path(__file__).parents[2] / "data" / "images"
