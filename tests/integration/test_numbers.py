"""Numbers, lanes and places mean something in one life of one engine only, and what a caller changes hurts only himself."""

from __future__ import annotations

import array
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ringwal
from ringwal._native import ffi, lib
from ringwal.protocol.client import Registration
from ringwal.steps import Steps, park
from tests.support.meddling import places, spoil
from tests.support.rig import WAIT, Engine, read_all, state_of, until

# -------------------------------------------------------------------------------------------- numbers of streams


def opened(client: ringwal.Client, name: str) -> ringwal.Stream:
    """As a first append does it: the stream has a number in this engine, and nothing in the log says so."""
    client._attachment().handle_of(name)
    return client.stream(name)


def give_letters_the_number_of_bills(directory: Path) -> ringwal.Client:
    """In the engine that runs now. Streams without records are forgotten with their engine, numbers are given out in order."""
    other = ringwal.connect(directory)
    assert other.stream("letters").append(b"a letter").result(WAIT).offset == 0
    return other


def check_bills_and_letters(client: ringwal.Client, ack: ringwal.Ack) -> None:
    assert ack == ("bills", 0, 1)
    assert [record.data for record in client.stream("bills").read(0)] == [b"a bill"]
    assert [record.data for record in client.stream("letters").read(0)] == [b"a letter"]


def test_a_handle_that_outlives_its_engine_leads_to_the_stream_of_its_name(
    directory: Path, start: Callable[..., Engine]
) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        bills = opened(client, "bills")  # has a number, and no record
        assert bills.stat().records == 0
        running.kill()
        start()
        with give_letters_the_number_of_bills(directory) as other:
            ack = bills.append(b"a bill").result(WAIT)
            check_bills_and_letters(other, ack)
            check_bills_and_letters(client, ack)
            assert bills.stat().records == 1


def append_in_a_thread(stream: Callable[[], ringwal.Stream]) -> tuple[threading.Thread, list[ringwal.Ack]]:
    """One record, until an engine takes it. The proof is in the list when the thread has ended."""
    acks: list[ringwal.Ack] = []

    def append() -> None:
        bills = stream()
        while not acks:
            with contextlib.suppress(ringwal.NotRunning):
                acks.append(bills.append(b"a bill").result(WAIT))

    late = threading.Thread(target=append)
    late.start()
    return late, acks


def hold_the_number_of_bills(
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[threading.Event, threading.Event, threading.Event]:
    """Armed, told, go on: once it is armed, who is told the number of `bills` keeps it until it may go on."""
    armed, told, go_on = threading.Event(), threading.Event(), threading.Event()
    ask = Registration.stream_steps

    def ask_slowly(self: Registration, name: str, *, look: bool = False) -> Steps[int]:
        number = yield from ask(self, name, look=look)
        if name == "bills" and armed.is_set() and not go_on.is_set():
            told.set()
            assert go_on.wait(WAIT)
        return number

    monkeypatch.setattr(Registration, "stream_steps", ask_slowly)
    return armed, told, go_on


def test_a_number_that_arrives_late_is_not_used_in_the_next_engine(
    directory: Path, start: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread has just been told the number of its stream, and goes on when another engine serves."""
    armed, told, go_on = hold_the_number_of_bills(monkeypatch)
    armed.set()
    running = start()
    with ringwal.connect(directory, timeout=WAIT) as client:
        warm = client.stream("warm")
        assert warm.append(b"0").result(WAIT).offset == 0
        late, acks = append_in_a_thread(lambda: opened(client, "bills"))
        assert told.wait(WAIT)
        running.kill()
        with pytest.raises(ringwal.NotRunning):
            warm.append(b"nobody is there")
        start()
        with give_letters_the_number_of_bills(directory) as other:
            assert warm.append(b"1").result(WAIT).offset == 1  # this client has attached to the new engine
            go_on.set()
            late.join(WAIT)
            check_bills_and_letters(other, acks[0])


def test_a_number_that_arrives_late_in_an_append_is_not_used_in_the_next_engine(
    directory: Path, start: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, and the append itself has asked: the handle is older than the engine that told the number."""
    start().kill()
    running = start()
    armed, told, go_on = hold_the_number_of_bills(monkeypatch)
    with ringwal.connect(directory, timeout=WAIT) as client:
        warm, bills = client.stream("warm"), opened(client, "bills")
        assert warm.append(b"0").result(WAIT).offset == 0
        running.kill()
        running = start()
        armed.set()  # the next number of `bills` is held
        late, acks = append_in_a_thread(lambda: bills)
        assert told.wait(WAIT)
        running.kill()
        with pytest.raises(ringwal.NotRunning):
            while True:
                warm.append(b"nobody is there")
        start()
        with give_letters_the_number_of_bills(directory) as other:
            assert warm.append(b"1").result(WAIT).offset == 1
            go_on.set()
            late.join(WAIT)
            check_bills_and_letters(other, acks[0])


# ------------------------------------------------------------------------------------- a killed engine is noticed


def test_an_append_after_the_engine_was_killed_is_refused_and_not_lost(directory: Path, start: Callable[..., Engine]) -> None:
    """By the next append, whatever it is: nobody has to wait for a result first."""
    ways: tuple[Callable[[ringwal.Stream], ringwal.Receipt], ...] = (
        lambda stream: stream.append(b"x"),
        lambda stream: stream.append(bytearray(b"x")),
        lambda stream: stream.append_many([b"x", b"y"]),
    )
    for n, append in enumerate(ways):
        running = start()
        with ringwal.connect(directory) as client:
            stream = client.stream("s")
            assert stream.append(b"%d" % n).result(WAIT).offset == n
            running.process.kill()  # of the supervisor alone; the kernel ends the others
            running.wait()
            with pytest.raises(ringwal.NotRunning) as refused:
                append(stream)
            assert refused.value.outcome == "not_appended"
            running = start()  # at once: it waits until the rest of its predecessor is gone
            assert running.facts["epoch"] == 2 * n + 2
            assert [record.data for record in stream.read(0)] == [b"%d" % n for n in range(n + 1)]
            running.kill()


def test_appends_that_were_under_way_have_an_unknown_outcome_and_the_next_one_has_not(
    directory: Path, start: Callable[..., Engine]
) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        receipts = [stream.append(b"%d" % n) for n in range(200)]
        running.process.kill()
        running.wait()
        with pytest.raises(ringwal.NotRunning) as refused:
            stream.append(b"never")
        assert refused.value.outcome == "not_appended"
        errors = [receipt.exception(WAIT) for receipt in receipts]
        confirmed = errors.count(None)
        assert errors[:confirmed] == [None] * confirmed
        assert all(isinstance(error, ringwal.EngineFailed) for error in errors[confirmed:])
        assert {error.outcome for error in errors[confirmed:] if error} <= {"unknown"}
        start()
        found = [record.data for record in read_all(stream)]
        assert found == [b"%d" % n for n in range(len(found))]
        assert len(found) >= confirmed


# ------------------------------------------------------------------------------------------------ changing batches


class Short(bytes):
    """Bytes that say another length than they have."""

    def __len__(self) -> int:
        return 1


def growing(batch: list[bytes]) -> bytes:
    """A record that, asked for its length, adds another one to its batch."""

    class Growing(bytes):
        def __len__(self) -> int:
            batch.append(b"too late")
            return super().__len__()

    return Growing(b"first")


def test_a_batch_is_what_it_was_at_the_first_look(directory: Path, start: Callable[..., Engine]) -> None:
    start()
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        batch: list[bytes] = [b"0"]
        batch += [growing(batch), Short(b"a long one"), b"3"]
        receipts = [
            stream.append(b"before"),
            stream.append_many(batch),
            stream.append_many([Short(b"a long one"), bytearray(b"5"), memoryview(array.array("H", [0x3636, 0x3636]))]),
            stream.append_many(bytes([n]) for n in b"abc"),
            stream.append(Short(b"alone")),
            stream.append(b"after"),
        ]
        assert [receipt.result(WAIT)[1:] for receipt in receipts] == [(0, 1), (1, 4), (5, 3), (8, 3), (11, 1), (12, 1)]
        assert [record.data for record in stream.read(0)] == [
            b"before",
            *(b"0", b"first", b"a long one", b"3"),
            *(b"a long one", b"5", b"6666"),
            *(b"a", b"b", b"c"),
            b"alone",
            b"after",
        ]


def test_a_batch_that_changes_at_every_step_is_what_it_was_at_one_moment(directory: Path, start: Callable[..., Engine]) -> None:
    """As another thread may change it, here at each call that `append_many` makes, and at each return."""
    start()
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        stream.append(b"so that the lane is there").result(WAIT)
        batch = [b"%d" % n * n for n in range(50)]

        def change(*_: object) -> None:
            if len(batch) < 1000:
                batch.append(b"%d" % len(batch))

        sys.setprofile(change)
        try:
            receipt = stream.append_many(batch)
        finally:
            sys.setprofile(None)
        assert 50 <= receipt.count < len(batch)
        assert receipt.result(WAIT)[1:] == (1, receipt.count)
        assert [record.data for record in stream.read(1)] == batch[: receipt.count]


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("kind", ["a list", "bytearrays"])
def test_a_batch_that_another_thread_changes_hurts_nobody(kind: str, directory: Path, start: Callable[..., Engine]) -> None:
    start(lane_bytes="256KiB")
    small, large = b"a" * 100, b"a" * 100 + b"b" * 8
    batch: list[bytes | bytearray] = [small] * 50 if kind == "a list" else [bytearray(small) for _ in range(300)]
    halt = threading.Event()

    def change() -> None:
        while not halt.is_set():
            if kind == "a list":
                batch.append(large)
                if len(batch) > 400:
                    del batch[50:]
                continue
            for item in batch[:50]:
                assert isinstance(item, bytearray)
                with contextlib.suppress(BufferError):  # it is being looked at
                    item.extend(b"b" * 8)
                    del item[100:]

    with ringwal.connect(directory, append_timeout=WAIT) as client:
        changing, quiet = client.stream("changing"), client.stream("quiet")
        changer = threading.Thread(target=change)
        changer.start()
        try:
            innocent, taken, unstable = [], 0, 0
            for _ in range(300):
                innocent.append(quiet.append(b"q"))
                try:
                    receipt = changing.append_many(batch)
                except BufferError:  # one of them changed its size under the look
                    unstable += 1
                else:
                    taken += receipt.count
                    receipt.result(WAIT)
        finally:
            halt.set()
            changer.join()
        assert unstable < 300
        assert [receipt.result(WAIT).offset for receipt in innocent] == list(range(300))
        found = [record.data for record in read_all(changing)]
        assert len(found) == taken
        assert set(found) <= {small, large}
        assert len(places(client)) == 1


def test_lengths_that_do_not_add_up_are_refused_by_the_core(directory: Path, start: Callable[..., Engine]) -> None:
    start()
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        assert stream.append(b"0").result(WAIT).offset == 0
        bound = park(client._bind_steps("s"))
        data = b"0123456789"
        for lengths in ([5, 4], [5, 6], [11], [], [2**32 - 1, 11]):
            table = ffi.new("uint32_t[]", lengths or [0])
            code = lib.rw_submit_many(bound.writer, bound.handle, table, len(lengths), data, len(data), ffi.NULL)
            assert code == lib.RW_BAD, lengths
        assert stream.append_many([data[:5], data[5:]]).result(WAIT).offset == 1  # the lane is as good as before
        assert [record.data for record in stream.read(0)] == [b"0", data[:5], data[5:]]


# ------------------------------------------------------------------------------------------------- refused lanes


def test_refused_lanes_give_their_places_back(directory: Path, start: Callable[..., Engine]) -> None:
    start(max_clients=4)
    with ringwal.connect(directory, timeout=WAIT) as client, contextlib.ExitStack() as others:
        stream = client.stream("s")
        lanes = set()
        for n in range(6):
            assert stream.append(b"%d" % n).result(WAIT).offset == n
            lane = park(client._bind_steps("s")).lane
            assert (lane.slot, lane.generation) not in lanes
            lanes.add((lane.slot, lane.generation))
            spoil(client, lane)
            with pytest.raises(ringwal.NotRunning, match="refused this client's lane") as refused:
                stream.append(b"into a lane that nobody reads")
            assert refused.value.outcome == "not_appended"
        assert stream.append(b"6").result(WAIT).offset == 6
        for n in range(3):  # four places, and this client needs one of them
            other = others.enter_context(ringwal.connect(directory, timeout=WAIT))
            assert other.stream("s").append(b"other").result(WAIT).offset == 7 + n
        until(lambda: len(places(client)) == 4, "the refused lanes have been cleared away")
        assert sorted(place["pid"] for place in places(client)) == [os.getpid()] * 4
        assert [record.data for record in stream.read(0, 7)] == [b"%d" % n for n in range(7)]


def test_what_was_under_way_in_a_refused_lane_has_an_unknown_outcome(directory: Path, start: Callable[..., Engine]) -> None:
    """Only that: other clients, and this one's next appends, go on."""
    running = start()
    with ringwal.connect(directory) as bystander, ringwal.connect(directory) as client:
        stream = client.stream("s")
        assert bystander.stream("b").append(b"0").result(WAIT).offset == 0
        receipts = [stream.append(b"%d" % n) for n in range(50)]
        stream.flush(WAIT)
        spoil(client, park(client._bind_steps("s")).lane)
        assert [receipt.result(WAIT).offset for receipt in receipts] == list(range(50))  # what was confirmed stays so
        assert bystander.stream("b").append(b"1").result(WAIT).offset == 1
        with pytest.raises(ringwal.NotRunning):
            stream.append(b"x")
        assert stream.append(b"50").result(WAIT).offset == 50
        assert running.status()["restarts"] == 0
        assert state_of(running.facts["wal_pid"]) not in "ZX"


# ----------------------------------------------------------------------------------------------- numbers in a row


def test_a_batch_gets_its_numbers_in_a_row_where_fewer_are_left(directory: Path, start: Callable[..., Engine]) -> None:
    """Two on each page. With too few left, it asked for ever for what nobody was about to allow."""
    start(max_outstanding=16)
    with ringwal.connect(directory, append_timeout=WAIT) as client:
        for n in range(50):
            with client.batch(timeout=WAIT) as batch:
                for stream in range(1 + n % 14):
                    batch.append(f"s{stream}", b"%d" % n)
            client.stream("alone").append(b"").result(WAIT)
        assert len(batch.receipt.result(0)) == 8
