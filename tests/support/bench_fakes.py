"""Stand-ins for clocks, stores, contenders and results, whose every time, failure and number the test decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import goals, loops
from bench.contender import BlockingSession, Contender, ContenderFailedError, PipelinedSession, Plan
from bench.scenario import Scenario

S = 1_000_000_000


def plan(scenario: Scenario, window: float, commit_records: int = 1, warm: float = 0.0, writer: int = 0) -> Plan:
    """A writer's plan; times in seconds."""
    return Plan(writer, scenario, commit_records, int(warm * S), int(window * S))


class Clock:
    """A clock that only the test moves."""

    def __init__(self, replace: Callable[[object, str, object], None]) -> None:
        self.now = 0
        replace(loops, "clock", lambda: self.now)
        replace(loops, "sleep_until", self.sleep_until)

    def sleep_until(self, when: int) -> None:
        self.now = max(self.now, when)


class Store(BlockingSession):
    """Takes the given times for its commits, then the last of them for ever."""

    def __init__(self, clock: Clock, *service: int) -> None:
        self.clock, self.service = clock, list(service)
        self.commits: list[tuple[int, int]] = []

    def commit(self, stream: int, records: Sequence[bytes]) -> None:
        self.clock.now += self.service.pop(0) if len(self.service) > 1 else self.service[0]
        self.commits.append((stream, len(records)))

    def close(self) -> None:
        """Nothing is held."""


class Pending:
    """A receipt that is confirmed at a given time."""

    def __init__(self, clock: Clock, at: int) -> None:
        self.clock, self.at = clock, at

    def done(self) -> bool:
        return self.clock.now >= self.at

    def result(self, timeout: float) -> None:
        if self.at > self.clock.now + timeout * S:
            self.clock.now += int(timeout * S)
            raise TimeoutError
        self.clock.now = max(self.clock.now, self.at)


class Pipeline(PipelinedSession):
    """Confirms each append a fixed time after it was made, and keeps count of what is outstanding."""

    def __init__(self, clock: Clock, delay: int, cost: int = 1000) -> None:
        self.clock, self.delay, self.cost = clock, delay, cost
        self.made: list[Pending] = []
        self.most = 0

    def appenders(self, plan: Plan) -> list[Any]:
        return [self.append]

    def append(self) -> Pending:
        self.clock.now += self.cost
        self.made.append(Pending(self.clock, self.clock.now + self.delay))
        self.most = max(self.most, sum(not receipt.done() for receipt in self.made[-1100:]))
        return self.made[-1]

    def close(self) -> None:
        """Nothing is held."""


class BrokenSession(BlockingSession):
    """Fails at its first commit."""

    def commit(self, stream: int, records: Sequence[bytes]) -> None:
        raise OSError("commit broke")

    def close(self) -> None:
        """Nothing is held."""


class Broken(Contender):
    """Fails at the given step, at most of them with an error that nobody expects."""

    name = "broken"
    durability = "none"

    def __init__(self, step: str) -> None:
        self.step, self.ended = step, False

    def _may_break(self, step: str) -> None:
        if self.step == step:
            raise ValueError(f"{step} broke")

    def unavailable(self) -> str | None:
        self._may_break("unavailable")
        return None

    def version(self) -> str:
        self._may_break("version")
        return "1"

    def prepare(self, directory: Path) -> None:
        self._may_break("prepare")

    def setup(self, directory: Path, scenario: Scenario) -> None:
        self._may_break("start")
        if self.step == "setup":
            raise ContenderFailedError("setup broke")

    def open(self, plan: Plan) -> BlockingSession:
        if self.step == "open":
            raise OSError("open broke")
        return BrokenSession()

    def teardown(self) -> None:
        self.ended = True


class Present(BlockingSession):
    """A file shows that it is open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def commit(self, stream: int, records: Sequence[bytes]) -> None:
        """As quick as can be."""

    def close(self) -> None:
        self.path.unlink()


class Attended(Contender):
    """Notes how many sessions are open whenever its counters are read."""

    name = "attended"
    durability = "none"

    def __init__(self, place: Path) -> None:
        self.place = place
        self.place.mkdir()
        self.seen: list[int] = []

    def version(self) -> str:
        return "1"

    def setup(self, directory: Path, scenario: Scenario) -> None:
        """Nothing is needed."""

    def open(self, plan: Plan) -> BlockingSession:
        return Present(self.place / str(plan.writer))

    def counters(self) -> dict[str, int]:
        self.seen.append(len(list(self.place.iterdir())))
        return {}

    def teardown(self) -> None:
        """Nothing is held."""


def cell(rate: float, p50: float = 100.0, p99: float = 200.0, fairness: float = 1.0) -> dict[str, Any]:
    """A contender's measurement, as a result.json holds it."""
    middle = {
        "records_per_s": rate, "bytes_per_s": rate * 1024, "fairness": fairness, "latency_us.p50": p50, "latency_us.p99": p99,
        "latency_us.max": p99 * 2, "latency_us.n": 1000, "writer_cpu_us_per_record": 1.0, "server_cpu_us_per_record": 2.0,
    }  # fmt: skip
    return {
        "median": middle, "spread": {key: (value, value) for key, value in middle.items()}, "turns": [{}],
        "curve_us": [(0.5, p50), (0.99, p99)], "timeline_us": [(0.1, p50, p99, p99)],
    }  # fmt: skip


def result(**scenarios: dict[str, Any]) -> dict[str, Any]:
    """A whole result.json of the scenarios' cells, judged."""
    found: dict[str, Any] = {
        "time": "now", "environment": {"commit": "abc", "cpu": "<one & only>"}, "options": {"rounds": 1}, "contenders": {},
        "scenarios": {
            name.replace("_", "-"): {"title": name, "load": "load", "contenders": cells} for name, cells in scenarios.items()
        },
        "extras": {},
    }  # fmt: skip
    found["goals"] = goals.judge(found)
    return found
