"""A turn of the benchmark: contenders that work or fail, what they cost, and that nothing is left behind. No speeds."""

from __future__ import annotations

import multiprocessing
import os
import signal
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bench import before_after, device, extras, measure, peers, processes, run, subject, tail
from bench.before import build
from bench.contender import BlockingSession, Contender, ContenderFailedError
from bench.peers import redis_streams
from bench.scenario import ONE, Scenario
from tests.support import shm_names
from tests.support.bench_fakes import Attended, Broken, S, plan


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
    subject.start(place, {}, log).stop(signal.SIGKILL)
    assert shm_names.left() == []
    with pytest.raises(ContenderFailedError, match="did not start"):
        subject.start(place, {"max-streams": "nonsense"}, log)
    assert shm_names.left() == []
    server = subject.start(place, {}, log)
    server.process.kill()
    server.stop()
    assert shm_names.left() == []


def test_the_tail_does_not_wait_for_ever_for_the_drains_clock() -> None:
    assert tail.confirmed_after(lambda: 2 * S, 2 * S, 0.0) == 2 * S
    with pytest.raises(ContenderFailedError, match=r"still stood 1\.000 s before the record was sent"):
        tail.confirmed_after(lambda: 2 * S, 3 * S, 0.0)


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
