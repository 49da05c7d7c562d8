"""A run: rounds of shuffled turns over the scenarios, then what is measured once. Everything is bounded in time."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import device, measure, peers, stats, subject
from bench.contender import Contender, ContenderFailedError, missing, told
from bench.host import ATTEMPTS, STOLEN_MAX, Host
from bench.measure import Turn
from bench.scenario import Scenario

FORMAT = 1
CALM_LOAD = 0.5
LOAD_PATIENCE = 90.0
"""Seconds that a run waits at most for the load average to become so low."""
CALM_PATIENCE = 600.0
"""Seconds that a run spends at most, in all, on waiting for machine and host and on measuring again."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is bounded by."""

    rounds: int = 3
    seconds: float = 3.0
    budget: float = 3600.0
    """Seconds after which no further turn begins."""
    seed: int = 1
    only: tuple[str, ...] = ()
    """Contenders to measure; empty for all."""


def contenders() -> dict[str, Contender]:
    """Everything that can be measured, by name."""
    ours = [subject.Ringwal(), subject.RingwalLog(), subject.RingwalAhead(), subject.RingwalRecycled()]
    found = [*ours, device.Device(), device.Fdatasync(), *peers.everyone()]
    return {contender.name: contender for contender in found}


@dataclass(slots=True)
class Cell:
    """One contender in one scenario, over all rounds."""

    turns: list[dict[str, Any]] = field(default_factory=list)
    set_aside: list[dict[str, float]] = field(default_factory=list)
    """Turns that were measured again, as the host took too much of them."""
    samples: array[int] = field(default_factory=lambda: array("Q"))
    timeline: list[tuple[float, float, float, float]] = field(default_factory=list)
    problem: str | None = None

    def result(self) -> dict[str, Any]:
        """As it goes into result.json."""
        if not self.turns:
            return {"not_measured": self.problem or "no turn"}
        median, spread = stats.medians(self.turns)
        found: dict[str, Any] = {
            "median": median,
            "spread": spread,
            "turns": self.turns,
            "set_aside": self.set_aside,
            "curve_us": stats.curve_us(self.samples),
            "timeline_us": self.timeline,
        }
        if self.problem:
            found["problem"] = self.problem
        return found


class Runner:
    """Measures scenarios in a scratch directory of its own and keeps the results as they come."""

    def __init__(
        self, options: Options, directory: Path, output: Path, say: Callable[[str], None], patience: float = 0.0
    ) -> None:
        """``patience``: seconds, as `Host` has it."""
        self.options = options
        self.host = Host(directory, patience, say)
        self.output = output
        self.say = say
        self.scratch = directory
        self.contenders = contenders()
        self.deadline = time.monotonic() + options.budget
        self.problems: dict[str, str] = {}
        self.numbers = itertools.count()
        self.hgrm = missing("hdrh", "hdrhistogram") is None

    def prepare(self, wanted: Sequence[Scenario]) -> dict[str, Any]:
        """Finds out who can be measured, and makes what lasts for the whole run. Returns the block for result.json."""
        used = {name for scenario in wanted for name in self._names(scenario)}
        facts: dict[str, Any] = {}
        for name, contender in self.contenders.items():
            if name not in used:
                continue
            try:
                facts[name] = self._prepared(name, contender)
            except Exception as error:  # noqa: BLE001  (whatever a contender raises is its result, not the end of the run)
                self.problems[name] = told(error)
                facts[name] = {"not_measured": self.problems[name]}
        return facts

    def _prepared(self, name: str, contender: Contender) -> dict[str, Any]:
        reason = contender.unavailable()
        if reason is not None:
            raise ContenderFailedError(reason)
        self.say(f"preparing {name}")
        contender.prepare(self.scratch)
        return {
            "version": contender.version(),
            "durability": contender.durability,
            "writers": contender.workers,
            "calibration": getattr(contender, "calibration", None),
        }

    def _names(self, scenario: Scenario) -> list[str]:
        return [name for name in scenario.contenders if not self.options.only or name in self.options.only]

    def over(self) -> bool:
        """Whether the time budget is used up."""
        return time.monotonic() >= self.deadline

    def measure(self, scenario: Scenario) -> dict[str, Any]:
        """All rounds of one scenario."""
        cells = {name: Cell(problem=self.problems.get(name)) for name in self._names(scenario)}
        dice = random.Random(f"{self.options.seed}-{scenario.name}")
        seconds = self.options.seconds * scenario.weight
        for turn in range(self.options.rounds):
            order = [name for name in cells if name not in self.problems]
            dice.shuffle(order)
            for name in order:
                if self.over():
                    cells[name].problem = cells[name].problem or "time budget used up"
                    continue
                self.say(f"{scenario.name}: round {turn + 1}/{self.options.rounds}, {name}")
                self._turn(self.contenders[name], scenario, cells[name], seconds)
        if self.hgrm:
            for name, cell in cells.items():
                if cell.samples:
                    stats.write_hgrm(self.output / f"{scenario.name}.{name}.hgrm", cell.samples)
        return {
            "title": scenario.title,
            "load": scenario.describe(),
            "parameters": asdict(scenario),
            "seconds": seconds,
            "contenders": {name: cell.result() for name, cell in cells.items()},
        }

    def _undisturbed(self, contender: Contender, scenario: Scenario, seconds: float) -> tuple[Turn, list[Turn]]:
        """The turn of which the host took least, after as many as that needs and patience allows; and the others."""
        turns: list[Turn] = []
        while not turns or (turns[-1].stolen > STOLEN_MAX and len(turns) < ATTEMPTS and self.host.left > 0):
            self.host.settle(len(turns))
            place, warm = self.scratch / f"turn-{next(self.numbers)}", min(0.5, seconds / 4)
            try:
                with self.host.charged() if turns else contextlib.nullcontext():
                    turns.append(measure.run_turn(contender, scenario, place, warm, seconds))
            except Exception:
                if not turns:
                    raise
                break  # what was measured before is not lost by it
        turns.sort(key=lambda turn: turn.stolen)
        return turns[0], turns[1:]

    def _turn(self, contender: Contender, scenario: Scenario, cell: Cell, seconds: float) -> None:
        try:
            turn, aside = self._undisturbed(contender, scenario, seconds)
        except Exception as error:  # noqa: BLE001  (as above)
            cell.problem = told(error)
            return
        cell.set_aside += [{"records_per_s": sum(each.rates), "stolen_share": each.stolen} for each in aside]
        latencies = turn.samples[::2]
        rate, slowest, fastest = sum(turn.rates), min(turn.rates), max(turn.rates)
        pipelined = isinstance(contender, subject.Ringwal)
        record = scenario.record_bytes if pipelined else contender.commit_bytes(scenario) / contender.commit_records(scenario)
        total = max(1, turn.total_records)
        cell.turns.append(
            {
                "records_per_s": rate,
                "bytes_per_s": rate * record,
                "fairness": slowest / fastest if fastest else 0.0,
                "latency_us": stats.latency_us(latencies),
                "late": turn.late,
                "stolen_share": turn.stolen,
                "writer_cpu_us_per_record": turn.writer_cpu_s * 1e6 / total,
                "server_cpu_us_per_record": sum(turn.server_cpu_s.values()) * 1e6 / total,
                "server_private_bytes": sum(memory["private"] for memory in turn.server_memory.values()),
                "processes": {
                    name: {"cpu_us_per_record": cpu * 1e6 / total, **turn.server_memory[name]}
                    for name, cpu in turn.server_cpu_s.items()
                },
                "counters": turn.counters,
                **_batching(turn.counters),
            }
        )
        cell.samples.extend(latencies)
        cell.timeline = stats.timeline_us(turn.samples, turn.start_ns)


def _batching(counters: dict[str, int]) -> dict[str, float]:
    if not counters.get("wal_writes") or not counters.get("drain_passes"):
        return {}
    confirmed = counters["drain_confirmed_requests"]
    return {
        "confirmed_per_sync": confirmed / counters["wal_writes"],
        "confirmed_per_pass": confirmed / counters["drain_passes"],
    }


@contextlib.contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A directory for the run's data that is gone afterwards. Other users may pass through it, not look into it."""
    parent.mkdir(parents=True, exist_ok=True)
    path = Path(tempfile.mkdtemp(prefix="ringwal-bench-", dir=parent))
    path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def progress(text: str) -> None:
    """One line on stderr: rewritten on a terminal, plain otherwise."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
    else:
        sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
