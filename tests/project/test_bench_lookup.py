"""The benchmark of single records finds the ones that it means, and says what they took."""

from __future__ import annotations

from pathlib import Path

from bench import lookup
from ringwal.config import MIB


def test_it_looks_for_single_records(tmp_path: Path) -> None:
    found = {**lookup.measure_large(tmp_path, 32 * MIB), **lookup.measure_many(tmp_path, 200_000)}
    assert found["records"] == 200_000
    for what in ("quiet_record", "at_a_time"):
        assert 0 < found[what]["read_ms"] <= found[what]["connect_and_read_ms"]
    assert found["random_read_us"]["n"] == lookup.LOOKS
