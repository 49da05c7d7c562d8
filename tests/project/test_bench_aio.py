"""The benchmark of event loops measures what it says: every contender's appends are in its store, and tails miss nothing."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from bench import aio, aio_tails


def quiet(_: str) -> None:
    """Says nothing."""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_it_measures_awaited_appends_and_how_long_the_loop_is_held(tmp_path: Path, loop: str) -> None:
    for place in (tmp_path, *tmp_path.parents[:2]):
        place.chmod(0o711)  # a server that will not run as root must be able to enter
    peer = shutil.which("redis-server") is not None and importlib.util.find_spec("redis") is not None
    contenders = aio.CONTENDERS if peer else aio.CONTENDERS[:2]
    found = aio.measure(tmp_path, 0.2, 1, quiet, loop, ("throughput", "hold"), contenders)
    for who in contenders:
        assert found["throughput"][who]["median"]["appends_per_s"] > 0
        assert found["throughput"][who]["median"]["append_us.n"] > 0
        assert {"p50", "max"} <= found["hold"][who]["loaded"].keys() & found["hold"][who]["idle"].keys()
    assert found["throughput"]["ratios"].keys() >= {"ringwal/bridge"}
    assert all(who in aio.tables(found) for who in contenders)
    assert list(tmp_path.iterdir()) == []


def test_half_of_what_is_outstanding_is_cancelled_and_all_of_it_is_appended(tmp_path: Path) -> None:
    found = aio.measure(tmp_path, 0.2, 1, quiet, "asyncio", ("outstanding",))["outstanding"]
    assert found["confirmed"] + found["cancelled"] == aio.OUTSTANDING
    assert 0 < found["cancelled"] <= aio.OUTSTANDING // 2  # one that was confirmed by then cannot be
    assert found["records"] == 4 * aio.OUTSTANDING
    assert found["blocks_left"] < 100  # of 10,000 awaits: nothing for each


@pytest.mark.parametrize("by", ["another", "the client"])
def test_the_load_goes_on_over_an_engines_restart(tmp_path: Path, by: str) -> None:
    loads = aio.Loads(tmp_path, "uvloop", 3.0, quiet)
    found = aio.hold_over_restart(loads, autostart=by == "the client")
    assert found["unknown"] <= aio.COROUTINES  # each had one under way, if the load had begun
    assert all("after_kill_s" in worst for worst in found["late_us"]["worst"])
    assert found["appends_per_s"] > 0


def test_tails_in_loops_get_every_record_once_while_the_engines_processes_are_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aio_tails, "RATE", 4000)
    monkeypatch.setattr(aio_tails, "KILL_EVERY", 1.0)
    found = aio_tails.measure(tmp_path, 4.0, quiet, "asyncio")
    assert found["faults"] == []
    assert found["kills"] >= 3
    assert found["records"] == 16_000
    assert found["delivered"] == found["records"] * aio_tails.TAILS // aio_tails.WRITERS
