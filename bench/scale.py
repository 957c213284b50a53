"""How long a measurement takes: its rounds and their seconds, in full or only to see that it runs."""

import sys
from dataclasses import dataclass

__all__ = ["Scale"]


@dataclass(frozen=True, slots=True)
class Scale:
    """quick: a smoke test of seconds, whose figures mean nothing. rounds: of each side of a comparison."""

    quick: bool = False
    rounds: int = 5
    minutes: float = 10.0
    """How long the measurements of memory go on."""

    def seconds(self, full: float) -> float:
        """The length of a round that takes `full` seconds when it counts."""
        return min(full, 1.0) if self.quick else full

    def count(self, full: int) -> int:
        """How many of something, of which `full` are needed when it counts."""
        return max(1, full // 50) if self.quick else full

    def say(self, what: str) -> None:
        """Tell whoever waits what is being done."""
        print(f"  {what}", file=sys.stderr, flush=True)
