"""Equal items of a batch are found, others never are, and large ones are not looked at on the event loop."""

from hypothesis import given
from hypothesis import strategies as st

from opsin_detectors.api import Box
from opsin_server.cache.key import QUICK_BYTES
from opsin_server.calls import (
    Caller,
    DetectCall,
    DetectOptions,
    EmbedCall,
    EncodedImage,
    RawImage,
    Text,
    UriImage,
)
from opsin_server.errors import Failure, Reason
from opsin_server.rpc.twins import first_of_each, is_quick, marks_of

sources = st.one_of(
    st.binary(min_size=1, max_size=4).map(EncodedImage),
    st.binary(min_size=1, max_size=4).map(lambda data: RawImage(data, 1, 1)),
    st.sampled_from(["a", "b"]).map(Text),
    st.sampled_from(["http://a/", "http://b/"]).map(UriImage),
)
calls = st.one_of(
    st.builds(
        DetectCall,
        st.sampled_from(["m", "n"]),
        sources,
        st.sampled_from([DetectOptions(), DetectOptions(regions=(Box(0, 0, 0.5, 0.5),))]),
    ),
    st.builds(EmbedCall, st.sampled_from(["m", "n"]), sources, st.booleans()),
    st.just(Failure(Reason.INPUT_MISSING, "nothing in it")),
)


def firsts(items: list[DetectCall | EmbedCall | Failure]) -> list[int]:
    return first_of_each(items, marks_of(items))


@given(st.lists(calls, max_size=12))
def test_each_item_is_led_to_the_first_that_equals_it(items: list[DetectCall | EmbedCall | Failure]) -> None:
    for index, first in enumerate(firsts(items)):
        if isinstance(items[index], Failure):
            assert first == index
        else:
            assert first == items.index(items[index])


def test_pictures_that_differ_where_nobody_samples_are_two() -> None:
    one, other = bytearray(QUICK_BYTES + 5), bytearray(QUICK_BYTES + 5)
    other[1234] = 1
    items = [DetectCall("m", EncodedImage(bytes(data))) for data in (one, other, one)]
    assert marks_of(items)[0] == marks_of(items)[1]
    assert firsts([*items]) == [0, 1, 0]


def test_only_large_items_that_look_alike_are_compared_elsewhere() -> None:
    large = [DetectCall("m", EncodedImage(bytes([n]) * (QUICK_BYTES + 1))) for n in range(8)]
    assert is_quick(large, marks_of(large)), "nothing has to be compared"
    twins = [large[0], DetectCall("m", EncodedImage(bytes(large[0].source.data)))]
    assert not is_quick(twins, marks_of(twins))
    small = [DetectCall("m", EncodedImage(b"x" * 1000)) for _ in range(64)]
    assert is_quick(small, marks_of(small))


def test_callers_of_different_terms_are_not_one() -> None:
    items = [DetectCall("m", Text("a"), caller=Caller(routing_key=key)) for key in ("x", "y", "x")]
    assert firsts([*items]) == [0, 1, 0]


def test_a_hash_of_what_is_in_a_picture_is_never_taken() -> None:
    class Unhashable(bytes):
        def __hash__(self) -> int:
            raise AssertionError("every byte would be read")

    items = [DetectCall("m", EncodedImage(Unhashable(b"x" * 1000))) for _ in range(2)]
    assert firsts([*items]) == [0, 0]
