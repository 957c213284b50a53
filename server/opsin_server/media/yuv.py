"""YUV 4:2:0 to RGB: BT.601, limited range (Y 16..235, U and V 16..240), chroma repeated over its four pixels.

    R = 1.1644 (Y - 16)                      + 1.5960 (V - 128)
    G = 1.1644 (Y - 16) - 0.3918 (U - 128)   - 0.8130 (V - 128)
    B = 1.1644 (Y - 16) + 2.0172 (U - 128)

(ITU-R BT.601-7, 2.5.) In 16-bit fixed point through tables: five fraction bits are the most that the sums
leave room for, and keep every value within one of the exact result. Rows go through in strips, so that the
intermediate values stay in the processor's cache.
"""

import numpy as np
import numpy.typing as npt

from opsin_detectors.api import Pixels

__all__ = ["yuv_to_rgb"]

_Table = npt.NDArray[np.int16]
_BITS = 5
_STRIP_PIXELS = 1 << 17


def _table(gain: float, zero: int, offset: float = 0.0) -> _Table:
    values = (np.arange(256) - zero) * gain + offset
    table: _Table = np.rint(values * (1 << _BITS)).astype(np.int16)
    return table


_Y = _table(255 / 219, 16, 0.5)  # the half rounds the shift that follows
_V_RED = _table(255 / 112 * 0.701, 128)
_U_GREEN = _table(-255 / 112 * 0.886 * 0.114 / 0.587, 128)
_V_GREEN = _table(-255 / 112 * 0.701 * 0.299 / 0.587, 128)
_U_BLUE = _table(255 / 112 * 0.886, 128)


def yuv_to_rgb(y: Pixels, u: Pixels, v: Pixels) -> Pixels:
    """RGB, shape (rows, columns, 3), of y (rows, columns) and u, v (rows / 2, columns / 2); even sizes."""
    rows, columns = y.shape
    pixels = np.empty((rows, columns, 3), np.uint8)
    strip = max(2, _STRIP_PIXELS // columns // 2 * 2)
    for top in range(0, rows, strip):
        end = min(top + strip, rows)
        _convert(y[top:end], u[top // 2 : end // 2], v[top // 2 : end // 2], pixels[top:end])
    return pixels


def _convert(y: Pixels, u: Pixels, v: Pixels, out: Pixels) -> None:
    rows, columns = y.shape
    # (row pairs, 2, columns): a chroma row spreads over both rows of its pair without a copy.
    luma = _Y.take(y).reshape(rows // 2, 2, columns)
    channel = np.empty_like(luma)
    wide = np.empty((rows // 2, 1, columns), np.int16)
    chroma = (_V_RED.take(v), _U_GREEN.take(u) + _V_GREEN.take(v), _U_BLUE.take(u))
    for index, colour in enumerate(chroma):
        wide[:, 0, 0::2] = colour  # twice as fast as np.repeat
        wide[:, 0, 1::2] = colour
        np.add(luma, wide, out=channel)
        np.right_shift(channel, _BITS, out=channel)
        np.clip(channel, 0, 255, out=channel)
        out[..., index] = channel.reshape(rows, columns)
