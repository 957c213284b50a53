"""Running a detector without a server, and checking that it keeps the rules of `opsin_detectors.api`.

For detectors' own tests: `check(detector)` is most of what such a test has to say. `examine` is what
`opsin check-detector` runs: the same rules and those of a detector's life, from its `detector.toml` to what
is left when it is closed.
"""

from opsin_detectors.testing.answers import differences
from opsin_detectors.testing.contract import check, examine, findings, rule_names
from opsin_detectors.testing.findings import Finding, Status
from opsin_detectors.testing.running import Harness, Lane, PlainHarness, run, stack
from opsin_detectors.testing.samples import image, sample_inputs

__all__ = [
    "Finding",
    "Harness",
    "Lane",
    "PlainHarness",
    "Status",
    "check",
    "differences",
    "examine",
    "findings",
    "image",
    "rule_names",
    "run",
    "sample_inputs",
    "stack",
]
