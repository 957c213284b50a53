"""`opsin simulate`: what the scheduler would do with a load, beside its rivals, without a device.

Owns the options. Importing it is cheap, since every start of the command line does; the simulator itself is
imported when the command runs.
"""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add `simulate` to the command line."""
    app.command("simulate")(simulate)


def simulate(  # noqa: PLR0917  typer reads its parameters by name
    trace: Annotated[
        str, typer.Option(help="poisson, bursty, diurnal, closed, or a JSONL file of recorded requests.")
    ] = "bursty",
    model: Annotated[
        list[str] | None,
        typer.Option(help="NAME:FIXED_MS:EACH_MS[:WEIGHT]; a batch of n takes FIXED + n * EACH. Repeatable."),
    ] = None,
    rate: Annotated[
        float, typer.Option(help="Requests a second for each model; 0: as many as --load says.", min=0)
    ] = 0.0,
    load: Annotated[
        float,
        typer.Option(help="Offered load over what the lanes can do in their largest batches.", min=0.01),
    ] = 1.0,
    peak: Annotated[float, typer.Option(help="bursty: rate in a burst over the mean.", min=1.01)] = 4.0,
    callers: Annotated[int, typer.Option(help="closed: callers for each model.", min=1)] = 32,
    flows: Annotated[int, typer.Option(help="Flows for each model.", min=1)] = 4,
    deadline_ms: Annotated[
        float, typer.Option("--deadline", help="Milliseconds for an answer; 0: 5 batch times.", min=0)
    ] = 0.0,
    devices: Annotated[int, typer.Option(help="Lanes that run batches side by side.", min=1)] = 1,
    buckets: Annotated[str, typer.Option(help="Batch sizes that were warmed up.")] = "1,2,4,8,16,32",
    policy: Annotated[
        list[str] | None,
        typer.Option(help="ours, none, pull:SIZE, window:SIZE:DELAY_MS[:drop]. Repeatable; all by default."),
    ] = None,
    requests: Annotated[int, typer.Option(help="How many requests.", min=1)] = 20_000,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 1,
    whole_grid: Annotated[
        bool,
        typer.Option("--grid", help="Compare over loads, bursts and deadlines; rivals tuned in each cell."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw to this file (needs the extra “plots”).")] = None,
) -> None:
    """Simulate the scheduler on a virtual clock, beside its rivals.

    Same policy, queues and profiles as the server's, on simulated devices. A recorded trace has one JSON
    object a line: at (seconds), model, and optionally flow, within (seconds), priority.
    """
    from opsin_server.scheduling.simulator import command

    if whole_grid:
        command.compare_all(devices, seed, requests, as_json=as_json, plot=plot)
        return
    options = command.Options(
        trace=trace,
        models=tuple(model or ("small:4:0.25", "large:10:1")),
        rate=rate,
        load=load,
        peak=peak,
        callers=callers,
        flows=flows,
        within=deadline_ms / 1e3,
        devices=devices,
        buckets=buckets,
        policies=tuple(policy or ("ours", "window:32:10", "window:32:10:drop", "pull:32", "none")),
        requests=requests,
        seed=seed,
    )
    command.run(options, as_json=as_json, plot=plot)
