"""`compare A B`: what changed between two runs, and whether it is worse than allowed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

METRICS = {
    "throughput": ("records_per_s", -1),
    "p50": ("latency_us.p50", 1),
    "p99": ("latency_us.p99", 1),
    "p999": ("latency_us.p999", 1),
    "max": ("latency_us.max", 1),
    "fairness": ("fairness", -1),
    "cpu": ("server_cpu_us_per_record", 1),
}
"""Where each metric stands in a result, and the direction in which it gets worse. Medians over the rounds; `max` is of all."""


@dataclass(frozen=True, slots=True)
class Limit:
    """`p99:10%`: the metric may get worse by that share."""

    metric: str
    share: float

    @classmethod
    def parse(cls, text: str) -> Limit:
        """Raises ValueError with what is wrong."""
        match = re.fullmatch(r"(\w+):(\d+(?:\.\d+)?)%", text)
        if match is None or match[1] not in METRICS:
            raise ValueError(f"{text!r}: write METRIC:PERCENT%, where METRIC is one of {', '.join(METRICS)}")
        return cls(match[1], float(match[2]) / 100)


@dataclass(frozen=True, slots=True)
class Change:
    """One metric of one contender in one scenario, before and after."""

    scenario: str
    contender: str
    metric: str
    before: float
    after: float

    @property
    def worse(self) -> float:
        """By which share it got worse; negative if it got better."""
        if not self.before:
            return 0.0
        return METRICS[self.metric][1] * (self.after - self.before) / self.before


def changes(before: dict[str, Any], after: dict[str, Any], contender: str | None) -> Iterator[Change]:
    """Everything that both runs measured."""
    for name, old in before["scenarios"].items():
        new = after["scenarios"].get(name)
        for who in old["contenders"] if new else ():
            a, b = old["contenders"][who].get("median"), new["contenders"].get(who, {}).get("median")
            if not a or not b or (contender and who != contender):
                continue
            for metric, (key, _) in METRICS.items():
                if key in a and key in b:
                    yield Change(name, who, metric, a[key], b[key])


def lost(before: dict[str, Any], after: dict[str, Any], contender: str | None) -> Iterator[tuple[str, str, str]]:
    """Scenario, contender and the reason, of every cell that the first run measured and the second did not."""
    for name, old in before["scenarios"].items():
        new = after["scenarios"].get(name, {"contenders": {}})["contenders"]
        for who, cell in old["contenders"].items():
            if "median" in cell and "median" not in new.get(who, {}) and contender in (None, who):
                yield name, who, new.get(who, {}).get("not_measured", "not part of the run")


def failures(found: Sequence[Change], limits: Sequence[Limit]) -> list[Change]:
    """The changes that are worse than a limit allows."""
    allowed = {limit.metric: limit.share for limit in limits}
    return [change for change in found if change.metric in allowed and change.worse > allowed[change.metric]]
