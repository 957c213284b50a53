"""Server reflection, under both names that clients ask for.

grpcio's package serves v1alpha only, while newer tools ask for v1. The messages of both are the same on the
wire, so one servicer answers under both names. What it shows is kept in a pool of its own: the v1 file is
made from v1alpha's, and must never meet a real one in the process-wide pool.
"""

from typing import Any

import grpc
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from opsin.v1 import inference_service_pb2, model_service_pb2

__all__ = ["SERVICES", "add_reflection"]

ALPHA = "grpc.reflection.v1alpha"
STABLE = "grpc.reflection.v1"
SERVICES = (f"{STABLE}.ServerReflection", f"{ALPHA}.ServerReflection")

_SHOWN = (
    inference_service_pb2.DESCRIPTOR,
    model_service_pb2.DESCRIPTOR,
    health_pb2.DESCRIPTOR,
    error_details_pb2.DESCRIPTOR,  # so that tools can print the details of errors
    reflection_pb2.DESCRIPTOR,
)


def add_reflection(server: grpc.aio.Server, services: tuple[str, ...]) -> None:
    """Show `services`, and reflection itself, to whoever asks."""
    # grpc_reflection exports the asyncio servicer as `reflection.aio`, which its stubs do not know.
    pool = _MethodsToo(_pool())
    servicer: Any = reflection.aio.ReflectionServicer((*services, *SERVICES), pool=pool)  # type: ignore[attr-defined]
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {"ServerReflectionInfo": handler}
    for service in SERVICES:
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))


class _MethodsToo:
    """A pool that also finds the file of a method (`grpcurl describe package.Service.Method`).

    protobuf's own finds messages, fields, enums and services by name, and calls methods unknown.
    """

    def __init__(self, pool: DescriptorPool) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802  protobuf's name
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service, _, method = symbol.rpartition(".")
            return self._pool.FindServiceByName(service).methods_by_name[method].containing_service.file


def _pool() -> DescriptorPool:
    pool = DescriptorPool()
    seen: set[str] = set()
    for file in _SHOWN:
        _add(pool, file, seen)
    pool.AddSerializedFile(_stable().SerializeToString())
    return pool


def _add(pool: DescriptorPool, file: FileDescriptor, seen: set[str]) -> None:
    """A file after everything that it imports."""
    if file.name in seen:
        return
    seen.add(file.name)
    for needed in file.dependencies:
        _add(pool, needed, seen)
    pool.AddSerializedFile(file.serialized_pb)


def _stable() -> FileDescriptorProto:
    """The v1 file, which differs from v1alpha's in its package alone."""
    alpha = reflection_pb2.DESCRIPTOR.serialized_pb
    file = FileDescriptorProto.FromString(alpha)
    file.name = "grpc/reflection/v1/reflection.proto"
    file.package = STABLE
    for message in file.message_type:
        for field in message.field:
            if not field.type_name:
                continue  # setting it, even to "", would make a scalar a message
            field.type_name = field.type_name.replace(f".{ALPHA}.", f".{STABLE}.")
    for method in file.service[0].method:
        method.input_type = method.input_type.replace(f".{ALPHA}.", f".{STABLE}.")
        method.output_type = method.output_type.replace(f".{ALPHA}.", f".{STABLE}.")
    return file
