"""ModelService's other half: LoadModel, UnloadModel and SetTraffic. Converted, nothing decided."""

from opsin.v1.model_service_pb2 import (
    LoadModelRequest,
    LoadModelResponse,
    SetTrafficRequest,
    SetTrafficResponse,
    UnloadModelRequest,
    UnloadModelResponse,
)
from opsin_server.models.lifecycle import LoadAsk, TrafficAsk
from opsin_server.rpc.edge import CallContext
from opsin_server.rpc.model import model_message
from opsin_server.rpc.seam import Operator

__all__ = ["OperatorService"]


class OperatorService:
    """The methods of opsin.v1.ModelService that change something, as behaviours for `Edge`."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    async def load_model(self, request: LoadModelRequest, context: CallContext) -> LoadModelResponse:
        """Load a version of a model."""
        del context
        ask = LoadAsk(
            name=request.name,
            source=request.source,
            version=request.version,
            detector=request.detector,
            settings=dict(request.settings),
            labels=tuple(request.labels),
            wait=request.wait,
        )
        return LoadModelResponse(model=model_message(await self._operator.load(ask)))

    async def unload_model(self, request: UnloadModelRequest, context: CallContext) -> UnloadModelResponse:
        """Take a version of a model away."""
        del context
        status = await self._operator.unload(request.name, request.version)
        return UnloadModelResponse(model=model_message(status))

    async def set_traffic(self, request: SetTrafficRequest, context: CallContext) -> SetTrafficResponse:
        """Say which versions get which calls."""
        del context
        ask = TrafficAsk(
            name=request.name,
            targets=[(target.version, target.weight) for target in request.targets],
            labels=dict(request.labels),
            shadow=request.shadow_version,
        )
        models = await self._operator.set_traffic(ask)
        return SetTrafficResponse(models=[model_message(model) for model in models])
