"""Draws the chart of the first page from a run: `python -m bench.front_page`.

What is not comparable is left out: bare writes, which keep no records, and whoever confirms before it has synced.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench import chart

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "bench" / "results" / "result.json"
PICTURE = ROOT / "docs" / "numbers.svg"
SCENARIO = "sixteen"
NAMES = {
    "ringwal": "ringwal", "redis": "Redis", "rocksdb": "RocksDB", "postgresql": "PostgreSQL",
    "flock-file": "flock + fdatasync", "sqlite": "SQLite", "lmdb": "LMDB",
}  # fmt: skip
"""Ours and the peers that are shown, as they are called in documents."""
GREY = "#8b93a1"


def comparable(result: dict[str, Any], scenario: str) -> dict[str, dict[str, Any]]:
    """What was measured in a scenario, of those who confirm what is on stable storage, by the names of documents."""
    found = result["scenarios"][scenario]["contenders"]
    return {NAMES[who]: cell for who, cell in found.items() if who in NAMES and not cell.get("incomparable")}


def draw(result: dict[str, Any]) -> str:
    """The chart of a run, an SVG file."""
    found = comparable(result, SCENARIO)
    bars = []
    for who, cell in found.items():
        low, high = cell["spread"]["records_per_s"]
        tint = chart.colour(who) if who in chart.OURS else GREY
        bars.append(chart.Bar(who, cell["median"]["records_per_s"], low, high, tint))
    return chart.alone(chart.bars(bars, "durable records per second, 16 processes"))


if __name__ == "__main__":
    PICTURE.write_text(draw(json.loads(RESULT.read_text())))
