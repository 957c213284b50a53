"""An exported graph as OpenVINO's model, with everything computed beforehand that can be.

Read as it is, a network that pads as TensorFlow does works out each border in ten small steps, and has a pad
before every convolution. A quantiser that meets these leaves the layers after them in floats: of a MobileNet
all that are depthwise. Converting folds them away, which reading does not.
"""

from pathlib import Path
from typing import Any

__all__ = ["folded"]


def folded(graph: Path) -> Any:
    """The model of an ONNX file."""
    import openvino

    return openvino.convert_model(str(graph))
