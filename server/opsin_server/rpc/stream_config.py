"""What a stream asks for at its start and in updates: checked, or refused by name.

Owns the reading of StreamConfig and StreamUpdate. Other freshness than EVERY_FRAME, codecs, tracking, reuse
and resumption are part of the contract but not served yet; each is refused with the field to leave out.
"""

import secrets
from dataclasses import dataclass

from opsin.v1.stream_pb2 import Codec, Freshness, FreshnessMode, StreamConfig, StreamUpdate
from opsin_server.admission.options import detect_task, resolve
from opsin_server.calls import DetectOptions, EncodedImage, ModelRef
from opsin_server.config import LimitSettings
from opsin_server.errors import Failure, Reason, quote
from opsin_server.models.status import ModelState
from opsin_server.rpc import validate
from opsin_server.rpc.convert import detect_options
from opsin_server.rpc.model import choose
from opsin_server.rpc.seam import Catalog

__all__ = ["StreamTerms", "terms", "updated_options"]

MAX_ID = 200
_ANY_FRAME = EncodedImage(b"")


@dataclass(frozen=True, slots=True)
class StreamTerms:
    """What a stream runs by. model: pinned for the life of the stream."""

    stream_id: str
    model: ModelRef
    options: DetectOptions

    @property
    def model_key(self) -> str:
        """The pinned model as a call names it."""
        return f"{self.model.name}@{self.model.version}"


def terms(config: StreamConfig, catalog: Catalog, limits: LimitSettings) -> StreamTerms:
    """Read a configuration. Raises `Failure` with paths from `config` on."""
    _refuse_unserved(config)
    check_freshness(config.freshness, "config.freshness")
    if len(config.stream_id) > MAX_ID:
        raise _invalid("config.stream_id", f"is longer than {MAX_ID} characters")
    options = detect_options(config.options, limits, "config.options")
    try:
        model = _model(config.model, options, catalog)
    except Failure as failure:
        raise failure.within("config") from failure
    return StreamTerms(config.stream_id or secrets.token_hex(8), model, options)


def updated_options(update: StreamUpdate, current: DetectOptions, limits: LimitSettings) -> DetectOptions:
    """The stream's options from the next frame on. Raises `Failure` STREAM_PROTOCOL when they are wrong."""
    try:
        if update.HasField("freshness"):
            check_freshness(update.freshness, "update.freshness")
        if not update.HasField("options"):
            return current
        return detect_options(update.options, limits, "update.options")
    except Failure as failure:
        metadata = {**failure.metadata, "cause": failure.reason.value}
        raise Failure(Reason.STREAM_PROTOCOL, failure.message, failure.field, metadata) from failure


def check_freshness(freshness: Freshness, path: str) -> None:
    """EVERY_FRAME, for now; what the others need is checked first, so that a wrong value is told as such."""
    match freshness.mode:
        case FreshnessMode.FRESHNESS_MODE_UNSPECIFIED | FreshnessMode.FRESHNESS_MODE_EVERY_FRAME:
            return
        case FreshnessMode.FRESHNESS_MODE_TARGET_FPS:
            validate.above_zero(freshness.target_fps, f"{path}.target_fps")
        case FreshnessMode.FRESHNESS_MODE_MAX_AGE:
            age = freshness.max_age.seconds + freshness.max_age.nanos / 1e9
            validate.above_zero(age, f"{path}.max_age")
        case FreshnessMode.FRESHNESS_MODE_LATEST:
            pass
        case unknown:
            raise _invalid(f"{path}.mode", f"has the unknown value {unknown}")
    raise _unserved(f"{path}.mode", "this server answers EVERY_FRAME only")


def _refuse_unserved(config: StreamConfig) -> None:
    if config.resume_token:
        message = "The resume token is unknown: this server gives none. Start a new stream without it."
        raise Failure(Reason.RESUME_TOKEN_INVALID, message, field="config.resume_token")
    if config.codec not in (Codec.CODEC_UNSPECIFIED, Codec.CODEC_IMAGE):
        message = "config.codec must be IMAGE: this server decodes no video; send a picture with each frame."
        raise Failure(Reason.CODEC_UNSUPPORTED, message, field="config.codec")
    if config.track:
        raise _unserved("config.track", "this server does not track")
    if config.HasField("reuse_similar"):
        raise _unserved("config.reuse_similar", "this server looks at every frame")


def _model(name: str, options: DetectOptions, catalog: Catalog) -> ModelRef:
    """The model that looks at the frames: ready, able, and content with the options."""
    chosen = choose(catalog, name, field="model")
    if chosen.state is not ModelState.SERVING or chosen.info is None:
        state = chosen.state.name.lower()
        raise Failure(
            Reason.MODEL_NOT_READY,
            f"Model {quote(chosen.name)} is {state}.",
            field="model",
            metadata={"model": chosen.name, "state": chosen.state.name},
        )
    resolve(options, chosen.info, detect_task(chosen.name, chosen.info, _ANY_FRAME))
    return ModelRef(chosen.name, chosen.version, chosen.info.device)


def _unserved(path: str, why: str) -> Failure:
    return Failure(Reason.OPTION_UNSUPPORTED, f"{path} cannot be used yet: {why}.", field=path)


def _invalid(path: str, what: str) -> Failure:
    return Failure(Reason.OPTION_INVALID, f"{path} {what}.", field=path)
