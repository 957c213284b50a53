"""Answers as bytes and back, for a store that several servers share.

    "opsin" | version of this form | kind | BLAKE2b-8 of the rest | the reply as protobuf, without its timings

Whatever else lies under a key (another version's bytes, half a value, another program's) is no answer: None,
never an exception. The names of model and device are the asking server's, not taken from the bytes.
"""

import hashlib

import numpy as np
from google.protobuf.message import DecodeError

from opsin.v1.detect_pb2 import Detection as DetectionMessage
from opsin.v1.detect_pb2 import DetectResponse
from opsin.v1.detect_pb2 import Label as LabelMessage
from opsin.v1.embed_pb2 import Embedding, EmbedResponse
from opsin_detectors.api import Attribute, Box, Detection, Label, Vector
from opsin_server.calls import Answer, DetectAnswer, EmbedAnswer, EmbeddedDetection, ModelRef
from opsin_server.rpc.replies import embed_response, fill_detect

__all__ = ["VERSION", "decode", "encode"]

VERSION = 1
"""Of the form. Servers of another one neither read nor overwrite what this one writes."""

_HEAD = b"opsin" + bytes([VERSION])
_CHECK = 8
_FRONT = len(_HEAD) + 1 + _CHECK


def encode(answer: Answer) -> bytes:
    """An answer, ready to be stored."""
    if isinstance(answer, DetectAnswer):
        response = DetectResponse()
        fill_detect(response, answer)
        for name in ("timings", "model", "cache"):
            response.ClearField(name)
        return _framed(b"d", response.SerializeToString())
    reply = EmbedResponse(embedding=embed_response(answer, packed=True).embedding)
    return _framed(b"e", reply.SerializeToString())


def decode(data: bytes, kind: str, model: ModelRef) -> Answer | None:
    """The answer of `model` in what was stored; None when there is none of this kind and version in it.

    kind: `detect` or `embed`.
    """
    body = data[_FRONT:]
    if data[:_FRONT] != _framed(kind[:1].encode(), body)[:_FRONT]:
        return None
    try:
        return _detect(body, model) if kind == "detect" else _embed(body, model)
    except (DecodeError, ValueError):
        return None


def _framed(kind: bytes, body: bytes) -> bytes:
    check = hashlib.blake2b(kind + body, digest_size=_CHECK).digest()
    return _HEAD + kind + check + body


def _detect(body: bytes, model: ModelRef) -> DetectAnswer:
    response = DetectResponse.FromString(body)
    return DetectAnswer(
        model=model,
        detections=[_detection(message) for message in response.detections],
        labels=[_label(message) for message in response.labels],
        flagged=response.flagged if response.HasField("flagged") else None,
        width=response.image.width,
        height=response.image.height,
    )


def _embed(body: bytes, model: ModelRef) -> EmbedAnswer:
    vector = _vector(EmbedResponse.FromString(body).embedding)
    if not len(vector):
        raise ValueError("no vector")
    return EmbedAnswer(model, vector)


def _detection(message: DetectionMessage) -> EmbeddedDetection:
    edges = message.box
    found = Detection(
        Box(edges.x_min, edges.y_min, edges.x_max, edges.y_max),
        message.label,
        message.score,
        message.class_id,
        tuple(Attribute(a.name, tuple(_label(label) for label in a.labels)) for a in message.attributes),
        message.text,
    )
    return EmbeddedDetection(found, _vector(message.embedding) if message.HasField("embedding") else None)


def _label(message: LabelMessage) -> Label:
    return Label(message.name, message.score, message.class_id)


def _vector(message: Embedding) -> Vector:
    return np.frombuffer(message.packed, "<f4").astype(np.float32, copy=False)
