"""The project's own measurements: what Opsin promises in numbers, beside a yardstick of the same run.

    python -m bench throughput overload --quick

One module a group of figures (`groups.py` lists them), each with one function `measure(scale) -> figures`.
Below them: `figures` (pure: medians, targets, tables), `server`, `null_server` and `bare` (what is measured,
each in a process of its own), `load` and `frames` (who calls). Every figure is a ratio or a comparison within
one run, over rounds that take turns. Nothing here is part of the wheel.
"""
