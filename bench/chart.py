"""Hand-made SVG: a line chart and a bar chart, readable in light and dark, without scripts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 14, 44
COLOURS = {
    "ringwal": "#d1495b", "ringwal-log": "#8f5fbf", "device": "#6b7280", "fdatasync": "#a3a9b5", "flock-file": "#9c6644",
    "sqlite": "#2a7fb8", "lmdb": "#3a9d5d", "rocksdb": "#c98a1b", "redis": "#b5568f", "postgresql": "#37a3a3", "nats": "#7a8b2d",
    "before": "#6b7280", "before-sharded": "#2a7fb8", "after": "#d1495b",
}  # fmt: skip
OTHERS = ("#d1495b", "#2a7fb8", "#3a9d5d", "#c98a1b", "#8f5fbf")


def colour(name: str, i: int = 0) -> str:
    """The same name has the same colour in every chart."""
    return COLOURS.get(name, OTHERS[i % len(OTHERS)])


def short(value: float) -> str:
    """1.2k, 3.4M, 0.05."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor * 0.9995:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: its label, and how values become positions and ticks."""

    label: str
    log: bool = False
    ticks: Mapping[float, str] | None = None
    """Fixed ticks by value; None for round ones."""

    def scale(self, values: Sequence[float], begin: float, end: float) -> tuple[Callable[[float], float], Mapping[float, str]]:
        """Position of a value between `begin` and `end`, and the ticks with their texts."""
        low, high = min(values), max(values)
        if self.log:
            low = max(low, 1e-9)
            high = max(high, low * 1.01)
            if self.ticks is None:
                low, high = 10 ** math.floor(math.log10(low) + 1e-9), 10 ** math.ceil(math.log10(high) - 1e-9)
                if high <= low:
                    high = low * 10
            span = math.log(high / low)
            ticks = self.ticks or {v: short(v) for v in _decades(low, high)}
            return (lambda v: float(begin + (end - begin) * math.log(max(v, low) / low) / span)), ticks
        low = min(0.0, low)
        step = _step((high - low) or 1.0)
        high = math.ceil(high / step - 1e-9) * step or 1.0
        ticks = self.ticks or {low + i * step: short(low + i * step) for i in range(round((high - low) / step) + 1)}
        return (lambda v: begin + (end - begin) * (v - low) / (high - low)), ticks


def _decades(low: float, high: float) -> list[float]:
    return [10.0**e for e in range(round(math.log10(low)), round(math.log10(high)) + 1)]


def _step(span: float) -> float:
    raw = span / 5
    base = 10 ** math.floor(math.log10(raw))
    return next(base * m for m in (1, 2, 2.5, 5, 10) if base * m >= raw * 0.999)


def lines(series: Mapping[str, Sequence[tuple[float, float]]], x: Axis, y: Axis) -> str:
    """A line per series with points marked; the engine's own on top and thicker."""
    shown = {name: [p for p in points if not (y.log and p[1] <= 0)] for name, points in series.items()}
    shown = {name: points for name, points in shown.items() if points}
    if not shown:
        return ""
    every = [point for points in shown.values() for point in points]
    at_x, ticks_x = x.scale([p[0] for p in every], LEFT, WIDTH - RIGHT)
    at_y, ticks_y = y.scale([p[1] for p in every], HEIGHT - BOTTOM, TOP)
    parts = _frame(x, y, at_x, ticks_x, at_y, ticks_y)
    for i, (name, points) in sorted(enumerate(shown.items()), key=lambda item: item[1][0] in ("ringwal", "after")):
        ours = name in ("ringwal", "after")
        tint = colour(name, i)
        places = [(at_x(a), at_y(b)) for a, b in points]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{tint}" stroke-width="{2.6 if ours else 1.6}"/>')
        if len(places) <= 24:
            for (a, b), (vx, vy) in zip(places, points, strict=True):
                parts.append(
                    f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{tint}"><title>{escape(name)}: {short(vx)}, {short(vy)}</title></circle>'
                )
    return _figure(parts, HEIGHT, list(shown))


def _frame(
    x: Axis,
    y: Axis,
    at_x: Callable[[float], float],
    ticks_x: Mapping[float, str],
    at_y: Callable[[float], float],
    ticks_y: Mapping[float, str],
) -> list[str]:
    parts = []
    for value, text in ticks_y.items():
        place = at_y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place:.1f}" y2="{place:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{place + 4:.1f}" text-anchor="end">{escape(text)}</text>')
    for value, text in ticks_x.items():
        place = at_x(value)
        parts.append(f'<line class="grid" x1="{place:.1f}" x2="{place:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{place:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{escape(text)}</text>')
    parts.append(
        f'<text class="label" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x.label)}</text>'
    )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text class="label" x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">{escape(y.label)}</text>'
    )
    return parts


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: a value, and the lowest and highest of its rounds."""

    name: str
    value: float
    low: float
    high: float
    note: str = ""


def bars(items: Sequence[Bar], unit: str) -> str:
    """Horizontal bars, longest first, with the spread as a line across the end and the value beside it."""
    items = sorted(items, key=lambda bar: -bar.value)
    if not items:
        return ""
    row, left, right = 26, 110, 150
    height = row * len(items) + 28
    most = max(max(bar.high for bar in items), 1e-12)
    parts = []
    for i, bar in enumerate(items):
        top = 6 + i * row

        def at(value: float) -> float:
            return left + (WIDTH - left - right) * value / most

        parts.append(f'<text x="{left - 8}" y="{top + 14}" text-anchor="end">{escape(bar.name)}</text>')
        parts.append(
            f'<rect x="{left}" y="{top + 2}" width="{max(1.0, at(bar.value) - left):.1f}" height="{row - 9}" rx="2" fill="{colour(bar.name, i)}"/>'
        )
        parts.append(
            f'<line class="spread" x1="{at(bar.low):.1f}" x2="{at(bar.high):.1f}" y1="{top + 10.5}" y2="{top + 10.5}"/>'
        )
        parts.append(
            f'<text x="{at(max(bar.high, bar.value)) + 8:.1f}" y="{top + 14}">{short(bar.value)}{escape(" " + bar.note if bar.note else "")}</text>'
        )
    parts.append(
        f'<text class="label" x="{left}" y="{height - 6}">{escape(unit)}; the line shows the spread over the rounds</text>'
    )
    return _figure(parts, height, [])


def groups(names: Sequence[str], series: Mapping[str, Sequence[float | None]], y: Axis) -> str:
    """Groups of vertical bars, one group per name, one bar per series."""
    values = [value for column in series.values() for value in column if value is not None and value > 0]
    if not values:
        return ""
    at_y, ticks_y = y.scale([*values, min(values) if y.log else 0.0], HEIGHT - BOTTOM, TOP)
    slot = (WIDTH - LEFT - RIGHT) / len(names)
    parts = _frame(Axis(""), y, lambda v: v, {}, at_y, ticks_y)
    width = slot * 0.76 / len(series)
    for i, (name, column) in enumerate(series.items()):
        for k, value in enumerate(column):
            if value is None or value <= 0:
                continue
            left, top = LEFT + slot * (k + 0.12) + i * width, at_y(value)
            parts.append(
                f'<rect x="{left:.1f}" y="{top:.1f}" width="{width - 1.5:.1f}" height="{max(1.0, HEIGHT - BOTTOM - top):.1f}" fill="{colour(name, i)}"><title>{escape(name)}, {escape(names[k])}: {short(value)}</title></rect>'
            )
    for k, name in enumerate(names):
        parts.append(
            f'<text x="{LEFT + slot * (k + 0.5):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle" class="small">{escape(name)}</text>'
        )
    return _figure(parts, HEIGHT, list(series))


def _figure(parts: Sequence[str], height: float, legend: Sequence[str]) -> str:
    keys = "".join(
        f'<span class="key"><i style="background:{colour(name, i)}"></i>{escape(name)}</span>' for i, name in enumerate(legend)
    )
    legend_html = f'<div class="legend">{keys}</div>' if keys else ""
    return f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img">{"".join(parts)}</svg>{legend_html}'
