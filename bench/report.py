"""What a run leaves behind: tables on the terminal, result.json, and the page made from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import host, html
from bench.stats import best_peer

COLUMNS = ("contender", "records/s", "MB/s", "p50 us", "p99 us", "p99.9 us", "max us of all", "fairness", "x best peer")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns under their heads: the first to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in [lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def number(value: float | None) -> str:
    """Three significant digits, thousands separated; a dash for what was not supported by the samples."""
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def scenario_table(result: dict[str, Any], facts: dict[str, Any]) -> str:
    """One scenario: medians over the rounds (the maximum is that of all), the throughput's spread, who is missing."""
    measured = {name: cell for name, cell in result["contenders"].items() if "median" in cell}
    best = best_peer(result)
    rows = [COLUMNS]
    notes = []
    for name, cell in sorted(measured.items(), key=lambda item: -item[1]["median"]["records_per_s"]):
        middle, (low, high) = cell["median"], cell["spread"]["records_per_s"]
        spread = f" ({number(low)} .. {number(high)})" if len(cell["turns"]) > 1 else ""
        rows.append((
            name, number(middle["records_per_s"]) + spread, number(middle["bytes_per_s"] / 1e6),
            *(number(middle.get(f"latency_us.{key}")) for key in ("p50", "p99", "p999", "max")),
            number(middle["fairness"]), number(middle["records_per_s"] / best[1]) if best and best[1] else "-",
        ))  # fmt: skip
        if problem := cell.get("problem"):
            notes.append(f"  {name}: some turns missing: {problem}")
        notes += [f"  {name}: {text}" for text in host.notes(cell)]
        if middle.get("late"):
            notes.append(f"  {name}: {middle['late']:,.0f} records whose time had come were not begun within the window")
    notes += [
        f"  {name}: not measured: {cell['not_measured']}"
        for name, cell in result["contenders"].items()
        if "not_measured" in cell
    ]
    notes += [
        f"  {name}: {facts[name]['durability']}"
        for name in measured
        if name in facts and "NOT" in facts[name].get("durability", "")
    ]
    body = table(rows) if len(rows) > 1 else "  nothing measured"
    return "\n".join([f"\n{result['title']}", f"  {result['load']}", body, *notes])


def goals_table(goals: Sequence[dict[str, Any]]) -> str:
    """The goal table with what was measured."""
    rows: list[Sequence[str]] = [("#", "scenario", "goal", "measured", "reached")]
    rows += [(str(goal["number"]), goal["scenario"], goal["goal"], goal["measured"], goal["verdict"]) for goal in goals]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\nGoals\n" + "\n".join(lines)


def save(result: dict[str, Any], output: Path) -> None:
    """Writes result.json and report.html; both are whole at any time."""
    for name, text in (("result.json", json.dumps(result, indent=1, default=str)), ("report.html", html.page(result))):
        part = output / f".{name}.part"
        part.write_text(text)
        part.replace(output / name)
