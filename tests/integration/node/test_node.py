"""A Node client that knows nothing but the protos gets what the contract says."""

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from serving import serving

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
PICTURE = ROOT / "tests" / "data" / "images" / "astronaut.png"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="no node and npm here"),
]


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script in a folder with its packages installed."""
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "client.js"):
        shutil.copy(HERE / name, folder / name)
    command = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"]
    subprocess.run(command, cwd=folder, check=True, timeout=100)
    return folder / "client.js"


async def test_node_detects_streams_and_reads_errors(client: Path) -> None:
    async with serving("echo") as server:
        process = await asyncio.create_subprocess_exec(
            "node",
            str(client),
            server.target,
            str(ROOT / "protos"),
            str(PICTURE),
            str(ROOT / "protos" / "third_party"),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    said = json.loads(out)
    assert (said["label"], said["width"]) == ("echo", 512)
    assert said["refused"]["code"] == "NOT_FOUND"
    assert {"grpc-status-details-bin", "opsin-request-id"} <= set(said["refused"]["trailers"])
    assert said["kinds"] == ["ready"] + ["result"] * 5
    assert said["sequences"] == [1, 2, 3, 4, 5]
