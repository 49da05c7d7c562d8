"""A run waits for its host, measures again what the host disturbed, and says so. The clocks of others are made up here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import host, report, run
from bench.contender import Contender
from bench.scenario import Scenario
from tests.support.bench_fakes import Attended

SCENARIO = Scenario("x", "", contenders=("attended",))


@pytest.fixture
def steal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Of 100 ticks between any two looks so many are stolen, in this order; none after the last. Waiting takes two looks each
    time, and so does a turn."""

    def steal(*shares: int) -> None:
        taken, now = iter(shares), [0, 0]

        def ticks() -> tuple[int, int]:
            now[0] += next(taken, 0)
            now[1] += 100
            return now[0], now[1]

        monkeypatch.setattr(host, "ticks", ticks)

    monkeypatch.setattr(host, "STEP_SECONDS", 0.0)
    monkeypatch.setattr(host, "SPIN_SECONDS", 0.0)
    monkeypatch.setattr(host, "SLOWER_MAX", float("inf"))  # a disk that others use would cost another two looks
    return steal


def measured(
    tmp_path: Path, patience: float, contender: Contender | None = None
) -> tuple[dict[str, Any], list[str], run.Runner]:
    said: list[str] = []
    runner = run.Runner(run.Options(rounds=1, seconds=0.05), tmp_path, tmp_path, said.append, patience)
    runner.contenders = {"attended": contender or Attended(tmp_path / "here")}
    runner.prepare([SCENARIO])
    return runner.measure(SCENARIO)["contenders"]["attended"], said, runner


def test_the_kernels_ticks_are_read() -> None:
    before = host.ticks()
    assert 0 <= before[0] < before[1]
    assert 0 <= host.stolen(before) <= 1


def test_a_turn_that_the_host_disturbed_is_measured_again_and_said(tmp_path: Path, steal: Callable[..., None]) -> None:
    steal(0, 0, 0, 50, 0, 0, 0, 20, 0, 0, 0, 1)
    found, _, runner = measured(tmp_path, 100)
    assert [turn["stolen_share"] for turn in found["turns"]] == [0.01]
    assert [turn["stolen_share"] for turn in found["set_aside"]] == [0.2, 0.5]
    assert 0 < runner.host.waited < 100 and runner.host.left < 100
    (note,) = host.notes(found)
    assert "20% stolen" in note and "50% stolen" in note
    scenario = {"title": "T", "load": "", "contenders": {"attended": found}}
    assert note in report.scenario_table(scenario, {})


def test_without_patience_a_disturbed_turn_counts_and_is_marked(tmp_path: Path, steal: Callable[..., None]) -> None:
    steal(0, 50)
    found, _, runner = measured(tmp_path, 0)
    assert [turn["stolen_share"] for turn in found["turns"]] == [0.5]
    assert found["set_aside"] == [] and runner.host.waited == 0
    assert host.notes(found) == ["disturbed all the same: others were given 50% of the processors during a turn"]


def test_a_contender_that_is_always_disturbed_is_given_up(tmp_path: Path, steal: Callable[..., None]) -> None:
    steal(*[0, 0, 0, 30] * 100)
    found, _, _ = measured(tmp_path, 1e6)
    assert len(found["turns"]) == 1
    assert len(found["set_aside"]) == host.ATTEMPTS - 1


def test_a_contender_that_breaks_when_measured_again_keeps_what_it_did(
    tmp_path: Path, steal: Callable[..., None]
) -> None:
    class Once(Attended):
        used = False

        def setup(self, directory: Path, scenario: Scenario) -> None:
            if self.used:
                raise OSError("no second time")
            self.used = True
            super().setup(directory, scenario)

    steal(0, 0, 0, 50)
    found, _, _ = measured(tmp_path, 100, Once(tmp_path / "here"))
    assert [turn["stolen_share"] for turn in found["turns"]] == [0.5]


def test_a_turn_begins_when_the_host_is_calm(tmp_path: Path, steal: Callable[..., None]) -> None:
    steal(0, 40, 0, 10, 0, 0, 0, 0)
    found, said, runner = measured(tmp_path, 100)
    waits = [text for text in said if text.startswith("waiting for a calm host")]
    assert [text.rpartition(": ")[2] for text in waits] == [
        "others are given 40% of the processors", "others are given 10% of the processors",
    ]  # fmt: skip
    assert [turn["stolen_share"] for turn in found["turns"]] == [0]
    assert runner.host.waited > 0


def test_a_disk_that_became_slow_is_waited_for(
    tmp_path: Path, steal: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    steal()
    monkeypatch.setattr(host, "SLOWER_MAX", 2.0)
    took = iter([0.01, 0.05, 0.03, 0.012])
    found = host.Host(tmp_path, 100, lambda _: None)
    found._disk_seconds = lambda: next(took)  # type: ignore[method-assign]  # the disk is what is made up
    assert [found.disturbed() for _ in range(4)] == [
        None, "the disk is 5.0 times as slow as at its best", "the disk is 3.0 times as slow as at its best", None,
    ]  # fmt: skip
