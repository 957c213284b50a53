"""The bare model beside the server: the same model in a plain loop, on this machine.

It is run by the server package, which this one may not import: it is reached as a program,
`python -m opsin_server.bare`, that answers in JSON.
"""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from opsin.bench.processes import BenchError, start

__all__ = ["BarePlan", "run_bare"]


@dataclass(frozen=True, slots=True)
class BarePlan:
    """What the server is compared with. seconds: of each round. threads: of each process.

    runtime, dtype: as GetModel tells them; "" leaves them to the model.
    """

    model: str
    processes: int
    batch: int
    seconds: float
    threads: int = 1
    runtime: str = ""
    dtype: str = ""

    def to_arguments(self) -> list[str]:
        """As `opsin_server.bare` takes it."""
        return [f"--{name}={value}" for name, value in asdict(self).items() if value != ""]


def run_bare(plan: BarePlan, paths: Sequence[str]) -> float:
    """Inputs a second that the model answers without a server, on this machine. Raises `BenchError`."""
    process = start(["opsin_server.bare", *plan.to_arguments(), *paths], stdin=subprocess.DEVNULL)
    try:
        answer, _ = process.communicate()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if process.returncode != 0:
        raise BenchError(
            "the bare model could not be run. It needs the server and the model on this machine: "
            "pip install 'opsin[server,torch]', and --model as 'opsin serve' takes it."
        )
    rate: float = json.loads(answer)["rate"]
    return rate
