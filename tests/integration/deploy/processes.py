"""Real processes for the deployment tests: `opsin serve` and Envoy, started, asked, and stopped.

Knows the command lines, the ready line, and Envoy's admin pages; nothing of what the tests promise.
"""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import yaml

ROOT = Path(__file__).resolve().parents[3]
ENVOY_CONFIG = ROOT / "deploy" / "envoy" / "envoy.yaml"
START_SECONDS = 60.0


def tool(name: str) -> str:
    """Path of a command of this virtual environment, or of the machine."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found, f"{name} is not installed; `make setup` brings it"
    return found


def wait_until(holds: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
    """Ask until it holds; an assertion error that says what did not after `seconds`."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.02)


@dataclass
class Server:
    """A running `opsin serve`."""

    process: subprocess.Popen[str]
    port: int

    def kill(self) -> None:
        """As a crash does: no word to anybody. Returns when the kernel has closed its sockets."""
        self.process.kill()
        self.process.wait(60)


@contextmanager
def opsin_server(log: Path, *arguments: str) -> Generator[Server]:
    """`opsin serve` on a free loopback port, ready; ended at the end. What it prints goes to `log` too."""
    command = [tool("opsin"), "serve", "--host", "127.0.0.1", "--port", "0", *arguments]
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        yield Server(process, _ready_port(process, log))
    finally:
        _end(process)


def _ready_port(process: subprocess.Popen[str], log: Path) -> int:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"ready at 127\.0\.0\.1:(\d+)", line):
            return int(found[1])
    raise AssertionError(f"the server ended before it was ready:\n{log.read_text()}")


def _end(process: subprocess.Popen[Any]) -> None:
    """SIGTERM twice, which ends an Opsin server without draining; SIGKILL for one that does not listen."""
    for sign, patience in ((signal.SIGTERM, 0.2), (signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        if process.poll() is not None:
            break
        process.send_signal(sign)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    if process.stdout is not None:
        process.stdout.close()


@dataclass
class Envoy:
    """A running Envoy with the shipped configuration."""

    port: int
    admin: str

    def stat(self, name: str) -> int:
        """A counter or gauge of the cluster of servers."""
        text = self._page(f"/stats?usedonly&filter=^cluster.opsin.{name}$")
        return int(text.rpartition(":")[2]) if text else 0

    def hosts(self) -> Mapping[int, Mapping[str, Any]]:
        """What Envoy knows of each server, by its port: `healthy`, `calls` so far, `active` ones, open
        `connections`.
        """
        clusters = json.loads(self._page("/clusters?format=json"))["cluster_statuses"]
        (cluster,) = (cluster for cluster in clusters if cluster["name"] == "opsin")
        return {
            host["address"]["socket_address"]["port_value"]: _host(host)
            for host in cluster.get("host_statuses", ())
        }

    def healthy(self) -> set[int]:
        """Ports of the servers that get traffic."""
        return {port for port, host in self.hosts().items() if host["healthy"]}

    def _page(self, path: str) -> str:
        with urllib.request.urlopen(f"http://{self.admin}{path}", timeout=10) as page:
            return str(page.read().decode())


def _host(status: Mapping[str, Any]) -> Mapping[str, Any]:
    stats = {stat["name"]: int(stat.get("value", 0)) for stat in status["stats"]}
    return {
        "healthy": status["health_status"] == {"eds_health_status": "HEALTHY"},
        "calls": stats["rq_total"],
        "connections": stats["cx_active"],
        "active": stats["rq_active"],
    }


def envoy_config(ports: Sequence[int], health_interval: float | None = None) -> dict[str, Any]:
    """The shipped configuration, listening on any free port, in front of servers on these loopback ports.

    health_interval: seconds between health checks instead of the shipped ones.
    """
    config: dict[str, Any] = yaml.safe_load(ENVOY_CONFIG.read_text())
    config["admin"]["address"]["socket_address"]["port_value"] = 0
    (listener,) = config["static_resources"]["listeners"]
    listener["address"] = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    (cluster,) = config["static_resources"]["clusters"]
    addresses = [{"socket_address": {"address": "127.0.0.1", "port_value": port}} for port in ports]
    cluster["load_assignment"]["endpoints"] = [
        {"lb_endpoints": [{"endpoint": {"address": address}} for address in addresses]}
    ]
    if health_interval is not None:
        for check in cluster["health_checks"]:
            check |= {"interval": f"{health_interval}s", "no_traffic_interval": f"{health_interval}s"}
    return config


@contextmanager
def envoy(folder: Path, ports: Sequence[int], health_interval: float | None = None) -> Generator[Envoy]:
    """A real Envoy in front of servers on these ports, which it finds healthy; ended at the end."""
    config, admin, log = folder / "envoy.json", folder / "admin", folder / "envoy.log"
    config.write_text(json.dumps(envoy_config(ports, health_interval)))
    command = [tool("envoy"), "-c", str(config), "--admin-address-path", str(admin)]
    options = ["--disable-hot-restart", "--concurrency", "1", "--log-path", str(log), "-l", "warn"]
    with (folder / "access.log").open("w") as access:
        process = subprocess.Popen([*command, *options], stdout=access, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: admin.exists() or process.poll() is not None, "Envoy's admin page")
        assert process.poll() is None, log.read_text()
        proxy = Envoy(0, admin.read_text())
        wait_until(lambda: proxy.healthy() == set(ports), "Envoy finds every server healthy")
        listeners = json.loads(proxy._page("/listeners?format=json"))["listener_statuses"]
        proxy.port = listeners[0]["local_address"]["socket_address"]["port_value"]
        yield proxy
    finally:
        process.terminate()
        process.wait(60)


@asynccontextmanager
async def channel(port: int) -> AsyncGenerator[grpc.aio.Channel]:
    """A plain channel that retries nothing by itself, so that what the proxy does is seen."""
    options = [("grpc.enable_retries", 0), ("grpc.max_receive_message_length", 32 << 20)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as opened:
        yield opened
