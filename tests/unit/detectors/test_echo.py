"""Echo answers everything the same way, on time, and misbehaves only when told to."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from opsin_detectors.api import Box, Detector, ImageInput, Item, LoadError, Options, Task, TextInput
from opsin_detectors.testing import check, image, run

from .conftest import Echo

GREY = image(np.full((4, 6, 3), 128, np.uint8))


def coloured(red: int, green: int, blue: int) -> ImageInput:
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0, 0] = red, green, blue
    return image(pixels)


MAGENTA, CYAN, YELLOW = coloured(255, 0, 255), coloured(0, 255, 255), coloured(255, 255, 0)


def infer(detector: Detector, *images: ImageInput) -> int:
    """How many answers a batch gets."""
    prepared = [detector.prepare(one, Task.DETECT, Options()).data for one in images]
    return len(detector.infer(prepared))


def test_it_keeps_the_rules_of_a_detector(echo: Echo) -> None:
    check(echo(), tolerance=0.0)


def test_a_picture_is_one_detection_over_the_whole_and_the_label(echo: Echo) -> None:
    [output] = run(echo(), [GREY], Task.DETECT)

    [detection] = output.detections
    assert (detection.box, detection.label, detection.score) == (Box(0, 0, 1, 1), "echo", 1.0)
    assert [(label.name, label.score) for label in output.labels] == [("echo", 1.0)]


def test_a_text_is_the_label_alone(echo: Echo) -> None:
    [output] = run(echo(), [TextInput("hi")], Task.CLASSIFY_TEXT)

    assert [label.name for label in output.labels] == ["echo"]
    assert not output.detections


def test_a_pictures_vector_is_what_the_documentation_says(echo: Echo) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (200, 100, 3), np.uint8)
    [output] = run(echo(), [image(pixels)], Task.EMBED_IMAGE)

    sample = pixels[::4, ::2].reshape(-1, 3) / 255
    wanted = [*sample.mean(0), *sample.std(0), 100 / 300, 1.0]
    assert output.vector is not None
    np.testing.assert_allclose(output.vector, wanted, atol=1e-5)


def test_a_texts_vector_tells_texts_apart_and_is_always_the_same(echo: Echo) -> None:
    outputs = run(echo(), [TextInput("a"), TextInput("b"), TextInput("a")], Task.EMBED_TEXT)
    first, other, again = (one.vector for one in outputs)

    assert first is not None
    assert other is not None
    assert again is not None
    assert first.shape == (8,)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_delays_are_per_batch_and_per_item(echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    detector = echo(delay_ms="20", delay_item_ms="10")

    infer(detector, GREY, GREY, GREY)

    assert slept == [pytest.approx(0.05)]


def test_poison_makes_the_whole_batch_raise(echo: Echo) -> None:
    detector = echo(poison="true")

    with pytest.raises(RuntimeError, match="poisoned"):
        infer(detector, GREY, MAGENTA)
    assert infer(detector, GREY, CYAN, YELLOW) == 3


def test_short_answers_one_too_few_for_each_yellow_picture(echo: Echo) -> None:
    detector = echo(short="true")

    assert infer(detector, GREY, YELLOW, GREY) == 2
    assert infer(detector, MAGENTA, CYAN) == 2


def test_hang_never_returns_until_closed(echo: Echo) -> None:
    detector = echo(hang="true")
    with ThreadPoolExecutor(1) as pool:
        hung = pool.submit(infer, detector, GREY, CYAN)
        assert infer(detector, GREY) == 1  # another lane is not held up
        with pytest.raises(TimeoutError):
            hung.result(timeout=0.1)

        detector.close()

        with pytest.raises(RuntimeError, match="until it was closed"):
            hung.result(timeout=30)


def test_without_the_settings_the_colours_mean_nothing(echo: Echo) -> None:
    assert infer(echo(), MAGENTA, CYAN, YELLOW) == 3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"delay_ms": "-1"}, "at least 0"),
        ({"poison": "perhaps"}, "true or false"),
        ({"delay": "1"}, "did you mean “delay_ms”"),
    ],
)
def test_wrong_settings_are_refused(echo: Echo, settings: dict[str, str], said: str) -> None:
    with pytest.raises(LoadError, match=said):
        echo(**settings)


def test_a_sleeping_batch_lets_other_threads_run(echo: Echo) -> None:
    detector, done = echo(delay_ms="300"), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(infer, detector, GREY).add_done_callback(lambda _: done.set())
        counted = sum(1 for _ in iter(done.is_set, True))

    assert counted > 1000


def test_items_are_only_counted(echo: Echo) -> None:
    detector = echo()
    prepared = [detector.prepare(GREY, Task.DETECT, Options()).data] * 3

    answers = detector.finish(detector.infer(prepared), [Item(Task.DETECT, Options(), None, 6, 4)] * 3)

    assert len(answers) == 3
