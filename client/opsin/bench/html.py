"""A bench as one HTML page: headline, table, plots, notes. No scripts, and nothing to fetch."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from statistics import median
from string import Template

from opsin.bench.document import about
from opsin.bench.intervals import Interval, percent
from opsin.bench.notes import notes
from opsin.bench.plots import Series, plots, series_of
from opsin.bench.report import knee_run, load_of
from opsin.bench.run import Result
from opsin.bench.summary import pairs, runs_of, summaries

__all__ = ["html"]

_PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light; --ink: #1f2933; --soft: #5b6772; --line: #e3e7eb; --blue: #0b6e99; }
* { box-sizing: border-box; }
body { margin: 0; background: #f5f7f9; color: var(--ink); line-height: 1.45;
  font-family: Inter, "Segoe UI", "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 48px; }
h1 { font-size: 26px; margin: 0 0 4px; }
.where { color: var(--soft); margin: 0 0 22px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; }
.tile, figure, .card { background: #fff; border: 1px solid var(--line); border-radius: 10px; }
.tile { padding: 14px 16px; }
.tile b { display: block; font-size: 22px; white-space: nowrap; font-variant-numeric: tabular-nums; }
.tile.bad b { color: #c0392b; }
.tile span { color: var(--soft); font-size: 13px; }
.card { margin: 16px 0; padding: 6px 16px; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 8px 10px; white-space: nowrap; }
th { color: var(--soft); font-size: 13px; font-weight: 600; border-bottom: 1px solid var(--line);
  white-space: normal; }
td { border-bottom: 1px solid #f0f2f4; }
tr:last-child td { border-bottom: 0; }
th:first-child, td:first-child { text-align: left; }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 50%; margin-right: 8px; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(460px, 1fr)); gap: 16px; }
figure { margin: 0; padding: 14px 16px 8px; }
figcaption { font-weight: 600; margin-bottom: 6px; }
svg { width: 100%; height: auto; display: block; }
ul { padding-left: 20px; color: var(--soft); }
li { margin: 4px 0; }
@media (max-width: 560px) { .plots { grid-template-columns: 1fr; } }
@media print { body { background: #fff; } figure { break-inside: avoid; } }
</style>
</head>
<body><main>
<h1>$title</h1>
<p class="where">$where</p>
<section class="tiles">$tiles</section>
$tables
<section class="plots">$plots</section>
<section class="card"><ul>$notes</ul></section>
</main></body>
</html>
""")


def html(result: Result) -> str:
    """The page. Raises PlotsMissingError."""
    facts = about(result)
    client = facts["client"]
    where = f"{facts['target']} · {result.plan.method} · {facts['date']}"
    where += f" · measured from {client['system']}, {client['cores']} cores, opsin {client['opsin']}"
    return _PAGE.substitute(
        title=escape(facts["name"] or "opsin bench"),
        where=escape(where),
        tiles="".join(_tiles(result)),
        tables="\n".join(
            f'<section class="card"><table>{"".join(rows)}</table></section>'
            for rows in (list(_table(result)), list(_streams(result)), list(_pairs(result)))
            if rows
        ),
        plots="".join(
            f"<figure><figcaption>{escape(c)}</figcaption>{svg}</figure>" for c, svg in plots(result)
        ),
        notes="".join(f"<li>{escape(note)}</li>" for note in notes(result)),
    )


def _tiles(result: Result) -> Iterator[str]:
    """What one looks for first: of the best load, the knee, or the pair."""
    if result.knee:
        knee = f"{result.knee.rate:.1f}/s" if result.knee.rate else "none"
        yield _tile(f"≥ {knee}" if result.knee.rate and result.knee.at_least else knee, "knee")
        yield _tile(f"{result.knee.deadline * 1000:.0f} ms", "deadline")
    yield from _best_tiles(result)
    for pair in pairs(result)[:1]:
        if pair.rate:
            label = f"times the answers of {result.plan.client_of(1)['target']}"
            sure = f", {pair.rate.low:.2f}–{pair.rate.high:.2f}" if pair.rate.rounds > 1 else ""
            where = load_of(runs_of(result, pair.point)[0])
            yield _tile(f"{pair.rate.median:.2f} ×", f"{label} ({where}{sure})")
    shares = [one.share_of_bare for one in summaries(result) if one.share_of_bare]
    if shares:
        best = max(shares, key=lambda one: one.median)
        yield _tile(f"{best.median:.0%}", "of the bare model, at the best load")
    limited = sum(run.figures.client_limited for run in result.runs)
    if limited:
        yield _tile(
            f"{limited} of {len(result.runs)}", "runs in which the tool may have been the limit", "bad"
        )
    failed = sum(sum(run.figures.errors.values()) for run in result.runs)
    yield _tile(str(failed), "failed", "bad" if failed else "")


def _best_tiles(result: Result) -> Iterator[str]:
    """Of the knee, or of the load with the most good answers a second at our server: medians of rounds."""
    if result.knee:
        runs = [run for run in [knee_run(result)] if run]
    else:
        loads = [runs_of(result, point) for point in range(len(result.plan.points))]
        runs = max(loads, key=lambda runs: median([run.figures.goodput for run in runs] or [-1.0]))
    if not runs:
        return
    figures = [run.figures for run in runs]
    where = "at the knee" if result.knee else f"({load_of(runs[0])})"
    rate = median(one.goodput if one.deadline else one.rate for one in figures)
    yield _tile(f"{rate:,.1f}", f"{'good ' if figures[0].deadline else ''}answers a second {where}")
    if latencies := [one.latency for one in figures if one.latency]:
        yield _tile(f"{median(one.p50 for one in latencies):.1f} ms", "median latency there")
        yield _tile(f"{median(one.p99 for one in latencies):.1f} ms", "p99 there")


def _tile(value: str, label: str, kind: str = "") -> str:
    return f'<div class="tile {kind}"><b>{escape(value)}</b><span>{escape(label)}</span></div>'


_HEAD = ("load", "answers/s", "good", "p50 ms", "p90 ms", "p99 ms", "max ms", "batch", "failed", "dropped")


def _table(result: Result) -> Iterator[str]:
    yield _row(_HEAD, "th")
    for one in series_of(result):
        yield "<tr>" + "".join(f"<td>{cell}</td>" for cell in _cells(one)) + "</tr>"


def _cells(one: Series) -> list[str]:
    figures = [run.figures for run in one.runs]
    batches = [each.mean_batch_size for each in figures if each.mean_batch_size]
    # Of several rounds the medians, as the terminal has them.
    known = [each.latency for each in figures if each.latency]
    latencies = [
        f"{median(getattr(each, name) for each in known):.1f}" if known else "-"
        for name in ("p50", "p90", "p99", "max")
    ]
    return [
        f'<span class="dot" style="background:{one.colour}"></span>{escape(one.name)}',
        f"{median(each.rate for each in figures):,.1f}",
        percent(median(each.good_share for each in figures)),
        *latencies,
        f"{sum(batches) / len(batches):.2f}" if batches else "-",
        str(sum(sum(each.errors.values()) for each in figures)),
        str(sum(sum(each.dropped.values()) for each in figures)),
    ]


_STREAM_HEAD = (
    "streams", "age p50 ms", "age p99 ms", "fairness (Jain)", "jitter ms", "worst jitter ms", "slowest fps",
    "quickest fps", "dropped",
)  # fmt: skip


def _streams(result: Result) -> Iterator[str]:
    """What streams have to tell besides; nothing of calls."""
    shown = [one for one in series_of(result) if any(run.figures.streams for run in one.runs)]
    if shown:
        yield _row(_STREAM_HEAD, "th")
    for one in shown:
        figures = [run.figures for run in one.runs]
        streams = [each.streams for each in figures if each.streams]
        drops = sum((Counter(each.dropped) for each in figures), Counter[str]())
        yield _row(
            [
                one.name,
                *(_median(getattr(each, name) for each in figures) for name in ("age_p50", "age_p99")),
                _median((each.fairness for each in streams), 3),
                _median(each.jitter for each in streams),
                _median(each.jitter_worst for each in streams),
                _median(min(single.rate for single in each.each) for each in streams),
                _median(max(single.rate for single in each.each) for each in streams),
                ", ".join(f"{count} {why}" for why, count in drops.most_common()) or "0",
            ]
        )


def _pairs(result: Result) -> Iterator[str]:
    """Ratios of two servers, with their intervals."""
    found = pairs(result)
    if found:
        ours, theirs = (result.plan.client_of(side)["target"] for side in (0, 1))
        yield _row([f"{ours} over {theirs}", "answers/s", "p50", "p99", "confidence"], "th")
    for pair in found:
        ratios = [pair.rate, pair.p50, pair.p99]
        yield _row(
            [
                load_of(runs_of(result, pair.point)[0]),
                *(_ratio(one) for one in ratios),
                f"{pair.rate.confidence:.1%}" if pair.rate and pair.rate.confidence else "-",
            ]
        )


def _ratio(ratio: Interval | None) -> str:
    if ratio is None:
        return "-"
    between = f" ({ratio.low:.2f}–{ratio.high:.2f})" if ratio.rounds > 1 else ""
    return f"{ratio.median:.2f}{between}"


def _median(values: Iterable[float | None], digits: int = 1) -> str:
    known = [value for value in values if value is not None]
    return f"{median(known):,.{digits}f}" if known else "-"


def _row(cells: Sequence[str], kind: str = "td") -> str:
    return "<tr>" + "".join(f"<{kind}>{escape(cell)}</{kind}>" for cell in cells) + "</tr>"
