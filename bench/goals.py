"""The twelve goals and what a run says about them. Every ratio is taken inside one run; nothing is compared across runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.scenario import AHEAD, RECYCLED, US
from bench.stats import best_peer, flatten

MB = 1e6


@dataclass(frozen=True, slots=True)
class Check:
    """One measured ratio against its bound."""

    text: str
    holds: bool
    values: dict[str, float]


Cell = tuple[str, str, str]
"""Scenario, contender and key."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """Of two medians, and of each round, sorted; the rounds are shown, the medians' is judged."""

    value: float
    rounds: list[float]


class MissingError(LookupError):
    """The run did not measure what a goal needs; the message names it."""


class Results:
    """A result.json, asked by name."""

    def __init__(self, result: dict[str, Any]) -> None:
        self.result = result

    def median(self, scenario: str, contender: str, key: str) -> float:
        """A median over the rounds."""
        cell = self.result["scenarios"].get(scenario, {}).get("contenders", {}).get(contender, {})
        try:
            return float(cell["median"][key])
        except KeyError:
            raise MissingError(f"{scenario}: {contender}: {cell.get('not_measured', key)}") from None

    def ratio(self, over: Cell, under: Cell) -> Ratio:
        """Of two medians; with the lowest and highest of the rounds', if both cells have as many."""
        value, above, below = self.median(*over) / self.median(*under), self._rounds(over), self._rounds(under)
        if len(above) != len(below) or not all(below):
            return Ratio(value, [])
        return Ratio(value, sorted(a / b for a, b in zip(above, below, strict=True)))

    def _rounds(self, cell: Cell) -> list[float]:
        """The cell's value in each round; empty if a round lacks it."""
        scenario, contender, key = cell
        turns = [flatten(turn) for turn in self.result["scenarios"][scenario]["contenders"][contender]["turns"]]
        return [turn[key] for turn in turns] if all(key in turn for turn in turns) else []

    def peer(self, scenario: str) -> tuple[str, float]:
        """The best comparable peer's throughput."""
        if scenario not in self.result["scenarios"]:
            raise MissingError(scenario)
        found = best_peer(self.result["scenarios"][scenario])
        if found is None:
            raise MissingError(f"{scenario}: no peer")
        return found

    def extra(self, name: str) -> dict[str, Any]:
        """What a further measurement found."""
        found = self.result.get("extras", {}).get(name)
        if found is None or "not_measured" in found:
            raise MissingError(f"{name}: {(found or {}).get('not_measured', 'not part of this run')}")
        return dict(found)


def _spread(rounds: list[float]) -> str:
    """The lowest and the highest of them, which are sorted."""
    return f" ({rounds[0]:.3g} to {rounds[-1]:.3g})" if rounds else ""


def _check(what: str, measured: float | Ratio, sign: str, bound: float, unit: str) -> Check:
    value, rounds = (measured.value, measured.rounds) if isinstance(measured, Ratio) else (measured, [])
    ends = {"low": rounds[0], "high": rounds[-1]} if rounds else {}
    holds = value >= bound if sign == ">=" else value <= bound
    return Check(f"{what} {value:.3g} {unit}{_spread(rounds)} ({sign} {bound:g})", holds, {what: value, "bound": bound, **ends})


def _at_least(what: str, measured: float | Ratio, bound: float, unit: str = "x") -> Check:
    return _check(what, measured, ">=", bound, unit)


def _at_most(what: str, measured: float | Ratio, bound: float, unit: str = "x") -> Check:
    return _check(what, measured, "<=", bound, unit)


def _one(r: Results) -> list[Check]:
    found = []
    for name, bound in (("p50", 1.25), ("p99", 1.5)):
        key = f"latency_us.{name}"
        found.append(_at_most(f"{name} / bare", r.ratio(("one", US, key), ("one", "device", key)), bound))
    return found


def _times_peer(r: Results, scenario: str, bound: float) -> Check:
    name, _ = r.peer(scenario)
    ratio = r.ratio((scenario, US, "records_per_s"), (scenario, name, "records_per_s"))
    return _at_least(f"throughput / {name}", ratio, bound)


def _sixteen(r: Results) -> list[Check]:
    tail = r.ratio(("sixteen", US, "latency_us.p99"), ("sixteen", US, "latency_us.p50"))
    return [
        _times_peer(r, "sixteen", 4),
        _at_least("slowest / fastest", r.median("sixteen", US, "fairness"), 0.8),
        _at_most("p99 / p50", tail, 4),
    ]


def _if_device_allows(r: Results, scenario: str, wanted: float) -> list[Check]:
    """The absolute number counts only where the bare device could carry it."""
    rate, device = r.median(scenario, US, "records_per_s"), r.median(scenario, "device", "records_per_s")
    if device < wanted:
        return [
            Check(
                f"{rate / 1e6:.2f} M records/s (the device carries {device / 1e6:.2f} M)",
                rate > 0,
                {"rate": rate, "device": device},
            )
        ]
    return [_at_least("rate", rate / 1e6, wanted / 1e6, "M records/s")]


def _ahead(r: Results, scenario: str, key: str, other: str) -> list[Check]:
    """The same while segments filled ahead last: shown beside the goal, which is judged without them."""
    try:
        ratio = r.ratio((scenario, AHEAD, key), (scenario, other, key))
    except MissingError:  # it need not be part of a run
        return []
    text = f"into segments filled ahead {ratio.value:.3g} x {other}{_spread(ratio.rounds)}"
    return [Check(text, holds=True, values={f"ahead / {other}": ratio.value})]


def _recycled(r: Results, scenario: str, key: str) -> list[Check]:
    """Segments that are used again, beside those filled ahead: shown, and not judged either."""
    try:
        ratio = r.ratio((scenario, RECYCLED, key), (scenario, AHEAD, key))
    except MissingError:
        return []
    text = f"into segments used again {ratio.value:.3g} x those filled ahead{_spread(ratio.rounds)}"
    return [Check(text, holds=True, values={"recycled / ahead": ratio.value})]


def _pipelined(r: Results) -> list[Check]:
    checks = [_times_peer(r, "pipelined", 5), *_if_device_allows(r, "pipelined", 1e6)]
    return [*checks, *_ahead(r, "pipelined", "records_per_s", r.peer("pipelined")[0])]


def _batches(r: Results) -> list[Check]:
    checks = [_times_peer(r, "batches", 4), *_if_device_allows(r, "batches", 8e6)]
    return [*checks, *_ahead(r, "batches", "records_per_s", r.peer("batches")[0])]


def _large(r: Results) -> list[Check]:
    bare = r.ratio(("large", US, "bytes_per_s"), ("large", "device", "bytes_per_s"))
    checks = [_at_least("bandwidth / bare", bare, 0.85), _times_peer(r, "large", 3)]
    shown = [*_ahead(r, "large", "bytes_per_s", "device"), *_ahead(r, "large", "records_per_s", r.peer("large")[0])]
    return [*checks, *shown, *_recycled(r, "large", "bytes_per_s")]


def _streams(r: Results) -> list[Check]:
    share = r.ratio(("streams-100000", US, "records_per_s"), ("streams-100", US, "records_per_s"))
    return [_at_least("100,000 / 100 streams", share, 0.7)]


def _sixty_four(r: Results) -> list[Check]:
    share = r.ratio(("sixty-four", US, "records_per_s"), ("sixteen", US, "records_per_s"))
    fair = r.median("sixty-four", US, "fairness")
    return [_at_least("64 / 16 writers", share, 0.9), _at_least("slowest / fastest", fair, 0.25)]


def _recovery(r: Results) -> list[Check]:
    found = r.extra("recovery")
    sizes = sorted((key for key in found if key.endswith("_mib")), key=lambda key: int(key.split("_")[0]))
    small, large = found[sizes[0]], found[sizes[-1]]
    growth = large["peak_private_bytes"] / max(1, small["peak_private_bytes"])
    return [
        _at_most(
            f"{sizes[-1].split('_')[0]} MiB: recovery / (1.5 x bare read + 1 us a record)", large["ratio_to_allowed"], 1.0
        ),
        _at_most("memory, large log / small log", growth, 1.1),
    ]


def _tail(r: Results) -> list[Check]:
    found = r.extra("tail")["confirmed_to_delivered_us"]
    return [_at_most("p50", found["p50"], 60, "us"), _at_most("p99", found["p99"], 300, "us")]


def _idle(r: Results) -> list[Check]:
    return [_at_most("share of one core", 100 * r.extra("idle")["core_share"], 0.2, "%")]


def _memory(r: Results) -> list[Check]:
    found = r.extra("memory")
    return [
        _at_most("private memory", found["private_bytes"] / MB, 60, "MB"),
        _at_most(f"growth over {found['seconds']:.0f} s", found["growth_bytes"] / MB, 1.0, "MB"),
    ]


def _append(r: Results) -> list[Check]:
    found = r.extra("append-cost")
    return [
        _at_most("median", found["append_ns"]["p50"] / 1e3, 1.0, "us"),
        _at_most("blocks kept a record", abs(found["blocks_kept_per_record"]), 0.01, ""),
    ]


GOALS: Sequence[tuple[str, str, Callable[[Results], list[Check]]]] = (
    ("one writer, one outstanding, 1 KiB", "p50 <= 1.25 x, p99 <= 1.5 x the bare durable 4 KiB write", _one),
    ("16 writer processes, one outstanding, 1 KiB", ">= 4 x the best peer; fairness >= 0.8; p99 <= 4 x p50", _sixteen),
    (
        "4 writers, single appends, 1,000 outstanding, 1 KiB",
        ">= 5 x the best peer; >= 1 M records/s if the device allows",
        _pipelined,
    ),
    ("4 writers, append_many of 1,000 x 128 B", ">= 4 x the best peer; >= 8 M records/s if the device allows", _batches),
    ("4 writers, 64 KiB, 16 outstanding", ">= 0.85 x the device's best bandwidth; >= 3 x the best peer", _large),
    ("100,000 streams, 1 KiB, 4 writers", ">= 0.7 x the same with 100 streams", _streams),
    ("64 writer processes", ">= 0.9 x the throughput of 16; nobody starves: slowest / fastest >= 0.25", _sixty_four),
    ("recovery of 1 GiB of 1 KiB records", "<= 1.5 x the bare read + 1 us a record; memory flat", _recovery),
    ("tail: confirmed to delivered in another process", "p50 <= 60 us, p99 <= 300 us", _tail),
    ("idle engine with 64 attached clients", "<= 0.2 % of one core", _idle),
    ("resident memory of the engine's processes", "<= 60 MB plus the rings; flat under load", _memory),
    ("Python cost of append(1 KiB)", "<= 1.0 us median, nothing kept per record", _append),
)


def judge(result: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per goal: what was measured, and `yes`, `no` or `not measured`."""
    rows = []
    results = Results(result)
    for number, (scenario, goal, check) in enumerate(GOALS, 1):
        row: dict[str, Any] = {"number": number, "scenario": scenario, "goal": goal}
        try:
            checks = check(results)
        except (MissingError, KeyError, ZeroDivisionError) as error:
            rows.append(row | {"measured": f"{error}"[:80], "verdict": "not measured", "checks": []})
            continue
        verdict = "yes" if all(c.holds for c in checks) else "no"
        details = [{"text": c.text, "holds": c.holds, "values": c.values} for c in checks]
        measured = "; ".join(c.text + ("" if c.holds else " NOT REACHED") for c in checks)
        rows.append(row | {"measured": measured, "verdict": verdict, "checks": details})
    return rows
