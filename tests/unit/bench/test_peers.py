"""What the comparison with other servers takes for granted: equal answers, paired rounds, honest tables."""

import asyncio
import io
import itertools
import json
import random
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bench.figures import Figure
from bench.peers import calling
from bench.peers.answers import EXACT, ROUNDED, Answer, difference, overlap
from bench.peers.calling import Heard, Job, Send
from bench.peers.contest import Side
from bench.peers.contestants import CONTESTANTS, OURS, Peer
from bench.peers.process import ROOT
from bench.peers.report import figures, percentile, standings, summary

BOX = ["person", 0.8, 0.1, 0.1, 0.5, 0.5]


def labels(**scores: float) -> Answer:
    return {"labels": [[name, score] for name, score in scores.items()]}


def boxes(*rows: list[Any]) -> Answer:
    return {"boxes": rows}


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (labels(cat=0.9, dog=0.1), labels(dog=0.105, cat=0.895)),
        (labels(cat=0.502, dog=0.498), labels(cat=0.498, dog=0.502)),
        (boxes(BOX), boxes(["person", 0.805, 0.1, 0.1, 0.5, 0.505])),
        (boxes(BOX), boxes(BOX, ["dog", 0.355, 0.6, 0.6, 0.9, 0.9])),
        (boxes(), boxes()),
    ],
    ids=["order", "a near tie", "a pixel apart", "at the threshold", "nothing"],
)
def test_answers_agree_when_only_rounding_is_between_them(one: Answer, two: Answer) -> None:
    assert difference(one, two, EXACT) == ""
    assert difference(two, one, EXACT) == ""


@pytest.mark.parametrize(
    ("one", "two", "said"),
    [
        (labels(cat=0.9, dog=0.1), labels(cat=0.8, dog=0.2), "scores"),
        (labels(cat=0.9, dog=0.1), labels(cat=0.9, cow=0.1), "labels"),
        (boxes(BOX), boxes(), "no counterpart"),
        (boxes(), boxes(BOX), "one too many"),
        (boxes(BOX), boxes(["dog", *BOX[1:]]), "no counterpart"),
        (boxes(BOX), boxes(["person", 0.8, 0.2, 0.1, 0.6, 0.5]), "no counterpart"),
        (boxes(BOX, BOX), boxes(BOX), "no counterpart"),
        (boxes(BOX), labels(person=0.8), "the other"),
    ],
)
def test_answers_that_differ_are_told_from_each_other(one: Answer, two: Answer, said: str) -> None:
    assert said in difference(one, two, EXACT)


def test_a_score_that_is_no_number_agrees_with_nothing() -> None:
    nan = float("nan")
    assert difference(labels(cat=0.9, dog=0.1), labels(cat=0.9, dog=nan), ROUNDED)


def test_narrow_numbers_are_given_more_room_but_not_another_answer() -> None:
    assert difference(labels(cat=0.9, dog=0.1), labels(cat=0.86, dog=0.14), ROUNDED) == ""
    assert difference(labels(cat=0.9, dog=0.1), labels(cat=0.4, dog=0.6), ROUNDED)


def test_boxes_overlap_by_their_areas() -> None:
    assert overlap((0, 0, 1, 1), (0, 0, 1, 1)) == 1
    assert overlap((0, 0, 1, 1), (0.5, 0, 1.5, 1)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 1, 1), (2, 2, 3, 3)) == 0


def side(*rates: float, p99: float = 10.0) -> Side:
    """Rounds of a second each; one call in fifty takes `p99`."""
    rounds = []
    for rate in rates:
        slow = int(rate) // 50 + 1
        rounds.append(Heard([1.0] * (int(rate) - slow) + [p99] * slow, 1.0, 0.1, {}))
    return Side(rounds, [2.0] * len(rates))


SIDES: Mapping[str, Side] = {
    "opsin": side(200, 100, p99=5.0),
    "opsin-fp32": side(100, 50),
    "mosec": side(100, 50),
    "litserve": side(50, 25, p99=8.0),
    "flask": side(40, 20),
}


def rows(callers: int) -> dict[str, Figure]:
    found = figures("nsfw", callers, SIDES, ["opsin", "opsin-fp32"], ["opsin-fp32"])
    return {figure.what: figure for figure in found}


def test_rounds_are_compared_with_their_neighbours_not_with_a_machine_of_another_moment() -> None:
    assert rows(8)["nsfw, 8 callers: opsin over mosec"].rounds == [2, 2]


@pytest.mark.parametrize(("callers", "wanted"), [(1, 1.5), (8, 1.8), (32, 1.8)])
def test_the_target_is_the_best_peer_by_default_and_its_equal_when_held(callers: int, wanted: float) -> None:
    found = rows(callers)
    for name, value in (("opsin", wanted), ("opsin-fp32", 1.0)):
        figure = found[f"nsfw, {callers} callers: {name} over the best peer (mosec)"]
        assert figure.target is not None
        assert figure.target.value == value
        assert figure.verdict == "yes"


def test_our_slowest_calls_are_held_against_the_peer_with_the_quickest_ones() -> None:
    tail = rows(8)["nsfw, 8 callers: opsin over the best peer’s p99"]
    assert tail.rounds == [5 / 8, 5 / 8]
    assert tail.verdict == "yes"


def test_one_picture_at_a_time_is_no_peer_for_batches_but_has_a_target_of_its_own() -> None:
    assert "flask" not in "".join(what for what in rows(8) if "best peer" in what)
    flask = rows(10)["nsfw, 10 callers: opsin over flask"]
    assert flask.target is not None
    assert flask.target.value == 2


def test_standings_tell_rates_delays_cost_and_errors_of_everybody() -> None:
    broken = side(10)
    broken.rounds[0].errors["TimeoutError"] = 3
    table = standings(8, {**SIDES, "broken": broken})
    assert len(table.splitlines()) == 2 + len(SIDES) + 1
    assert table.splitlines()[-1].endswith("| 3 |")
    assert json.dumps(summary(broken))


def test_a_percentile_is_a_value_that_was_seen_whatever_the_order() -> None:
    values = [float(value) for value in range(1, 101)]
    random.Random(1).shuffle(values)
    assert [percentile(values, share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert percentile([], 0.5) == float("inf")


def test_each_peer_says_where_its_settings_are_advised_and_pins_what_it_is() -> None:
    peers = [one for one in CONTESTANTS if isinstance(one, Peer)]
    assert len({one.name for one in CONTESTANTS}) == len(CONTESTANTS)
    for one in peers:
        assert one.page.startswith("https://")
        pins = (ROOT / "bench" / "peers" / one.environment / "requirements.txt").read_text().split()
        assert all("==" in pin for pin in pins)


def test_everybody_runs_the_same_torch_and_transformers() -> None:
    for folder in {one.environment for one in CONTESTANTS if isinstance(one, Peer)}:
        pins = (ROOT / "bench" / "peers" / folder / "requirements.txt").read_text().split()
        ours = (ROOT / "constraints.txt").read_text().split()
        assert {pin for pin in pins if pin.startswith(("torch==", "transformers=="))} <= set(ours)


def test_ours_held_to_the_peers_computes_exactly() -> None:
    assert all(one.tolerance == EXACT for one in OURS if one.held)


def test_callers_do_their_job_over_the_line_and_send_no_picture_twice(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "one.jpg"
    picture.write_bytes(b"\xff\xd8rest")
    sent: list[bytes] = []

    @asynccontextmanager
    async def connect(job: Job) -> AsyncGenerator[Send]:
        async def send(data: bytes) -> dict[str, Any]:
            sent.append(data)
            await asyncio.sleep(0)
            if len(sent) % 3 == 0:
                raise ConnectionResetError
            return {"labels": []}

        yield send

    ticks = itertools.count()
    monkeypatch.setattr("bench.peers.calling.time.perf_counter", lambda: next(ticks) / 10_000)
    ask = Job("nowhere", "none", (str(picture),))
    timed = Job("nowhere", "none", (str(picture),), callers=4, seconds=0.05, warmup=0.02, seed=1)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{ask.to_line()}\n{timed.to_line()}\n"))
    calling.serve(connect)
    ready, asked, heard = capsys.readouterr().out.splitlines()
    assert ready == "ready"
    assert Heard.from_line(asked).answers == [{"labels": []}]
    told = Heard.from_line(heard)
    assert told.errors["ConnectionResetError"] > 0
    assert told.rate == pytest.approx(len(told.milliseconds) / told.seconds)
    assert len(set(sent)) == len(sent)
