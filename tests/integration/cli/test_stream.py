"""`opsin stream` against a server: every frame told once, and a sum at the end."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from integration.cli.fake_server import FakeServer

Run = Callable[..., Any]
FRAMES = 15


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A short video of brightening grey."""
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        track = container.add_stream("h264", rate=15)
        track.width, track.height, track.pix_fmt = 64, 48, "yuv420p"
        for at in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), at * 10, np.uint8), format="rgb24")
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return path


def told(result: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_every_frame_is_one_json_line_in_order(opsin: Run, clip: Path) -> None:
    result = opsin("stream", clip, "--json")
    kinds = [line["kind"] for line in told(result)]
    assert [line["sequence"] for line in told(result)] == list(range(1, FRAMES + 1))
    assert (kinds.count("dropped"), kinds.count("failed"), kinds.count("result")) == (3, 2, 10)
    assert result.exit_code == 1, "two frames failed"
    assert "10 answered" in result.stderr


def test_people_get_a_line_a_frame_and_a_sum(opsin: Run, clip: Path) -> None:
    result = opsin("stream", clip)
    assert "person 0.73" in result.stdout
    assert "dropped" in result.stdout
    assert "3 superseded" in result.stdout


def test_the_options_reach_the_server(opsin: Run, server: FakeServer, clip: Path) -> None:
    opsin("stream", clip, "-q", "--freshness", "max-age=200ms", "--track", "--model", "m", "--labels", "cat")
    config = server.inference.requests[0]
    assert (config.model, config.track, list(config.options.labels)) == ("m", True, ["cat"])
    assert config.freshness.max_age.ToTimedelta().total_seconds() == pytest.approx(0.2)


def test_a_limit_ends_the_stream_after_so_many_frames(opsin: Run, clip: Path) -> None:
    result = opsin("stream", clip, "--json", "--limit", "3")
    assert (result.exit_code, len(told(result))) == (0, 3)


def test_the_annotated_video_has_a_frame_for_every_frame(opsin: Run, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "annotated.mp4"
    opsin("stream", clip, "--save", out, "-q")
    with av.open(str(out)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == FRAMES
    assert frames[0].std() > 5, "nothing was drawn on the first frame"


def test_the_pictures_in_a_folder_are_a_stream(opsin: Run, pictures: Path) -> None:
    assert len(told(opsin("stream", pictures, "--json"))) == 2


def test_a_video_on_stdin_is_read_as_it_comes(opsin: Run, clip: Path, tmp_path: Path) -> None:
    transport = tmp_path / "clip.ts"
    with av.open(str(clip)) as source, av.open(str(transport), "w", format="mpegts") as target:
        track = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = track
                target.mux(packet)
    result = opsin("stream", "-", "--json", input=transport.read_bytes())
    assert len(told(result)) == FRAMES


@pytest.mark.parametrize("source", ["~nobody-of-that-name/clip.mp4", "x" * 5000])
def test_a_source_that_cannot_be_looked_at_is_exit_1_without_a_traceback(opsin: Run, source: str) -> None:
    result = opsin("stream", source, "--save", "out.mp4")
    assert (result.exit_code, type(result.exception)) == (1, SystemExit)
    assert result.stderr.startswith(f"opsin: {source}")


def test_a_source_that_is_not_there_is_exit_1_and_says_what_could_be(opsin: Run) -> None:
    result = opsin("stream", "gone.mp4")
    assert result.exit_code == 1
    assert "gone.mp4: no such file" in result.stderr


def test_a_file_that_is_no_video_is_told_without_a_traceback(opsin: Run, tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_text("words")
    result = opsin("stream", tmp_path / "x.mp4")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) <= 2
    assert "x.mp4" in result.stderr


def test_an_mp4_that_cannot_be_piped_is_told_what_can(opsin: Run, tmp_path: Path) -> None:
    path = tmp_path / "long.mp4"
    noise = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        track = container.add_stream("h264", rate=15)
        track.width, track.height, track.pix_fmt, track.options = 320, 240, "yuv420p", {"crf": "5"}
        for _ in range(10):
            pixels = noise.integers(0, 256, (240, 320, 3), np.uint8)
            container.mux(track.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(track.encode(None))
    result = opsin("stream", "-", "--json", input=path.read_bytes())
    assert (result.exit_code, result.stdout) == (1, "")
    assert "MP4" in result.stderr
    assert "mpegts" in result.stderr


@pytest.mark.skipif(Path("/dev/video77").exists(), reason="there is a camera 77")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="cameras are files on Linux")
def test_a_camera_that_is_not_there_is_exit_1_with_its_name(opsin: Run) -> None:
    result = opsin("stream", "77")
    assert (result.exit_code, result.stderr) == (1, "opsin: there is no camera 77 (/dev/video77)\n")


@pytest.mark.parametrize("name", ["s.txt", "frames", "out/"])
def test_a_video_of_no_known_kind_is_refused_before_anything_is_sent(
    opsin: Run, server: FakeServer, clip: Path, tmp_path: Path, name: str
) -> None:
    result = opsin("stream", clip, "--save", f"{tmp_path}/{name}", "--limit", "2")
    assert result.exit_code == 2
    assert ".mp4" in result.stderr
    assert server.inference.requests == []


def test_the_source_is_never_overwritten(opsin: Run, server: FakeServer, clip: Path) -> None:
    before = clip.read_bytes()
    result = opsin("stream", clip, "--save", clip)
    assert (result.exit_code, "is the source" in result.stderr) == (2, True)
    assert (clip.read_bytes(), server.inference.requests) == (before, [])


def test_a_video_that_cannot_be_written_is_told_and_is_exit_1(opsin: Run, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = opsin("stream", clip, "--save", tmp_path / "file" / "out.mp4")
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_a_video_that_cannot_be_finished_is_told_and_is_exit_1(
    opsin: Run, clip: Path, tmp_path: Path
) -> None:
    (tmp_path / "full.mp4").symlink_to("/dev/full")
    result = opsin("stream", clip, "--save", tmp_path / "full.mp4")
    assert result.exit_code == 1
    assert "full.mp4 cannot be written: No space left on device" in result.stderr
    assert "->" not in result.stdout


def test_an_unknown_model_is_exit_4(opsin: Run, clip: Path) -> None:
    result = opsin("stream", clip, "--model", "missing")
    assert (result.exit_code, "no model 'missing'" in result.stderr) == (4, True)
