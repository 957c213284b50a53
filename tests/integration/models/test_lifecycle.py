"""Models loaded, taken away and switched while a real server answers real calls."""

import asyncio
import contextlib
import gc
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import torch
from google.rpc import error_details_pb2, status_pb2

import opsin
from integration.deploy.processes import opsin_server, wait_until
from opsin.v1 import (
    BatchDetectRequest,
    DetectRequest,
    Frame,
    GetModelRequest,
    Image,
    ListModelsRequest,
    LoadModelRequest,
    ModelState,
    RawImage,
    SetTrafficRequest,
    StreamConfig,
    StreamDetectRequest,
    TrafficTarget,
    UnloadModelRequest,
)
from serving import Serving, serving

LANES = {"light": "false"}


def told(error: grpc.aio.AioRpcError) -> tuple[str, str, str]:
    """Code, reason, and the field to blame."""
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    reason, field = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(reason)
        detail.Unpack(field)
    path = field.field_violations[0].field if field.field_violations else ""
    return error.code().name, reason.reason, path


async def refused(call: Any) -> tuple[str, str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return told(error.value)


async def load(server: Serving, version: int = 0, name: str = "echo", **fields: Any) -> Any:
    fields.setdefault("source", "echo")
    settings = fields.pop("settings", {})
    if fields["source"] == "echo":
        settings = {**LANES, **settings}
    request = LoadModelRequest(name=name, version=version, settings=settings, wait=True, **fields)
    return (await server.models.LoadModel(request)).model


async def traffic(server: Serving, shadow: int = 0, labels: Any = None, **weights: int) -> Any:
    targets = [TrafficTarget(version=int(v.removeprefix("v")), weight=w) for v, w in weights.items()]
    request = SetTrafficRequest(name="echo", targets=targets, labels=labels or {}, shadow_version=shadow)
    return (await server.models.SetTraffic(request)).models


async def versions(server: Serving) -> dict[int, str]:
    models = (await server.models.ListModels(ListModelsRequest())).models
    return {m.version: ModelState.Name(m.state).removeprefix("MODEL_STATE_") for m in models}


async def gone(server: Serving, version: int) -> None:
    async with asyncio.timeout(60):
        while version in await versions(server):
            await asyncio.sleep(0.01)


async def ask(server: Serving, model: str = "echo", key: str = "", text: str = "hello") -> int:
    reply = await server.inference.Detect(DetectRequest(model=model, text=text, routing_key=key))
    return int(reply.model.version)


@contextlib.asynccontextmanager
async def callers(server: Serving, count: int = 8) -> AsyncGenerator[Counter[Any]]:
    """Callers that ask without a pause; every answer's version, or what the call failed with."""
    seen: Counter[Any] = Counter()
    stop = asyncio.Event()

    async def call(number: int) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            try:
                seen[await ask(server, text=f"{number} {turn}")] += 1
            except grpc.aio.AioRpcError as error:
                seen[told(error)] += 1

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(call(number))
        try:
            yield seen
        finally:
            stop.set()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


async def test_loading_promoting_and_unloading_under_traffic_fails_no_call() -> None:
    async with serving("echo=echo,delay_ms=2") as server, callers(server) as seen:
        await until(lambda: seen[1] > 20)
        for new in range(2, 6):
            await load(server, settings={"delay_ms": "2"})
            assert seen[new] == 0, "a version that was not given traffic answered a call"
            await traffic(server, **{f"v{new - 1}": 50, f"v{new}": 50})
            await until(lambda new=new: seen[new] > 5)
            await traffic(server, **{f"v{new}": 1})
            before = seen[new]
            await server.models.UnloadModel(UnloadModelRequest(name="echo", version=new - 1))
            await gone(server, new - 1)
            await until(lambda new=new, before=before: seen[new] > before + 5)
        failed = {end: count for end, count in seen.items() if not isinstance(end, int)}
        assert failed == {}
        assert await versions(server) == {5: "SERVING"}


async def test_rolling_back_is_setting_the_old_weights_again() -> None:
    async with serving("echo") as server:
        await load(server)
        await traffic(server, v2=1)
        assert {await ask(server) for _ in range(20)} == {2}
        await traffic(server, v1=1)
        assert {await ask(server) for _ in range(20)} == {1}


async def test_a_call_that_was_accepted_is_answered_by_a_version_that_is_unloaded(
    gate: threading.Event,
) -> None:
    async with serving("echo=echo,light=false,max_batch=1") as server:
        await load(server)
        gate.clear()
        waiting = [asyncio.create_task(ask(server, "echo@1", text=str(n))) for n in range(4)]
        await until(lambda: server.app.registry.versions("echo")[0].users == 4)
        reply = await server.models.UnloadModel(UnloadModelRequest(name="echo", version=1))
        assert reply.model.state == ModelState.MODEL_STATE_DRAINING
        assert await refused(ask(server, "echo@1")) == ("UNAVAILABLE", "MODEL_NOT_READY", "model")
        again = await server.models.UnloadModel(UnloadModelRequest(name="echo", version=1))
        assert again.model.state == ModelState.MODEL_STATE_DRAINING
        gate.set()
        assert await asyncio.gather(*waiting) == [1, 1, 1, 1]
        await gone(server, 1)
        assert await refused(ask(server, "echo@1")) == ("NOT_FOUND", "VERSION_NOT_FOUND", "model")
        assert await ask(server) == 2


async def test_a_routing_key_stays_with_its_version_through_calls() -> None:
    async with serving("echo") as server:
        await load(server)
        await traffic(server, v1=1, v2=1)
        keys = [f"user-{n}" for n in range(30)]
        first = [await ask(server, key=key) for key in keys]
        assert set(first) == {1, 2}
        assert [await ask(server, key=key) for key in keys] == first


async def test_labels_move_and_go() -> None:
    async with serving("echo=echo,labels=stable") as server:
        await load(server, labels=["canary", "stable"])
        assert await ask(server, "echo@canary") == 2
        assert await ask(server, "echo@stable") == 2
        await traffic(server, labels={"stable": 1, "canary": 0})
        assert await ask(server, "echo@stable") == 1
        assert await refused(ask(server, "echo@canary")) == ("NOT_FOUND", "VERSION_NOT_FOUND", "model")


async def test_versions_of_the_settings_share_traffic_as_they_say() -> None:
    async with serving("echo=echo,weight=0", "echo=echo,version=2,weight=3,labels=canary") as server:
        assert {await ask(server) for _ in range(20)} == {2}
        assert await ask(server, "echo@canary") == 2


# --- what is refused ------------------------------------------------------------------------------------


async def test_a_failed_load_changes_nothing_for_the_version_that_serves(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    async with serving("echo") as server:
        ends = await refused(load(server, source=str(tmp_path)))
        assert ends[:2] == ("FAILED_PRECONDITION", "MODEL_LOAD_FAILED")
        assert await versions(server) == {1: "SERVING", 2: "FAILED"}
        assert {await ask(server) for _ in range(10)} == {1}
        failed = (await server.models.GetModel(GetModelRequest(name="echo@2"))).model
        assert failed.failure.message
        assert await refused(ask(server, "echo@2")) == (
            "FAILED_PRECONDITION",
            "MODEL_LOAD_FAILED",
            "model",
        )
        assert (await refused(traffic(server, v2=1)))[1] == "MODEL_LOAD_FAILED"
        await server.models.UnloadModel(UnloadModelRequest(name="echo", version=2))
        await gone(server, 2)


async def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with (tmp_path / "model.safetensors").open("wb") as weights:
        weights.truncate(1 << 42)  # four terabytes of nothing
    async with serving("echo") as server:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await load(server, source=str(tmp_path))
        assert told(error.value)[:2] == ("RESOURCE_EXHAUSTED", "DEVICE_MEMORY")
        assert dict(error.value.trailing_metadata())["grpc-retry-pushback-ms"] == "-1"
        assert "GB" in error.value.details()
        assert await versions(server) == {1: "SERVING"}
        assert await ask(server) == 1


@pytest.mark.parametrize(
    ("fields", "ends"),
    [
        ({"version": 1}, ("ALREADY_EXISTS", "MODEL_EXISTS", "version")),
        ({"name": "Bad name"}, ("INVALID_ARGUMENT", "OPTION_INVALID", "name")),
        ({"name": ""}, ("INVALID_ARGUMENT", "OPTION_INVALID", "name")),
        ({"labels": ["12"]}, ("INVALID_ARGUMENT", "OPTION_INVALID", "labels")),
        ({"settings": {"delay": "1"}}, ("INVALID_ARGUMENT", "OPTION_INVALID", "settings")),
        ({"settings": {"share": "0"}}, ("INVALID_ARGUMENT", "OPTION_INVALID", "settings.share")),
        ({"source": "./nowhere"}, ("FAILED_PRECONDITION", "MODEL_LOAD_FAILED", "source")),
        ({"source": "", "detector": "no-such"}, ("FAILED_PRECONDITION", "MODEL_LOAD_FAILED", "source")),
    ],
)
async def test_a_load_that_cannot_be_is_refused_with_its_reason(fields: Any, ends: Any) -> None:
    async with serving("echo") as server:
        assert await refused(load(server, **fields)) == ends
        assert await ask(server) == 1


@pytest.mark.parametrize(
    ("fields", "ends"),
    [
        ({"name": ""}, ("INVALID_ARGUMENT", "OPTION_INVALID", "name")),
        ({"name": "ekho"}, ("NOT_FOUND", "MODEL_NOT_FOUND", "name")),
        ({"name": "echo"}, ("INVALID_ARGUMENT", "OPTION_INVALID", "version")),
        ({"name": "echo", "version": 7}, ("NOT_FOUND", "VERSION_NOT_FOUND", "version")),
    ],
)
async def test_an_unload_that_cannot_be_is_refused_with_its_reason(fields: Any, ends: Any) -> None:
    async with serving("echo", "echo=echo,version=2") as server:
        assert await refused(server.models.UnloadModel(UnloadModelRequest(**fields))) == ends


@pytest.mark.parametrize(
    ("fields", "ends"),
    [
        ({"name": "ekho"}, ("NOT_FOUND", "MODEL_NOT_FOUND", "name")),
        ({"targets": [(1, 1), (7, 1)]}, ("NOT_FOUND", "VERSION_NOT_FOUND", "targets[1].version")),
        ({"targets": [(1, -1)]}, ("INVALID_ARGUMENT", "OPTION_INVALID", "targets[0].weight")),
        ({"targets": [(1, 0), (2, 0)]}, ("INVALID_ARGUMENT", "OPTION_INVALID", "targets")),
        ({"targets": [(1, 1), (1, 2)]}, ("INVALID_ARGUMENT", "OPTION_INVALID", "targets[1].version")),
        ({"labels": {"12": 1}}, ("INVALID_ARGUMENT", "OPTION_INVALID", "labels")),
        ({"labels": {"canary": 9}}, ("NOT_FOUND", "VERSION_NOT_FOUND", "labels.canary")),
        ({"shadow_version": 9}, ("NOT_FOUND", "VERSION_NOT_FOUND", "shadow_version")),
    ],
)
async def test_a_share_that_cannot_be_is_refused_and_changes_nothing(fields: Any, ends: Any) -> None:
    targets = [TrafficTarget(version=v, weight=w) for v, w in fields.pop("targets", [])]
    async with serving("echo", "echo=echo,version=2") as server:
        request = SetTrafficRequest(**{"name": "echo", **fields}, targets=targets)
        assert await refused(server.models.SetTraffic(request)) == ends
        models = (await server.models.ListModels(ListModelsRequest())).models
        assert [(m.traffic_weight, list(m.labels), m.shadow) for m in models] == [
            (1, [], False),
            (0, [], False),
        ]


# --- streams and shadows --------------------------------------------------------------------------------


def picture(colour: tuple[int, int, int] = (9, 9, 9)) -> Image:
    return Image(raw=RawImage(data=bytes(colour) * 64, width=8, height=8))


@pytest.mark.parametrize("end", ["promoted", "unloaded"])
async def test_a_stream_follows_a_switch_after_its_accepted_frames(end: str) -> None:
    async with serving("echo=echo,delay_ms=50,max_batch=2") as server:
        await load(server)
        call = server.inference.StreamDetect(timeout=20)
        await call.write(StreamDetectRequest(config=StreamConfig(model="echo", stream_id="s")))
        assert (await call.read()).ready.model.version == 1
        for sequence in (1, 2, 3):
            await call.write(StreamDetectRequest(frame=Frame(sequence=sequence, image=picture())))
        await until(lambda: server.app.registry.versions("echo")[0].users > 0)
        if end == "promoted":
            await traffic(server, v2=1)
        else:
            await server.models.UnloadModel(UnloadModelRequest(name="echo", version=1))
        replies = []
        while (reply := await call.read()) is not grpc.aio.EOF:
            replies.append(reply)
        kinds = [reply.WhichOneof("kind") for reply in replies]
        assert kinds[-1] == "go_away"
        away = replies[-1].go_away
        assert away.reason == 3  # MODEL_SWITCHED
        assert kinds[:-1] == ["result"] * away.last_sequence
        assert away.last_sequence >= 1
        again = server.inference.StreamDetect(timeout=20)
        config = StreamConfig(model="echo", stream_id="s", resume_token=away.resume_token)
        await again.write(StreamDetectRequest(config=config))
        ready = (await again.read()).ready
        assert (ready.model.version, ready.next_sequence) == (2, away.last_sequence + 1)
        again.cancel()


async def test_a_stream_that_asked_for_a_version_stays_with_it() -> None:
    async with serving("echo") as server:
        await load(server)
        call = server.inference.StreamDetect(timeout=20)
        await call.write(StreamDetectRequest(config=StreamConfig(model="echo@1")))
        await call.read()
        await traffic(server, v2=1)
        await call.write(StreamDetectRequest(frame=Frame(sequence=1, image=picture())))
        reply = await call.read()
        assert reply.WhichOneof("kind") == "result"
        assert reply.result.response.model.version == 1
        call.cancel()


def shadowed(server: Serving, outcome: str) -> float:
    sample = server.app.metrics.registry.get_sample_value
    return sample("opsin_shadow_total", {"model": "echo@2", "outcome": outcome}) or 0.0


@pytest.mark.parametrize(
    ("settings", "outcome"), [({}, "same"), ({"poison": "true"}, "failed"), ({"short": "true"}, "failed")]
)
async def test_a_shadow_looks_at_copies_and_tells_nobody_but_the_metrics(
    settings: dict[str, str], outcome: str
) -> None:
    colour = (255, 255, 0) if "short" in settings else (255, 0, 255)
    async with serving("echo") as server:
        await load(server, settings=settings)
        await traffic(server, shadow=2)
        reply = await server.inference.Detect(DetectRequest(model="echo", image=picture(colour)))
        assert reply.model.version == 1
        assert [d.label for d in reply.detections] == ["echo"]
        await until(lambda: shadowed(server, outcome) == 1)
        batch = [DetectRequest(model="echo", image=picture(colour))] * 2
        outcomes = (await server.inference.BatchDetect(BatchDetectRequest(requests=batch))).outcomes
        assert [o.response.model.version for o in outcomes] == [1, 1]


async def test_a_slow_shadow_is_left_behind_and_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving("echo", scheduler={"lanes": 2}) as server:
        await load(server, settings={"max_batch": "1"})
        shadow, may_end = server.app.registry.versions("echo")[1].loaded, threading.Event()
        assert shadow is not None
        monkeypatch.setattr(
            shadow.detector, "infer", lambda batch: may_end.wait(60) and [one for _, one in batch]
        )
        await traffic(server, shadow=2)
        for n in range(200):
            assert await ask(server, text=str(n)) == 1
        # One copy is still looked at, or was given up after five seconds, and counts as dropped then.
        assert shadowed(server, "dropped") in (199, 200)
        may_end.set()
        await traffic(server)


# --- what is left ---------------------------------------------------------------------------------------


async def test_a_version_that_is_gone_leaves_no_series_and_no_health() -> None:
    async with serving("echo") as server:
        await load(server, name="other")
        await ask(server, "other")
        assert server.app.board.status("model/other") == 1
        await server.models.UnloadModel(UnloadModelRequest(name="other"))
        async with asyncio.timeout(30):
            while any(v.name == "other" for v in server.app.registry):
                await asyncio.sleep(0.01)
        assert server.app.board.status("model/other") == 3
        assert server.app.board.status("") == 1
        labels = [
            sample.labels
            for metric in server.app.metrics.registry.collect()
            for sample in metric.samples
            if sample.labels.get("model", "").partition("@")[0] == "other"
        ]
        assert labels == []


async def test_an_unloaded_detector_is_held_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def let_go(gone: Callable[[], object]) -> None:
        """On a thread of its own: other threads may have to wait for a core before they let go."""
        ends = time.monotonic() + 30
        while gone() is not None and time.monotonic() < ends:
            time.sleep(0.001)
        seen.append(gone() is None)

    monkeypatch.setattr("opsin_server.models.lifecycle.give_back", let_go)
    async with serving("echo") as server:
        gc.disable()  # it must go by itself
        try:
            for turn in range(3):
                await load(server, version=2)
                await asyncio.gather(*(ask(server, "echo@2", text=str(n)) for n in range(8)))
                await server.models.UnloadModel(UnloadModelRequest(name="echo", version=2))
                await until(lambda turn=turn: len(seen) > turn)
        finally:
            gc.enable()
    assert seen == [True, True, True]


@pytest.mark.timeout(400)
def test_unloading_gives_the_memory_back(tmp_path: Path) -> None:
    """In a process of its own: what other tests left to be given back would hide what is looked for."""
    with (
        opsin_server(tmp_path / "log", "--model", "echo") as server,
        opsin.Client(f"127.0.0.1:{server.port}", timeout=60) as client,
    ):
        seen = psutil.Process(server.process.pid)

        def cycle() -> None:
            # Eager: nothing is measured while loading, which would be most of this test.
            client.load_model("net", source="nsfw", settings={"runtime": "eager"}, wait=True)
            client.unload_model("net")
            wait_until(lambda: all(model.name != "net" for model in client.models()), "the model to go")

        cycle()
        first = least(seen)
        for _ in range(6):
            cycle()
        weights = 22 << 20
        wait_until(lambda: seen.memory_info().rss < first + 3 * weights, "memory comes back to where it was")


def least(process: psutil.Process) -> int:
    """Bytes resident, once they have stopped falling: giving back goes on after a model has left the list."""
    readings = [process.memory_info().rss]
    while len(readings) < 5 or readings[-1] < readings[-5]:
        time.sleep(0.05)
        readings.append(process.memory_info().rss)
    return min(readings)


async def test_an_unloaded_network_is_in_memory_no_longer() -> None:
    def networks() -> int:
        gc.collect()
        return sum(issubclass(type(thing), torch.nn.Module) for thing in gc.get_objects())

    async with serving("echo") as server:
        before = networks()
        loaded = await load(server, name="net", source="nanodet", version=1, settings={"runtime": "eager"})
        assert loaded.state == ModelState.MODEL_STATE_SERVING
        assert networks() > before + 50
        await server.models.UnloadModel(UnloadModelRequest(name="net"))
        async with asyncio.timeout(60):
            while any(v.name == "net" for v in server.app.registry) or networks() > before:
                await asyncio.sleep(0.05)
