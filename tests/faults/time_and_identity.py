"""The group `time`: who stops, who is mistaken for whom, what the clock says, what hangs."""

from __future__ import annotations

from tests.faults import clocks, frozen, hangs, identity, pauses, storms
from tests.faults.table import Fault


def faults(tier: str) -> list[Fault]:
    return [fault for module in (pauses, frozen, clocks, identity, storms, hangs) for fault in module.faults(tier)]
