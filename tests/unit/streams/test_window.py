"""The window comes down with the backlog, comes back without it, and idle streams cost nobody anything."""

from hypothesis import given
from hypothesis import strategies as st

from opsin_server.streams.window import LEAST, Backlog, Load, next_window

IDLE = Backlog()


def test_an_idle_server_gives_what_is_set() -> None:
    window = 1
    for _ in range(20):
        window = next_window(window, most=8, places=1024, streams=1, backlog=IDLE)
    assert window == 8


def test_windows_of_all_streams_in_use_fill_half_of_the_queues_at_most() -> None:
    assert next_window(8, most=8, places=1024, streams=256, backlog=IDLE) == 2
    assert next_window(8, most=8, places=16, streams=64, backlog=IDLE) == 1


def test_a_backlog_of_many_batches_halves_it_and_one_that_is_needed_does_not() -> None:
    assert next_window(8, most=8, places=1024, streams=8, backlog=Backlog(1.0, 0.1)) == 4
    assert next_window(8, most=8, places=1024, streams=8, backlog=Backlog(0.25, 0.1)) == 6
    assert next_window(7, most=8, places=1024, streams=8, backlog=Backlog(0.2, 0.1)) == 8


def test_it_is_never_lowered_to_less_than_keeps_the_device_busy() -> None:
    window = 8
    for _ in range(10):
        window = next_window(window, most=8, places=1024, streams=8, backlog=Backlog(60.0, 0.1))
    assert window == LEAST


def test_the_backlog_counts_every_model_at_its_best_speed_over_all_lanes() -> None:
    slow, fast = Load(4, ((1, 0.1), (4, 0.2))), Load(10, ((1, 0.01),))
    assert Backlog.of([slow, fast, Load(0, ((1, 9.0),))], lanes=2) == Backlog((4 * 0.05 + 0.1) / 2, 0.2)
    assert Backlog.of([Load(5)], lanes=1) == Backlog(0.0, 0.0)


@given(
    window=st.integers(1, 64),
    most=st.integers(2, 64),
    places=st.integers(1, 2048),
    streams=st.integers(0, 300),
    waits=st.floats(0, 100),
    batch=st.floats(0, 10),
)
def test_it_is_always_at_least_one_and_never_above_what_is_set(  # noqa: PLR0917  given by hypothesis
    window: int, most: int, places: int, streams: int, waits: float, batch: float
) -> None:
    new = next_window(window, most=most, places=places, streams=streams, backlog=Backlog(waits, batch))
    assert 1 <= new <= most


@given(streams=st.integers(1, 64), seconds=st.floats(0.005, 0.5), lanes=st.integers(1, 4))
def test_under_full_load_it_settles_with_the_device_fed_and_little_waiting(
    streams: int, seconds: float, lanes: int
) -> None:
    """Streams that fill their windows, a device that runs single inputs: a model of the loop."""
    window = 8
    for _ in range(40):
        queued = max(0, streams * window - lanes)
        backlog = Backlog.of([Load(queued, ((1, seconds),))], lanes)
        window = next_window(window, most=8, places=1024, streams=streams, backlog=backlog)
    assert streams * window >= min(lanes, 2 * streams)
    waits = max(0, streams * window - lanes) * seconds / lanes
    # As short as two frames a stream allow, or about what is to be at hand, or nothing at all to lower.
    assert window == LEAST or waits <= (2 + streams / lanes) * seconds * 1.001
