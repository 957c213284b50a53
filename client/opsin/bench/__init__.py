"""The load tool: calls a server as hard as it is told, in processes of its own, and says how that went.

`load` is the loop and its samples, `payloads` what is sent, `calls` what one call is, `worker` a process of
callers, `fleet` the processes together, `report` the figures. `python -m opsin.bench.worker` is started by
`fleet`.
"""
