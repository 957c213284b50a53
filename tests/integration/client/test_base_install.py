"""The base install: grpcio, protobuf and googleapis-common-protos, nothing else."""

import subprocess
import sys
from pathlib import Path

import opsin
from integration.client.fake import Fake

CODE = """
import sys
for name in ("numpy", "PIL", "av", "simplejpeg", "grpc_health", "typer", "rich"):
    sys.modules[name] = None

import opsin

with opsin.Client(sys.argv[1]) as client:
    assert client.detect(b"abc").detections[0].label == "3"
    assert client.detect(opsin.RawFrame(bytes(12), 2, 2)).detections
    vector = client.embed(opsin.Text("a")).vector
    assert vector == (1.0, 2.0) and type(vector) is tuple, vector
    assert [reply.sequence for reply in client.stream([b"x"] * 3)] == [1, 2, 3]
    assert client.health().ok
    many = client.detect_many([b"a", "missing"])
    assert [type(item).__name__ for item in many] == ["DetectResult", "InvalidInput"]
    for use, extra in (
        (lambda: client.detect(b"abc").draw(), "opsin[images]"),
        (lambda: client.stream(0), "opsin[video]"),
    ):
        try:
            use()
        except opsin.MissingExtra as error:
            assert extra in str(error), error
        else:
            raise AssertionError(extra)
print("ok")
"""


def test_everything_but_pixels_and_videos_works_without_numpy_pillow_and_pyav(fake: Fake) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, fake.target],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(Path(opsin.__file__).parents[1]), "PATH": ""},
        timeout=60,
    )
    assert (done.stdout, done.returncode) == ("ok\n", 0), done.stderr
