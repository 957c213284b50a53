"""The page of all results: what was measured, on what, when, and whether the targets are met."""

import json
from pathlib import Path
from typing import Any

from bench.figures import Figure, at_least
from bench.table import page, write

MACHINE = {
    "cpu": "Some CPU (avx512f)",
    "cores": 2,
    "memory_gib": 8.0,
    "system": "Linux",
    "python": "3.11.7",
    "packages": {"torch": "2.13.0", "absent": None},
    "load_before": 0.25,
    "date": "2026-01-02T03:04:05+00:00",
}


def result(name: str, *rounds: float, **machine: Any) -> dict[str, Any]:
    figure = Figure("answers", list(rounds), "", at_least(0.9))
    return {
        "name": name,
        "quick": False,
        "seconds": 12.3,
        "machine": {**MACHINE, **machine},
        "figures": [figure.to_dict()],
    }


def test_a_result_stands_with_its_machine_its_day_and_its_verdict() -> None:
    text = page([result("throughput", 0.8, 0.95, 0.97)])
    assert "## Some CPU (avx512f), 2 cores, 8 GiB" in text
    assert "torch 2.13.0" in text
    assert "absent" not in text
    assert "2026-01-02" in text
    assert "| answers | >= 0.9 | 0.95 (0.8 – 0.97) | yes |" in text


def test_a_machine_is_told_once_and_another_one_apart() -> None:
    text = page([result("one", 1.0), result("two", 1.0), result("three", 1.0, cores=64)])
    assert text.count("## Some CPU") == 2
    assert text.index("### two") < text.index("64 cores") < text.index("### three")


def test_a_smoke_test_never_looks_like_a_measurement() -> None:
    assert "measures nothing" in page([{**result("one", 1.0), "quick": True}])


def test_the_page_holds_every_file_of_its_folder(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.json").write_text(json.dumps(result(name, 1.0)), encoding="utf-8")
    text = write(tmp_path).read_text(encoding="utf-8")
    assert text.index("### a") < text.index("### b")
