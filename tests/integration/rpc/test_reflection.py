"""Reflection by both names, asked by hand and by the real grpcurl."""

import asyncio
import base64
import json
import shutil
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

SERVICES = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "opsin.v1.InferenceService",
    "opsin.v1.ModelService",
]


async def ask(server, version: str, **question: str) -> ServerReflectionResponse:
    call = server.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=ServerReflectionRequest.SerializeToString,
        response_deserializer=ServerReflectionResponse.FromString,
    )()
    await call.write(ServerReflectionRequest(**question))
    reply = await call.read()
    await call.done_writing()
    return reply


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_every_service_is_listed(server, version: str) -> None:
    reply = await ask(server, version, list_services="")
    assert [service.name for service in reply.list_services_response.service] == SERVICES


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
@pytest.mark.parametrize("symbol", [*SERVICES, "opsin.v1.Embedding", "google.rpc.ErrorInfo"])
async def test_every_service_can_be_described(server, version: str, symbol: str) -> None:
    reply = await ask(server, version, file_containing_symbol=symbol)
    files = [FileDescriptorProto.FromString(f) for f in reply.file_descriptor_response.file_descriptor_proto]
    package, _, name = symbol.rpartition(".")
    (home,) = [f for f in files if f.package == package and name in _names(f)]
    assert {needed for f in files for needed in f.dependency} <= {f.name for f in files}
    assert home


def _names(file: FileDescriptorProto) -> set[str]:
    return {service.name for service in file.service} | {message.name for message in file.message_type}


def grpcurl() -> str:
    beside = Path(sys.executable).with_name("grpcurl")
    found = str(beside) if beside.exists() else shutil.which("grpcurl")
    if not found:
        pytest.skip("grpcurl is not installed")
    return found


async def run(*arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        grpcurl(), "-plaintext", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_grpcurl_lists_and_describes_everything(server) -> None:
    code, out, err = await run(server.address, "list")
    assert (code, out.split()) == (0, SERVICES), err
    code, out, err = await run(server.address, "describe")
    assert code == 0, err
    assert "rpc StreamDetect ( stream .opsin.v1.StreamDetectRequest )" in out
    code, out, err = await run(server.address, "describe", "opsin.v1.DetectOptions")
    assert code == 0, err
    assert "min_score" in out


async def test_grpcurl_detects(server) -> None:
    picture = base64.b64encode(b"pixels").decode()
    body = json.dumps({"image": {"encoded": picture}})
    code, out, err = await run("-d", body, server.address, "opsin.v1.InferenceService/Detect")
    assert code == 0, err
    assert json.loads(out)["detections"][0]["label"] == "cat"
    assert server.pipeline.calls[0].source.data == b"pixels"


async def test_grpcurl_shows_the_details_of_an_error(server) -> None:
    code, _, err = await run("-d", "{}", server.address, "opsin.v1.InferenceService/Detect")
    assert code == 64 + 3  # INVALID_ARGUMENT
    assert "INPUT_MISSING" in err


async def test_grpcurl_checks_health(server) -> None:
    server.board.expect([])
    code, out, err = await run(
        "-d", '{"service": "readiness"}', server.address, "grpc.health.v1.Health/Check"
    )
    assert code == 0, err
    assert json.loads(out) == {"status": "SERVING"}
