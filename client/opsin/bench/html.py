"""A bench as one HTML page: headline, table, plots, notes. No scripts, and nothing to fetch."""

from collections.abc import Iterator
from html import escape
from string import Template

from opsin.bench.document import about
from opsin.bench.notes import notes
from opsin.bench.plots import Series, plots, series_of
from opsin.bench.run import Result
from opsin.bench.summary import pairs

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
.tile b { display: block; font-size: 24px; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13px; }
.card { margin: 16px 0; padding: 6px 16px; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 8px 10px; white-space: nowrap; }
th { color: var(--soft); font-size: 13px; font-weight: 600; border-bottom: 1px solid var(--line); }
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
<section class="card"><table>$table</table></section>
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
        table="".join(_table(result)),
        plots="".join(
            f"<figure><figcaption>{escape(c)}</figcaption>{svg}</figure>" for c, svg in plots(result)
        ),
        notes="".join(f"<li>{escape(note)}</li>" for note in notes(result)),
    )


def _tiles(result: Result) -> Iterator[str]:
    """What one looks for first: of the best load, the knee, or the pair."""
    if result.knee:
        knee = f"{result.knee.rate:.1f}/s" if result.knee.rate else "none"
        yield _tile(f"≥ {knee}" if result.knee.limited else knee, "knee")
        yield _tile(f"{result.knee.deadline * 1000:.0f} ms", "deadline")
    best = max(result.runs, key=lambda run: run.figures.goodput).figures
    yield _tile(f"{best.rate:,.1f}", "answers a second, at best")
    if best.latency:
        yield _tile(f"{best.latency.p50:.1f} ms", "median latency there")
        yield _tile(f"{best.latency.p99:.1f} ms", "p99 there")
    for pair in pairs(result)[:1]:
        if pair.rate:
            label = f"times the answers of {result.plan.client_of(1)['target']}"
            yield _tile(f"{pair.rate.median:.2f} ×", f"{label} ({pair.rate.low:.2f}–{pair.rate.high:.2f})")
    if result.bare:
        shares = [
            result.bare.share(place, run.figures)
            for place, run in enumerate(result.runs[: len(result.bare.rounds) - 1])
        ]
        yield _tile(f"{max(shares):.0%}", "of the bare model, at best")
    failed = sum(sum(run.figures.errors.values()) for run in result.runs)
    yield _tile(str(failed), "failed")


def _tile(value: str, label: str) -> str:
    return f'<div class="tile"><b>{escape(value)}</b><span>{escape(label)}</span></div>'


_HEAD = ("load", "answers/s", "good", "p50 ms", "p90 ms", "p99 ms", "max ms", "batch", "failed", "dropped")


def _table(result: Result) -> Iterator[str]:
    yield "<tr>" + "".join(f"<th>{title}</th>" for title in _HEAD) + "</tr>"
    for one in series_of(result):
        yield "<tr>" + "".join(f"<td>{cell}</td>" for cell in _cells(one)) + "</tr>"


def _cells(one: Series) -> list[str]:
    from statistics import median

    from opsin.bench.figures import percentile

    figures = [run.figures for run in one.runs]
    batches = [each.mean_batch_size for each in figures if each.mean_batch_size]
    latencies = (
        [f"{percentile(one.latencies, share):.1f}" for share in (0.5, 0.9, 0.99, 1.0)]
        if one.latencies
        else ["-"] * 4
    )
    return [
        f'<span class="dot" style="background:{one.colour}"></span>{escape(one.name)}',
        f"{median(each.rate for each in figures):,.1f}",
        f"{median(each.good_share for each in figures):.1%}",
        *latencies,
        f"{sum(batches) / len(batches):.2f}" if batches else "-",
        str(sum(sum(each.errors.values()) for each in figures)),
        str(sum(sum(each.dropped.values()) for each in figures)),
    ]
