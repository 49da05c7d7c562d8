"""The report as one page that needs nothing else: text, tables and SVG."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from bench import chart, host, html_model
from bench.stats import NOT_PEERS, best_peer

STYLE = Path(__file__).with_name("report.css").read_text()
COUNTED = {
    "writers": ("writers (1 KiB)", "writer processes, one append outstanding each"),
    "outstanding": ("appends outstanding", "appends outstanding at each of 4 writers; 1 KiB"),
}
"""What sweeps count: how a title and an axis call it. Scenarios are named after it and the number."""
SWEPT = (*(f"{name}-" for name in COUNTED), "size-")
"""How the names of scenarios begin that differ in one number and share a drawing."""


def page(result: dict[str, Any]) -> str:
    """The whole page."""
    scenarios = result["scenarios"]
    loads = {name: item for name, item in scenarios.items() if not name.startswith(SWEPT)}
    parts = [
        f"<h1>ringwal benchmark</h1><p class=soft>{escape(result['time'])}"
        f" · commit {escape(str(result['environment']['commit']))}"
        f" · {result['options']['rounds']} rounds, medians; contenders take turns in shuffled order</p>",
        _environment(result["environment"]),
        _goals(result["goals"]),
        _sweeps(scenarios),
        *(_scenario(item, result["contenders"]) for item in loads.values()),
        _batching(scenarios),
        _extras(result.get("extras", {})),
        html_model.section(result.get("extras", {}).get("before-after")),
        _contenders(result["contenders"]),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>ringwal benchmark</title><style>{STYLE}</style></head><body>{body}</body></html>\n"
    )


SECONDS = chart.Axis("seconds")


def _log(label: str) -> chart.Axis:
    return chart.Axis(label, log=True)


def panel(title: str, content: str) -> str:
    """A framed chart or table under its title."""
    return f"<div class=panel><h3>{escape(title)}</h3>{content}</div>"


def table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], wide: Sequence[int] = ()) -> str:
    """A table; each row is (class, cells); cells are HTML."""

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(f"<{tag}{' class=wide' if i in wide else ''}>{cell}</{tag}>" for i, cell in enumerate(row))

    lines = "".join(f"<tr class='{kind}'>{cells('td', row)}</tr>" for kind, row in rows)
    return f"<table><tr>{cells('th', head)}</tr>{lines}</table>"


def _us(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def figure(result: dict[str, Any], name: str) -> str:
    """One chart by name: throughput of a scenario, against `writers` or `outstanding`, or bandwidth against `sizes`.

    Raises KeyError.
    """
    scenarios = result["scenarios"]
    if name in COUNTED:
        series = _sweep(scenarios, f"{name}-", "records_per_s")
        return chart.lines(series, _counts_axis(name, series), _log("durable records per second"))
    if name == "sizes":
        series = _sweep(scenarios, "size-", "bytes_per_s")
        mega = {who: [(x, y / 1e6) for x, y in points] for who, points in series.items()}
        return chart.lines(mega, _sizes_axis(series), _log("durable MB per second"))
    cells = _cells(scenarios[name])
    return chart.bars(
        [_bar(_label(who, cell), cell, "records_per_s") for who, cell in cells.items()], "durable records per second"
    )


def _environment(facts: dict[str, Any]) -> str:
    rows = []
    for key, value in facts.items():
        text = (
            ", ".join(f"{k} {round(v, 1) if isinstance(v, float) else v}" for k, v in value.items())
            if isinstance(value, dict)
            else value
        )
        rows.append(("", (escape(key.replace("_", " ")), escape(str(text)))))
    return "<h2>Where this was measured</h2>" + table(("", ""), rows, wide=(1,))


def _goals(goals: Sequence[dict[str, Any]]) -> str:
    rows = []
    for goal in goals:
        kind = {"yes": "good", "no": "bad"}.get(goal["verdict"], "soft")
        found = "<br>".join(f"<span class={'good' if c['holds'] else 'bad'}>{escape(c['text'])}</span>" for c in goal["checks"])
        verdict = f"<span class={kind}>{goal['verdict']}</span>"
        rows.append(
            (
                "",
                (
                    str(goal["number"]),
                    escape(goal["scenario"]),
                    escape(goal["goal"]),
                    found or escape(goal["measured"]),
                    verdict,
                ),
            )
        )
    return "<h2>Goals</h2>" + table(("#", "scenario", "goal", "measured in this run", "reached"), rows, wide=(1, 2, 3))


def _cells(item: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: cell for name, cell in item["contenders"].items() if "median" in cell}


def _scenario(item: dict[str, Any], facts: dict[str, Any]) -> str:
    cells = _cells(item)
    missing = "".join(
        f"<li>{escape(name)}: not measured: {escape(str(cell['not_measured']))}</li>"
        for name, cell in item["contenders"].items()
        if "not_measured" in cell
    )
    head = f"<h2>{escape(item['title'])}</h2><p class=soft>{escape(item['load'])}</p>"
    if not cells:
        return head + f"<ul class=soft>{missing}</ul>"
    bars = [_bar(_label(name, cell), cell, "records_per_s") for name, cell in cells.items()]
    curves = {_label(name, cell): [(1 / (1 - q), us) for q, us in cell["curve_us"] if q < 1] for name, cell in cells.items()}
    ticks = {1: "0", 2: "50 %", 10: "90 %", 100: "99 %", 1000: "99.9 %", 10000: "99.99 %"}
    far = max((p[0] for points in curves.values() for p in points), default=1)
    percentiles = chart.lines(
        curves,
        chart.Axis("percentile of appends", log=True, ticks={k: v for k, v in ticks.items() if k <= far * 1.01}),
        chart.Axis("latency, us", log=True),
    )
    over_time = {
        _label(name, cell): [(t, p99) for t, _, p99, _ in cell["timeline_us"]]
        for name, cell in cells.items()
        if name not in ("device", "fdatasync")
    }
    charts = (
        panel("Records per second", chart.bars(bars, "durable records per second")),
        panel("Latency percentiles", percentiles),
        panel("Latency over time (p99 of each slice, last round)", chart.lines(over_time, SECONDS, _log("p99, us"))),
    )
    numbers = _numbers(item, cells, facts) + _processes(cells)
    disturbed = "".join(f"<li>{escape(name)}: {escape(text)}</li>" for name, cell in cells.items() for text in host.notes(cell))
    return f"{head}<div class=pair>{''.join(charts)}</div>{numbers}<ul class=soft>{missing}{disturbed}</ul>"


def _label(name: str, cell: dict[str, Any]) -> str:
    return f"{name} (not synced)" if cell.get("incomparable") else name


def _bar(label: str, cell: dict[str, Any], key: str) -> chart.Bar:
    low, high = cell["spread"][key]
    return chart.Bar(label, cell["median"][key], low, high)


NUMBERS = (
    "contender, durability", "records/s", "MB/s", "× best peer", "p50 us", "p99 us", "p99.9 us", "max us, all rounds",
    "slowest / fastest", "CPU us/record, writers", "server", "server MB",
)  # fmt: skip


def _numbers(item: dict[str, Any], cells: dict[str, dict[str, Any]], facts: dict[str, Any]) -> str:
    best = best_peer(item)
    rows = []
    for name, cell in sorted(cells.items(), key=lambda entry: -entry[1]["median"]["records_per_s"]):
        m = cell["median"]
        times = f"{m['records_per_s'] / best[1]:.2f}" if best and best[1] else "–"
        cost = m["writer_cpu_us_per_record"], m["server_cpu_us_per_record"]
        memory = m.get("server_private_bytes", 0) / 1e6
        durability = escape(facts.get(name, {}).get("durability", ""))
        row = [
            f"{escape(name)}<br><small>{durability}</small>",
            f"{m['records_per_s']:,.0f}",
            f"{m['bytes_per_s'] / 1e6:,.1f}",
            times,
            *(_us(m.get(f"latency_us.{key}")) for key in ("p50", "p99", "p999", "max")),
            f"{m['fairness']:.2f}",
            f"{cost[0]:.2f}",
            f"{cost[1]:.2f}" if cost[1] else "–",
            f"{memory:.0f}" if memory else "–",
        ]
        rows.append(("ours" if name.startswith("ringwal") else "", row))
    return table(NUMBERS, rows, wide=(0,))


def _processes(cells: dict[str, dict[str, Any]]) -> str:
    """What each of the engine's processes costs per record."""
    said = []
    middle = cells.get("ringwal", {}).get("median", {})
    for key, cpu in middle.items():
        if key.startswith("processes.") and key.endswith(".cpu_us_per_record"):
            name = key.split(".")[1]
            memory = middle[f"processes.{name}.private"] / 1e6
            said.append(f"{escape(name)} {cpu:.2f} us of processor time a record, {memory:.0f} MB private")
    return f"<p class=soft>ringwal's processes: {'; '.join(said)}.</p>" if said else ""


def _sweep(scenarios: dict[str, Any], prefix: str, key: str) -> dict[str, list[tuple[float, float]]]:
    series: dict[str, list[tuple[float, float]]] = {}
    for name, item in scenarios.items():
        if name.startswith(prefix):
            for who, cell in _cells(item).items():
                if key in cell["median"]:
                    series.setdefault(_label(who, cell), []).append((float(name.removeprefix(prefix)), cell["median"][key]))
    return {who: sorted(points) for who, points in series.items()}


def _sweeps(scenarios: dict[str, Any]) -> str:
    sizes = _sweep(scenarios, "size-", "bytes_per_s")
    parts = []
    for name, (counted, _) in COUNTED.items():
        if records := _sweep(scenarios, f"{name}-", "records_per_s"):
            axis, p99 = _counts_axis(name, records), _sweep(scenarios, f"{name}-", "latency_us.p99")
            parts.append(panel(f"Throughput against {counted}", chart.lines(records, axis, _log("records per second"))))
            parts.append(panel(f"p99 against {counted}", chart.lines(p99, axis, _log("p99, us"))))
    if sizes:
        axis = _sizes_axis(sizes)
        mega = {who: [(x, y / 1e6) for x, y in points] for who, points in sizes.items()}
        records = _sweep(scenarios, "size-", "records_per_s")
        parts.append(panel("Bandwidth against record size", chart.lines(mega, axis, _log("MB per second"))))
        parts.append(panel("Records against record size", chart.lines(records, axis, _log("records per second"))))
    return f"<h2>Scaling</h2><div class=pair>{''.join(parts)}</div>" if parts else ""


def _counts_axis(name: str, series: dict[str, list[tuple[float, float]]]) -> chart.Axis:
    ticks = {n: f"{n:g}" for n in sorted({n for points in series.values() for n, _ in points})}
    return chart.Axis(COUNTED[name][1], log=True, ticks=ticks)


def _sizes_axis(series: dict[str, list[tuple[float, float]]]) -> chart.Axis:
    values = sorted({n for points in series.values() for n, _ in points})
    ticks = {n: f"{n / 1024:g}K" if n >= 1024 else f"{n:g}" for n in values}
    return chart.Axis("record size, bytes; 4 writers", log=True, ticks=ticks)


BATCHING = """<p>A synced write carries what gathered in the lanes while the writes before it were under way; a pass over a
stream confirms the whole persisted run behind its head. Neither waits for a timer.</p>"""


def _batching(scenarios: dict[str, Any]) -> str:
    loads = {name: item for name, item in scenarios.items() if not name.startswith(SWEPT)}
    kinds = {"confirmed_per_sync": "synced write", "confirmed_per_pass": "pass over a stream"}
    sweep = {f"per {what}": _sweep(scenarios, "writers-", key).get("ringwal", []) for key, what in kinds.items()}
    parts = []
    if any(sweep.values()):
        figure = chart.lines(sweep, _counts_axis("writers", sweep), _log("appends confirmed at once, mean"))
        parts.append(panel("Group commit against writers", figure))
    for key, what in kinds.items():
        cells = {name: _cells(item).get("ringwal") for name, item in loads.items()}
        bars = [_bar(name, cell, key) for name, cell in cells.items() if cell and key in cell["median"]]
        if bars:
            parts.append(panel(f"Confirmations per {what}", chart.bars(bars, "appends confirmed at once, mean")))
    return f"<h2>How much is confirmed at once</h2>{BATCHING}<div class=pair>{''.join(parts)}</div>" if parts else ""


def _extras(extras: dict[str, Any]) -> str:
    parts = []
    for name, found in extras.items():
        if name == "before-after":
            continue
        rows = [
            ("", (escape(key), escape(_value(value))))
            for key, value in found.items()
            if key not in ("title", "points", "trace")
        ]
        figure = ""
        if points := found.get("points"):
            series = {"private": [(t, a / 1e6) for t, a, _ in points], "shared": [(t, b / 1e6) for t, _, b in points]}
            figure = chart.lines(series, chart.Axis("seconds"), chart.Axis("MB, engine processes together"))
        parts.append(panel(found["title"], figure + table(("", ""), rows, wide=(1,))))
    return f"<h2>Further measurements</h2><div class=pair>{''.join(parts)}</div>" if parts else ""


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_value(v)}" for k, v in value.items())
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) else json.dumps(value) if isinstance(value, list) else str(value)


def _contenders(facts: dict[str, Any]) -> str:
    rows = []
    for name, fact in facts.items():
        text = f"not measured: {fact['not_measured']}" if "not_measured" in fact else fact["durability"]
        rows.append(("", (escape(name), escape(fact.get("version", "–")), escape(fact.get("writers", "–")), escape(text))))
    kinds = (
        f"<p class=soft>Limits and the engine itself ({', '.join(NOT_PEERS)}) are never counted as a peer; a peer that"
        " does not sync is shown and not counted.</p>"
    )
    return "<h2>Contenders</h2>" + kinds + table(("name", "version", "writers", "durability"), rows, wide=(3,))
