"""The report as one page that needs nothing else: text, tables and SVG."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from bench import chart, html_model
from bench.stats import NOT_PEERS, best_peer

STYLE = """
:root { color-scheme: light dark; --text: #1c2128; --soft: #5b6472; --line: #d8dde4; --back: #fff; --panel: #f6f7f9; --good: #1a7f37; --bad: #c0392b; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e7eb; --soft: #9aa4b2; --line: #363d47; --back: #14171b; --panel: #1c2026; --good: #4cc26a; --bad: #ff7b6b; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 1360px; margin: 0 auto; padding: 24px; }
h1 { margin: 0 0 4px; } h2 { margin: 44px 0 8px; border-bottom: 1px solid var(--line); padding-bottom: 4px; } h3 { margin: 20px 0 4px; font-size: 15px; }
p, li { max-width: 76em; } .soft { color: var(--soft); } .good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 20px; } .panel { background: var(--panel); border-radius: 8px; padding: 10px 14px; }
table { border-collapse: collapse; font-size: 13px; margin: 10px 0; width: 100%; display: block; overflow-x: auto; }
th, td { padding: 3px 10px; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; white-space: nowrap; } th { color: var(--soft); font-weight: 600; }
td:first-child, th:first-child, td.wide, th.wide { text-align: left; } td.wide { white-space: normal; min-width: 16em; }
tr.ours td { font-weight: 600; } svg { width: 100%; height: auto; } svg text { font: 11px system-ui, sans-serif; fill: var(--text); } svg text.label { fill: var(--soft); } svg text.small { font-size: 9.5px; }
svg .grid { stroke: var(--line); stroke-width: 1; } svg .spread { stroke: var(--text); stroke-width: 1.5; opacity: .65; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 14px; font-size: 12px; color: var(--soft); } .key i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 5px; }
"""


def page(result: dict[str, Any]) -> str:
    """The whole page."""
    scenarios = result["scenarios"]
    loads = {name: item for name, item in scenarios.items() if not name.startswith(("writers-", "size-"))}
    parts = [
        f"<h1>ringwal benchmark</h1><p class=soft>{escape(result['time'])} · commit {escape(str(result['environment']['commit']))}"
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


def table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], wide: Sequence[int] = ()) -> str:
    """A table; each row is (class, cells); cells are HTML."""

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(f"<{tag}{' class=wide' if i in wide else ''}>{cell}</{tag}>" for i, cell in enumerate(row))

    lines = "".join(f"<tr class='{kind}'>{cells('td', row)}</tr>" for kind, row in rows)
    return f"<table><tr>{cells('th', head)}</tr>{lines}</table>"


def _us(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


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
    bars = [_bar(name, cell, "records_per_s", "not synced" if cell.get("incomparable") else "") for name, cell in cells.items()]
    curves = {
        name: [
            (1 / (1 - min(q, 1 - 1 / max(2, cell["median"].get("latency_us.n", 2)))), us) for q, us in cell["curve_us"] if q < 1
        ]
        for name, cell in cells.items()
    }
    ticks = {1: "0", 2: "50 %", 10: "90 %", 100: "99 %", 1000: "99.9 %", 10000: "99.99 %"}
    far = max((p[0] for points in curves.values() for p in points), default=1)
    percentiles = chart.lines(
        curves,
        chart.Axis("percentile of appends", log=True, ticks={k: v for k, v in ticks.items() if k <= far * 1.01}),
        chart.Axis("latency, us", log=True),
    )
    over_time = {
        name: [(t, p99) for t, _, p99, _ in cell["timeline_us"]]
        for name, cell in cells.items()
        if name not in ("device", "fdatasync")
    }
    charts = (
        f"<div class=panel><h3>Records per second</h3>{chart.bars(bars, 'durable records per second')}</div>"
        f"<div class=panel><h3>Latency percentiles</h3>{percentiles}</div>"
        f"<div class=panel><h3>Latency over time (p99 of each slice, last round)</h3>{chart.lines(over_time, chart.Axis('seconds'), chart.Axis('p99, us', log=True))}</div>"
    )
    return f"{head}<div class=pair>{charts}</div>{_numbers(item, cells, facts)}<ul class=soft>{missing}</ul>"


def _bar(label: str, cell: dict[str, Any], key: str, note: str = "") -> chart.Bar:
    low, high = cell["spread"][key]
    return chart.Bar(label, cell["median"][key], low, high, note)


def _numbers(item: dict[str, Any], cells: dict[str, dict[str, Any]], facts: dict[str, Any]) -> str:
    best = best_peer(item)
    rows = []
    for name, cell in sorted(cells.items(), key=lambda entry: -entry[1]["median"]["records_per_s"]):
        m = cell["median"]
        times = f"{m['records_per_s'] / best[1]:.2f}" if best and best[1] else "–"
        cost = m["writer_cpu_us_per_record"], m["server_cpu_us_per_record"]
        memory = m.get("server_memory.private", 0) / 1e6
        rows.append(("ours" if name.startswith("ringwal") else "", (
            escape(name), f"{m['records_per_s']:,.0f}", f"{m['bytes_per_s'] / 1e6:,.1f}", times,
            *(_us(m.get(f"latency_us.{key}")) for key in ("p50", "p99", "p999", "max")), f"{m['fairness']:.2f}",
            f"{cost[0]:.2f}", f"{cost[1]:.2f}" if cost[1] else "–", f"{memory:.0f}" if memory else "–", escape(facts.get(name, {}).get("durability", "")),
        )))  # fmt: skip
    head = (
        "contender",
        "records/s",
        "MB/s",
        "× best peer",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "max us",
        "slowest / fastest",
        "CPU us/record, writers",
        "server",
        "server MB",
        "durability",
    )
    return table(head, rows, wide=(12,))


def _sweep(scenarios: dict[str, Any], prefix: str, key: str) -> dict[str, list[tuple[float, float]]]:
    series: dict[str, list[tuple[float, float]]] = {}
    for name, item in scenarios.items():
        if name.startswith(prefix):
            for who, cell in _cells(item).items():
                if key in cell["median"]:
                    series.setdefault(who, []).append((float(name.removeprefix(prefix)), cell["median"][key]))
    return {who: sorted(points) for who, points in series.items()}


def _sweeps(scenarios: dict[str, Any]) -> str:
    writers, sizes = _sweep(scenarios, "writers-", "records_per_s"), _sweep(scenarios, "size-", "bytes_per_s")
    parts = []
    if writers:
        ticks = {n: f"{n:g}" for n in sorted({p[0] for points in writers.values() for p in points})}
        axis = chart.Axis("writer processes, one append outstanding each", log=True, ticks=ticks)
        p99 = _sweep(scenarios, "writers-", "latency_us.p99")
        parts.append(
            f"<div class=panel><h3>Throughput against writers (1 KiB)</h3>{chart.lines(writers, axis, chart.Axis('records per second', log=True))}</div>"
        )
        parts.append(
            f"<div class=panel><h3>p99 against writers (1 KiB)</h3>{chart.lines(p99, axis, chart.Axis('p99, us', log=True))}</div>"
        )
    if sizes:
        ticks = {
            n: f"{n / 1024:g}K" if n >= 1024 else f"{n:g}" for n in sorted({p[0] for points in sizes.values() for p in points})
        }
        mega = {who: [(x, y / 1e6) for x, y in points] for who, points in sizes.items()}
        axis = chart.Axis("record size, bytes; 4 writers", log=True, ticks=ticks)
        parts.append(
            f"<div class=panel><h3>Bandwidth against record size</h3>{chart.lines(mega, axis, chart.Axis('MB per second', log=True))}</div>"
        )
        records = _sweep(scenarios, "size-", "records_per_s")
        parts.append(
            f"<div class=panel><h3>Records against record size</h3>{chart.lines(records, axis, chart.Axis('records per second', log=True))}</div>"
        )
    return f"<h2>Scaling</h2><div class=pair>{''.join(parts)}</div>" if parts else ""


def _batching(scenarios: dict[str, Any]) -> str:
    syncs, passes = _sweep(scenarios, "writers-", "confirmed_per_sync"), _sweep(scenarios, "writers-", "confirmed_per_pass")
    series = {
        "confirmations per sync": syncs.get("ringwal", []),
        "confirmations per pass over a stream": passes.get("ringwal", []),
    }
    bars = {key: [
        _bar(name, cell, key)
        for name, item in scenarios.items() if "-" not in name or not name.split("-")[1].isdigit()
        for who, cell in _cells(item).items() if who == "ringwal" and key in cell["median"]
    ] for key in ("confirmed_per_sync", "confirmed_per_pass")}  # fmt: skip
    parts = []
    if any(series.values()):
        ticks = {n: f"{n:g}" for points in series.values() for n, _ in points}
        axis = chart.Axis("writer processes, one append outstanding each", log=True, ticks=ticks)
        parts.append(
            f"<div class=panel><h3>Group commit against writers</h3>{chart.lines(series, axis, chart.Axis('confirmations', log=True))}</div>"
        )
    for key, title in (
        ("confirmed_per_sync", "Confirmations per synced write"),
        ("confirmed_per_pass", "Confirmations per pass over a stream"),
    ):
        if bars[key]:
            parts.append(f"<div class=panel><h3>{title}</h3>{chart.bars(bars[key], 'appends confirmed at once, mean')}</div>")
    text = "<p>A synced write carries what gathered in the lanes while the writes before it were under way; a pass over a stream confirms the whole persisted run behind its head. Both need no timer.</p>"
    return f"<h2>How much is confirmed at once</h2>{text}<div class=pair>{''.join(parts)}</div>" if parts else ""


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
        parts.append(f"<div class=panel><h3>{escape(found['title'])}</h3>{figure}{table(('', ''), rows, wide=(1,))}</div>")
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
    kinds = f"<p class=soft>Limits and variants of the engine itself ({', '.join(NOT_PEERS)}) are never counted as a peer; a peer that does not sync is shown and not counted.</p>"
    return "<h2>Contenders</h2>" + kinds + table(("name", "version", "writers", "durability"), rows, wide=(3,))
