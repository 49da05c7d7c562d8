"""What is measured once and not as a load of writers: the register, and how a failure of one leaves the others alone."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import append_cost, before_after, footprint, host, reading, recovery, space, tail
from bench.contender import told


@dataclass(frozen=True, slots=True)
class Settings:
    """How far the measurements go."""

    quick: bool
    soak: float


@dataclass(frozen=True, slots=True)
class Task:
    """What a measurement gets: a directory of its own, how far to go, and where to say how far it is."""

    directory: Path
    settings: Settings
    say: Callable[[str], None]

    def pick(self, quick: float, full: float) -> float:
        """Seconds for this kind of run."""
        return quick if self.settings.quick else full


@dataclass(frozen=True, slots=True)
class Extra:
    """One further measurement."""

    name: str
    title: str
    measure: Callable[[Task], dict[str, Any]]


EVERYTHING = (
    Extra("append-cost", "Python cost of append(1 KiB)", lambda t: append_cost.measure(t.directory)),
    Extra(
        "tail",
        "Append to delivered at a reader in another process",
        lambda t: tail.measure(t.directory, t.pick(1.0, 10.0)),
    ),
    Extra(
        "read",
        "Ordered reads of 1 KiB records",
        lambda t: reading.measure(t.directory, int(t.pick(30_000, 200_000))),
    ),
    Extra(
        "space",
        "Bytes on the disk for each byte of 300 B records, by load and linger",
        lambda t: space.measure(t.directory, t.pick(0.5, 4.0)),
    ),
    Extra("startup", "Start of an engine on a fresh directory, and first append", lambda t: footprint.startup(t.directory)),
    Extra("idle", "Idle engine with 64 attached clients", lambda t: footprint.idle(t.directory, t.pick(2.0, 15.0))),
    Extra(
        "memory",
        "Memory of the engine's processes under load",
        lambda t: footprint.soak(t.directory, t.pick(5.0, t.settings.soak), t.say),
    ),
    Extra(
        "recovery",
        "Recovery of 1 KiB records after kill -9",
        lambda t: recovery.measure(t.directory, t.settings.quick, t.say),
    ),
    Extra(
        "before-after",
        "One lock and one request a pass, against CAS and whole runs",
        lambda t: before_after.measure(t.settings.quick, t.say),
    ),
)


def measured(extra: Extra, scratch: Path, settings: Settings, say: Callable[[str], None]) -> dict[str, Any]:
    """The measurement's result, or why there is none."""
    place = scratch / extra.name
    ticks = host.ticks()
    try:
        place.mkdir()
        return {"title": extra.title, **extra.measure(Task(place, settings, say)), "stolen_share": host.stolen(ticks)}
    except Exception as error:  # noqa: BLE001  (one measurement's failure is its result, not the end of the run)
        return {"title": extra.title, "not_measured": told(error), "trace": traceback.format_exc()}


def text(found: dict[str, Any]) -> str:
    """A result for the terminal: single values; what is long stands in the report."""
    if "not_measured" in found:
        return f"  not measured: {found['not_measured']}"
    lines = []
    for key, value in found.items():
        if key == "title" or isinstance(value, list):
            continue
        shown = (
            json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in value.items()})
            if isinstance(value, dict)
            else value
        )
        lines.append(f"  {key:28} {round(shown, 4) if isinstance(shown, float) else shown}")
    return "\n".join(lines)
