"""What a stream asks for at its start and in updates: checked, or refused by name.

Owns the reading of StreamConfig and StreamUpdate into the server's own words. Knows what each field may be,
and which model looks at the frames; not what becomes of them.
"""

import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from opsin.v1.stream_pb2 import Codec as CodecMessage
from opsin.v1.stream_pb2 import Freshness as FreshnessMessage
from opsin.v1.stream_pb2 import ReuseSimilar as ReuseSimilarMessage
from opsin.v1.stream_pb2 import StreamConfig, StreamUpdate
from opsin_detectors.api import ModelInfo
from opsin_server.admission.options import detect_task, resolve
from opsin_server.calls import DetectOptions, EncodedImage, ModelRef
from opsin_server.config import LimitSettings
from opsin_server.errors import Failure, Reason, quote
from opsin_server.media.video import Codec
from opsin_server.models import traffic
from opsin_server.models.status import ModelState, ModelStatus
from opsin_server.rpc import validate
from opsin_server.rpc.convert import detect_options
from opsin_server.rpc.model import choose
from opsin_server.rpc.seam import Catalog
from opsin_server.streams.events import UpdateReceived
from opsin_server.streams.freshness import Freshness, FreshnessMode
from opsin_server.streams.similar import ReuseSimilar
from opsin_server.streams.tokens import ResumeToken, TokenSigner

__all__ = ["StreamTerms", "reachable", "terms", "update_of"]

MAX_ID = 200
_ANY_FRAME = EncodedImage(b"")
_MODES: Mapping[int, FreshnessMode] = {
    0: FreshnessMode.EVERY_FRAME,
    1: FreshnessMode.EVERY_FRAME,
    2: FreshnessMode.LATEST,
    3: FreshnessMode.MAX_AGE,
    4: FreshnessMode.TARGET_FPS,
}
_CODECS: Mapping[int, Codec | None] = {
    CodecMessage.CODEC_UNSPECIFIED: None,
    CodecMessage.CODEC_IMAGE: None,
    CodecMessage.CODEC_H264: Codec.H264,
    CodecMessage.CODEC_HEVC: Codec.HEVC,
    CodecMessage.CODEC_MJPEG: Codec.MJPEG,
}


@dataclass(frozen=True, slots=True)
class StreamTerms:
    """What a stream runs by. model: pinned for its life. resumed: where it goes on, if it does.

    asked: how its caller named the model.
    """

    stream_id: str
    model: ModelRef
    info: ModelInfo
    options: DetectOptions
    freshness: Freshness
    codec: Codec | None = None
    track: bool = False
    reuse: ReuseSimilar | None = None
    resumed: ResumeToken | None = None
    asked: str = ""

    @property
    def model_key(self) -> str:
        """The pinned model as a call names it."""
        return f"{self.model.name}@{self.model.version}"

    @property
    def next_sequence(self) -> int:
        """The first sequence of a resumed stream, 0 on a new one."""
        return self.resumed.next_sequence if self.resumed else 0

    def check(self, options: DetectOptions) -> None:
        """Raise `Failure` when the model cannot honour these options; the path starts at `options`."""
        resolve(options, self.info, detect_task(self.model.name, self.info, _ANY_FRAME))


def terms(config: StreamConfig, catalog: Catalog, limits: LimitSettings, signer: TokenSigner) -> StreamTerms:
    """Read a configuration. Raises `Failure` with paths from `config` on."""
    try:
        return _terms(config, catalog, limits, signer)
    except Failure as failure:
        raise failure.within("config") from failure


def _terms(config: StreamConfig, catalog: Catalog, limits: LimitSettings, signer: TokenSigner) -> StreamTerms:
    if len(config.stream_id) > MAX_ID:
        raise _invalid("stream_id", f"is longer than {MAX_ID} characters")
    if config.codec not in _CODECS:
        raise Failure(
            Reason.CODEC_UNSUPPORTED, f"codec has the unknown value {int(config.codec)}.", field="codec"
        )
    resumed = None
    if config.resume_token:
        resumed = signer.read(config.resume_token, time.time(), stream_id=config.stream_id)
    stream_id = config.stream_id or (resumed.stream_id if resumed else secrets.token_hex(8))
    model = _model(config.model, catalog, stream_id)
    assert model.info is not None
    agreed = StreamTerms(
        stream_id=stream_id,
        model=ModelRef(model.name, model.version, model.device),
        info=model.info,
        options=detect_options(config.options, limits, "options"),
        freshness=_freshness(config.freshness),
        codec=_CODECS[config.codec],
        track=config.track,
        reuse=_reuse(config.reuse_similar) if config.HasField("reuse_similar") else None,
        resumed=resumed,
        asked=config.model,
    )
    agreed.check(agreed.options)
    return agreed


def update_of(
    update: StreamUpdate, agreed: StreamTerms, limits: LimitSettings
) -> tuple[UpdateReceived, DetectOptions | None]:
    """What the session is told of an update, and the stream's options from now on, if they change."""
    try:
        freshness = _freshness(update.freshness) if update.HasField("freshness") else None
        options = None
        if update.HasField("options"):
            options = detect_options(update.options, limits, "options")
            agreed.check(options)
    except Failure as failure:
        return UpdateReceived(failure=failure), None
    return UpdateReceived(freshness), options


def _freshness(message: FreshnessMessage) -> Freshness:
    mode = _MODES.get(message.mode)
    if mode is None:
        raise _invalid("freshness.mode", f"has the unknown value {int(message.mode)}")
    freshness = Freshness(mode, _seconds(message.max_age), message.target_fps)
    freshness.check()
    return freshness


def _reuse(message: ReuseSimilarMessage) -> ReuseSimilar:
    rule = ReuseSimilar()
    hold, threshold = rule.max_hold, rule.threshold
    if message.HasField("max_hold"):
        hold = validate.above_zero(_seconds(message.max_hold), "reuse_similar.max_hold")
    if message.threshold != 0:
        threshold = validate.fraction(message.threshold, "reuse_similar.threshold")
    return ReuseSimilar(hold, threshold)


def _seconds(duration: Duration) -> float:
    return float(duration.seconds) + duration.nanos / 1e9


def reachable(asked: str, catalog: Catalog) -> frozenset[tuple[str, int]]:
    """Every version, by name and number, that a stream which asked for this may be on now."""
    wanted = traffic.wanted(asked)
    try:
        versions = catalog.get(wanted.name)
    except Failure:
        return frozenset()
    choices = tuple(_choice(v) for v in versions if v.state is ModelState.SERVING)
    return frozenset((versions[0].name, number) for number in wanted.leads_to(choices))


def _choice(model: ModelStatus) -> traffic.Choice:
    return traffic.Choice(
        model.version, model.traffic_weight, model.state is ModelState.SERVING, model.labels
    )


def _share(name: str, catalog: Catalog, stream_id: str) -> str:
    """A bare name with the version that this stream's name sticks to, as the traffic is split."""
    if "@" in name:
        return name
    with suppress(Failure):
        versions = catalog.get(name)
        if weights := traffic.lead(tuple(map(_choice, versions))):
            return f"{versions[0].name}@{traffic.stick(weights, versions[0].name, stream_id)}"
    return name


def _model(name: str, catalog: Catalog, stream_id: str) -> ModelStatus:
    """The model that looks at the frames: ready, and able to."""
    chosen = choose(catalog, _share(name, catalog, stream_id), field="model")
    if chosen.state is not ModelState.SERVING or chosen.info is None:
        if chosen.state is ModelState.FAILED and chosen.failure is not None:
            message = f"Model {quote(chosen.name)} failed to load: {chosen.failure.message}"
            raise Failure(Reason.MODEL_LOAD_FAILED, message, "model", {"model": chosen.name})
        raise Failure(
            Reason.MODEL_NOT_READY,
            f"Model {quote(chosen.name)} is {chosen.state.name.lower()}.",
            field="model",
            metadata={"model": chosen.name, "state": chosen.state.name},
        )
    return chosen


def _invalid(path: str, what: str) -> Failure:
    return Failure(Reason.OPTION_INVALID, f"{path} {what}.", field=path)
