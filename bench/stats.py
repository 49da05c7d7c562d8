"""Numbers out of samples. No percentile is given that the sample count does not support."""

from __future__ import annotations

import statistics
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.contender import optional

QUANTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("p9999", 0.9999))
CURVE = (0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999, 0.99999, 1.0)
TIMELINE_POINTS = 60


def quantile(ordered: Sequence[int], q: float) -> int:
    """The smallest value that at least a share q of the ordered samples does not exceed."""
    return ordered[min(len(ordered) - 1, max(0, -int(-q * len(ordered) // 1) - 1))]


def latency_us(samples: Iterable[int]) -> dict[str, float]:
    """Percentiles, mean and maximum in microseconds of latencies in ns; a quantile q needs 1 / (1 - q) samples."""
    ordered = sorted(samples)
    if not ordered:
        return {"n": 0}
    found = {name: quantile(ordered, q) / 1e3 for name, q in QUANTILES if len(ordered) * (1 - q) >= 0.999}
    return {"n": len(ordered), **found, "mean": statistics.fmean(ordered) / 1e3, "max": ordered[-1] / 1e3}


def curve_us(samples: Iterable[int]) -> list[tuple[float, float]]:
    """(quantile, microseconds) along the distribution, as far as the sample count reaches."""
    ordered = sorted(samples)
    supported = [q for q in CURVE if q == 1.0 or len(ordered) * (1 - q) >= 1]
    return [(q, quantile(ordered, q) / 1e3) for q in supported] if ordered else []


def timeline_us(samples: array[int], start_ns: int) -> list[tuple[float, float, float, float]]:
    """(second, p50, p99, max) of even slices of the turn. `samples` alternates latency and clock."""
    if not samples:
        return []
    latencies, clocks = samples[::2], samples[1::2]
    span = max(clocks) - start_ns + 1
    slices: list[list[int]] = [[] for _ in range(TIMELINE_POINTS)]
    for latency, at in zip(latencies, clocks, strict=True):
        slices[max(0, at - start_ns) * TIMELINE_POINTS // span].append(latency)
    points = []
    for i, content in enumerate(slices):
        if content:
            content.sort()
            second = (i + 0.5) * span / TIMELINE_POINTS / 1e9
            points.append((second, quantile(content, 0.5) / 1e3, quantile(content, 0.99) / 1e3, content[-1] / 1e3))
    return points


def medians(turns: Sequence[dict[str, Any]]) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Median and (lowest, highest) over turns, of every number that all turns have; nested keys are joined by a dot.

    Of a maximum it is the maximum: the worst of all rounds would not be one in the middle.
    """
    flat = [flatten(turn) for turn in turns]
    keys = [key for key in flat[0] if all(key in turn for turn in flat)] if flat else []
    middle = {
        key: (max if key.rpartition(".")[2] == "max" else statistics.median)([turn[key] for turn in flat]) for key in keys
    }
    spread = {key: (min(turn[key] for turn in flat), max(turn[key] for turn in flat)) for key in keys}
    return middle, spread


def flatten(value: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Every number in it; nested keys are joined by a dot."""
    found: dict[str, float] = {}
    for key, item in value.items():
        if isinstance(item, dict):
            found |= flatten(item, f"{prefix}{key}.")
        elif isinstance(item, int | float):
            found[prefix + key] = item
    return found


LIMITS = ("device", "fdatasync")
NOT_PEERS = (*LIMITS, "ringwal", "ringwal-log", "ringwal-ahead", "ringwal-recycled")


def best_peer(scenario: dict[str, Any], key: str = "records_per_s") -> tuple[str, float] | None:
    """The peer with the highest median in a scenario's result, of those whose durability is comparable."""
    values = {
        name: float(cell["median"][key])
        for name, cell in scenario["contenders"].items()
        if name not in NOT_PEERS and "median" in cell and not cell.get("incomparable")
    }
    return max(values.items(), key=lambda item: item[1]) if values else None


def write_hgrm(path: Path, samples: Iterable[int]) -> None:
    """HdrHistogram's percentile text (values in microseconds), which its plotters read. Needs the hdrhistogram package."""
    histogram = optional("hdrh.histogram").HdrHistogram(1, 3_600_000_000_000, 3)
    counts: dict[int, int] = {}
    for value in samples:
        counts[value] = counts.get(value, 0) + 1
    for value, count in counts.items():
        histogram.record_value(max(1, value), count)
    with path.open("wb") as out:
        histogram.output_percentile_distribution(out, 1000.0, ticks_per_half_distance=5)
