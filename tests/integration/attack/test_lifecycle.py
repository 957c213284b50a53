"""Loads, unloads and shares that somebody means harm with: each is refused by name, and calls go on."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from integration.models.test_lifecycle import ask, gone, load, picture, refused, traffic, versions
from opsin.v1 import (
    Frame,
    ListModelsRequest,
    LoadModelRequest,
    SetTrafficRequest,
    StreamConfig,
    StreamDetectRequest,
    TrafficTarget,
    UnloadModelRequest,
)
from opsin_detectors.api import Detector, LoadContext
from opsin_detectors.finder import Found
from opsin_detectors.finder import load as load_detector
from opsin_server.models import permit, replicas
from serving import Serving, serving

INVALID = ("INVALID_ARGUMENT", "OPTION_INVALID")
LARGEST = 2**63 - 1


async def send(server: Serving, **fields: Any) -> Any:
    return (await server.models.LoadModel(LoadModelRequest(**fields))).model


async def end(server: Serving, name: str, version: int = 0) -> None:
    await server.models.UnloadModel(UnloadModelRequest(name=name, version=version))


async def none_left(server: Serving, name: str) -> None:
    async with asyncio.timeout(30):
        while any(v.name == name for v in server.app.registry):
            await asyncio.sleep(0.01)


# -- names, numbers, sources -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["../echo", "a/b", "a\\b", "/etc/passwd", "..", ".hidden", "a@2", "a b", "a\n", "a\0b", "É", "x" * 65],
)
async def test_a_name_that_is_a_path_or_no_name_is_refused(name: str) -> None:
    async with serving("echo") as server:
        assert await refused(send(server, name=name, source="echo")) == (*INVALID, "name")
        assert await refused(send(server, name="x" * 1_000_000, source="echo")) == (*INVALID, "name")
        assert {v.name for v in server.app.registry} == {"echo"}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"version": LARGEST + 1}, "version"),
        ({"version": 2**64 - 1}, "version"),
        ({"labels": ["canary\n"]}, "labels"),
        ({"labels": ["../../x"]}, "labels"),
        ({"labels": [f"l{n}" for n in range(permit.MOST_LABELS + 1)]}, "labels"),
        ({"settings": {"share": "nan"}}, "settings.share"),
        ({"settings": {"share": "-1"}}, "settings.share"),
        ({"settings": {"max_batch": "99999999999999999999"}}, "settings.max_batch"),
        ({"settings": {"device": "cuda:../../x"}}, "settings.device"),
        ({"settings": {"trust_remote_code": "true"}}, "settings.trust_remote_code"),
        ({"settings": {"trust_remote_code": "1"}}, "settings.trust_remote_code"),
        ({"settings": {"allow_pickle": "yes"}}, "settings.allow_pickle"),
    ],
)
async def test_a_load_out_of_range_names_the_field(fields: dict[str, Any], field: str) -> None:
    async with serving("echo") as server:
        assert await refused(send(server, name="echo", source="echo", **fields)) == (*INVALID, field)
        assert await versions(server) == {1: "SERVING"}


async def test_the_greatest_version_leaves_the_lists_readable() -> None:
    async with serving("echo") as server:
        await load(server, version=LARGEST)
        assert await refused(load(server)) == (*INVALID, "version"), "there is none above"
        models = (await server.models.ListModels(ListModelsRequest())).models
        assert [model.version for model in models] == [1, LARGEST]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A folder that models may be loaded from, and one beside it; a checkpoint in each."""
    allowed, other = tmp_path / "models", tmp_path / "models-of-others"
    for folder in (allowed, other):
        (folder / "cats").mkdir(parents=True)
        (folder / "cats" / "config.json").write_text("{}")
    (allowed / "link").symlink_to(other / "cats", target_is_directory=True)
    return allowed, other


@pytest.mark.parametrize("way", ["{other}/cats", "{allowed}/../models-of-others/cats", "{allowed}/link", "/"])
async def test_a_source_outside_the_folders_for_models_is_refused(
    folders: tuple[Path, Path], way: str
) -> None:
    allowed, other = folders
    source = way.format(allowed=allowed, other=other)
    async with serving("echo", loading={"dirs": [str(allowed)]}) as server:
        for detector in ("", "transformers", "echo"):
            asked = send(server, name="cats", source=source, detector=detector, wait=True)
            assert await refused(asked) == (*INVALID, "source")
        assert await refused(send(server, name="cats", source="some/hub-id")) == (*INVALID, "source")


async def test_a_source_inside_the_folders_and_a_built_in_one_may_be_loaded(
    folders: tuple[Path, Path],
) -> None:
    async with serving("echo", loading={"dirs": [str(folders[0])]}) as server:
        assert (await load(server, name="other")).state
        assert (await send(server, name="echo", source="builtin", wait=True)).version == 2
        source = str(folders[0] / "cats")
        assert (await send(server, name="cats", source=source, detector="echo", wait=True)).source == source


async def test_whoever_runs_the_server_may_let_requests_trust_a_checkpoint() -> None:
    async with serving("echo", loading={"trust": True}) as server:
        asked = load(server, settings={"allow_pickle": "true"})
        assert await refused(asked) == (*INVALID, "settings"), "by echo itself, which knows no such setting"


# -- many at once ----------------------------------------------------------------------------------------


async def test_a_thousand_loads_at_once_are_bounded_and_calls_go_on() -> None:
    async with serving("echo") as server:
        asked = [asyncio.create_task(send(server, name=f"m{n}", source="echo")) for n in range(1000)]
        for n in range(50):
            assert await ask(server, text=str(n)) == 1
        ends = await asyncio.gather(*asked, return_exceptions=True)
        failed = [one for one in ends if isinstance(one, grpc.aio.AioRpcError)]
        assert {one.code() for one in failed} <= {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert failed
        assert all(int(dict(one.trailing_metadata())["grpc-retry-pushback-ms"]) > 0 for one in failed)
        begun = {one.name for one in ends if not isinstance(one, BaseException)}
        assert {v.name for v in server.app.registry} == {"echo"} | begun
        assert await ask(server) == 1


async def test_versions_are_bounded_and_room_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permit, "MOST_VERSIONS", 3)
    async with serving("echo") as server:
        await load(server)
        await load(server)
        assert (await refused(load(server)))[:2] == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
        await end(server, "echo", 3)
        await gone(server, 3)
        assert (await load(server)).version == 3


async def test_of_two_loads_of_one_version_at_once_one_is_told_that_it_exists() -> None:
    async with serving("echo") as server:
        ends = await asyncio.gather(*(load(server, 2) for _ in range(4)), return_exceptions=True)
        told = sorted(
            "loaded" if not isinstance(one, grpc.aio.AioRpcError) else one.code().name for one in ends
        )
        assert told == ["ALREADY_EXISTS"] * 3 + ["loaded"]
        numbers = await asyncio.gather(*(load(server) for _ in range(4)))
        assert sorted(model.version for model in numbers) == [3, 4, 5, 6]


# -- unloading at the wrong moment -----------------------------------------------------------------------


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Loading of every model called `slow` takes until this is set."""
    gate = threading.Event()

    def gated(found: Found, context: LoadContext) -> Detector:
        if context.name == "slow":
            gate.wait(30)
        return load_detector(found, context)

    monkeypatch.setattr(replicas, "load_detector", gated)
    yield gate
    gate.set()


async def loading(server: Serving, name: str) -> None:
    async with asyncio.timeout(10):
        while not any(v.name == name for v in server.app.registry):
            await asyncio.sleep(0.001)


async def test_a_version_that_is_unloaded_while_it_loads_never_serves(slow: threading.Event) -> None:
    async with serving("echo") as server:
        waits = asyncio.create_task(load(server, name="slow"))
        await loading(server, "slow")
        await end(server, "slow")
        await end(server, "slow")
        assert await refused(ask(server, "slow")) == ("UNAVAILABLE", "MODEL_NOT_READY", "model")
        slow.set()
        assert await refused(waits) == ("FAILED_PRECONDITION", "MODEL_LOAD_FAILED", "")
        await none_left(server, "slow")
        assert "slow@1" not in server.app.scheduler.profiles
        assert await ask(server) == 1
        assert (await load(server, name="slow")).version == 1, "its number is free again"


async def test_a_client_that_is_killed_while_it_waits_for_a_load_does_not_end_the_load(
    slow: threading.Event,
) -> None:
    async with serving("echo") as server:
        waits = asyncio.create_task(load(server, name="slow"))
        await loading(server, "slow")
        waits.cancel()
        await asyncio.gather(waits, return_exceptions=True)
        assert await ask(server) == 1
        slow.set()
        async with asyncio.timeout(30):
            while not server.app.registry.versions("slow")[0].serves:
                await asyncio.sleep(0.01)
        assert await ask(server, "slow") == 1


@pytest.mark.parametrize("left", ["another version", "nothing"])
async def test_a_stream_on_a_version_that_is_unloaded_is_answered_and_sent_away(left: str) -> None:
    async with serving("other=echo", "echo=echo,delay_ms=20,max_batch=2") as server:
        if left == "another version":
            await load(server)
        call = server.inference.StreamDetect(timeout=20)
        await call.write(StreamDetectRequest(config=StreamConfig(model="echo@1", stream_id="s")))
        assert (await call.read()).ready.model.version == 1
        for sequence in (1, 2, 3):
            await call.write(StreamDetectRequest(frame=Frame(sequence=sequence, image=picture())))
        async with asyncio.timeout(10):
            while not server.app.registry.versions("echo")[0].users:
                await asyncio.sleep(0.001)
        await end(server, "echo", 1)
        kinds = []
        while (reply := await call.read()) is not grpc.aio.EOF:
            kinds.append(reply.WhichOneof("kind"))
        assert kinds[-1] == "go_away"
        assert set(kinds[:-1]) == {"result"}
        async with asyncio.timeout(10):
            while any(v.key == "echo@1" for v in server.app.registry):
                await asyncio.sleep(0.01)
        again = server.inference.StreamDetect(timeout=20)
        await again.write(StreamDetectRequest(config=StreamConfig(model="echo@1")))
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await again.read()
        assert refusal.value.code() is grpc.StatusCode.NOT_FOUND


# -- shares ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"targets": [(1, 0)]}, "targets"),
        ({"targets": [(1, 0), (2, 0)]}, "targets"),
        ({"targets": [(1, 5), (2, -1)]}, "targets[1].weight"),
        ({"targets": [(1, -(2**31))]}, "targets[0].weight"),
        ({"labels": {f"l{n}": 1 for n in range(permit.MOST_LABELS + 1)}}, "labels"),
        ({"labels": {"a\n": 1}}, "labels"),
        ({"labels": {"": 1}}, "labels"),
    ],
)
async def test_shares_out_of_range_are_refused_and_change_nothing(fields: Any, field: str) -> None:
    targets = [TrafficTarget(version=v, weight=w) for v, w in fields.pop("targets", [])]
    async with serving("echo", "echo=echo,version=2") as server:
        request = SetTrafficRequest(name="echo", targets=targets, **fields)
        assert await refused(server.models.SetTraffic(request)) == (*INVALID, field)
        models = (await server.models.ListModels(ListModelsRequest())).models
        assert [(m.traffic_weight, list(m.labels)) for m in models] == [(1, []), (0, [])]


async def test_labels_do_not_add_up_beyond_their_bound() -> None:
    most = permit.MOST_LABELS
    async with serving("echo") as server:
        await traffic(server, labels={f"a{n}": 1 for n in range(most)})
        assert await refused(traffic(server, labels={"b": 1})) == (*INVALID, "labels")
        await traffic(server, labels={"a0": 0, "b": 1})
        assert await ask(server, "echo@b") == 1


async def test_the_greatest_weights_share_as_they_say() -> None:
    async with serving("echo") as server:
        await load(server)
        await traffic(server, v1=2**31 - 1, v2=2**31 - 1)
        assert {await ask(server, text=str(n)) for n in range(60)} == {1, 2}
