"""Batches of several streams, in each face of the client: all of their appends are made, or none is."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import ringwal
import ringwal.aio
from ringwal import EARLIEST
from ringwal.client.lane import NUMBERS, Lane
from tests.support.faces import Connected, Face
from tests.support.loops import Run, on_asyncio, on_uvloop
from tests.support.rig import WAIT, Engine, arm, environment, read_all, stop_process, until

NAMES = ("a", "b", "c")


@pytest.fixture
def engine(start: Callable[..., Engine]) -> Engine:
    return start()


@pytest.fixture
def client(face: Face, directory: Path, engine: Engine) -> Iterator[Connected]:
    with face.connect(directory) as made:
        yield made


def data_of(client: Connected, name: str) -> list[bytes]:
    return [record.data for record in client.read(name)]


def names_of(client: Connected) -> list[str]:
    """Those that have records; one that was only asked for is known until the engine ends."""
    return sorted(info.name for info in client.streams() if info.confirmed_offset)


def refused(kind: type[ringwal.Error], call: Callable[[], object], match: str | None = None) -> ringwal.Error:
    """What is said of a batch of which nothing was appended."""
    with pytest.raises(kind, match=match) as caught:
        call()
    assert caught.value.outcome == "not_appended"
    return caught.value


def together(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
        assert not thread.is_alive()


# ------------------------------------------------------------------------------------------------------ what is appended


def test_each_append_has_an_ack_in_the_order_of_the_calls(client: Connected) -> None:
    client.append("b", b"before")
    acks = client.batch(("b", b"b1"), ("a", b"a0"), ("b", b"b2"), ("c", b"c0"), ("a", b"a1"))
    assert acks == [("b", 1, 1), ("a", 0, 1), ("b", 2, 1), ("c", 0, 1), ("a", 1, 1)]
    assert all(type(ack) is ringwal.Ack for ack in acks)
    assert [data_of(client, name) for name in NAMES] == [[b"a0", b"a1"], [b"before", b"b1", b"b2"], [b"c0"]]
    assert client.append("a", b"a2") == 2


def test_batches_and_appends_of_one_client_keep_their_order(client: Connected) -> None:
    for n in range(0, 60, 3):
        client.begin("s", b"%d" % n)
        assert client.batch(("t", b"t"), ("s", b"%d" % (n + 1)))[1].offset == n + 1
        client.begin_many("s", [b"%d" % (n + 2)])
    client.flush("s")
    assert data_of(client, "s") == [b"%d" % n for n in range(60)]


def test_names_and_handles_are_the_same(client: Connected) -> None:
    handle = client.handle("s")
    assert client.batch((handle, b"0"), ("s", b"1"), (handle, b"2"), ("t", b"0")) == [
        ("s", 0, 1), ("s", 1, 1), ("s", 2, 1), ("t", 0, 1),
    ]  # fmt: skip
    assert data_of(client, "s") == [b"0", b"1", b"2"]


def test_whatever_holds_the_bytes_is_copied_by_the_call(client: Connected) -> None:
    changing = bytearray(b"before")
    with client.gather() as batch:
        batch.append("s", changing)
        batch.append("s", memoryview(b"view"))
        batch.append("t", b"")
        assert len(batch) == 3
        changing[:] = b"behind"
    assert data_of(client, "s") == [b"before", b"view"]
    assert data_of(client, "t") == [b""]


def test_records_have_times_of_their_own(client: Connected) -> None:
    client.batch(("s", b"0", {"timestamp_ns": 7}), ("t", b"0"), ("s", b"1", {"timestamp_ns": 9}))
    assert [record.own_timestamp_ns for record in client.read("s")] == [7, 9]
    assert [record.own_timestamp_ns for record in client.read("t")] == [None]
    with client.gather() as batch:
        batch.append("s", b"2", timestamp_ns=10)
        with pytest.raises(ValueError, match="all records of a stream have a time of their own, or none has"):
            batch.append("s", b"3")
    assert [record.own_timestamp_ns for record in client.read("s")] == [7, 9, 10]


def test_one_stream_is_a_batch_too_and_no_stream_is_nothing(client: Connected) -> None:
    assert client.batch(("s", b"0"), ("s", b"1")) == [("s", 0, 1), ("s", 1, 1)]
    with client.gather() as batch:
        assert len(batch) == 0
    assert batch.receipt.done()
    assert batch.receipt.result() == []
    assert names_of(client) == ["s"]


def test_streams_that_are_not_there_are_made(client: Connected, engine: Engine, start: Callable[..., Engine]) -> None:
    names = [f"n{n:02}" for n in range(64)]
    assert client.batch(*((name, name.encode()) for name in names)) == [(name, 0, 1) for name in names]
    assert [data_of(client, name) for name in names] == [[name.encode()] for name in names]
    assert engine.terminate() == 0
    start()
    assert [data_of(client, name) for name in names] == [[name.encode()] for name in names]


# ------------------------------------------------------------------------------------------------------- what is refused


def test_an_expected_offset_is_honoured(client: Connected) -> None:
    client.append("s", b"0")
    at = {"expected_offset": 1}
    assert client.batch(("s", b"1", at), ("s", b"2"), ("t", b"0", {"expected_offset": 0})) == [
        ("s", 1, 1), ("s", 2, 1), ("t", 0, 1),
    ]  # fmt: skip


@pytest.mark.parametrize("wrong", range(3))
def test_one_that_does_not_fit_refuses_all(client: Connected, wrong: int) -> None:
    """Whichever of them it is, and though one of them would have made a stream."""
    client.batch(("a", b"a"), ("b", b"b"))
    goes_on = {"a": 1, "b": 1, "c": 0}
    name = NAMES[wrong]

    def attempt() -> None:
        client.batch(*((each, b"no", {"expected_offset": at + 5 * (each == name)}) for each, at in goes_on.items()))

    for _ in range(2):
        error = refused(ringwal.OffsetMismatch, attempt, rf"^'{name}' goes on at offset {goes_on[name]},")
        assert isinstance(error, ringwal.OffsetMismatch)
        assert error.actual == goes_on[name]
    for each in NAMES:
        client.flush(each)  # its caller knows
    assert names_of(client) == ["a", "b"]
    assert (data_of(client, "a"), data_of(client, "b")) == ([b"a"], [b"b"])
    assert client.batch(*((each, b"yes", {"expected_offset": at}) for each, at in goes_on.items())) == [
        (each, at, 1) for each, at in goes_on.items()
    ]


def test_the_reason_is_that_of_the_stream_that_has_one(client: Connected) -> None:
    """Though another part of the batch is looked at before it."""
    client.batch(("a", b"a"), ("b", b"b"))
    for name, other in (("a", "b"), ("b", "a")):
        with client.gather() as batch:
            pass
        with pytest.raises(ringwal.OffsetMismatch, match=rf"^'{name}' goes on at offset 1,"), client.gather() as batch:
            batch.append(other, b"no")
            batch.append(name, b"no", expected_offset=0)
        refused(ringwal.OffsetMismatch, batch.receipt.result, rf"^'{name}' goes on")  # it says so again
        assert batch.receipt.done()


def test_only_the_first_record_of_a_stream_expects(client: Connected) -> None:
    with client.gather() as batch:
        batch.append("s", b"0", expected_offset=0)
        with pytest.raises(ValueError, match="only the first record of a stream"):
            batch.append("s", b"1", expected_offset=1)
        wrong: Any
        for wrong in (-1, 1 << 63, 1.0, "1", True):
            with pytest.raises(ValueError, match=r"expected_offset is .*; it must be a whole number"):
                batch.append("t", b"0", expected_offset=wrong)
        for wrong in (-1, 1.0, "1"):
            with pytest.raises((ValueError, TypeError)):
                batch.append("t", b"0", timestamp_ns=wrong)
        with pytest.raises(TypeError):
            batch.append("t", "text")
    assert names_of(client) == ["s"]  # what was refused in place is not in it
    assert data_of(client, "s") == [b"0"]


def test_what_is_no_stream_of_this_client_is_refused_in_place(client: Connected, face: Face, directory: Path) -> None:
    with face.connect(directory) as other, client.gather() as batch:
        for name in ("_own", "", "a/../b\n"):
            with pytest.raises(ringwal.ConfigError):
                batch.append(name, b"x")
        with pytest.raises(ValueError, match="is of another client than this batch: say its name"):
            batch.append(other.handle("s"), b"x")
        for wrong in (None, b"s", 7):
            with pytest.raises(TypeError, match="a stream's name or handle"):
                batch.append(wrong, b"x")
        batch.append("s", b"x")
    assert names_of(client) == ["s"]


def test_there_are_64_streams_in_it_at_the_most(client: Connected) -> None:
    with client.gather() as batch:
        for n in range(64):
            batch.append(f"n{n}", b"0")
        with pytest.raises(ValueError, match="at most 64 streams"):
            batch.append("one more", b"0")
        batch.append("n0", b"1")
    assert len(batch.receipt.result()) == 65
    assert len(names_of(client)) == 64


def test_an_exception_in_the_block_sends_nothing(client: Connected) -> None:
    with pytest.raises(KeyError, match="mine"), client.gather() as batch:
        batch.append("s", b"x")
        raise KeyError("mine")
    with pytest.raises(RuntimeError, match="nothing of this batch was sent"):
        _ = batch.receipt
    assert client.streams() == []
    with pytest.raises(RuntimeError, match="this batch is over"):
        batch.append("s", b"x")


def test_a_batch_is_used_once(client: Connected) -> None:
    with client.gather() as batch:
        with pytest.raises(RuntimeError, match="nothing of this batch is sent"):
            _ = batch.receipt
        batch.append("s", b"x")
    with pytest.raises(RuntimeError, match=r"this batch is over, .* begin another one"):
        batch.append("s", b"y")
    with pytest.raises(RuntimeError, match="begun before"), batch:
        pass
    assert batch.receipt.result() == [("s", 0, 1)]
    assert data_of(client, "s") == [b"x"]


def test_it_may_be_as_large_as_one_append(client: Connected) -> None:
    """All headers and names that its parts may take counted: a lane's limit is that of one part."""
    with pytest.raises(ringwal.RecordTooLarge) as caught:
        client.batch(("a", bytes(1 << 20)), ("b", b"x"))
    limit = caught.value.limit
    assert limit == 32 << 10
    below, above = 0, limit  # bytes of the second part
    said: list[tuple[str | None, int | None, bool]] = []
    while above - below > 1:
        size = (below + above) // 2
        try:
            client.batch(("a", bytes(1000)), ("b", bytes(size)))
            below = size
        except ringwal.RecordTooLarge as error:
            said.append((error.outcome, error.limit, int(str(error).split(" bytes")[0]) > limit))
            above = size
    assert limit - 1500 < 1000 + below < limit
    assert set(said) == {("not_appended", limit, True)}
    made = data_of(client, "b")
    assert len(made) == len(data_of(client, "a"))
    assert max(map(len, made)) == below
    for name in ("a", "b"):
        client.flush(name)
    refused(ringwal.RecordTooLarge, lambda: client.batch(*(("a", b"") for _ in range(10_000))), r"^40000 bytes in one append;")


def test_the_client_is_closed(client: Connected, face: Face, directory: Path) -> None:
    with client.gather() as late:
        late.append("s", b"0")
    kept = client.gather()
    client.close()
    assert late.receipt.result() == [("s", 0, 1)]

    def leave() -> None:
        with kept:
            kept.append("s", b"x")
            kept.append("t", b"x")

    refused(ringwal.ClosedError, leave)
    with face.connect(directory) as other:
        assert (names_of(other), data_of(other, "s")) == (["s"], [b"0"])


def test_it_is_neither_pickled_nor_copied(client: Connected) -> None:
    with client.gather() as batch:
        batch.append("s", b"x")
    own = getattr(batch, "_batch", batch)
    neither = ((own, r"^a Batch is neither .*: pass on what it is to append"), (own.receipt, r"^a BatchReceipt .* the Acks$"))
    for what, said in neither:
        for again in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match=said):
                again(what)
    assert "1 records" in repr(own)
    assert "done" in repr(own.receipt)


# ------------------------------------------------------------------------------------------------------ deleted streams


def test_a_deleted_stream_has_a_successor(client: Connected, face: Face, directory: Path) -> None:
    with face.connect(directory) as other:
        handle = client.handle("s")
        for life in range(3):
            assert client.batch((handle, b"%d" % life), ("t", b"")) == [("s", 0, 1), ("t", life, 1)]
            other.delete("s")
        assert names_of(client) == ["t"]
        client.flush("s")


def test_another_stream_may_have_the_place_of_a_deleted_one(
    face: Face, directory: Path, start: Callable[..., Engine]
) -> None:
    """Both are parts of the batch, and this client does not know of the deletion yet."""
    start(max_streams=2)
    with face.connect(directory) as client, face.connect(directory) as other:
        for name in ("kept", "old"):
            client.append(name, b"x")
        other.delete("old")
        client.append("new", b"x")  # there is no other place
        other.delete("kept")
        assert client.batch(("old", b"y"), ("new", b"y")) == [("old", 0, 1), ("new", 1, 1)]


# --------------------------------------------------------------------------------------------------- numbers, and room


@pytest.mark.parametrize("count", [2, 3, 7, 15])
def test_completions_are_used_again_and_again(
    face: Face, directory: Path, start: Callable[..., Engine], count: int
) -> None:
    """A lane has 16 of them; rows of numbers meet its end wherever they do."""
    start(max_outstanding=16)
    names = [f"n{n}" for n in range(count)]
    with face.connect(directory) as client:
        receipts = []
        for n in range(100):
            with client.gather() as batch:
                for name in names:
                    batch.append(name, b"%d" % n)
            receipts.append(batch.receipt)
            client.begin("alone", b"x")
        for n in (0, 1, 50, 99):
            assert receipts[n].result() == [(name, n, 1) for name in names]
        for name in names:
            assert data_of(client, name) == [b"%d" % n for n in range(100)]
        client.flush("alone")
        assert client.stat("alone").confirmed_offset == 100


def test_threads_batch_at_once(face: Face, directory: Path, start: Callable[..., Engine]) -> None:
    start(max_outstanding=16)
    found: list[list[list[ringwal.Ack]]] = [[] for _ in range(6)]
    with face.connect(directory, append_timeout=WAIT) as client:

        def work(k: int) -> None:
            for n in range(60):
                found[k].append(client.batch(*((name, b"%d %d" % (k, n)) for name in NAMES[k % 2 :])))
                client.append("alone", b"x")

        together([threading.Thread(target=work, args=(k,)) for k in range(6)])
        for at, name in enumerate(NAMES):
            records = data_of(client, name)
            assert len(records) == (180 if name == "a" else 360)
            for k in range(name == "a", 6, 1 + (name == "a")):
                if name == "a" and k % 2:
                    continue
                offsets = [acks[at - k % 2].offset for acks in found[k]]
                assert [records[offset] for offset in offsets] == [b"%d %d" % (k, n) for n in range(60)]


def test_more_streams_than_the_engine_gives_numbers(face: Face, directory: Path, start: Callable[..., Engine]) -> None:
    start(max_outstanding=16)
    with face.connect(directory) as client:
        client.append("n0", b"x")
        said = "a batch of 16 streams; with this engine's max_outstanding of 16 there may be 15 in one"
        refused(ringwal.ConfigError, lambda: client.batch(*((f"n{n}", b"x") for n in range(16))), said)
        assert names_of(client) == ["n0"]
        assert client.batch(("n0", b"y"), ("n1", b"y")) == [("n0", 1, 1), ("n1", 0, 1)]


@pytest.mark.parametrize("left", [64, 65, 66])
def test_batches_outlive_the_numbers_of_a_lane(
    face: Face, directory: Path, start: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    """Whatever is left at its end is too little for one of them."""
    monkeypatch.setattr(Lane, "begins_at", NUMBERS - left // 2 * 2)
    start(max_outstanding=16)
    with face.connect(directory, append_timeout=WAIT) as client:
        for _ in range(left % 2):
            client.append("alone", b"x")

        def work(k: int) -> None:
            for n in range(60):
                client.batch(*((name, b"%d %d" % (k, n)) for name in NAMES))
                if k == 0:
                    client.append("alone", b"x")

        for workers in (1, 4):
            together([threading.Thread(target=work, args=(k,)) for k in range(workers)])
        for name in NAMES:
            client.flush(name)
            records = data_of(client, name)
            assert len(records) == 300
            for k in range(1, 4):
                assert [data for data in records if data.startswith(b"%d " % k)] == [b"%d %d" % (k, n) for n in range(60)]
        assert client.stat("alone").confirmed_offset == 120 + left % 2


def test_batches_wait_for_room(face: Face, directory: Path, engine: Engine) -> None:
    """A lane has room for three of them."""
    with face.connect(directory, append_timeout=WAIT, lane_bytes=64 << 10) as client:

        def work(k: int) -> None:
            for n in range(25):
                client.batch(("a", b"%d %d " % (k, n) + bytes(10_000)), ("b", b"%d %d " % (k, n) + bytes(10_000)))

        together([threading.Thread(target=work, args=(k,)) for k in range(6)])
        for name in ("a", "b"):
            found = [record.data.split()[:2] for record in client.records(name)]
            for k in range(6):
                assert [int(n) for who, n in found if int(who) == k] == list(range(25))


def test_there_is_no_room_in_time(face: Face, directory: Path, engine: Engine) -> None:
    with face.connect(directory, append_timeout=0.2) as client:
        client.batch(("a", b"0"), ("b", b"0"))
        stop_process(engine.facts["wal_pid"])
        filled, _ = client.fill("a", [bytes(10_000)] * 20)
        refused(ringwal.BackpressureTimeout, lambda: client.batch(("a", bytes(9000)), ("b", bytes(9000))))
        os.kill(engine.facts["wal_pid"], signal.SIGCONT)
        for receipt in filled:
            receipt.result()
        assert client.batch(("a", b"1"), ("b", b"1")) == [("a", 1 + len(filled), 1), ("b", 1, 1)]


# ------------------------------------------------------------------------------------------------ waiting, and giving up


def test_its_receipt_is_asked_again_later(client: Connected, engine: Engine) -> None:
    client.batch(("a", b"0"), ("b", b"0"))
    stop_process(engine.facts["wal_pid"])
    batch = client.gather(timeout=0.0)
    with pytest.raises(ringwal.AckTimeout, match=r"do not send it again") as caught, batch:
        batch.append("a", b"1")
        batch.append("b", b"1")
    assert caught.value.outcome == "unknown"
    assert not batch.receipt.done()
    os.kill(engine.facts["wal_pid"], signal.SIGCONT)
    for _ in range(2):
        assert batch.receipt.result() == [("a", 1, 1), ("b", 1, 1)]
    assert batch.receipt.done()


def test_flush_tells_of_one_that_nobody_asked(client: Connected, engine: Engine) -> None:
    """To each of its streams; what is wrong with one of them is the reason for all."""
    client.batch(("a", b"0"), ("b", b"0"))
    stop_process(engine.facts["wal_pid"])
    batch = client.gather(timeout=0.0)
    with pytest.raises(ringwal.AckTimeout), batch:
        batch.append("a", b"no")
        batch.append("b", b"no", expected_offset=7)
    os.kill(engine.facts["wal_pid"], signal.SIGCONT)
    refused(ringwal.OffsetMismatch, lambda: client.flush("b"), r"^'b' goes on at offset 1,|^the stream goes on at offset 1,")
    refused(ringwal.Error, lambda: client.flush("a"), "another part of its batch was refused")
    for name in ("a", "b"):
        client.flush(name)  # it has been told
    refused(ringwal.OffsetMismatch, batch.receipt.result, r"^'b' goes on at offset 1,")
    assert (data_of(client, "a"), data_of(client, "b")) == ([b"0"], [b"0"])


@pytest.mark.parametrize("wrong", [-1.0, "1"])
def test_a_timeout_that_is_none(client: Connected, wrong: Any) -> None:
    with pytest.raises(ValueError, match="must be"):
        client.gather(timeout=wrong)


@pytest.mark.parametrize("run", [on_asyncio, on_uvloop])
def test_a_cancelled_task_leaves_the_batch_as_it_is(directory: Path, engine: Engine, run: Run) -> None:
    async def main() -> None:
        async with ringwal.aio.connect(directory) as client:
            await client.stream("a").append(b"0")
            stop_process(engine.facts["wal_pid"])
            entered = asyncio.Event()
            batch = client.batch()

            async def leave() -> None:
                async with batch:
                    batch.append("a", b"1")
                    batch.append("b", b"0")
                    entered.set()

            task = asyncio.create_task(leave())
            await entered.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            os.kill(engine.facts["wal_pid"], signal.SIGCONT)
            assert await batch.receipt == [("a", 1, 1), ("b", 0, 1)]
            await client.stream("a").flush()

    run(main())


@pytest.mark.parametrize("run", [on_asyncio, on_uvloop])
def test_in_an_event_loop_it_comes_where_it_was_called(directory: Path, engine: Engine, run: Run) -> None:
    """Behind the appends that wait for room, and before those that are called while it waits itself."""

    async def main() -> None:
        async with ringwal.aio.connect(directory, append_timeout=WAIT) as client:
            a = client.stream("a")
            await a.append(b"0")
            stop_process(engine.facts["wal_pid"])
            before = [a.append_nowait(bytes(6000)) for _ in range(20)]
            batches = []
            for n in range(3):
                batch = client.batch(timeout=0.0)
                with pytest.raises(ringwal.AckTimeout):
                    async with batch:
                        batch.append("b", b"%d" % n)
                        batch.append("a", b"%d" % n)
                batches.append(batch)
                before.append(a.append_nowait(bytes(6000)))
            os.kill(engine.facts["wal_pid"], signal.SIGCONT)
            assert [(await batch.receipt) for batch in batches] == [[("b", n, 1), ("a", 21 + 2 * n, 1)] for n in range(3)]
            assert [(await each).offset for each in before] == [*range(1, 21), 22, 24, 26]

    run(main())


@pytest.mark.parametrize("run", [on_asyncio, on_uvloop])
@pytest.mark.parametrize("asked", [True, False])
def test_flush_tells_how_a_batch_was_refused_of_which_nobody_was_told(
    directory: Path, engine: Engine, run: Run, *, asked: bool
) -> None:
    """Its task had given up before."""

    async def main() -> None:
        async with ringwal.aio.connect(directory, append_timeout=0.2) as client:
            a, b = client.stream("a"), client.stream("b")
            await a.append(b"0")
            stop_process(engine.facts["wal_pid"])
            filled = [a.append_nowait(bytes(6000)) for _ in range(12)]
            batch = client.batch(timeout=0.0)
            with pytest.raises(ringwal.AckTimeout):
                async with batch:
                    batch.append("b", bytes(20_000))
                    batch.append("a", b"no")
            if asked:
                with pytest.raises(ringwal.BackpressureTimeout):
                    await batch.receipt
            await client._batches.none()  # it is refused, for want of room in time
            os.kill(engine.facts["wal_pid"], signal.SIGCONT)
            for each in filled:
                with contextlib.suppress(ringwal.BackpressureTimeout):
                    await each
            for stream in (a, b):
                if not asked:
                    with pytest.raises(ringwal.BackpressureTimeout):
                        await stream.flush()
                await stream.flush()
            assert await b.append(b"0") == ("b", 0, 1)

    run(main())


def test_each_face_says_which_with_it_takes(directory: Path, engine: Engine) -> None:
    async def main() -> None:
        async with ringwal.aio.connect(directory) as own:
            with pytest.raises(TypeError, match="use `async with`"), own.batch():  # type: ignore[attr-defined]
                pass
        with ringwal.connect(directory) as client, pytest.raises(TypeError, match="use `with` for this batch"):
            async with client.batch():  # type: ignore[attr-defined]
                pass

    asyncio.run(main())


# -------------------------------------------------------------------------------------------------- what is seen of it


def rows_of(merged: Iterator[ringwal.StreamRecord]) -> list[bytes]:
    """What was appended to all of the streams at once: each of its parts is there, one behind the other."""
    parts = [(record.stream, record.data) for record in merged if record.data != b"alone"]
    rows = [parts[at : at + 3] for at in range(0, len(parts), 3)]
    for row in rows:
        assert sorted(name for name, _ in row) == list(NAMES)
        assert len({data for _, data in row}) == 1
    return [row[0][1] for row in rows]


def test_who_follows_all_of_them_sees_all_of_it_or_nothing(face: Face, directory: Path, engine: Engine) -> None:
    """At any moment, while others append to them, together and alone."""
    ended = threading.Event()

    def batches(k: int) -> None:
        with ringwal.connect(directory, append_timeout=WAIT) as writer:
            for n in range(300):
                with writer.batch() as batch:
                    for name in NAMES[:: 1 if n % 2 else -1]:
                        batch.append(name, b"%d %d" % (k, n))

    def alone() -> None:
        with ringwal.connect(directory, append_timeout=WAIT) as writer:
            while not ended.is_set():
                for name in NAMES:
                    writer.stream(name).append(b"alone")
                writer.stream("b").flush(WAIT)

    with face.connect(directory) as client:
        for name in NAMES:
            client.create(name)
        writers = [threading.Thread(target=batches, args=(k,)) for k in range(3)]
        other = threading.Thread(target=alone)
        for thread in (*writers, other):
            thread.start()
        try:
            while True:
                last = not any(thread.is_alive() for thread in writers)
                rows = rows_of(client.merged(dict.fromkeys(NAMES, EARLIEST), max_records=7, idle_timeout=0.0))
                if last:
                    break
        finally:
            ended.set()
            for thread in (*writers, other):
                thread.join(WAIT)
        assert len(rows) == 900


# ----------------------------------------------------------------------------------------------------- ends of processes


def whole(directory: Path) -> list[bytes]:
    """What is in each of the streams, which is the same in all of them."""
    with ringwal.connect(directory, timeout=WAIT) as reader:
        found = [[record.data for record in read_all(reader.stream(name))] for name in NAMES]
    assert [sorted(each) for each in found] == [sorted(found[0])] * 3
    return found[0]


def test_what_is_pending_when_the_engine_is_killed_is_unknown(
    face: Face, directory: Path, start: Callable[..., Engine]
) -> None:
    running = start()
    with face.connect(directory) as client:
        client.batch(*((name, b"0") for name in NAMES))
        stop_process(running.facts["wal_pid"])
        batch = client.gather(timeout=0.0)
        with pytest.raises(ringwal.AckTimeout), batch:
            for name in NAMES:
                batch.append(name, b"lost, or not")
        running.kill()
        start()
        for _ in range(2):
            with pytest.raises(ringwal.EngineFailed) as caught:
                batch.receipt.result()
            assert caught.value.outcome == "unknown"
        assert batch.receipt.done()
        client.batch(*((name, b"1") for name in NAMES))
        for name in NAMES:
            client.flush(name)  # it was told
    assert whole(directory) in ([b"0", b"1"], [b"0", b"lost, or not", b"1"])


def test_kills_leave_all_of_a_batch_or_nothing(face: Face, directory: Path, start: Callable[..., Engine]) -> None:
    running = start()
    ended = threading.Event()
    confirmed: list[list[bytes]] = [[] for _ in range(4)]
    wrong: list[BaseException] = []

    def work(k: int) -> None:
        try:
            with face.connect(directory, reconnect=WAIT, append_timeout=WAIT) as client:
                n = 0
                while not ended.is_set():
                    n += 1
                    tag = b"%d %d" % (k, n)
                    try:
                        client.batch(*((name, tag) for name in NAMES[::-1]))
                        confirmed[k].append(tag)
                    except ringwal.EngineFailed:
                        pass
                    if n % 5 == 0:
                        with contextlib.suppress(ringwal.NotRunning):  # one of these was lost before
                            client.begin("alone", bytes(5000))
        except BaseException as error:  # noqa: BLE001
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(4):
            told = list(map(len, confirmed))
            until(lambda told=told: all(map(int.__lt__, told, map(len, confirmed))) or bool(wrong), "each was told")  # type: ignore[misc]
            running.kill()
            running = start()
            with face.connect(directory) as reader:  # while the writers go on
                found = rows_of(reader.merged(dict.fromkeys(NAMES, EARLIEST), idle_timeout=0.0))
            assert len(set(found)) == len(found)
    finally:
        ended.set()
        for thread in threads:
            thread.join(WAIT)
    assert wrong == []
    found = whole(directory)
    assert len(set(found)) == len(found)
    assert {tag for each in confirmed for tag in each} <= set(found)


@pytest.mark.parametrize("orderly", [True, False])
def test_with_reconnect_it_waits_for_the_engine(
    face: Face, directory: Path, start: Callable[..., Engine], *, orderly: bool
) -> None:
    running = start()
    with face.connect(directory, reconnect=WAIT) as client:
        client.batch(*((name, b"0") for name in NAMES))
        if orderly:
            assert running.terminate() == 0
        else:
            running.kill()
        found: list[ringwal.Ack] = []
        thread = threading.Thread(target=lambda: found.extend(client.batch(*((name, b"1") for name in NAMES))))
        thread.start()
        start()
        thread.join(WAIT)
        assert found == [(name, 1, 1) for name in NAMES]
    assert whole(directory) == [b"0", b"1"]


def test_without_an_engine_nothing_is_appended(face: Face, directory: Path, start: Callable[..., Engine]) -> None:
    running = start()
    with face.connect(directory, timeout=1.0) as client:
        client.batch(*((name, b"0") for name in NAMES))
        running.kill()
        refused(ringwal.NotRunning, lambda: client.batch(*((name, b"no") for name in NAMES)))
        start()
        assert client.batch(*((name, b"1") for name in NAMES)) == [(name, 1, 1) for name in NAMES]
    assert whole(directory) == [b"0", b"1"]


@pytest.mark.parametrize("point", ["l.part.put:1", "l.part.put:2", "l.part.put:3", "d.part.confirmed:1", "d.part.confirmed:2"])
def test_a_process_of_the_engine_dies_between_two_parts(
    face: Face, points_build: Path, directory: Path, start: Callable[..., Engine], point: str
) -> None:
    """Its successor goes on, and the client has its Acks."""
    once = directory.parent / "once"
    running = start(points_build, once=once, max_restarts=100)
    with face.connect(directory) as client:
        client.batch(*((name, b"0") for name in NAMES))
        for n in range(1, 4):
            arm(once, f"{point}:kill")
            assert client.batch(*((name, b"%d" % n) for name in NAMES)) == [(name, n, 1) for name in NAMES]
            assert not once.exists(), "nobody has come by"
        assert client.append("a", b"4") == 4
        assert client.batch(("b", b"4"), ("c", b"4")) == [("b", 4, 1), ("c", 4, 1)]
        merged = [(record.stream, record.offset) for record in client.merged(dict.fromkeys(NAMES, 0), idle_timeout=0.0)]
        assert sorted(merged) == [(name, n) for name in NAMES for n in range(5)]
    assert whole(directory) == [b"%d" % n for n in range(5)]
    assert running.terminate() == 0


@pytest.mark.parametrize("point", ["d.part.confirmed:1", "d.part.confirmed:2"])
def test_a_drain_that_stops_between_two_parts_shows_none_to_who_follows_all(
    points_build: Path, directory: Path, start: Callable[..., Engine], point: str
) -> None:
    once = directory.parent / "once"
    running = start(points_build, once=once)
    with ringwal.connect(directory, timeout=WAIT) as client:
        with client.batch() as batch:
            for name in NAMES:
                batch.append(name, b"0")
        arm(once, f"{point}:stop")
        late = client.batch(timeout=0.0)
        with pytest.raises(ringwal.AckTimeout), late:
            for name in NAMES:
                late.append(name, b"1")
        until(lambda: sum(client.stream(name).stat().confirmed_offset for name in NAMES) > 3, "a part is confirmed")
        merged = client.tail(dict.fromkeys(NAMES, EARLIEST), idle_timeout=0.0)
        assert [record.offset for record in merged] == [0, 0, 0]
        assert not late.receipt.done()
        running.kill()
        start()
        with pytest.raises(ringwal.EngineFailed) as caught:
            late.receipt.result(WAIT)
        assert caught.value.outcome == "unknown"
    assert whole(directory) == [b"0", b"1"]  # a reader has seen a part of it


WRITER = """
import os, sys, ringwal
with ringwal.connect({directory!r}, timeout=30.0) as client:
    for name in "abc":
        client.stream(name).append(b"before")
    client.stream("a").flush(30.0)
    with open({once!r} + ".draft", "w") as order:
        order.write({order!r})
    os.rename({once!r} + ".draft", {once!r})
    with client.batch() as batch:
        for name in "abc":
            batch.append(name, b"never")
"""


@pytest.mark.parametrize("hit", [1, 2])
def test_nothing_is_seen_of_a_writer_that_dies_between_two_parts(
    points_build: Path, directory: Path, start: Callable[..., Engine], hit: int
) -> None:
    start(points_build)
    once = directory.parent / "once"
    program = WRITER.format(directory=str(directory), once=str(once), order=f"w.part.put:{hit}:kill")
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(points_build, once), capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    with ringwal.connect(directory) as client:
        until(lambda: not client.status()["clients"], "its place is free")
        with client.batch() as batch:
            for name in NAMES:
                batch.append(name, b"behind")
        assert batch.receipt.result(WAIT) == [(name, 1, 1) for name in NAMES]
    assert whole(directory) == [b"before", b"behind"]


FORKS = """
import json, os, signal, traceback, ringwal
client = ringwal.connect({directory!r}, timeout=30.0)
with client.batch() as told:
    told.append("a", b"0")
    told.append("b", b"0")
os.kill({wal}, signal.SIGSTOP)
sent = client.batch(timeout=0.0)
try:
    with sent:
        sent.append("a", b"1")
        sent.append("b", b"1")
except ringwal.AckTimeout:
    pass
with client.batch() as batch:
    batch.append("a", b"parent")
    batch.append("b", b"parent")
    pid = os.fork()
    if pid == 0:
        try:
            assert len(told.receipt.result(30.0)) == 2
            try:
                sent.receipt.result(30.0)
            except ringwal.ForkError as error:
                assert error.outcome == "unknown"
            else:
                os._exit(3)
            os.kill({wal}, signal.SIGCONT)
            with client.batch() as own:
                own.append("a", b"child")
                own.append("b", b"child")
            assert len(own.receipt.result(30.0)) == 2
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
print(json.dumps([list(ack) for each in (sent, batch) for ack in each.receipt.result(30.0)]))
client.close()
"""


def test_a_fork_in_the_middle(directory: Path, engine: Engine) -> None:
    """The child has a client of its own; what was sent, and what is gathered, stays the parent's."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS.format(directory=str(directory), wal=engine.facts["wal_pid"])],
        env=environment(Path(__file__).parents[2]), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [["a", 1, 1], ["b", 1, 1], ["a", 3, 1], ["b", 3, 1]]
    with ringwal.connect(directory) as reader:
        for name in ("a", "b"):
            assert [record.data for record in read_all(reader.stream(name))] == [b"0", b"1", b"child", b"parent"]


def test_of_those_who_move_between_two_streams_nobody_makes_or_loses_anything(
    face: Face, directory: Path, engine: Engine
) -> None:
    """Each decides by what it has read of both; one of them moves at a time."""
    won = [0] * 3

    def move(k: int, client: Connected) -> None:
        while (at := client.stat("from").confirmed_offset) < 60:
            to = client.stat("to").confirmed_offset
            try:
                client.batch(("from", b"%d" % k, {"expected_offset": at}), ("to", b"%d" % k, {"expected_offset": to}))
                won[k] += 1
            except ringwal.OffsetMismatch:
                pass

    with ExitStack() as stack:
        clients = [stack.enter_context(face.connect(directory)) for _ in range(3)]
        for name in ("from", "to"):
            clients[0].create(name)
        together([threading.Thread(target=move, args=pair) for pair in enumerate(clients)])
        found = data_of(clients[0], "from")
        assert found == data_of(clients[0], "to")
        assert len(found) == sum(won) >= 60
