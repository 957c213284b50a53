"""Long work keeps nobody waiting: not the loop, and not the end of the process."""

import asyncio
import subprocess
import sys
import threading

import pytest

from opsin_server.models.background import busy, in_background

ENDLESS = """
import asyncio, time
from opsin_server.models.background import in_background

async def main():
    try:
        async with asyncio.timeout(0.1):
            await in_background(time.sleep, 3600)
    except TimeoutError:
        print("left")

asyncio.run(main())
"""


async def test_work_gives_its_result_or_its_exception() -> None:
    assert await in_background(int, "7") == 7
    with pytest.raises(ValueError, match="invalid literal"):
        await in_background(int, "x")
    with pytest.raises(RuntimeError, match="SystemExit"):
        await in_background(sys.exit, 3)


async def test_it_is_busy_until_the_work_ends_though_nobody_waits_for_it() -> None:
    gate = threading.Event()
    waiting = asyncio.create_task(in_background(gate.wait))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert busy()
    gate.set()
    async with asyncio.timeout(30):
        while busy():
            await asyncio.sleep(0.01)


def test_a_process_ends_without_it() -> None:
    done = subprocess.run([sys.executable, "-c", ENDLESS], capture_output=True, timeout=100, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, b"left")
