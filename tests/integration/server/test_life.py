"""Health over several versions, a scrape beside a busy loop, and leaving while a model still loads."""

import asyncio
import signal
import sys
import threading
import urllib.request
from pathlib import Path

from opsin_server.app import App
from opsin_server.config import Settings
from opsin_server.models.status import ModelState
from opsin_server.telemetry.exposition import OnLoop
from opsin_server.telemetry.metrics import Snapshot
from serving import serving

SERVING, NOT_SERVING = 1, 2

SLOW_DETECTOR = """
import time
from opsin_detectors.echo.detector import Echo

class Slow(Echo):
    def __init__(self, context):
        print("loading", flush=True)
        time.sleep(600)
"""
MANIFEST = 'name = "slow"\nclass = "detector:Slow"\ndescription = "Takes its time"\n'


async def test_a_name_serves_when_all_its_versions_are_warm_and_then_while_any_is() -> None:
    app = App(Settings(model=("m=echo", {"name": "m", "version": 2, "detector": "echo"}), server={"port": 0}))
    one, two = (app.registry.declare(model) for model in app.models)
    app.board.expect(["m"])
    told = []
    app.board.watch("model/m", lambda: told.append(app.board.status("model/m")))
    await app.registry.load(one)
    assert app.board.status("model/m") == NOT_SERVING
    await app.registry.load(two)
    assert told == [SERVING]
    app.registry._enter(two, ModelState.DRAINING)
    app.registry._enter(two, ModelState.FAILED)
    assert told == [SERVING]
    app._device_health(False)
    app._device_health(True)
    assert told == [SERVING, NOT_SERVING, SERVING]
    app.registry._enter(one, ModelState.FAILED)
    assert told[-1] == NOT_SERVING
    app._device_health(True)
    assert told[-1] == NOT_SERVING
    await app.scheduler.close()


async def test_a_scrape_reads_the_servers_state_on_the_servers_own_thread() -> None:
    async with serving("echo", metrics={"port": 0, "host": "127.0.0.1"}) as server:
        asked = []
        list_models = server.app.catalog.list
        server.app.catalog.list = lambda: asked.append(threading.get_ident()) or list_models()
        assert server.app._endpoint is not None
        url = f"http://127.0.0.1:{server.app._endpoint.port}/metrics"
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=30).read().decode())
        assert 'opsin_queued{model="echo",version="1"} 0.0' in text
        assert asked == [threading.get_ident()]


async def test_a_scrape_of_a_busy_loop_gets_the_last_figures() -> None:
    answers = iter([Snapshot(streams=1), Snapshot(streams=2)])
    ask = OnLoop(lambda: next(answers), Snapshot(), timeout=0.05)
    scrapes: list[int] = []
    assert await asyncio.to_thread(lambda: ask().streams) == 1
    thread = threading.Thread(target=lambda: scrapes.append(ask().streams))
    thread.start()
    thread.join(30)  # the loop is busy: it waits here
    assert scrapes == [1]
    await asyncio.sleep(0)  # what was asked in vain is not answered later
    assert ask().streams == 2


def test_a_scrape_after_the_loop_is_gone_gets_the_last_figures() -> None:
    async def main() -> OnLoop[int]:
        return OnLoop(lambda: 7, 5, timeout=0.05)

    ask = asyncio.run(main())
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.append(ask()))
    thread.start()
    thread.join(30)
    assert got == [5]


async def test_sigterm_while_a_model_loads_ends_the_process_at_once_with_code_0(tmp_path: Path) -> None:
    folder = tmp_path / "slow"
    folder.mkdir()
    (folder / "detector.toml").write_text(MANIFEST)
    (folder / "detector.py").write_text(SLOW_DETECTOR)
    command = [sys.executable, "-m", "opsin.cli", "serve", "--port", "0", "--detectors-dir", str(tmp_path)]
    process = await asyncio.create_subprocess_exec(
        *command,
        "--model",
        "slow",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=tmp_path,
    )
    try:
        async with asyncio.timeout(60):
            assert process.stdout is not None
            assert await process.stdout.readline() == b"loading\n"
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
