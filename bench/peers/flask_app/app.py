"""The classifier as most people first serve one: a transformers pipeline in a Flask view, under gunicorn.

One picture at a time in each worker, Pillow and the checkpoint's own image processor, no batching.
"""

import io
import os
from typing import Any

import torch
from flask import Flask, jsonify, request
from PIL import Image
from transformers import pipeline

torch.set_num_threads(int(os.environ["PEER_THREADS"]))
app = Flask(__name__)
# A checkpoint saved in float16 would run in it, which is many times slower on a CPU.
classify: Any = pipeline(
    "image-classification", model=os.environ["PEER_SOURCE"], device="cpu", dtype=torch.float32
)


@app.post("/")  # type: ignore[untyped-decorator]
def infer() -> Any:
    """The file's bytes are the request's body."""
    picture = Image.open(io.BytesIO(request.get_data())).convert("RGB")
    found = classify(picture, top_k=len(classify.model.config.id2label))
    return jsonify(labels=[[one["label"], one["score"]] for one in found])
