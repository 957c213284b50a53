"""From inputs and options to messages: the writing half of the client's edge to protobuf."""

from typing import Any

from opsin import v1 as pb
from opsin._freshness import Freshness
from opsin._inputs import Loaded, RawFrame, Text, Uri
from opsin._options import DetectAsk, DetectOptions, EmbedAsk, StreamAsk

__all__ = ["detect_options", "detect_request", "embed_request", "freshness", "image", "stream_config"]

_CODECS = {
    "h264": pb.Codec.CODEC_H264,
    "hevc": pb.Codec.CODEC_HEVC,
    "mjpeg": pb.Codec.CODEC_MJPEG,
}
_PRIORITIES = {"interactive": pb.Priority.PRIORITY_INTERACTIVE, "bulk": pb.Priority.PRIORITY_BULK}


def detect_request(source: Loaded, ask: DetectAsk) -> pb.DetectRequest:
    """One input to look at."""
    return pb.DetectRequest(
        model=ask.model,
        options=detect_options(ask.options),
        priority=_PRIORITIES[ask.priority],
        routing_key=ask.routing_key,
        **_input(source),
    )


def embed_request(source: Loaded, ask: EmbedAsk) -> pb.EmbedRequest:
    """One input to embed; the vector comes back packed, which is far cheaper than a list of numbers."""
    return pb.EmbedRequest(
        model=ask.model,
        encoding=pb.EmbeddingEncoding.EMBEDDING_ENCODING_PACKED,
        normalize=ask.normalize,
        dimensions=ask.dimensions,
        truncate_text=ask.truncate_text,
        skip_cache=ask.skip_cache,
        priority=_PRIORITIES[ask.priority],
        routing_key=ask.routing_key,
        **_input(source),
    )


def image(source: bytes | RawFrame | Uri) -> pb.Image:
    """A picture."""
    match source:
        case RawFrame():
            form = pb.PixelFormat.Value(f"PIXEL_FORMAT_{source.format.name}")
            raw = pb.RawImage(
                data=source.data, width=source.width, height=source.height, stride=source.stride, format=form
            )
            return pb.Image(raw=raw)
        case Uri(uri):
            return pb.Image(uri=uri)
        case encoded:
            return pb.Image(encoded=encoded)


def detect_options(options: DetectOptions) -> pb.DetectOptions:
    """What to look for; an option at its default is left out, and an optional one stays unset."""
    return pb.DetectOptions(
        min_score=options.min_score,
        max_detections=options.max_detections,
        max_labels=options.max_labels,
        iou_threshold=options.iou_threshold,
        labels=options.labels,
        regions=[pb.Box(x_min=r.x_min, y_min=r.y_min, x_max=r.x_max, y_max=r.y_max) for r in options.regions],
        candidate_labels=options.candidate_labels,
        embed_detections=options.embed_detections,
        embed_model=options.embed_model,
        skip_cache=options.skip_cache,
        truncate_text=options.truncate_text,
    )


def freshness(rule: Freshness) -> pb.Freshness:
    """A stream's rule for frames that the server cannot keep up with."""
    message = pb.Freshness(
        mode=pb.FreshnessMode.Value(f"FRESHNESS_MODE_{rule.mode.name}"), target_fps=rule.target_fps or 0.0
    )
    if rule.max_age is not None:
        message.max_age.FromNanoseconds(round(rule.max_age * 1e9))
    return message


def stream_config(
    ask: StreamAsk, options: DetectOptions, rule: Freshness, stream_id: str, resume_token: bytes
) -> pb.StreamConfig:
    """How a stream works, as it stands when it is opened or reopened."""
    config = pb.StreamConfig(
        model=ask.model,
        options=detect_options(options),
        freshness=freshness(rule),
        codec=_CODECS.get(ask.codec, pb.Codec.CODEC_UNSPECIFIED),
        track=ask.track,
        stream_id=stream_id,
        resume_token=resume_token,
    )
    if ask.reuse_similar is not None:
        config.reuse_similar.max_hold.FromNanoseconds(round(ask.reuse_similar * 1e9))
        config.reuse_similar.threshold = ask.reuse_threshold
    return config


def _input(source: Loaded) -> dict[str, Any]:
    return {"text": source.text} if isinstance(source, Text) else {"image": image(source)}
