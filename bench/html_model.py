"""The report's section on before and after: charts, a table, and what the numbers mean."""

from __future__ import annotations

from html import escape
from itertools import product
from typing import Any

from bench import chart

WAYS = ("before", "before-sharded", "after")
EXPLANATION = """
<p><b>before</b>: one lock; a completion sets its flag and advances the queue inside it, one request a pass.
<b>before-sharded</b>: the same with a lock per stream. <b>after</b>: the flag is set by CAS outside any lock; whoever
completes the head of a stream takes the lock and confirms the whole run behind it. Queue, timers, clock reads and the drawn
I/O times are the same; I/O is simulated, so that no disk's noise covers the difference.</p>
<p><b>How to read it.</b> With one request in flight there is nothing to gather: both ways take one free lock per
confirmation, and <i>after</i> pays one CAS more. With requests that complete out of order, <i>before</i> takes the lock
about twice per request (once to set a flag behind a head that is not there yet, once to confirm it), while <i>after</i>
takes it once per run: the longer the tail of the I/O times and the more in flight, the longer the run. While the processors
keep up, throughput is set by the I/O times and the window of requests in flight, so both ways confirm the same number per
second, and the difference shows in lock acquisitions and in the delay between the moment a request could have been
confirmed and the moment it was. Throughput differs once confirming is what limits.</p>
"""
COLUMNS = (
    ("confirmed_per_s", "confirmed/s", "{:,.0f}"),
    ("confirmed_per_hold", "per lock hold", "{:.2f}"),
    ("empty_holds_share", "empty holds", "{:.0%}"),
    ("contended_share", "contended", "{:.1%}"),
    ("lock_wait_ns_per_confirmation", "lock wait ns/conf.", "{:.0f}"),
    ("lock_held_ns_per_confirmation", "lock held ns/conf.", "{:.0f}"),
    ("latency_p50_us", "p50 us", "{:,.0f}"),
    ("latency_p99_us", "p99 us", "{:,.0f}"),
    ("latency_p999_us", "p99.9 us", "{:,.0f}"),
    ("delay_p50_us", "delay p50 us", "{:,.1f}"),
    ("delay_p99_us", "delay p99 us", "{:,.0f}"),
)
CHARTS = (
    ("confirmed_per_s", "confirmations per second"),
    ("confirmed_per_hold", "confirmations per lock hold"),
    ("delay_p99_us", "delay p99, us"),
)


def section(found: dict[str, Any] | None) -> str:
    """Empty if the run did not measure it."""
    if not found or "rows" not in found:
        return ""
    rows = found["rows"]
    shapes = _values(rows, "shape")
    index = {(row["shape"], row["times"], row["completers"], row["way"]): row for row in rows}
    panels = []
    for kind, times, (key, title) in product(_values(rows, "completers"), _values(rows, "times"), CHARTS):
        series = {way: [index.get((shape, times, kind, way), {}).get(key) for shape in shapes] for way in WAYS}
        figure = chart.groups(shapes, series, chart.Axis(title, log=True))
        head = f"{escape(title)}: {escape(times)} I/O times, completers as {escape(kind)}"
        panels.append(f"<div class=panel><h3>{head}</h3>{figure}</div>")
    lead = ", ".join(f"{escape(shape)}: {ratio:.2f}" for shape, ratio in found["summary"].items())
    head = "<th>case</th><th>I/O times</th><th>completers</th><th>way</th>" + "".join(
        f"<th>{escape(title)}</th>" for _, title, _ in COLUMNS
    )
    lines = "".join(_line(row) for row in rows)
    return (
        f"<h2>Before and after</h2>{EXPLANATION}<p>Throughput of <i>after</i> over <i>before</i>,"
        f" geometric mean over I/O times and kinds of completers: {lead}.</p>"
        f"<div class=pair>{''.join(panels)}</div><table><tr>{head}</tr>{lines}</table>"
    )


def _values(rows: list[dict[str, Any]], key: str) -> list[str]:
    return list(dict.fromkeys(row[key] for row in rows))


def _line(row: dict[str, Any]) -> str:
    names = "".join(f"<td>{escape(str(row[key]))}</td>" for key in ("shape", "times", "completers", "way"))
    numbers = "".join(f"<td>{form.format(row[key])}</td>" for key, _, form in COLUMNS)
    return f"<tr class='{'ours' if row['way'] == 'after' else ''}'>{names}{numbers}</tr>"
