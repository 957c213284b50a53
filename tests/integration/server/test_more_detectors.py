"""Text in pictures as a client gets it; and a graph exported by somebody, served from its file."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pictures
from PIL import ImageDraw, ImageFont

from graphs import graph
from opsin.v1 import DetectOptions, DetectRequest, Image
from serving import serving


def written(*lines: str) -> bytes:
    paper = Pictures.new("RGB", (480, 80 * len(lines)), "white")
    pen = ImageDraw.Draw(paper)
    for row, line in enumerate(lines):
        pen.text((30, 80 * row + 16), line, "black", ImageFont.load_default(size=32))
    out = io.BytesIO()
    paper.save(out, "PNG")
    return out.getvalue()


async def test_lines_come_with_their_text_where_they_stand_also_within_a_region() -> None:
    async with serving("ocr") as server:
        picture = Image(encoded=written("Launch at seven", "Gate 42 B"))
        whole = await server.inference.Detect(DetectRequest(model="ocr", image=picture))
        assert {one.text for one in whole.detections} == {"Launch at seven", "Gate 42 B"}
        lower = DetectOptions(regions=[{"x_min": 0, "y_min": 0.5, "x_max": 1, "y_max": 1}])
        [line] = (
            await server.inference.Detect(DetectRequest(model="ocr", image=picture, options=lower))
        ).detections
        assert line.text == "Gate 42 B"
        [there] = [one.box for one in whole.detections if one.text == line.text]
        assert [line.box.x_min, line.box.y_min, line.box.x_max, line.box.y_max] == pytest.approx(
            [there.x_min, there.y_min, there.x_max, there.y_max], abs=0.04
        )


async def test_an_onnx_file_is_served_by_its_path_alone(tmp_path: Path) -> None:
    tiny = graph(tmp_path / "cats.onnx", [("logits", (2,), 1.0)])
    tiny.path.with_suffix(".toml").write_text('head = "classifier"\nlabels = ["cat", "dog"]\n')
    pixels = np.random.default_rng(2).integers(0, 256, (8, 12, 3), np.uint8)
    out = io.BytesIO()
    Pictures.fromarray(pixels).save(out, "PNG")

    for runtime in ("onnxruntime", "openvino"):
        async with serving(f"cats={tiny.path},runtime={runtime}") as server:
            reply = await server.inference.Detect(
                DetectRequest(model="cats", image=Image(encoded=out.getvalue()))
            )
        raw = tiny(pixels.transpose(2, 0, 1)[None].astype(np.float32) / 255)["logits"][0]
        shares = np.exp(raw) / np.exp(raw).sum()
        found = {label.name: label.score for label in reply.labels}
        assert np.allclose([found["cat"], found["dog"]], shares, atol=1e-5)
