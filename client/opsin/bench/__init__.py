"""The load tool: calls a server as it is told, in processes of its own, and says how that went.

Decisions, all pure: `arrivals` (when calls are due), `plan` and `job` (what is measured), `pairing`,
`intervals` and `knee` (rounds, how sure they are, which rate next), `figures`, `limits`, `streamfigures` and
`summary` (from samples to numbers). Loops: `load` (closed), `openloop` and `streams`, over `calls` and
`messages`. Processes: `runner` in `worker` under `fleet`, `bare` beside, `run` over all. Telling: `report`,
`columns`, `notes`, `document`, `samplescsv`, `ghz`, and `html` with `plots`.
"""
