#!/usr/bin/env bash
# Builds the CPU image, runs it as a cluster would (not root, read-only root file system), and calls it with
# grpcurl from outside: health, models, a photo. Ends with the container stopped by SIGTERM and exit code 0.
#
# Needs root, buildah, podman and grpcurl; no Docker engine. Where no image registry can be reached, the base
# image is made with debootstrap (Debian 12 has Python 3.11).
#
# PYTHON_IMAGE   base image; default: the one the Dockerfile names, or the debootstrap one
# TORCH_INDEX    as in Dockerfile.cpu; may be empty
# RUNTIME        OCI runtime for podman; default runc
# KEEP_IMAGE=1   leaves the built image in the local store
#
# pip inside the build is configured as pip on this machine: the same settings, and the local folders and
# certificates they name are mounted (`pip config list` shows them).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export STORAGE_DRIVER=overlay
readonly IMAGE=localhost/opsin:image-test
readonly STAND_IN=localhost/opsin-base:bookworm
readonly PHOTO=examples/data/astronaut.png
WORK=$(mktemp -d)
CONTAINER=

say() { printf '\n== %s\n' "$*"; }

podman_() { podman --cgroup-manager cgroupfs --events-backend file --runtime "${RUNTIME:-$(command -v runc)}" "$@"; }

cleanup() {
    local status=$?
    if [[ -n $CONTAINER ]]; then
        ((status == 0)) || podman_ logs "$CONTAINER" || true
        podman_ rm --force "$CONTAINER" >/dev/null || true
    fi
    rm -rf "$WORK"
    exit "$status"
}
trap cleanup EXIT

require() {
    local tool missing=()
    for tool in "$@"; do command -v "$tool" >/dev/null || missing+=("$tool"); done
    ((${#missing[@]} == 0)) && return
    echo "missing: ${missing[*]} (Debian: apt-get install buildah podman runc crun catatonit debootstrap;" \
        "grpcurl: make setup)" >&2
    exit 1
}

# Prints the name of a base image that is in the local store.
base_image() {
    local wanted=${PYTHON_IMAGE:-docker.io/library/python:3.11-slim}
    if podman_ image exists "$wanted" || timeout 60 podman_ pull --quiet "$wanted" >/dev/null 2>&1; then
        echo "$wanted"
        return
    fi
    echo "no registry gives $wanted; using a stand-in made with debootstrap" >&2
    if ! podman_ image exists "$STAND_IN"; then
        require debootstrap
        debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv,python3-pip \
            bookworm "$WORK/base" >&2
        tar -C "$WORK/base" -c . | podman_ import --quiet - "$STAND_IN" >&2
        rm -rf "$WORK/base"
    fi
    echo "$STAND_IN"
}

# Writes pip's settings on this machine to a file, and prints a --volume option for every local path in them.
pip_options() {
    python3 -m pip config list | python3 -c '
import ast, configparser, pathlib, sys

settings, paths = {}, set()
for line in sys.stdin:
    name, _, value = line.partition("=")
    value = ast.literal_eval(value.strip())
    settings[name.rsplit(".", 1)[1]] = "\n".join(value.split())
    words = (word.removeprefix("file://") for word in value.split())
    paths |= {word for word in words if word.startswith("/") and pathlib.Path(word).exists()}
config = configparser.RawConfigParser()
config["global"] = settings
with open(sys.argv[1], "w") as file:
    config.write(file)
# A folder index keeps its files beside the folder of its pages, so the parent is what is mounted.
paths = {str(pathlib.Path(path).parent) if path.rstrip("/").endswith("/simple") else path for path in paths}
for path in sorted(paths):
    print(f"--volume={path}:{path}:ro")
' "$1"
}

build() {
    local base options=()
    base=$(base_image)
    mapfile -t options < <(pip_options "$WORK/pip.conf")
    if [[ -n ${TORCH_INDEX+set} ]]; then options+=("--build-arg=TORCH_INDEX=$TORCH_INDEX"); fi
    say "building $IMAGE on $base"
    buildah build --pull=never --network host --isolation chroot --format docker --layers \
        --build-arg "PYTHON_IMAGE=$base" --secret "id=pip_conf,src=$WORK/pip.conf" "${options[@]}" \
        --file Dockerfile.cpu --tag "$IMAGE" .
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

start() {
    say "starting it, without root, on a read-only file system"
    CONTAINER=$(podman_ run --detach --no-healthcheck --network host --read-only --tmpfs /tmp --tmpfs /home/opsin:mode=1777 \
        --cap-drop ALL --security-opt no-new-privileges --ulimit nofile=4096:4096 --ulimit nproc=4096:4096 \
        "$IMAGE" serve --host 127.0.0.1 --port "$PORT")
    [[ $(podman_ exec "$CONTAINER" id -u) == 10001 ]]
    local _
    for _ in $(seq 120); do
        if health readiness 2>/dev/null | grep -q '"SERVING"'; then return; fi
        podman_ inspect --format '{{.State.Running}}' "$CONTAINER" | grep -q true || break
        sleep 1
    done
    echo "the server did not become ready" >&2
    return 1
}

health() {
    grpcurl -plaintext -d "{\"service\": \"$1\"}" "127.0.0.1:$PORT" grpc.health.v1.Health/Check
}

detect() {
    python3 - "$PHOTO" <<'PY' >"$WORK/request.json"
import base64, json, pathlib, sys

photo = base64.b64encode(pathlib.Path(sys.argv[1]).read_bytes()).decode()
print(json.dumps({"image": {"encoded": photo}}))
PY
    grpcurl -plaintext -max-msg-sz 33554432 -d @ "127.0.0.1:$PORT" opsin.v1.InferenceService/Detect \
        <"$WORK/request.json"
}

call() {
    say "health, reflection, the image's own health check"
    health ""
    grpcurl -plaintext "127.0.0.1:$PORT" list
    podman_ exec "$CONTAINER" opsin health --port "$PORT"
    say "a photo"
    detect | tee "$WORK/answer.json"
    grep -q '"label": "person"' "$WORK/answer.json"
}

stop() {
    say "stopping it"
    podman_ stop --time 60 "$CONTAINER" >/dev/null
    local code
    code=$(podman_ inspect --format '{{.State.ExitCode}}' "$CONTAINER")
    echo "exit code $code"
    [[ $code == 0 ]]
}

require buildah podman runc grpcurl python3
PORT=$(free_port)
build
start
call
stop
podman_ image inspect --format 'image size: {{.Size}} bytes' "$IMAGE"
[[ -n ${KEEP_IMAGE:-} ]] || { podman_ rm --force "$CONTAINER" >/dev/null; CONTAINER=; podman_ rmi "$IMAGE" >/dev/null; }
say "passed"
