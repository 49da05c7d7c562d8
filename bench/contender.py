"""What can be measured: the engine, the bare device and the peers all have this face."""

from __future__ import annotations

import abc
import importlib
import importlib.util
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from bench.scenario import Scenario


COOL_NS = 150_000_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What one writer has to do in one turn."""

    writer: int
    scenario: Scenario
    commit_records: int
    """Records that one durable commit may hold (blocking contenders only)."""
    warm_ns: int
    window_ns: int

    @property
    def cool_ns(self) -> int:
        """Unrecorded load after the window: nobody leaves, and makes it easier for the rest, while others are measured."""
        return min(COOL_NS, self.window_ns // 2)

    def streams(self) -> range | list[int]:
        """The streams this writer appends to. Many streams are dealt out among the writers; few are shared by all."""
        count, writers = self.scenario.streams, self.scenario.writers
        if count >= writers:
            return range(self.writer % writers, count, writers)  # a limit may have more writers than the scenario
        return [self.writer % count]

    def payload(self) -> bytes:
        """Random bytes, so that nobody gains by compression; the same in every round."""
        return random.Random(self.writer).randbytes(self.scenario.record_bytes)


class ContenderFailedError(RuntimeError):
    """A contender could not do its turn; the report says why."""


def told(error: Exception) -> str:
    """An error for the report: type and text, or the text alone where it was written for the report."""
    return str(error) if isinstance(error, ContenderFailedError) else f"{type(error).__name__}: {error}"


class Session(abc.ABC):
    """One writer's connection, opened inside the writer's own process (or thread)."""

    @abc.abstractmethod
    def close(self) -> None: ...


class BlockingSession(Session):
    """For everything whose durable write is a call that returns when the records are on stable storage."""

    @abc.abstractmethod
    def commit(self, stream: int, records: Sequence[bytes]) -> None:
        """Returns once all records are as durable as the contender's `durability` says."""


class PipelinedSession(Session):
    """For an append that returns at once with a receipt."""

    @abc.abstractmethod
    def appenders(self, plan: Plan) -> list[Callable[[], Any]]:
        """One function per stream of the plan; each call appends one record (or one batch) and returns a receipt with
        ``done()`` and ``result(timeout)``."""


class Contender(abc.ABC):
    """One thing to measure. Instances are made once per run and hold no connection between turns."""

    name: ClassVar[str]
    durability: ClassVar[str]
    """What a confirmed record survives, in one sentence; printed beside the number."""
    workers: ClassVar[Literal["processes", "threads"]] = "processes"

    def unavailable(self) -> str | None:
        """Why this contender cannot be measured here, or None."""
        return None

    @abc.abstractmethod
    def version(self) -> str: ...

    def prepare(self, directory: Path) -> None:  # noqa: B027  (most have nothing that outlasts a turn)
        """Done once per run, outside every measurement."""

    @abc.abstractmethod
    def setup(self, directory: Path, scenario: Scenario) -> None:
        """Before each turn, in the runner: an empty store in an empty directory, its server running."""

    @abc.abstractmethod
    def open(self, plan: Plan) -> Session:
        """In the writer."""

    def writers(self, scenario: Scenario) -> int:
        """How many writers work at once."""
        return scenario.writers

    def commit_records(self, scenario: Scenario) -> int:
        """How many records one commit may hold in this scenario."""
        return scenario.peer_batch

    def commit_bytes(self, scenario: Scenario) -> int:
        """Payload bytes that one commit of `commit_records` writes."""
        return self.commit_records(scenario) * scenario.record_bytes

    def server_pids(self) -> list[int]:
        """Processes that work for the writers and are not writers."""
        return []

    def server_processes(self) -> dict[str, list[int]]:
        """The same by what they are; one name for all where nobody asks which of them costs what."""
        return {"server": pids} if (pids := self.server_pids()) else {}

    def counters(self) -> dict[str, int]:
        """The contender's own running counters, read before and after the turn."""
        return {}

    @abc.abstractmethod
    def teardown(self) -> None:
        """After each turn, also a failed one: no process is left. The directory is removed by the runner."""


def missing(module: str, package: str) -> str | None:
    """A sentence if the Python module is not installed."""
    if importlib.util.find_spec(module) is None:
        return f"Python package {package} is not installed (pip install {package})"
    return None


def optional(module: str) -> Any:
    """The module of an optional package; its absence was reported by `missing` before."""
    return importlib.import_module(module)
