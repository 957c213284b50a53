"""A stand-in, on the CPU, for the decoder of a GPU: what it decodes is a torch tensor on "cpu".

Like the real one it makes something of damaged files that ours would refuse.
"""

from typing import Any

import numpy as np
import pytest
import simplejpeg

from opsin_server.media import device

NAME = "stand-in"


def codec(data: bytes) -> Any:
    """(rows, columns, 3) uint8 RGB, as stored."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(simplejpeg.decode_jpeg(data, strict=False)))


def install(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Give every device this decoder. The list grows by each file that it is asked for."""
    asked: list[bytes] = []

    def noting(data: bytes) -> Any:
        asked.append(data)
        return codec(data)

    monkeypatch.setattr(device, "open_codec", lambda name: (NAME, noting))
    return asked
