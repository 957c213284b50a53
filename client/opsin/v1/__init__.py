"""The wire contract in Python: every message, enum, stub and servicer of the package opsin.v1.

    from opsin.v1 import DetectRequest, Image, InferenceServiceStub

    with grpc.insecure_channel("localhost:50051") as channel:
        stub = InferenceServiceStub(channel)
        answer = stub.Detect(DetectRequest(image=Image(encoded=jpeg)))

A stub takes a channel of grpc or of grpc.aio; `...AsyncStub` is the same class with the types of grpc.aio.
Names are imported on first use, so that messages alone never load grpc.

Made by protos/generate.py. Do not edit.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opsin.v1.common_pb2 import Box as Box
    from opsin.v1.common_pb2 import CacheStatus as CacheStatus
    from opsin.v1.common_pb2 import Image as Image
    from opsin.v1.common_pb2 import ImageInfo as ImageInfo
    from opsin.v1.common_pb2 import ModelRef as ModelRef
    from opsin.v1.common_pb2 import PixelFormat as PixelFormat
    from opsin.v1.common_pb2 import Priority as Priority
    from opsin.v1.common_pb2 import RawImage as RawImage
    from opsin.v1.common_pb2 import Timings as Timings
    from opsin.v1.detect_pb2 import Attribute as Attribute
    from opsin.v1.detect_pb2 import BatchDetectRequest as BatchDetectRequest
    from opsin.v1.detect_pb2 import BatchDetectResponse as BatchDetectResponse
    from opsin.v1.detect_pb2 import DetectOptions as DetectOptions
    from opsin.v1.detect_pb2 import DetectOutcome as DetectOutcome
    from opsin.v1.detect_pb2 import DetectRequest as DetectRequest
    from opsin.v1.detect_pb2 import DetectResponse as DetectResponse
    from opsin.v1.detect_pb2 import Detection as Detection
    from opsin.v1.detect_pb2 import Label as Label
    from opsin.v1.embed_pb2 import BatchEmbedRequest as BatchEmbedRequest
    from opsin.v1.embed_pb2 import BatchEmbedResponse as BatchEmbedResponse
    from opsin.v1.embed_pb2 import EmbedOutcome as EmbedOutcome
    from opsin.v1.embed_pb2 import EmbedRequest as EmbedRequest
    from opsin.v1.embed_pb2 import EmbedResponse as EmbedResponse
    from opsin.v1.embed_pb2 import Embedding as Embedding
    from opsin.v1.embed_pb2 import EmbeddingDtype as EmbeddingDtype
    from opsin.v1.embed_pb2 import EmbeddingEncoding as EmbeddingEncoding
    from opsin.v1.inference_service_pb2_grpc import InferenceServiceAsyncStub as InferenceServiceAsyncStub
    from opsin.v1.inference_service_pb2_grpc import InferenceServiceServicer as InferenceServiceServicer
    from opsin.v1.inference_service_pb2_grpc import InferenceServiceStub as InferenceServiceStub
    from opsin.v1.inference_service_pb2_grpc import add_InferenceServiceServicer_to_server as add_InferenceServiceServicer_to_server
    from opsin.v1.model_pb2 import BatchProfile as BatchProfile
    from opsin.v1.model_pb2 import Device as Device
    from opsin.v1.model_pb2 import Limits as Limits
    from opsin.v1.model_pb2 import Model as Model
    from opsin.v1.model_pb2 import ModelState as ModelState
    from opsin.v1.model_pb2 import RuntimeTrial as RuntimeTrial
    from opsin.v1.model_pb2 import Task as Task
    from opsin.v1.model_service_pb2 import GetModelRequest as GetModelRequest
    from opsin.v1.model_service_pb2 import GetModelResponse as GetModelResponse
    from opsin.v1.model_service_pb2 import GetServerInfoRequest as GetServerInfoRequest
    from opsin.v1.model_service_pb2 import GetServerInfoResponse as GetServerInfoResponse
    from opsin.v1.model_service_pb2 import ListModelsRequest as ListModelsRequest
    from opsin.v1.model_service_pb2 import ListModelsResponse as ListModelsResponse
    from opsin.v1.model_service_pb2 import LoadModelRequest as LoadModelRequest
    from opsin.v1.model_service_pb2 import LoadModelResponse as LoadModelResponse
    from opsin.v1.model_service_pb2 import SetTrafficRequest as SetTrafficRequest
    from opsin.v1.model_service_pb2 import SetTrafficResponse as SetTrafficResponse
    from opsin.v1.model_service_pb2 import TrafficTarget as TrafficTarget
    from opsin.v1.model_service_pb2 import UnloadModelRequest as UnloadModelRequest
    from opsin.v1.model_service_pb2 import UnloadModelResponse as UnloadModelResponse
    from opsin.v1.model_service_pb2_grpc import ModelServiceAsyncStub as ModelServiceAsyncStub
    from opsin.v1.model_service_pb2_grpc import ModelServiceServicer as ModelServiceServicer
    from opsin.v1.model_service_pb2_grpc import ModelServiceStub as ModelServiceStub
    from opsin.v1.model_service_pb2_grpc import add_ModelServiceServicer_to_server as add_ModelServiceServicer_to_server
    from opsin.v1.stream_pb2 import Codec as Codec
    from opsin.v1.stream_pb2 import DropReason as DropReason
    from opsin.v1.stream_pb2 import Frame as Frame
    from opsin.v1.stream_pb2 import FrameDropped as FrameDropped
    from opsin.v1.stream_pb2 import FrameFailed as FrameFailed
    from opsin.v1.stream_pb2 import FrameResult as FrameResult
    from opsin.v1.stream_pb2 import Freshness as Freshness
    from opsin.v1.stream_pb2 import FreshnessMode as FreshnessMode
    from opsin.v1.stream_pb2 import GoAway as GoAway
    from opsin.v1.stream_pb2 import GoAwayReason as GoAwayReason
    from opsin.v1.stream_pb2 import ReuseSimilar as ReuseSimilar
    from opsin.v1.stream_pb2 import StreamConfig as StreamConfig
    from opsin.v1.stream_pb2 import StreamDetectRequest as StreamDetectRequest
    from opsin.v1.stream_pb2 import StreamDetectResponse as StreamDetectResponse
    from opsin.v1.stream_pb2 import StreamReady as StreamReady
    from opsin.v1.stream_pb2 import StreamUpdate as StreamUpdate

__all__ = [
    "Attribute",
    "BatchDetectRequest",
    "BatchDetectResponse",
    "BatchEmbedRequest",
    "BatchEmbedResponse",
    "BatchProfile",
    "Box",
    "CacheStatus",
    "Codec",
    "DetectOptions",
    "DetectOutcome",
    "DetectRequest",
    "DetectResponse",
    "Detection",
    "Device",
    "DropReason",
    "EmbedOutcome",
    "EmbedRequest",
    "EmbedResponse",
    "Embedding",
    "EmbeddingDtype",
    "EmbeddingEncoding",
    "Frame",
    "FrameDropped",
    "FrameFailed",
    "FrameResult",
    "Freshness",
    "FreshnessMode",
    "GetModelRequest",
    "GetModelResponse",
    "GetServerInfoRequest",
    "GetServerInfoResponse",
    "GoAway",
    "GoAwayReason",
    "Image",
    "ImageInfo",
    "InferenceServiceAsyncStub",
    "InferenceServiceServicer",
    "InferenceServiceStub",
    "Label",
    "Limits",
    "ListModelsRequest",
    "ListModelsResponse",
    "LoadModelRequest",
    "LoadModelResponse",
    "Model",
    "ModelRef",
    "ModelServiceAsyncStub",
    "ModelServiceServicer",
    "ModelServiceStub",
    "ModelState",
    "PixelFormat",
    "Priority",
    "RawImage",
    "ReuseSimilar",
    "RuntimeTrial",
    "SetTrafficRequest",
    "SetTrafficResponse",
    "StreamConfig",
    "StreamDetectRequest",
    "StreamDetectResponse",
    "StreamReady",
    "StreamUpdate",
    "Task",
    "Timings",
    "TrafficTarget",
    "UnloadModelRequest",
    "UnloadModelResponse",
    "add_InferenceServiceServicer_to_server",
    "add_ModelServiceServicer_to_server",
]

_HOMES = {
    "Attribute": "detect_pb2",
    "BatchDetectRequest": "detect_pb2",
    "BatchDetectResponse": "detect_pb2",
    "BatchEmbedRequest": "embed_pb2",
    "BatchEmbedResponse": "embed_pb2",
    "BatchProfile": "model_pb2",
    "Box": "common_pb2",
    "CacheStatus": "common_pb2",
    "Codec": "stream_pb2",
    "DetectOptions": "detect_pb2",
    "DetectOutcome": "detect_pb2",
    "DetectRequest": "detect_pb2",
    "DetectResponse": "detect_pb2",
    "Detection": "detect_pb2",
    "Device": "model_pb2",
    "DropReason": "stream_pb2",
    "EmbedOutcome": "embed_pb2",
    "EmbedRequest": "embed_pb2",
    "EmbedResponse": "embed_pb2",
    "Embedding": "embed_pb2",
    "EmbeddingDtype": "embed_pb2",
    "EmbeddingEncoding": "embed_pb2",
    "Frame": "stream_pb2",
    "FrameDropped": "stream_pb2",
    "FrameFailed": "stream_pb2",
    "FrameResult": "stream_pb2",
    "Freshness": "stream_pb2",
    "FreshnessMode": "stream_pb2",
    "GetModelRequest": "model_service_pb2",
    "GetModelResponse": "model_service_pb2",
    "GetServerInfoRequest": "model_service_pb2",
    "GetServerInfoResponse": "model_service_pb2",
    "GoAway": "stream_pb2",
    "GoAwayReason": "stream_pb2",
    "Image": "common_pb2",
    "ImageInfo": "common_pb2",
    "InferenceServiceAsyncStub": "inference_service_pb2_grpc",
    "InferenceServiceServicer": "inference_service_pb2_grpc",
    "InferenceServiceStub": "inference_service_pb2_grpc",
    "Label": "detect_pb2",
    "Limits": "model_pb2",
    "ListModelsRequest": "model_service_pb2",
    "ListModelsResponse": "model_service_pb2",
    "LoadModelRequest": "model_service_pb2",
    "LoadModelResponse": "model_service_pb2",
    "Model": "model_pb2",
    "ModelRef": "common_pb2",
    "ModelServiceAsyncStub": "model_service_pb2_grpc",
    "ModelServiceServicer": "model_service_pb2_grpc",
    "ModelServiceStub": "model_service_pb2_grpc",
    "ModelState": "model_pb2",
    "PixelFormat": "common_pb2",
    "Priority": "common_pb2",
    "RawImage": "common_pb2",
    "ReuseSimilar": "stream_pb2",
    "RuntimeTrial": "model_pb2",
    "SetTrafficRequest": "model_service_pb2",
    "SetTrafficResponse": "model_service_pb2",
    "StreamConfig": "stream_pb2",
    "StreamDetectRequest": "stream_pb2",
    "StreamDetectResponse": "stream_pb2",
    "StreamReady": "stream_pb2",
    "StreamUpdate": "stream_pb2",
    "Task": "model_pb2",
    "Timings": "common_pb2",
    "TrafficTarget": "model_service_pb2",
    "UnloadModelRequest": "model_service_pb2",
    "UnloadModelResponse": "model_service_pb2",
    "add_InferenceServiceServicer_to_server": "inference_service_pb2_grpc",
    "add_ModelServiceServicer_to_server": "model_service_pb2_grpc",
}

if not TYPE_CHECKING:  # a type checker would take any name to exist

    def __getattr__(name: str) -> object:
        try:
            home = _HOMES[name]
        except KeyError:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
        module = import_module(f"{__name__}.{home}")
        value = getattr(module, name.replace("AsyncStub", "Stub"))
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
