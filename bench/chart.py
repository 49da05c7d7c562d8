"""Hand-made SVG: a line chart and a bar chart, readable in light and dark, without scripts."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 14, 44
COLOURS = {
    "ringwal": "#d1495b", "ringwal-log": "#8f5fbf", "ringwal-ahead": "#e08a3c", "ringwal-recycled": "#b8860b",
    "device": "#6b7280", "fdatasync": "#a3a9b5", "flock-file": "#9c6644",
    "sqlite": "#2a7fb8", "lmdb": "#3a9d5d", "rocksdb": "#c98a1b", "redis": "#b5568f", "postgresql": "#37a3a3",
    "nats": "#7a8b2d",
    "before": "#6b7280", "before-sharded": "#2a7fb8", "after": "#d1495b",
}  # fmt: skip
OURS = ("ringwal", "after")
"""Drawn last and thicker."""
ALONE = """text { font: 11px system-ui, sans-serif; fill: #1c2128; } text.label { fill: #5b6472; }
.grid { stroke: #d8dde4; } .spread { stroke: #1c2128; stroke-width: 1.5; opacity: .65; }"""
MARKED = 24
"""Lines with more points get no dots."""
OTHERS = ("#d1495b", "#2a7fb8", "#3a9d5d", "#c98a1b", "#8f5fbf")


def colour(name: str, i: int = 0) -> str:
    """The same name has the same colour in every chart, also with a remark in brackets behind it."""
    return COLOURS.get(name.partition(" (")[0], OTHERS[i % len(OTHERS)])


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
            span: float = math.log(high / low)
            length = end - begin
            ticks = self.ticks or {v: short(v) for v in _decades(low, high)}
            return (lambda v: begin + length * float(math.log(max(v, low) / low)) / span), ticks
        low = min(0.0, low)
        step = _step((high - low) or 1.0)
        high = math.ceil(high / step - 1e-9) * step or 1.0
        ticks = self.ticks or {low + i * step: short(low + i * step) for i in range(round((high - low) / step) + 1)}
        return (lambda v: begin + (end - begin) * (v - low) / (high - low)), ticks


def _decades(low: float, high: float) -> list[float]:
    return [10.0**e for e in range(round(math.log10(low)), round(math.log10(high)) + 1)]


def _step(span: float) -> float:
    raw = span / 5
    base: float = 10.0 ** math.floor(math.log10(raw))
    return next((base * m for m in (1, 2, 2.5, 5) if base * m >= raw * 0.999), base * 10)


def lines(series: Mapping[str, Sequence[tuple[float, float]]], x: Axis, y: Axis) -> str:
    """A line per series with points marked; the engine's own on top and thicker."""
    shown = {name: [p for p in points if not (y.log and p[1] <= 0)] for name, points in series.items()}
    shown = {name: points for name, points in shown.items() if points}
    if not shown:
        return ""
    every = [point for points in shown.values() for point in points]
    at_x, ticks_x = x.scale([p[0] for p in every], LEFT, WIDTH - RIGHT)
    at_y, ticks_y = y.scale([p[1] for p in every], HEIGHT - BOTTOM, TOP)
    parts = [
        *_labels(x.label, y.label),
        *_rows({at_y(v): t for v, t in ticks_y.items()}),
        *_columns({at_x(v): t for v, t in ticks_x.items()}),
    ]
    for i, (name, points) in sorted(enumerate(shown.items()), key=lambda item: item[1][0] in OURS):
        tint = colour(name, i)
        places = [(at_x(a), at_y(b)) for a, b in points]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        parts.append(tag("polyline", points=path, fill="none", stroke=tint, stroke_width=2.6 if name in OURS else 1.6))
        if len(places) <= MARKED:
            for (a, b), (vx, vy) in zip(places, points, strict=True):
                hint = tag("title", f"{name}: {short(vx)}, {short(vy)}")
                parts.append(tag("circle", hint, cx=a, cy=b, r=3, fill=tint))
    return _figure(parts, HEIGHT, list(shown))


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: a value, the lowest and highest of its rounds, and its colour if it is not that of its name."""

    name: str
    value: float
    low: float
    high: float
    tint: str = ""


def bars(items: Sequence[Bar], unit: str) -> str:
    """Horizontal bars, longest first, with the spread as a line across the end and the value beside it."""
    items = sorted(items, key=lambda bar: -bar.value)
    if not items:
        return ""
    row, left, right = 26, 130, 90
    height = row * len(items) + 28
    unit_length = (WIDTH - left - right) / max(*(bar.high for bar in items), 1e-12)
    parts = []
    for i, bar in enumerate(items):
        top = 6 + i * row
        length, low, high = (unit_length * value for value in (bar.value, bar.low, bar.high))
        parts += [
            tag("text", escape(bar.name), x=left - 8, y=top + 14, text_anchor="end"),
            tag("rect", x=left, y=top + 2, width=max(1.0, length), height=row - 9, rx=2, fill=bar.tint or colour(bar.name, i)),
            tag("line", class_="spread", x1=left + low, x2=left + high, y1=top + 10.5, y2=top + 10.5),
            tag("text", short(bar.value), x=left + max(length, high) + 8, y=top + 14),
        ]
    legend = f"{escape(unit)}; the line shows the spread over the rounds"
    return _figure([*parts, tag("text", legend, class_="label", x=left, y=height - 6)], height, [])


def groups(names: Sequence[str], series: Mapping[str, Sequence[float | None]], y: Axis) -> str:
    """Groups of vertical bars, one group per name, one bar per series."""
    values = [value for column in series.values() for value in column if value is not None and value > 0]
    if not values:
        return ""
    floor = HEIGHT - BOTTOM
    at_y, ticks_y = y.scale([*values, min(values) if y.log else 0.0], floor, TOP)
    slot = (WIDTH - LEFT - RIGHT) / len(names)
    width = slot * 0.76 / len(series)
    parts = [*_labels("", y.label), *_rows({at_y(v): t for v, t in ticks_y.items()})]
    for i, (name, column) in enumerate(series.items()):
        for k, value in enumerate(column):
            if value is None or value <= 0:
                continue
            hint = tag("title", f"{name}, {escape(names[k])}: {short(value)}")
            left, top = LEFT + slot * (k + 0.12) + i * width, at_y(value)
            size = {"width": width - 1.5, "height": max(1.0, floor - top)}
            parts.append(tag("rect", hint, x=left, y=top, fill=colour(name, i), **size))
    for k, name in enumerate(names):
        middle = LEFT + slot * (k + 0.5)
        parts.append(tag("text", escape(name), class_="small", x=middle, y=floor + 16, text_anchor="middle"))
    return _figure(parts, HEIGHT, list(series))


def tag(name: str, content: str = "", **attributes: str | float) -> str:
    """An element; `stroke_width` becomes `stroke-width`, `class_` becomes `class`. The content is SVG already."""
    texts = (
        f'{key.rstrip("_").replace("_", "-")}="{f"{value:.1f}" if isinstance(value, float) else value}"'
        for key, value in attributes.items()
    )
    return f"<{name} {' '.join(texts)}>{content}</{name}>"


def _rows(ticks: Mapping[float, str]) -> list[str]:
    parts = []
    for place, text in ticks.items():
        parts.append(tag("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=place, y2=place))
        parts.append(tag("text", escape(text), x=LEFT - 6, y=place + 4, text_anchor="end"))
    return parts


def _columns(ticks: Mapping[float, str]) -> list[str]:
    parts = []
    for place, text in ticks.items():
        parts.append(tag("line", class_="grid", x1=place, x2=place, y1=TOP, y2=HEIGHT - BOTTOM))
        parts.append(tag("text", escape(text), x=place, y=HEIGHT - BOTTOM + 16, text_anchor="middle"))
    return parts


def _labels(x: str, y: str) -> list[str]:
    across, up = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    turned = f"rotate(-90 14 {up})"
    return [
        tag("text", escape(x), class_="label", x=across, y=HEIGHT - 8, text_anchor="middle"),
        tag("text", escape(y), class_="label", x=14, y=up, text_anchor="middle", transform=turned),
    ]


def _figure(parts: Sequence[str], height: float, legend: Sequence[str]) -> str:
    keys = "".join(
        f'<span class="key"><i style="background:{colour(name, i)}"></i>{escape(name)}</span>' for i, name in enumerate(legend)
    )
    legend_html = f'<div class="legend">{keys}</div>' if keys else ""
    return f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img">{"".join(parts)}</svg>{legend_html}'


def alone(figure: str) -> str:
    """The drawing of a figure as a file of its own, on white, with its legend drawn into it."""
    drawing, _, legend = figure.partition("</svg>")
    if not drawing:
        raise KeyError("nothing to draw")
    names = re.findall(r'<span class="key"><i style="background:([^"]+)"></i>([^<]*)</span>', legend)
    begin, _, content = drawing.partition(">")
    height = float(begin.split('viewBox="')[1].split('"')[0].split()[3])
    keys, at = [], LEFT
    for tint, name in names:
        keys.append(tag("rect", x=at, y=height + 2, width=10, height=10, rx=2, fill=tint))
        keys.append(tag("text", name, x=at + 14, y=height + 11))
        at += 26 + 7 * len(name)
    full = height + (20 if names else 0)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {full:g}"><style>{ALONE}</style>'
        f"{tag('rect', width=WIDTH, height=full, fill='#fff')}{content}{''.join(keys)}</svg>\n"
    )
