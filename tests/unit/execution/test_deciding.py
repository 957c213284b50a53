"""A detector's network is run as told, as chosen before, or the fastest way that gives the same answers."""

import contextlib
import dataclasses
import gc
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from opsin_detectors.api import Box, Detection, InputSpec, LoadContext, LoadError, Output
from opsin_detectors.device_memory import DeviceMemory
from opsin_detectors.execution import decide as deciding
from opsin_detectors.execution import graphs, quantize
from opsin_detectors.execution.network import Network
from opsin_detectors.execution.plan import BASELINE, Hardware, Plan

from . import tiny
from .tiny import Body, Tiny, logits, planes

BF16 = Plan("channels_last", "bfloat16")
LAST = Plan("channels_last")
AUTO = LoadContext("tiny", runtime="auto")

Timed = Callable[..., dict[Plan, dict[int, float]]]


@pytest.fixture(autouse=True)
def a_machine_with_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deciding, "here", lambda device: Hardware(name="a machine", bf16=True))
    monkeypatch.setattr(deciding, "memory_of", lambda device: DeviceMemory(1 << 30, 1 << 30))


def takes(seconds: Mapping[Plan, float]) -> Timed:
    """Measures nothing, and says that each way takes so long; what is not named as long as the baseline."""

    def timed(runs: Mapping[Plan, Any], sizes: Any) -> dict[Plan, dict[int, float]]:
        for run in runs.values():
            run(2)  # it can be run
        return {plan: {1: seconds.get(plan, 1.0)} for plan in runs}

    return timed


def measured_as(seconds: Mapping[Plan, float]) -> Timed:
    """The same for ways that cannot be run: they are left out."""

    def timed(runs: Mapping[Plan, Any], sizes: Any) -> dict[Plan, dict[int, float]]:
        times = {}
        for plan, run in runs.items():
            with contextlib.suppress(ZeroDivisionError):
                run(2)
                times[plan] = {1: seconds.get(plan, 1.0)}
        return times

    return timed


def never(*_: object) -> dict[Plan, dict[int, float]]:
    raise AssertionError("nothing is to be measured")


def plan_of(detector: Tiny) -> Plan:
    return Plan(detector.info.runtime, detector.info.dtype)


@pytest.mark.parametrize(
    ("runtime", "dtype", "plan"),
    [("eager", "auto", BASELINE), ("auto", "bfloat16", BF16), ("channels_last", "float32", LAST)],
)
def test_what_is_told_is_obeyed_without_measuring(runtime: str, dtype: str, plan: Plan) -> None:
    detector = Tiny(LoadContext("tiny", runtime=runtime, dtype=dtype), timed=never)
    assert plan_of(detector) == plan
    assert detector.info.trials == ()


def test_every_torch_way_gives_the_same_numbers() -> None:
    plain = logits(Tiny(LoadContext("tiny")))
    np.testing.assert_allclose(logits(Tiny(LoadContext("tiny", runtime="channels_last"))), plain, atol=1e-5)
    np.testing.assert_allclose(logits(Tiny(LoadContext("tiny", dtype="bfloat16"))), plain, atol=0.02)


def test_the_fastest_way_is_taken_and_all_that_were_tried_are_told() -> None:
    detector = Tiny(AUTO, timed=takes({BF16: 0.5, LAST: 0.8}))
    assert plan_of(detector) == BF16
    assert {(t.runtime, t.dtype): t.verdict for t in detector.info.trials} == {
        ("eager", "float32"): "slower",
        ("channels_last", "float32"): "slower",
        ("channels_last", "bfloat16"): "chosen",
    }
    assert detector.info.memory_bytes == 7 + 2 * (4 * 3 * 9 + 4 + 4 * 4 + 4)


def test_where_nothing_is_faster_the_baseline_stays() -> None:
    detector = Tiny(AUTO, timed=takes({BF16: 0.99, LAST: 1.2}))
    assert plan_of(detector) == BASELINE
    assert detector.info.trials[0].verdict == "chosen"


def test_a_faster_way_with_other_answers_is_passed_over_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    real = deciding.torch_program

    def wrong(network: Any, plan: Plan, *, own: bool = False) -> Any:
        program = real(network, plan, own=own)
        if plan == BF16:
            return lambda batch: -program(batch)
        return program

    monkeypatch.setattr(deciding, "torch_program", wrong)
    detector = Tiny(AUTO, timed=takes({BF16: 0.5, LAST: 0.8}))
    assert plan_of(detector) == LAST
    assert detector.info.trials[2].verdict.startswith("other answers: picture 1: best label")


def test_a_way_that_breaks_on_pictures_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    real = deciding.torch_program

    def breaks(network: Any, plan: Plan, *, own: bool = False) -> Any:
        program = real(network, plan, own=own)
        return (lambda batch: program(batch) if len(batch) == 2 else 1 / 0) if plan == BF16 else program

    monkeypatch.setattr(deciding, "torch_program", breaks)
    detector = Tiny(AUTO, timed=takes({BF16: 0.5}))
    assert plan_of(detector) == BASELINE
    assert "ZeroDivisionError" in detector.info.trials[2].verdict


def test_a_network_too_large_to_have_every_way_in_memory_is_run_as_it_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    context = LoadContext("tiny", runtime="auto", cache=tmp_path)
    monkeypatch.setattr(
        deciding, "memory_of", lambda device: DeviceMemory(9999, 1500)
    )  # three times 528 bytes of weights
    assert plan_of(Tiny(context, timed=never)) == BASELINE
    monkeypatch.setattr(deciding, "memory_of", lambda device: DeviceMemory(9999, 4000))
    assert plan_of(Tiny(context, timed=takes({BF16: 0.5}))) == BF16, "it was not kept"


def test_where_nothing_can_be_proved_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deciding, "pictures", lambda: ())
    assert plan_of(Tiny(AUTO, timed=never)) == BASELINE


def sees(score: float) -> Callable[..., list[Output]]:
    """A `finish` that finds one thing with so much, and in bfloat16 another one, where that is asked for."""

    def finish(self: Tiny, outputs: Any, items: Any) -> list[Output]:
        label = "cat" if outputs.dtype == torch.float32 else "dog"
        one = Detection(Box(0.1, 0.1, 0.5, 0.5), label, score)
        return [Output([one] if score >= item.options.min_score else []) for item in items]

    return finish


def test_where_nothing_is_found_faint_things_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector of something that none of the shipped photographs shows."""
    defaults = Tiny(LoadContext("tiny")).info.defaults
    monkeypatch.setattr(tiny, "DEFAULTS", dataclasses.replace(defaults, min_score=0.5))
    monkeypatch.setattr(Tiny, "finish", sees(0.2))
    detector = Tiny(AUTO, timed=takes({BF16: 0.5, LAST: 0.8}))
    assert plan_of(detector) == LAST
    assert "cat 0.20 no longer found" in detector.info.trials[2].verdict


def test_what_has_no_answer_to_any_picture_is_run_as_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tiny, "finish", lambda self, outputs, items: [Output() for _ in items])
    detector = Tiny(AUTO, timed=takes({BF16: 0.5}))
    assert plan_of(detector) == BASELINE
    assert detector.info.trials[2].verdict == "there is no answer to any picture to prove it with"


def test_a_kept_choice_that_cannot_be_run_any_more_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with compiling, which finds out at the first batch that its compiler is gone."""
    context = LoadContext("tiny", runtime="auto", cache=tmp_path)
    assert plan_of(Tiny(context, timed=takes({BF16: 0.5}))) == BF16
    real = deciding.torch_program

    def breaks(network: Any, plan: Plan, *, own: bool = False) -> Any:
        return (lambda batch: 1 / 0) if plan == BF16 else real(network, plan, own=own)

    monkeypatch.setattr(deciding, "torch_program", breaks)
    assert plan_of(Tiny(context, timed=measured_as({LAST: 0.5}))) == LAST


def test_the_next_start_takes_the_choice_and_measures_nothing(tmp_path: Path) -> None:
    context = LoadContext("tiny", runtime="auto", cache=tmp_path)
    first = Tiny(context, timed=takes({BF16: 0.5}))
    again = Tiny(context, timed=never)
    assert plan_of(again) == BF16
    assert again.info == first.info


@pytest.mark.parametrize(
    "change",
    [
        {"threads": 2},
        {"settings": {"a": "b"}},
    ],
)
def test_a_choice_holds_only_for_what_it_was_made_for(tmp_path: Path, change: dict[str, Any]) -> None:
    Tiny(LoadContext("tiny", runtime="auto", cache=tmp_path), timed=takes({BF16: 0.5}))
    other = LoadContext("tiny", runtime="auto", cache=tmp_path, **change)
    assert plan_of(Tiny(other, timed=takes({LAST: 0.5}))) == LAST


def test_another_processor_measures_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = LoadContext("tiny", runtime="auto", cache=tmp_path)
    Tiny(context, timed=takes({BF16: 0.5}))
    monkeypatch.setattr(deciding, "here", lambda device: Hardware(name="another"))
    assert plan_of(Tiny(context, timed=takes({LAST: 0.5}))) == LAST


def test_measuring_runs_at_the_lanes_width_and_leaves_the_threads_own_alone() -> None:
    seen = []

    def timed(runs: Mapping[Plan, Any], sizes: Any) -> dict[Plan, dict[int, float]]:
        seen.append(torch.get_num_threads())
        return {plan: {1: 1.0} for plan in runs}

    before = torch.get_num_threads()
    Tiny(LoadContext("tiny", runtime="auto", threads=3), timed=timed)
    assert seen == [3]
    assert torch.get_num_threads() == before


def test_on_a_gpu_everything_runs_on_a_stream_that_can_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Stream:
        def __init__(self, device: str) -> None:
            told.append(f"made on {device}")

        def wait_stream(self, other: object) -> None:
            told.append(f"waits for the {other}")

        def synchronize(self) -> None:
            told.append("done")

        def __enter__(self) -> None:
            told.append("entered")

        def __exit__(self, *_: object) -> None:
            told.append("left")

    cuda = {
        "Stream": Stream,
        "stream": lambda stream: stream,
        "current_stream": lambda device: "default stream",
        "synchronize": lambda device: told.append("ran"),
    }
    for name, stand_in in cuda.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(deciding, "candidates", lambda hardware, exportable: [BASELINE, LAST])
    Tiny(LoadContext("tiny", runtime="auto", device="cuda:1"), timed=takes({}))
    start = ["made on cuda:1", "waits for the default stream", "entered"]
    assert told == [*start, "ran", "ran", "left", "done"]


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"runtime": "tensorrt"}, "runtime of model “tiny” has to be one of auto, eager"),
        ({"dtype": "int4"}, "dtype of model “tiny” has to be one of auto, float32"),
        ({"runtime": "cuda_graphs"}, "needs a GPU"),
        ({"runtime": "channels_last", "dtype": "int8"}, "int8 is run by openvino or onnxruntime"),
    ],
)
def test_what_cannot_be_done_is_said(told: dict[str, str], sentence: str) -> None:
    with pytest.raises(LoadError, match=sentence):
        Tiny(LoadContext("tiny", **told))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        (
            {"runtime": "onnxruntime"},
            "runtime onnxruntime runs it on the CPU only, not on cuda:0; take .*auto",
        ),
        ({"runtime": "openvino"}, "runtime openvino runs it on the CPU only, .* or set device=cpu"),
        (
            {"dtype": "int8"},
            "dtype int8 runs it on the CPU only, .* dtype=bfloat16 or float16, or set device=",
        ),
        ({"dtype": "int8", "runtime": "channels_last"}, "dtype int8 runs it on the CPU only"),
    ],
)
def test_what_runs_on_a_cpu_only_says_on_a_gpu_what_would_be_right(
    told: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(LoadError, match=sentence):
        Tiny(LoadContext("tiny", **{"runtime": "auto", "device": "cuda:0", **told}))


def test_int8_without_a_quantiser_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opsin_detectors.execution.quantize.importlib.util.find_spec", lambda name: None)
    with pytest.raises(LoadError, match=r"pip install 'opsin\[int8\]'"):
        Tiny(LoadContext("tiny", dtype="int8", runtime="auto"))


def test_int8_is_refused_where_the_best_label_changes_too_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = graphs.graph_program

    def wrong(path: Path, plan: Plan, context: LoadContext, **more: Any) -> Any:
        program = real(path, plan, context, **more)
        return lambda batch: -program(batch) if plan.dtype == "int8" else program(batch)

    monkeypatch.setattr(graphs, "graph_program", wrong)
    context = LoadContext("tiny", dtype="int8", runtime="onnxruntime", cache=tmp_path)
    with pytest.raises(LoadError, match=r"cannot be run in int8: .* 98% of each are needed"):
        Tiny(context)
    assert {path.name.partition("-")[2] for path in tmp_path.rglob("*.onnx")} == {"network.onnx"}


def test_what_others_print_while_a_graph_is_quantised_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Slow:
        def write(self, path: Path, spare: float) -> None:
            other = threading.Thread(target=print, args=("ready at 127.0.0.1:50051",))
            other.start()
            other.join()

    quantize.quantize(Slow(), tmp_path / "graph.onnx")
    assert capsys.readouterr().out == "ready at 127.0.0.1:50051\n"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_int8_is_made_checked_and_kept_without_a_word(
    tmp_path: Path, runtime: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if runtime == "openvino":
        pytest.importorskip("nncf")
    context = LoadContext("tiny", dtype="int8", runtime=runtime, cache=tmp_path)
    first = Tiny(context)
    assert capfd.readouterr() == ("", "")
    assert plan_of(first) == Plan(runtime, "int8")
    assert "as in float32: labels 100.0% of 96" in first.info.trials[0].verdict
    np.testing.assert_allclose(logits(first), logits(Tiny(LoadContext("tiny"))), atol=0.1)
    monkeypatch.setattr("opsin_detectors.execution.quantize.quantize", never)
    assert Tiny(context).info == first.info


def test_int8_is_refused_where_there_is_nothing_to_prove_it_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tiny, "finish", lambda self, outputs, items: [Output() for _ in items])
    context = LoadContext("tiny", dtype="int8", runtime="onnxruntime", cache=tmp_path)
    with pytest.raises(LoadError, match="has no answer to any of the pictures"):
        Tiny(context)


@pytest.mark.parametrize("broken", ["network.onnx", "int8-onnxruntime.onnx"])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_broken_graph_in_the_cache_is_made_anew(tmp_path: Path, dtype: str, broken: str) -> None:
    context = LoadContext("tiny", dtype=dtype, runtime="onnxruntime", cache=tmp_path)
    plain = logits(Tiny(context))
    for path in tmp_path.rglob(f"*-{broken}"):
        path.write_bytes(path.read_bytes()[:40])
    np.testing.assert_allclose(logits(Tiny(context)), plain, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_what_is_not_kept_runs_at_every_width_too(dtype: str) -> None:
    detector = Tiny(LoadContext("tiny", dtype=dtype, runtime="onnxruntime", cache=None))
    narrow = logits(detector)
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)  # met for the first time: the graph is read again
    try:
        np.testing.assert_allclose(logits(detector), narrow, atol=1e-5)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("runtime", "left"), [("openvino", 0), ("onnxruntime", 1)])
def test_a_temporary_folder_stays_only_as_long_as_its_graph_may_be_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str, left: int
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    detector = Tiny(LoadContext("tiny", runtime=runtime, cache=None))
    assert len(list(tmp_path.iterdir())) == left
    logits(detector)
    del detector
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_graph_is_not_used_for_pictures_that_are_scaled_to_other_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two checkpoints of the same weights, whose preprocessors differ."""
    context = LoadContext("tiny", runtime="onnxruntime", cache=tmp_path)
    Tiny(context)
    monkeypatch.setattr(tiny, "planes", lambda batch: {"x": planes(batch)["x"] * 2 - 1})
    plain = logits(Tiny(LoadContext("tiny")))
    np.testing.assert_allclose(logits(Tiny(context)), plain, atol=1e-4)


def test_where_no_graph_can_be_written_a_told_runtime_says_so_and_auto_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(**_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(deciding, "here", lambda device: Hardware(installed=frozenset({"onnxruntime"})))
    monkeypatch.setattr("tempfile.mkdtemp", full)
    with pytest.raises(LoadError, match="No space left"):
        Tiny(LoadContext("tiny", runtime="onnxruntime"))
    detector = Tiny(AUTO, timed=takes({LAST: 0.5}))
    assert plan_of(detector) == LAST
    assert "No space left" in detector.info.trials[2].verdict


def test_a_cache_whose_disk_is_full_costs_the_keeping_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = graphs._export

    def short(whole: Any, picture: Any, path: Path) -> None:
        real(whole, picture, path)
        if tmp_path in path.parents:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(graphs, "_export", short)
    detector = Tiny(LoadContext("tiny", runtime="onnxruntime", cache=tmp_path))
    np.testing.assert_allclose(logits(detector), logits(Tiny(LoadContext("tiny"))), atol=1e-4)
    assert not list(tmp_path.rglob("*.onnx")), "nothing half written is left"


def test_a_way_that_cannot_be_built_or_run_does_not_keep_the_model_from_loading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = deciding.torch_program

    def short(network: Any, plan: Plan, *, own: bool = False) -> Any:
        if plan == LAST:
            raise RuntimeError("CUDA out of memory")
        program = real(network, plan, own=own)
        return (lambda batch: 1 / 0) if plan == BF16 else program

    monkeypatch.setattr(deciding, "torch_program", short)
    detector = Tiny(AUTO)
    assert plan_of(detector) == BASELINE
    assert [trial.verdict for trial in detector.info.trials] == [
        "chosen",
        "RuntimeError: CUDA out of memory",
        "it cannot be run: ZeroDivisionError: division by zero",
    ]
    assert detector.info.trials[2].seconds == ()


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_exported_network_gives_the_same_numbers_at_any_batch_size(runtime: str, tmp_path: Path) -> None:
    plain, graph = Tiny(LoadContext("tiny")), Tiny(LoadContext("tiny", runtime=runtime, cache=tmp_path))
    assert plan_of(graph) == Plan(runtime)
    for size in (1, 3, 5):
        batch = torch.randint(0, 256, (size, 8, 8, 3), dtype=torch.uint8)
        np.testing.assert_allclose(graph.infer(batch).numpy(), plain.infer(batch).numpy(), atol=1e-4)


def test_exporting_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    body = Body().eval()
    graphs.export(Network(body, planes, InputSpec(8, 8)), tmp_path / "network.onnx")
    assert not any(module.training for module in body.modules())


def test_a_network_that_cannot_be_exported_is_run_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = frozenset({"openvino"})
    monkeypatch.setattr(deciding, "here", lambda device: Hardware(bf16=True, installed=installed))

    def fails(network: Any, path: Path) -> None:
        raise LoadError("it cannot be exported: too clever")

    monkeypatch.setattr(graphs, "export", fails)
    detector = Tiny(AUTO, timed=takes({LAST: 0.5}))
    assert plan_of(detector) == LAST
    assert [t.verdict for t in detector.info.trials if t.runtime == "openvino"] == [
        "it cannot be exported: too clever"
    ] * 2
