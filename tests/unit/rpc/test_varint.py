"""Numbers of the wire format, against protobuf's own."""

import pytest
from google.protobuf.internal.encoder import _VarintBytes
from hypothesis import given
from hypothesis import strategies as st

from opsin_server.rpc import varint

NUMBERS = st.integers(0, 2**64 - 1)


@given(NUMBERS)
def test_a_number_is_spelled_as_protobuf_spells_it(number: int) -> None:
    assert varint.spelled(number) == _VarintBytes(number)


@given(NUMBERS, st.binary(max_size=4), st.binary(max_size=4))
def test_a_number_is_read_back_wherever_it_stands(number: int, before: bytes, after: bytes) -> None:
    spelled = varint.spelled(number)
    read = varint.read(before + spelled + after, len(before))
    assert read == (number, len(before) + len(spelled))


@pytest.mark.parametrize("broken", [b"", b"\x80", b"\xff" * 10, b"\x80" * 11])
def test_a_number_that_does_not_end_is_an_index_error(broken: bytes) -> None:
    with pytest.raises(IndexError):
        varint.read(broken, 0)
