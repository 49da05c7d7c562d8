"""The benchmark's loops: what counts, what is sampled, and from when a latency counts. No speeds."""

from __future__ import annotations

import pytest

from bench import loops
from bench.scenario import ONE, Scenario
from tests.support.bench_fakes import Clock, Pipeline, S, Store, plan


def test_closed_loop_counts_what_ended_inside_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch.setattr)
    store = Store(clock, S)
    tally = loops.run(store, plan(ONE, window=4.5, warm=2, commit_records=10), 0)
    assert store.commits == [(0, 10)] * 7  # the seventh begins inside and ends after the window
    assert (tally.records, tally.total) == (50, 70)  # at 2 s, exactly the begin of the window, one has ended
    assert list(tally.samples[::2]) == [S] * 6
    assert list(tally.samples[1::2]) == [2 * S, 3 * S, 4 * S, 5 * S, 6 * S, 7 * S]


def test_a_closed_loop_goes_on_after_its_window_and_records_nothing_of_that(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch.setattr)
    store = Store(clock, S // 100)
    tally = loops.run(store, plan(ONE, window=1, warm=0.5), 0)
    assert (len(store.commits), clock.now) == (165, 1.65 * S)
    assert (tally.records, tally.total) == (101, 165)  # the edges belong to the window
    assert max(tally.samples[1::2]) == 1.5 * S


def test_open_loop_charges_a_stall_to_everyone_it_kept_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch.setattr)
    scenario = Scenario("open", "", loop="open", rate=10)
    tally = loops.run(Store(clock, S, 1), plan(scenario, window=2), 0)
    latencies = [latency * 10 // S for latency in tally.samples[::2]]
    assert latencies == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1] + [0] * 10
    assert (tally.records, tally.late, tally.total) == (20, 0, 22)  # two came in the cool-down


def test_open_loop_commits_what_is_due_at_once_where_batches_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch.setattr)
    store = Store(clock, S, 0)
    loops.run(store, plan(Scenario("open", "", loop="open", rate=10), window=2, commit_records=4), 0)
    assert [count for _, count in store.commits[:4]] == [1, 4, 4, 2]


def test_open_loop_says_how_many_came_too_late_to_be_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch.setattr)
    store = Store(clock, 5 * S)
    tally = loops.run(store, plan(Scenario("open", "", loop="open", rate=10), window=2), 0)
    assert (len(store.commits), tally.records, tally.late) == (1, 0, 19)  # confirmed after the window: sampled, not counted
    assert [latency * 10 // S for latency in tally.samples[::2]] == [50, *range(49, 30, -1)]


def test_a_pipelined_open_loop_begins_nothing_of_its_window_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch.setattr)
    session = Pipeline(clock, delay=S // 2, cost=S // 4)  # four a second where ten are due
    tally = loops.run(session, plan(Scenario("open", "", loop="open", rate=10), window=2), 0)
    assert (tally.late, len(tally.samples) // 2) == (12, 20)
    waited = [latency for latency, at in zip(tally.samples[::2], tally.samples[1::2], strict=True) if at == 2 * S]
    assert waited[-12:] == [n * S // 10 for n in range(12, 0, -1)]  # what was due at 0.8 s had waited 1.2 s at 2 s
    assert tally.total == len(session.made) == 9  # the ninth is of the cool-down


@pytest.mark.parametrize("outstanding", [1, 16, 100, 1000])
def test_a_pipelined_writer_keeps_to_its_number_of_outstanding_appends(
    monkeypatch: pytest.MonkeyPatch, outstanding: int
) -> None:
    clock = Clock(monkeypatch.setattr)
    session = Pipeline(clock, delay=10_000_000)
    scenario = Scenario("pipelined", "", outstanding=outstanding)
    tally = loops.run(session, plan(scenario, window=0.1, warm=0.02), 0)
    assert session.most == outstanding
    assert tally.total == len(session.made)
    per_window = outstanding * 10  # one set of outstanding appends every 10 ms and a little
    assert 0.75 * per_window <= tally.records <= per_window * 1.1
    assert min(tally.samples[::2]) >= 10_000_000
    assert max(tally.samples[1::2]) > tally.end  # what was sent before the end and confirmed after it
    assert max(at - latency for latency, at in zip(tally.samples[::2], tally.samples[1::2], strict=True)) < tally.end
    assert session.made[-1].at - session.delay > tally.stop - 15_000_000 > tally.end


@pytest.mark.parametrize(("outstanding", "streams"), [(1, 1), (16, 8), (100, 4), (1000, 1), (1000, 25), (1000, 25_000)])
def test_timed_appends_visit_every_stream_and_leave_little_of_outstanding_unused(outstanding: int, streams: int) -> None:
    stride = loops.timed_one_in(outstanding, streams)
    assert len({i * stride % streams for i in range(streams)}) == streams
    assert outstanding // stride * stride >= 0.99 * outstanding
    assert (stride == 1) == (outstanding <= loops.SAMPLED_ABOVE)


def test_a_pipelined_open_loop_counts_from_the_intended_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch.setattr)
    session = Pipeline(clock, delay=S - 2000)
    tally = loops.run(session, plan(Scenario("open", "", loop="open", rate=10), window=1), 0)
    assert (tally.records, tally.total) == (1, 12)  # in the window, and with the cool-down
    assert len(tally.samples) == 20
    assert all(S - 1000 <= latency < S + 100_000 for latency in tally.samples[::2])


@pytest.mark.parametrize(("writers", "streams"), [(1, 1), (4, 1), (4, 4), (4, 100), (16, 1), (3, 7)])
def test_streams_are_dealt_out_once_and_extra_writers_have_one_too(writers: int, streams: int) -> None:
    scenario = Scenario("deal", "", writers=writers, streams=streams)
    hands = [list(plan(scenario, 1, writer=i).streams()) for i in range(writers)]
    assert {stream for hand in hands for stream in hand} == set(range(streams))
    if streams >= writers:
        assert sum(map(len, hands)) == streams
    assert all(list(plan(scenario, 1, writer=i).streams()) for i in range(writers * 3))  # as a limit's depth needs
