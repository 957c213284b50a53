"""The gRPC server: its options, its services, its port.

Puts the behaviours of this folder behind a grpc.aio server and nothing else: no models, no signals, no
lifetime. Built inside the event loop that it is to run in.
"""

import asyncio
import socket
from collections.abc import Mapping
from typing import Any

import grpc

from opsin.v1 import inference_service_pb2, model_service_pb2
from opsin.v1.detect_pb2 import BatchDetectRequest, DetectRequest
from opsin.v1.embed_pb2 import BatchEmbedRequest, EmbedRequest
from opsin.v1.model_service_pb2 import (
    GetModelRequest,
    GetServerInfoRequest,
    ListModelsRequest,
    LoadModelRequest,
    SetTrafficRequest,
    UnloadModelRequest,
)
from opsin.v1.stream_pb2 import StreamDetectRequest
from opsin_server.config import Settings
from opsin_server.media.budget import PixelBudget
from opsin_server.media.pool import CpuPool
from opsin_server.rpc import health, reflection
from opsin_server.rpc.edge import Edge
from opsin_server.rpc.health import HealthBoard, HealthServicer
from opsin_server.rpc.inference import InferenceService
from opsin_server.rpc.model import ModelService
from opsin_server.rpc.operate import OperatorService
from opsin_server.rpc.seam import Catalog, Operator, Pipeline
from opsin_server.rpc.stream import StreamService
from opsin_server.telemetry.metrics import Metrics

__all__ = ["RpcServer", "options"]

INFERENCE: str = inference_service_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
MODEL: str = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name

REFUSING = 1.0
"""Seconds. The time that a refusal for draining tells its caller to wait."""

Handlers = Mapping[str, "grpc.RpcMethodHandler[Any, Any]"]


class RpcServer:
    """One listening server: `bind`, `start`, `stop`."""

    def __init__(
        self,
        settings: Settings,
        *,
        pipeline: Pipeline,
        catalog: Catalog,
        board: HealthBoard,
        metrics: Metrics,
        pool: CpuPool,
        budget: PixelBudget,
        operator: Operator | None = None,
        version: str = "0",
    ) -> None:
        """operator: None serves models that nobody can change; what would change them is UNIMPLEMENTED."""
        self._settings = settings
        self._board = board
        self._server = grpc.aio.server(options=options(settings))
        self._edge = edge = Edge(metrics, settings.limits)
        self.streams = StreamService(
            pipeline=pipeline,
            catalog=catalog,
            limits=settings.limits,
            settings=settings.streams,
            metrics=metrics,
            pool=pool,
            budget=budget,
        )
        inference = InferenceService(pipeline, settings.limits, metrics, pool)
        models = ModelService(catalog, settings.limits, version)
        self._add(INFERENCE, _inference_handlers(edge, inference, self.streams))
        changes = _operator_handlers(edge, OperatorService(operator)) if operator is not None else {}
        self._add(MODEL, {**_model_handlers(edge, models), **changes})
        self._add(health.SERVICE, HealthServicer(board).handlers())
        reflection.add_reflection(self._server, (INFERENCE, MODEL, health.SERVICE))

    def bind(self) -> int:
        """Take the address of the settings; the port that it got. Raises OSError when it cannot be had."""
        host, port = self._settings.server.host, self._settings.server.port
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            taken = self._server.add_insecure_port(address)
        except RuntimeError:
            taken = 0
        if not taken:
            raise OSError(f"cannot listen on {address}: {_why_not(host, port)}")
        return taken

    async def start(self) -> None:
        """Take calls."""
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Refuse new calls, send streams away, end watches, and give what was accepted `grace` seconds.

        gRPC turns calls away with no more than a code, and only together with closing the port. So while
        there are callers, but for a second at most, calls are refused by ourselves, with the time to come
        back. Whoever comes back then finds the connection closed, and takes another server.
        """
        loop = asyncio.get_running_loop()
        ends = loop.time() + grace
        self._board.close()
        self._edge.drain()
        self.streams.drain()
        await self._edge.wait_quiet(min(grace, REFUSING))
        await self._server.stop(max(0.0, ends - loop.time()))

    def _add(self, service: str, handlers: Handlers) -> None:
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, dict(handlers)),)
        )


def options(settings: Settings) -> list[tuple[str, int]]:
    """Channel options. `maximum_concurrent_rpcs` is not among them: it refuses health checks too."""
    limit = int(settings.limits.max_message_bytes)
    pending = settings.server.max_pending_calls
    ahead = int(settings.server.lookahead_bytes)
    # With the defaults a client pushes 6 MB into a server that reads no further; with these, 0.2 MB.
    bounds = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", ahead)] if ahead else []
    return [
        *bounds,
        ("grpc.max_receive_message_length", limit),
        ("grpc.max_send_message_length", limit),
        # Beyond these gRPC cancels a call with neither code nor pushback; refusing is admission's business.
        ("grpc.server.max_pending_requests", pending),
        ("grpc.server.max_pending_requests_hard_limit", 2 * pending),
        # Clients and load balancers may ping idle connections as often as every ten seconds.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        # Two servers on one port would each get half of the connections: let the second one fail.
        ("grpc.so_reuseport", 0),
    ]


def _inference_handlers(edge: Edge, inference: InferenceService, streams: StreamService) -> Handlers:
    return {
        "Detect": edge.unary("Detect", DetectRequest, inference.detect),
        "BatchDetect": edge.unary("BatchDetect", BatchDetectRequest, inference.batch_detect),
        "Embed": edge.unary("Embed", EmbedRequest, inference.embed),
        "BatchEmbed": edge.unary("BatchEmbed", BatchEmbedRequest, inference.batch_embed),
        "StreamDetect": edge.stream("StreamDetect", StreamDetectRequest, streams.stream_detect),
    }


def _model_handlers(edge: Edge, models: ModelService) -> Handlers:
    return {
        "GetServerInfo": edge.unary("GetServerInfo", GetServerInfoRequest, models.get_server_info),
        "ListModels": edge.unary("ListModels", ListModelsRequest, models.list_models),
        "GetModel": edge.unary("GetModel", GetModelRequest, models.get_model),
    }


def _operator_handlers(edge: Edge, operator: OperatorService) -> Handlers:
    return {
        "LoadModel": edge.unary("LoadModel", LoadModelRequest, operator.load_model),
        "UnloadModel": edge.unary("UnloadModel", UnloadModelRequest, operator.unload_model),
        "SetTraffic": edge.unary("SetTraffic", SetTrafficRequest, operator.set_traffic),
    }


def _why_not(host: str, port: int) -> str:
    """gRPC does not say why it could not listen; trying it ourselves does."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return error.strerror or str(error)
    return "the address cannot be used"
