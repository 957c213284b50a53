"""Every unary call as a value: which method, which bytes, and how to read the answer.

Both clients carry these out, and neither decides anything more. Nothing here touches a connection.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Any, Generic, TypeVar

from opsin import _health, _parse, _requests
from opsin import v1 as pb
from opsin._errors import Code, InvalidInput, MessageTooLarge, OpsinError, ServerFailed
from opsin._inputs import load
from opsin._models import Health, Model, ServerInfo
from opsin._options import DetectAsk, EmbedAsk
from opsin._results import DetectResult, EmbedResult
from opsin._spelling import spelled

__all__ = ["Call", "detect", "embed", "health", "models", "server_info", "too_large"]

T = TypeVar("T")

_INFERENCE = "/opsin.v1.InferenceService/"
_MODELS = "/opsin.v1.ModelService/"
LOAD_TIMEOUT = 600.0
"""Seconds a LoadModel that waits may take by default: weights may come over the network."""


@dataclass(frozen=True, slots=True, repr=False)
class Call(Generic[T]):
    """One unary call, ready to be sent.

    path: the method. request: the serialised message. read: the answer from its bytes and the call's
    request id.
    recover: what an error stands for, where it is an answer after all; else None.
    timeout: seconds, where the client's default does not fit.
    """

    path: str
    request: bytes
    read: Callable[[bytes, str], T]
    recover: Callable[[OpsinError], T | None] = lambda _: None
    timeout: float | None = None

    def check(self, limit: int) -> None:
        """Raise MessageTooLarge when the request is over the limit: gRPC would say so less clearly."""
        if len(self.request) > limit:
            raise too_large(len(self.request), limit)

    def answer(self, reply: bytes, request_id: str) -> T:
        """The answer. Raises ServerFailed for bytes that are no such message."""
        from google.protobuf.message import DecodeError

        try:
            return self.read(reply, request_id)
        except DecodeError:
            raise ServerFailed(
                f"the answer to {self.path} is not the message it should be", request_id=request_id
            ) from None


def too_large(size: int, limit: int) -> MessageTooLarge:
    """The error for a message over the client's limit."""
    return MessageTooLarge(
        f"the message has {size} bytes, more than this client sends ({limit}): send a smaller or a "
        "compressed picture, or raise max_message_bytes here and at the server"
    )


def detect(source: Any, ask: DetectAsk, limit: int) -> Call[DetectResult]:
    """Look at one input. Reads files and works through pixels."""
    request = _requests.detect_request(load(source, limit=limit), ask).SerializeToString()

    def read(reply: bytes, request_id: str) -> DetectResult:
        return _parse.detect_result(pb.DetectResponse.FromString(reply), request_id, source)

    return Call(f"{_INFERENCE}Detect", request, read)


def embed(source: Any, ask: EmbedAsk, limit: int) -> Call[EmbedResult]:
    """Embed one input. Reads files and works through pixels."""
    request = _requests.embed_request(load(source, limit=limit), ask).SerializeToString()
    return Call(f"{_INFERENCE}Embed", request, _read_embed)


def batch_detect(
    requests: Sequence[pb.DetectRequest], sources: Sequence[Any], timeout: float
) -> Call[list[DetectResult | OpsinError]]:
    """Look at several inputs."""

    def read(reply: bytes, request_id: str) -> list[DetectResult | OpsinError]:
        outcomes = pb.BatchDetectResponse.FromString(reply).outcomes
        return [
            _parse.batch_of(outcome, partial(_parse.detect_result, source=source), request_id)
            for outcome, source in _paired(outcomes, sources)
        ]

    message = pb.BatchDetectRequest(requests=requests)
    return Call(f"{_INFERENCE}BatchDetect", message.SerializeToString(), read, timeout=timeout)


def batch_embed(
    requests: Sequence[pb.EmbedRequest], sources: Sequence[Any], timeout: float
) -> Call[list[EmbedResult | OpsinError]]:
    """Embed several inputs."""

    def read(reply: bytes, request_id: str) -> list[EmbedResult | OpsinError]:
        outcomes = pb.BatchEmbedResponse.FromString(reply).outcomes
        return [
            _parse.batch_of(outcome, _parse.embed_result, request_id)
            for outcome, _ in _paired(outcomes, sources)
        ]

    message = pb.BatchEmbedRequest(requests=requests)
    return Call(f"{_INFERENCE}BatchEmbed", message.SerializeToString(), read, timeout=timeout)


def models() -> Call[list[Model]]:
    """Every version of every model."""
    return Call(
        f"{_MODELS}ListModels",
        pb.ListModelsRequest().SerializeToString(),
        _reader(pb.ListModelsResponse, _all),
    )


@spelled
def model(name: str) -> Call[Model]:
    """One version of a model."""
    request = pb.GetModelRequest(name=name).SerializeToString()
    return Call(f"{_MODELS}GetModel", request, _reader(pb.GetModelResponse, _one))


def server_info() -> Call[ServerInfo]:
    """What the server is."""
    request = pb.GetServerInfoRequest().SerializeToString()
    return Call(f"{_MODELS}GetServerInfo", request, _reader(pb.GetServerInfoResponse, _parse.server_info))


@spelled
def load_model(
    name: str,
    *,
    source: str,
    version: int,
    detector: str,
    settings: Mapping[str, object],
    labels: Sequence[str],
    wait: bool,
) -> Call[Model]:
    """Load a version of a model. Raises InvalidInput for a version that no message has room for."""
    _check_number("version", version, _MOST_VERSION)
    message = pb.LoadModelRequest(
        name=name,
        source=source,
        version=version,
        detector=detector,
        settings={key: str(value) for key, value in settings.items()},
        labels=labels,
        wait=wait,
    )
    read = _reader(pb.LoadModelResponse, _one)
    timeout = LOAD_TIMEOUT if wait else None
    return Call(f"{_MODELS}LoadModel", message.SerializeToString(), read, timeout=timeout)


@spelled
def unload_model(name: str, version: int) -> Call[Model]:
    """Take a version of a model away."""
    _check_number("version", version, _MOST_VERSION)
    request = pb.UnloadModelRequest(name=name, version=version).SerializeToString()
    return Call(f"{_MODELS}UnloadModel", request, _reader(pb.UnloadModelResponse, _one))


@spelled
def set_traffic(
    name: str, targets: Mapping[int, int], labels: Mapping[str, int], shadow_version: int
) -> Call[list[Model]]:
    """Say which versions of a model get which calls. Raises InvalidInput for numbers out of range."""
    for index, (version, weight) in enumerate(targets.items()):
        _check_number(f"targets[{index}].version", version, _MOST_VERSION)
        _check_number(f"targets[{index}].weight", weight, _MOST_WEIGHT)
    for label, version in labels.items():
        _check_number(f"labels.{label}", version, _MOST_VERSION)
    _check_number("shadow_version", shadow_version, _MOST_VERSION)
    message = pb.SetTrafficRequest(
        name=name,
        targets=[pb.TrafficTarget(version=version, weight=weight) for version, weight in targets.items()],
        labels=labels,
        shadow_version=shadow_version,
    )
    return Call(f"{_MODELS}SetTraffic", message.SerializeToString(), _reader(pb.SetTrafficResponse, _all))


_MOST_VERSION, _MOST_WEIGHT = 2**64 - 1, 2**31 - 1


def _check_number(field: str, value: int, most: int) -> None:
    """Here, because protobuf's own error names no field."""
    if not isinstance(value, Integral) or not 0 <= value <= most:
        raise InvalidInput.at(field, f"{field} is a whole number from 0 to {most}; not {value!r}")


def health(service: str) -> Call[Health]:
    """Ask for the health of the server, or of one of its services or models."""
    return Call(
        _health.CHECK,
        _health.request(service),
        lambda reply, _: _health.health(reply),
        recover=_unknown_service,
    )


def _paired(outcomes: Sequence[Any], sources: Sequence[Any]) -> Iterable[tuple[Any, Any]]:
    if len(outcomes) != len(sources):
        raise ServerFailed(f"the server answered {len(outcomes)} of {len(sources)} items of a batch")
    return zip(outcomes, sources, strict=True)


def _unknown_service(error: OpsinError) -> Health | None:
    return Health.SERVICE_UNKNOWN if error.code is Code.NOT_FOUND else None


def _read_embed(reply: bytes, request_id: str) -> EmbedResult:
    return _parse.embed_result(pb.EmbedResponse.FromString(reply), request_id)


def _reader(message: Any, convert: Callable[[Any], T]) -> Callable[[bytes, str], T]:
    return lambda reply, _: convert(message.FromString(reply))


def _one(reply: Any) -> Model:
    return _parse.model(reply.model)


def _all(reply: Any) -> list[Model]:
    return [_parse.model(model) for model in reply.models]
