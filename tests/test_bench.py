"""The benchmark runner: what it counts, what it says about failures, and that it leaves nothing behind. No speeds."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import re
import signal
import threading
import types
import xml.etree.ElementTree as ET
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench import (
    before_after,
    compare,
    device,
    environment,
    extras,
    html,
    html_model,
    loops,
    measure,
    peers,
    processes,
    run,
    stats,
    subject,
    tail,
)
from bench.__main__ import cli
from bench.before import build
from bench.contender import BlockingSession, Contender, ContenderFailedError
from bench.fakes import Attended, Broken, Clock, Pipeline, S, Store, cell, plan, result
from bench.peers import redis_streams
from bench.scenario import ALL_STREAMS, HOT, ONE, SOME_STREAMS, Scenario, everything
from engine.log import manifest


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
    assert (stride == 1) == (outstanding <= loops.SAMPLED_ABOVE or (outstanding, streams) == (100, 4))


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


def test_no_percentile_is_given_that_the_samples_do_not_support() -> None:
    hundred = stats.latency_us(range(1000, 101_000, 1000))
    assert (hundred["p50"], hundred["p99"], hundred["max"], hundred["n"]) == (50.0, 99.0, 100.0, 100)
    assert "p999" not in hundred
    assert stats.latency_us([]) == {"n": 0}
    assert stats.latency_us(range(1000))["p999"] == 0.998


def test_the_timeline_puts_each_sample_into_its_slice() -> None:
    samples = array("Q", [5000, S, 7000, 2 * S])
    assert [(round(t), p50, most) for t, p50, _, most in stats.timeline_us(samples, 0)] == [(1, 5, 5), (2, 7, 7)]


@pytest.mark.parametrize("step", ["setup", "open", "commit"])
def test_a_contender_that_fails_is_taken_down_and_its_own_words_are_kept(tmp_path: Path, step: str) -> None:
    contender = Broken(step)
    with pytest.raises(ContenderFailedError, match=f"{step} broke"):
        measure.run_turn(contender, Scenario("x", "", writers=3), tmp_path / "turn", 0.01, 0.05)
    assert contender.ended
    assert not multiprocessing.active_children()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["unavailable", "version", "prepare", "start", "setup", "commit"])
def test_whatever_a_contender_raises_is_its_result_and_not_the_end_of_the_run(tmp_path: Path, step: str) -> None:
    runner = run.Runner(run.Options(rounds=1, seconds=0.05), tmp_path, tmp_path, lambda _: None)
    runner.contenders = {"broken": Broken(step), "attended": Attended(tmp_path / "here")}
    scenario = Scenario("x", "", contenders=("broken", "attended"))
    facts, found = runner.prepare([scenario]), runner.measure(scenario)["contenders"]
    kind = {"setup": "", "commit": "OSError: "}.get(step, "ValueError: ")
    assert found["broken"]["not_measured"] == f"{kind}{step} broke"
    assert ("not_measured" in facts["broken"]) == (step in {"unavailable", "version", "prepare"})
    assert "median" in found["attended"]


def test_an_extra_that_breaks_is_not_measured_and_only_the_user_ends_the_run(tmp_path: Path) -> None:
    def measured(name: str, error: BaseException) -> dict[str, Any]:
        def measure(task: extras.Task) -> dict[str, Any]:
            raise error

        return extras.measured(extras.Extra(name, "T", measure), tmp_path, extras.Settings(quick=True, soak=1), lambda _: None)

    assert measured("a", KeyError("p50"))["not_measured"] == "KeyError: 'p50'"
    assert measured("b", ContenderFailedError("said why"))["not_measured"] == "said why"
    with pytest.raises(KeyboardInterrupt):
        measured("c", KeyboardInterrupt())


def test_an_engine_that_was_killed_or_does_not_start_leaves_no_shared_memory(tmp_path: Path) -> None:
    place, log = tmp_path / "engine", tmp_path / "log"

    def left() -> list[Path]:
        return list(Path("/dev/shm").glob(f"ringwal-{manifest.load(place).uuid.hex()[:16]}-*"))

    subject.start(place, {}, log).stop(signal.SIGKILL)
    assert left()
    with pytest.raises(ContenderFailedError, match="did not start"):
        subject.start(place, {"max-streams": "nonsense"}, log)
    assert not left()
    server = subject.start(place, {}, log)
    server.process.kill()
    subject.stop(server, place)
    assert not left()


def test_the_tail_does_not_wait_for_ever_for_the_drains_clock() -> None:
    control = types.SimpleNamespace(confirmed_ns=2 * S)
    assert tail.confirmed_after(control, 2 * S, 0.0) == 2 * S
    with pytest.raises(ContenderFailedError, match=r"still stood 1\.000 s before the record was sent"):
        tail.confirmed_after(control, 3 * S, 0.0)


def test_what_a_contender_costs_is_read_while_its_writers_are_connected(tmp_path: Path) -> None:
    contender = Attended(tmp_path / "here")
    turn = measure.run_turn(contender, Scenario("x", "", writers=3), tmp_path / "turn", 0.01, 0.05)
    assert contender.seen == [3, 3]
    assert list(contender.place.iterdir()) == []
    assert turn.rates == [count / 0.05 for count in turn.records]


def test_a_turn_of_the_engine_counts_what_the_engine_counts(tmp_path: Path) -> None:
    scenario = Scenario("x", "", writers=2, outstanding=32, streams=3)
    turn = measure.run_turn(subject.Ringwal(), scenario, tmp_path / "turn", 0.1, 0.3)
    # Each stream was touched before the counters were read; the runner's own look appends nothing.
    assert turn.counters["wal_records"] == turn.counters["drain_confirmed_requests"] == turn.total_records > 0
    assert 0 < sum(turn.records) <= turn.total_records
    assert len(turn.rates) == 2
    assert set(turn.server_cpu_s) == set(turn.server_memory) == {"supervisor", "WAL", "drain"}
    assert all(memory["private"] > 0 for memory in turn.server_memory.values())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("peer", peers.everyone(), ids=lambda peer: peer.name)
def test_a_peer_really_writes(peer: Contender, tmp_path: Path) -> None:
    reason = peer.unavailable()
    if reason is not None:
        pytest.skip(reason)
    for place in (tmp_path, *tmp_path.parents[:2]):
        place.chmod(0o711)  # a server that will not run as root must be able to enter
    scenario = Scenario("x", "", peer_batch=3)
    try:
        peer.prepare(tmp_path)
        (tmp_path / "turn").mkdir()
        peer.setup(tmp_path / "turn", scenario)
        session = peer.open(plan(scenario, 1))
        assert isinstance(session, BlockingSession)
        session.commit(0, [b"only-one-%d" % i + b"." * 500 for i in range(1)])
        session.commit(0, [b"of-three-%d" % i + b"." * 500 for i in range(3)])
        session.close()
    finally:
        peer.teardown()
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for wanted in (b"only-one-0", b"of-three-0", b"of-three-1", b"of-three-2"):
        assert wanted in stored


def test_a_redis_answer_may_be_cut_anywhere_and_an_error_is_still_one() -> None:
    answer = b"$15\r\n1700000000000-0\r\n"
    for at in range(1, 2 * len(answer)):
        chunks = iter([(answer * 2)[:at], (answer * 2)[at:]])
        redis_streams.take_answers(lambda _, chunks=chunks: next(chunks), 4)  # type: ignore[misc]
    for chunks in (iter([answer + b"-ERR no\r\n"]), iter([answer, b"-ERR no\r\n"]), iter([answer, b""])):
        with pytest.raises(ConnectionError):
            redis_streams.take_answers(lambda _, chunks=chunks: next(chunks), 4)  # type: ignore[misc]


def test_the_device_writes_where_it_says(tmp_path: Path) -> None:
    limit = device.Fdatasync()
    limit.prepare(tmp_path)
    before = limit.path.read_bytes()[: 64 * 1024]
    turn = measure.run_turn(limit, ONE, tmp_path / "turn", 0.0, 0.1)
    assert turn.records[0] > 0
    after = limit.path.read_bytes()[: 64 * 1024]
    assert before[:4096] != after[:4096]


# ------------------------------------------------------------------------------------------------- before and after


def model_of(streams: int, inflight: int, way: str) -> tuple[Any, Any, Any]:
    module = build.load()
    ffi, lib = module.ffi, module.lib
    state = ffi.cast("model *", memory := ffi.new("char[]", lib.model_bytes()))
    options = ffi.new("model_options *")
    options.way = lib.MODEL_AFTER if way == "after" else lib.MODEL_BEFORE
    options.streams, options.inflight, options.completers, options.locks = streams, inflight, 2, 1
    lib.model_init(state, options)
    return lib, state, memory


@pytest.mark.parametrize(
    ("way", "order", "holds", "empty", "longest"),
    [
        ("before", range(8), 8, 0, 1),
        ("before", range(7, -1, -1), 15, 7, 1),  # seven flags behind the head, then eight passes of one
        ("after", range(8), 8, 0, 1),
        ("after", range(7, -1, -1), 1, 0, 8),  # seven flags that cost no lock, then one pass
        ("before", [1, 0, 3, 2, 5, 4, 7, 6], 12, 4, 1),
        ("after", [1, 0, 3, 2, 5, 4, 7, 6], 4, 0, 2),
    ],
)
def test_before_and_after_take_the_lock_as_they_claim(
    way: str, order: Sequence[int], holds: int, empty: int, longest: int
) -> None:
    lib, state, _memory = model_of(1, 8, way)
    worker = state.workers + 0  # a pointer to the first
    done: set[int] = set()
    for request in order:
        lib.model_complete(state, worker, 0, request)
        done.add(request)
        assert state.streams[0].head == next(i for i in range(9) if i not in done)
    assert (worker.confirmed, worker.holds, worker.empty_holds, worker.longest_run) == (8, holds, empty, longest)


@pytest.mark.parametrize("kind", ["threads", "processes"])
@pytest.mark.parametrize("shape", before_after.SHAPES, ids=lambda shape: shape[0])
def test_before_and_after_confirm_everything_in_order_under_load(shape: tuple[str, int, int], kind: before_after.Kind) -> None:
    case = before_after.Case(*shape, "heavy-tailed", kind)
    for way in case.ways():
        # `run` refuses a turn in which confirmations and heads differ; a way that hangs confirms next to nothing.
        # The window is long for what it has to show: on a busy machine a short one passes before any completer runs.
        found = before_after.run(build.load(), case, way, 200_000_000, 1)
        assert found["confirmed_per_s"] * 0.2 >= 1
        if way != "after":
            assert found["confirmed_per_hold"] <= 1


@pytest.mark.parametrize(("hangs", "said"), [(True, "3 completer processes did not end"), (False, "failed")])
def test_completers_that_hang_or_fail_are_killed_and_named(hangs: bool, said: str) -> None:
    def work(_state: None, i: int) -> int:
        if i and hangs:
            signal.pause()
        return 0 if hangs else -1

    before = processes.tree(os.getpid())
    with pytest.raises(ContenderFailedError, match=said):
        before_after.complete_in_processes(types.SimpleNamespace(model_work=work), None, patience=0.2)
    assert processes.tree(os.getpid()) == before


# --------------------------------------------------------------------------------------------- what becomes of it


def verdicts(found: dict[str, Any]) -> dict[int, str]:
    return {goal["number"]: goal["verdict"] for goal in found["goals"]}


def test_goals_take_ratios_inside_the_run_and_do_not_invent_what_is_missing() -> None:
    found = result(
        one={"ringwal": cell(1, p50=124, p99=290), "device": cell(1, p50=100, p99=200)},
        sixteen={"ringwal": cell(400, p50=100, p99=400, fairness=0.8), "sqlite": cell(100), "lmdb": cell(90)},
    )
    assert verdicts(found) == {1: "yes", 2: "yes"} | dict.fromkeys(range(3, 13), "not measured")
    slower = result(
        one={"ringwal": cell(1, p50=126, p99=290), "device": cell(1, p50=100, p99=200)},
        sixteen={"ringwal": cell(399, p50=100, p99=400, fairness=0.8), "sqlite": cell(100), "device": cell(9)},
    )
    assert verdicts(slower)[1] == verdicts(slower)[2] == "no"


def test_goals_show_the_spread_of_the_rounds_and_judge_the_medians() -> None:
    ours, peer = ({"records_per_s": rate, "turns": [{"records_per_s": turn} for turn in turns]}
                  for rate, turns in ((400, (390, 400, 500)), (100, (130, 90, 100))))  # fmt: skip
    cells = {"ringwal": cell(400) | {"turns": ours["turns"]}, "sqlite": cell(100) | {"turns": peer["turns"]}}
    check = result(sixteen=cells)["goals"][1]["checks"][0]
    assert check["text"] == "throughput / sqlite 4 x (3 to 5) (>= 4)"
    assert check["values"] == {"throughput / sqlite": 4, "bound": 4, "low": 3, "high": 5}
    cells["sqlite"]["turns"].pop()
    assert result(sixteen=cells)["goals"][1]["checks"][0]["text"] == "throughput / sqlite 4 x (>= 4)"


def test_who_comes_to_less_than_a_quarter_of_the_others_starves() -> None:
    for fairness, verdict in ((0.25, "yes"), (0.24, "no")):
        found = result(sixteen={"ringwal": cell(100)}, sixty_four={"ringwal": cell(100, fairness=fairness)})
        assert verdicts(found)[7] == verdict


def test_the_maximum_over_rounds_is_not_their_median() -> None:
    middle, spread = stats.medians([{"latency_us": {"p50": value, "max": value}} for value in (1, 9, 2)])
    assert middle == {"latency_us.p50": 2, "latency_us.max": 9}
    assert spread["latency_us.max"] == (1, 9)


def test_a_run_waits_for_a_calm_machine_but_not_for_ever() -> None:
    loads, slept, said = iter([3.0, 2.0, 0.4]), list[float](), list[str]()
    assert environment.calm(0.5, 90, said.append, lambda: next(loads), slept.append) == 3.0
    assert (len(slept), len(said)) == (1, 1)
    assert environment.calm(0.5, 10, said.append, lambda: 3.0, slept.append) == 3.0
    assert sum(slept[1:]) == 10
    assert environment.calm(0.5, 90, said.append, lambda: 0.5, slept.append) == 0.5
    assert len(said) == 2


def test_a_peer_that_does_not_sync_is_nobodys_best_peer() -> None:
    cells = {"ringwal": cell(400), "sqlite": cell(100), "nats": cell(1000) | {"incomparable": True}, "device": cell(9999)}
    assert stats.best_peer({"contenders": cells}) == ("sqlite", 100)


def test_compare_fails_only_past_the_limit_and_only_for_the_worse(tmp_path: Path) -> None:
    before, after = result(one={"ringwal": cell(100, p99=200)}), result(one={"ringwal": cell(120, p99=225)})
    found = list(compare.changes(before, after, "ringwal"))
    assert not compare.failures(found, [compare.Limit.parse("p99:13%"), compare.Limit.parse("throughput:0%")])
    assert [c.metric for c in compare.failures(found, [compare.Limit.parse("p99:12%")])] == ["p99"]
    for name, value in (("a", before), ("b", after)):
        (tmp_path / name).write_text(json.dumps(value))
    paths = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert CliRunner().invoke(cli, ["compare", *paths, "--fail", "p99:12%"]).exit_code == 1
    assert CliRunner().invoke(cli, ["compare", *paths, "--fail", "p99:13%"]).exit_code == 0
    assert CliRunner().invoke(cli, ["compare", *paths, "--fail", "p99"]).exit_code == 2


def test_compare_fails_where_what_was_measured_is_no_more(tmp_path: Path) -> None:
    cells = {"ringwal": cell(100), "sqlite": cell(50), "lmdb": {"not_measured": "never was"}}
    before, after = result(one=cells, two=cells), result(one=cells | {"sqlite": {"not_measured": "gone"}})
    assert list(compare.lost(before, after, None)) == [
        ("one", "sqlite", "gone"), ("two", "ringwal", "not part of the run"), ("two", "sqlite", "not part of the run")
    ]  # fmt: skip
    assert [who for _, who, _ in compare.lost(before, after, "ringwal")] == ["ringwal"]
    before["scenarios"].pop("two")
    for name, value in (("a", before), ("b", after)):
        (tmp_path / name).write_text(json.dumps(value))
    command = ["compare", str(tmp_path / "a"), str(tmp_path / "b")]
    listed = CliRunner().invoke(cli, [*command, "--contender", "all"])
    assert listed.exit_code == 0
    assert "measured before and not after: one sqlite: gone" in listed.output
    assert CliRunner().invoke(cli, [*command, "--contender", "all", "--fail", "p99:50%"]).exit_code == 1
    assert CliRunner().invoke(cli, [*command, "--fail", "p99:50%"]).exit_code == 0


def test_the_page_needs_nothing_else_and_its_drawings_are_well_formed() -> None:
    cells = {"ringwal": cell(400), "sqlite": cell(100), "lmdb": {"not_measured": "no <such> package"}}
    sweeps = {f"{kind}_{n}": {"ringwal": cell(n * 10), "sqlite": cell(n)} for kind in ("writers", "size") for n in (1, 4, 16)}
    found = result(one=cells, empty={"lmdb": {"not_measured": "gone"}}, **sweeps)
    rows = [
        {"shape": shape, "times": "even", "completers": "threads", "way": way, **dict.fromkeys(
            (key for key, _, _ in html_model.COLUMNS), 1.5)}
        for shape in ("1 in flight", "8 in flight") for way in ("before", "after")
    ]  # fmt: skip
    found["extras"] = {
        "before-after": {"title": "b", "rows": rows, "summary": {"1 in flight": 1.0}},
        "memory": {"title": "m", "points": [(0.0, 1e6, 2e6), (1.0, 1e6, 2e6)], "growth_bytes": 0},
        "idle": {"title": "i", "not_measured": "why"},
    }
    page = html.page(found)
    drawings = re.findall(r"<svg.*?</svg>", page)
    assert len(drawings) >= 10
    for drawing in drawings:
        ET.fromstring(drawing)
    assert "&lt;one &amp; only&gt;" in page
    assert "no &lt;such&gt; package" in page
    assert not re.search(r"(src|href)=|https?:|@import|<script", page)


@pytest.mark.parametrize("name", ["writers", "sizes", "one"])
def test_a_picture_stands_alone(tmp_path: Path, name: str) -> None:
    cells = {"ringwal": cell(400), "sqlite": cell(100)}
    found = result(one=cells, writers_1=cells, writers_4=cells, size_128=cells, size_1024=cells)
    (tmp_path / "result.json").write_text(json.dumps(found))
    done = CliRunner().invoke(cli, ["picture", str(tmp_path), name, str(tmp_path / "a.svg")], catch_exceptions=False)
    assert done.exit_code == 0
    drawing = ET.fromstring((tmp_path / "a.svg").read_text())
    texts = "".join(drawing.itertext())
    assert "ringwal" in texts
    assert "sqlite" in texts


def test_a_run_leaves_a_report_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    who = ["--contender", "ringwal", "--contender", "flock-file"]
    arguments = ["--scenario", "one", *who, "--rounds", "2", "--seconds", "0.1", "--calm", "0"]
    places = ["--directory", str(tmp_path / "data"), "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, ["run", *arguments, *places], catch_exceptions=False)
    assert done.exit_code == 0
    assert {"result.json", "report.html"} <= {path.name for path in (tmp_path / "out").iterdir()}
    found = json.loads((tmp_path / "out" / "result.json").read_text())
    cells = found["scenarios"]["one"]["contenders"]
    assert set(cells) == {"ringwal", "flock-file"}
    assert all(len(c["turns"]) == 2 and c["median"]["records_per_s"] > 0 for c in cells.values())
    assert list((tmp_path / "data").iterdir()) == []
    assert "One writer, one outstanding" in done.output
    assert done.output.count("percentile files (*.hgrm) are not written: pip install hdrhistogram") == 1
    assert found["environment"].keys() >= {"load_found", "load_before"}
    again = CliRunner().invoke(cli, ["compare", str(tmp_path / "out"), str(tmp_path / "out"), "--fail", "p99:0%"])
    assert again.exit_code == 0


def test_names_are_unique_and_every_scenario_names_known_contenders() -> None:
    scenarios, known = everything(), run.contenders()
    assert len({s.name for s in scenarios}) == len(scenarios)
    assert all(set(s.contenders) <= set(known) for s in scenarios)
    assert {s.name for s in scenarios} >= {"one", "sixteen", "pipelined", "batches", "large", "streams-100000", "sixty-four"}
    assert {"flock-file", "rocksdb"} <= set(HOT.contenders)
    assert {"flock-file"} <= set(SOME_STREAMS.contenders) & set(ALL_STREAMS.contenders)
    assert threading.active_count() == 1  # nothing of the above started anything
