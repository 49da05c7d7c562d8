"""Logs that nobody serves: damaged, looked at, saved."""

from __future__ import annotations

from tests.faults import salvage_rows, verify_rows
from tests.faults.table import Fault


def faults(tier: str) -> list[Fault]:
    return [*verify_rows.faults(tier), *salvage_rows.faults(tier)]
