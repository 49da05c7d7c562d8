"""Deleting a stream as its users meet it: gone at once, its name free, and what was on its way refused alone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

import ringwal
from ringwal.protocol.client import Registration
from ringwal.steps import park
from tests.support.asked import await_taken
from tests.support.rig import CHECKOUT, WAIT, Engine, environment, read_all, stop_process, until

Start = Callable[..., Engine]


def records(stream: ringwal.Stream) -> list[tuple[int, bytes]]:
    return [(record.offset, record.data) for record in read_all(stream)]


def names(client: ringwal.Client) -> list[str]:
    return [info.name for info in client.streams()]


def test_a_deleted_stream_is_gone_for_everybody_at_once(directory: Path, start: Start) -> None:
    start()
    with ringwal.connect(directory) as client, ringwal.connect(directory) as other:
        handles = [client.stream("s"), other.stream("s")]
        client.stream("kept").append(b"kept").result(WAIT)
        for stream in handles:
            stream.append_many([b"1", b"2"]).result(WAIT)
            assert len(stream.read()) >= 2
        other.delete_stream("s")
        for each, stream in zip((client, other), handles, strict=True):
            looks: list[Callable[[], object]] = [stream.stat, stream.read, stream.tail, partial(stream.tail, 0)]
            looks.append(partial(stream.trim, 1))
            for look in looks:
                with pytest.raises(ringwal.NoSuchStream, match="'s'"):
                    look()
            assert names(each) == ["kept"]
            with pytest.raises(ringwal.NoSuchStream):
                each.delete_stream("s")
        assert records(client.stream("kept")) == [(0, b"kept")]


def test_the_next_append_makes_another_stream_from_offset_0(directory: Path, start: Start) -> None:
    running = start()
    with ringwal.connect(directory) as client, ringwal.connect(directory) as other, ringwal.connect(directory) as third:
        numbers = []
        for life in range(4):
            for each in (client, other):
                each.stream("s").append(b"%d" % life).result(WAIT)
            info = client.stream("s").stat()
            numbers.append(info.number)
            assert (info.start_offset, info.confirmed_offset, info.confirmed_bytes) == (0, 2, 2)
            assert records(third.stream("s")) == [(0, b"%d" % life), (1, b"%d" % life)]
            client.delete_stream("s")
        assert len(set(numbers)) == 4
        assert other.stream("s").append(b"last").result(WAIT).offset == 0
    running.kill()
    start()
    with ringwal.connect(directory) as client:
        assert records(client.stream("s")) == [(0, b"last")]
        assert client.stream("s").stat().number not in numbers


def test_a_stream_that_does_not_exist_cannot_be_deleted(directory: Path, start: Start) -> None:
    start()
    with ringwal.connect(directory) as client:
        with pytest.raises(ringwal.NoSuchStream, match="mistyped"):
            client.delete_stream("mistyped")
        with pytest.raises(ringwal.ConfigError):
            client.delete_stream("")
        assert names(client) == []


def test_a_stream_without_records_may_be_deleted(directory: Path, start: Start) -> None:
    """Nothing of it is in the log."""
    running = start(max_streams=1)
    with ringwal.connect(directory) as client:
        for name in ("a", "b"):
            assert client.create_stream(name).stat().records == 0
            client.delete_stream(name)
        assert names(client) == []
        assert client.stream("c").append(b"c").result(WAIT).offset == 0
    running.kill()
    start(max_streams=1)
    with ringwal.connect(directory) as client:
        assert names(client) == ["c"]


@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_a_deletion_that_has_returned_survives_the_engine(directory: Path, start: Start, end: str) -> None:
    number, seen = -1, set[int]()
    for life in range(4):
        running = start()
        with ringwal.connect(directory) as client:
            if life:
                assert records(client.stream("s")) == [(0, b"%d again" % (life - 1))]
                assert client.stream("s").stat().number == number
            stream = client.stream("s")
            stream.append(b"%d" % life).result(WAIT)
            seen.add(stream.stat().number)
            client.delete_stream("s")
            if life % 2:
                running.kill() if end == "killed" else running.terminate()
                running = start()
                with pytest.raises(ringwal.NoSuchStream):
                    client.stream("s").stat()
            assert stream.append(b"%d again" % life).result(WAIT).offset == 0
            number = stream.stat().number
            assert number not in seen
            seen.add(number)
        running.kill() if end == "killed" else running.terminate()


@pytest.mark.parametrize("role", ["wal", "drain"])
def test_deletions_outlast_the_processes_that_make_and_confirm_them(directory: Path, start: Start, role: str) -> None:
    running = start(max_restarts=100, max_streams=3)  # so places are used again and again
    with ringwal.connect(directory, timeout=WAIT) as client:
        for n in range(8):
            for name in ("a", "b", "c"):
                assert client.stream(name).append(b"%s %d" % (name.encode(), n)).result(WAIT).offset == 0
            running.strike(role)  # its successor meets what the table has no place for any more
            for name in ("b", "a", "c"):
                client.delete_stream(name)
            running.strike(role)
            assert names(client) == []
        assert client.stream("x").append(b"x").result(WAIT).offset == 0
    running.kill()
    start(max_streams=3)
    with ringwal.connect(directory) as client:
        assert names(client) == ["x"]
        assert records(client.stream("x")) == [(0, b"x")]


def test_a_deleted_stream_gives_its_place_back(directory: Path, start: Start) -> None:
    running = start(max_streams=2)
    with ringwal.connect(directory) as client:
        for n in range(20):
            if n % 7 == 6:
                running.kill() if n % 2 else running.terminate()
                running = start(max_streams=2)
            client.create_stream("a").append(b"%d" % n).result(WAIT)
            client.create_stream("b")
            with pytest.raises(ringwal.ShmUnavailable):
                client.create_stream("c")
            client.delete_stream("b" if n % 3 else "a")
            assert client.create_stream("c").append(b"c").result(WAIT).offset == 0
            for name in names(client):
                client.delete_stream(name)


def test_a_tail_ends_with_its_stream(directory: Path, start: Start) -> None:
    start()
    with ringwal.connect(directory) as client, ringwal.connect(directory) as other:
        stream = client.stream("s")
        stream.append(b"first").result(WAIT)
        tails = [client.stream("s").tail(0), other.stream("s").tail(0), other.stream("s").tail(ringwal.LATEST)]
        found: list[list[bytes]] = [[], [], []]

        def follow(k: int) -> BaseException | None:
            try:
                for record in tails[k]:
                    found[k].append(record.data)
            except ringwal.Error as error:
                return error
            return None

        with ThreadPoolExecutor(3) as pool:
            ends = [pool.submit(follow, k) for k in range(3)]
            until(lambda: found[0] == found[1] == [b"first"], "the tails have begun")
            client.delete_stream("s")
            stream.append(b"of another stream").result(WAIT)
            for end in ends:
                assert isinstance(end.result(WAIT), ringwal.StreamDeleted)
        assert found == [[b"first"], [b"first"], []]
        assert [record.data for record in stream.read()] == [b"of another stream"]


def test_a_tail_that_has_not_looked_for_long_does_not_go_on_in_another_stream(directory: Path, start: Start) -> None:
    running = start(max_streams=1)
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        stream.append_many([b"1", b"2"]).result(WAIT)
        tail = stream.tail(0, max_records=1)
        assert next(tail).data == b"1"
        client.delete_stream("s")
        client.stream("t").append_many([b"a", b"b", b"c"]).result(WAIT)  # in the same place
        running.strike("drain")
        with pytest.raises(ringwal.StreamDeleted):
            next(tail)


# ------------------------------------------------------------------------------------------- what is on its way


@contextlib.contextmanager
def deletion_under_way(running: Engine, client: ringwal.Client, name: str) -> Iterator[Future[None]]:
    """A deletion that is in the log, and not confirmed: the drain is stopped. It goes on at the end, if it still is there."""
    drain = running.pid("drain")
    with ThreadPoolExecutor(1) as pool:
        stop_process(drain)
        try:
            before = int(running.status()["counters"]["wal_requests"])
            deletion = pool.submit(client.delete_stream, name)
            await_taken(deletion)
            until(lambda: int(running.status()["counters"]["wal_requests"]) > before, "it is in a block")
            yield deletion
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(drain, signal.SIGCONT)


HAPPENS = ["nothing", "the WAL process is killed", "the drain is killed", "both are killed"]


@pytest.mark.parametrize("happens", HAPPENS)
def test_an_append_behind_the_deletion_is_refused_alone(directory: Path, start: Start, happens: str) -> None:
    running = start(max_restarts=100)
    with ringwal.connect(directory, timeout=WAIT) as client, ringwal.connect(directory, timeout=WAIT) as other:
        stream, beside = client.stream("s"), client.stream("beside")
        for each in (stream, beside):
            each.append(b"before").result(WAIT)
        with deletion_under_way(running, other, "s") as deletion:
            late = [stream.append(b"late"), stream.append_many([b"late", b"too"])]
            fine = beside.append(b"fine")
            if happens in ("the WAL process is killed", "both are killed"):
                running.strike("wal")
            if happens in ("the drain is killed", "both are killed"):
                running.strike("drain")
        deletion.result(WAIT)
        for receipt in late:
            error = receipt.exception(WAIT)
            assert isinstance(error, ringwal.StreamDeleted)
            assert (error.outcome, error.retriable) == ("not_appended", False)
            assert receipt.done()
            with pytest.raises(ringwal.StreamDeleted, match="'s'"):
                receipt.result(WAIT)
        assert fine.result(WAIT).offset == 1
        assert stream.append(b"after").result(WAIT).offset == 0
        stream.flush(WAIT)  # all were told
        assert records(stream) == [(0, b"after")]
        assert records(beside) == [(0, b"before"), (1, b"fine")]
    running.kill()
    start()
    with ringwal.connect(directory) as client:
        assert records(client.stream("s")) == [(0, b"after")]
        assert records(client.stream("beside")) == [(0, b"before"), (1, b"fine")]


def test_what_nobody_asked_about_is_told_by_flush_once(directory: Path, start: Start) -> None:
    running = start()
    with ringwal.connect(directory, timeout=WAIT) as client, ringwal.connect(directory, timeout=WAIT) as other:
        stream, beside = client.stream("s"), client.stream("beside")
        stream.append(b"before").result(WAIT)
        with deletion_under_way(running, other, "s") as deletion:
            for n in range(20):
                stream.append(b"late %d" % n)
                beside.append(b"fine %d" % n)
        deletion.result(WAIT)
        assert stream.append(b"after").result(WAIT).offset == 0
        beside.flush(WAIT)
        with pytest.raises(ringwal.StreamDeleted) as refused:
            stream.flush(WAIT)
        assert refused.value.outcome == "not_appended"
        stream.flush(WAIT)
        assert len(records(beside)) == 20
    # Closing the client had nothing to tell any more.


def test_what_nobody_asked_about_is_told_by_closing(directory: Path, start: Start) -> None:
    running = start()
    with ringwal.connect(directory, timeout=WAIT) as other:
        client = ringwal.connect(directory, timeout=WAIT)
        stream = client.stream("s")
        stream.append(b"before").result(WAIT)
        with deletion_under_way(running, other, "s"):
            stream.append(b"late")
        with pytest.raises(ringwal.StreamDeleted):
            client.close()


def test_refused_appends_are_told_though_their_cells_went_to_later_ones(directory: Path, start: Start) -> None:
    running = start(max_outstanding=64)
    with ringwal.connect(directory, timeout=WAIT) as client, ringwal.connect(directory, timeout=WAIT) as other:
        stream, beside = client.stream("s"), client.stream("beside")
        stream.append(b"before").result(WAIT)
        with deletion_under_way(running, other, "s") as deletion:
            late = [stream.append(b"late") for _ in range(5)]
            unasked = stream.append(b"late, too")
            del unasked
        deletion.result(WAIT)
        for n in range(300):
            assert beside.append(b"%d" % n).result(WAIT).offset == n
        for receipt in late:
            with pytest.raises(ringwal.StreamDeleted):
                receipt.result(0)
        beside.flush(WAIT)
        with pytest.raises(ringwal.StreamDeleted):
            stream.flush(WAIT)
        stream.flush(WAIT)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_engine_that_ends_over_a_deletion_loses_all_of_the_stream_or_nothing(
    directory: Path, start: Start, number: signal.Signals
) -> None:
    running = start()
    with ringwal.connect(directory, timeout=WAIT) as client, ringwal.connect(directory, timeout=WAIT) as other:
        stream, beside = client.stream("s"), client.stream("beside")
        stream.append_many([b"1", b"2", b"3"]).result(WAIT)
        with deletion_under_way(running, other, "s") as deletion:
            late, fine = stream.append(b"late"), beside.append(b"fine")
            if number == signal.SIGKILL:
                running.kill()
            else:
                running.process.terminate()
        if number == signal.SIGTERM:
            assert running.wait() == 0
            deletion.result(WAIT)
            assert isinstance(late.exception(WAIT), ringwal.StreamDeleted)
            assert fine.result(WAIT).offset == 0
        else:
            error = deletion.exception(WAIT)
            assert isinstance(error, ringwal.EngineFailed)
            assert error.outcome == "unknown"
            assert isinstance(late.exception(WAIT), ringwal.EngineFailed)
        start()
        left = records(stream)
        assert left in ([], [(0, b"1"), (1, b"2"), (2, b"3")])
        if left:
            assert number == signal.SIGKILL
            client.delete_stream("s")
        assert "s" not in names(client)


def test_a_deletion_whose_end_is_not_seen_is_unknown_and_goes_on(directory: Path, start: Start) -> None:
    running = start()
    with ringwal.connect(directory, timeout=0.5) as client:
        client.stream("s").append(b"x").result(WAIT)
        pid = running.pid("drain")
        stop_process(pid)
        try:
            with pytest.raises(ringwal.AckTimeout) as late:
                client.delete_stream("s")
            assert (late.value.outcome, late.value.retriable) == ("unknown", False)
            with pytest.raises(ringwal.AckTimeout):
                client.delete_stream("s")  # the same stream: it is not gone yet
        finally:
            os.kill(pid, signal.SIGCONT)
        until(lambda: names(client) == [], "the stream is gone")
        assert client.stream("s").append(b"y").result(WAIT).offset == 0
        assert records(client.stream("s")) == [(0, b"y")]


def test_of_two_who_delete_at_once_both_are_told_that_it_is_gone(directory: Path, start: Start) -> None:
    running = start()
    with ringwal.connect(directory, timeout=WAIT) as client, ringwal.connect(directory, timeout=WAIT) as other:
        client.stream("s").append(b"x").result(WAIT)
        with deletion_under_way(running, other, "s") as first, ThreadPoolExecutor(1) as pool:
            second = pool.submit(client.delete_stream, "s")
            await_taken(second)
            os.kill(running.pid("drain"), signal.SIGCONT)
            first.result(WAIT)
            second.result(WAIT)
        assert client.stream("s").append(b"y").result(WAIT).offset == 0


LATE_WRITER = """
import ringwal, signal, sys
client = ringwal.connect(sys.argv[1])
for _ in range(100):
    client.stream("s").append(b"late")
print("!", end="", flush=True)
signal.pause()
"""


def test_a_request_for_a_deleted_stream_does_not_hit_the_next_one_of_its_name(directory: Path, start: Start) -> None:
    """Such a one may come late, or twice: it says the number that it means."""
    start(max_streams=1)
    with ringwal.connect(directory) as client, contextlib.closing(Registration(directory)) as registration:
        stream = client.stream("s")
        for life in range(2):
            stream.append_many([b"%d" % life, b"more"]).result(WAIT)
            if not life:
                number = stream.stat().number
                client.delete_stream("s")
        park(registration.change_steps({"op": "delete", "name": "s", "number": number}))
        park(registration.change_steps({"op": "trim", "name": "s", "number": number, "before": 1}))
        with pytest.raises(ringwal.ConfigError, match="ends at 2"):
            now = stream.stat().number
            park(registration.change_steps({"op": "trim", "name": "s", "number": now, "before": 3}))
        for broken in ({}, {"before": -1}, {"before": "1"}, {"before": None}, {"before": 1 << 63}):
            with pytest.raises(ringwal.ConfigError):
                park(registration.change_steps({"op": "trim", "name": "s", "number": now, **broken}))
        stream.append(b"last").result(WAIT)  # behind whatever would have been done
        assert records(stream) == [(0, b"1"), (1, b"more"), (2, b"last")]


def test_a_killed_writer_leaves_nothing_behind_in_the_next_stream(directory: Path, start: Start) -> None:
    """Its lane still holds appends to the deleted one when it is emptied."""
    running = start()
    with ringwal.connect(directory, timeout=WAIT) as client:
        client.stream("s").append(b"x").result(WAIT)
        with deletion_under_way(running, client, "s") as deletion:
            writer = subprocess.Popen(
                [sys.executable, "-c", LATE_WRITER, directory], stdout=subprocess.PIPE, env=environment(CHECKOUT)
            )
            assert writer.stdout is not None
            assert writer.stdout.read(1) == b"!"
            writer.kill()
            writer.wait(WAIT)
            writer.stdout.close()
        deletion.result(WAIT)
        assert client.stream("s").append(b"y").result(WAIT).offset == 0
        until(lambda: len(running.status()["clients"]) == 1, "its lane has been emptied")
        assert records(client.stream("s")) == [(0, b"y")]


def test_many_who_append_while_one_deletes(directory: Path, start: Start) -> None:
    """Each append is in some stream of that name, or refused; the last stream has exactly what was appended after all that."""
    running = start(max_restarts=100)
    workers, over = 4, threading.Event()
    clients = [ringwal.connect(directory, timeout=WAIT, append_timeout=WAIT) for _ in range(workers + 1)]

    def work(k: int) -> list[tuple[bytes, int]]:
        stream, done = clients[k].stream("s"), []
        n = after = 0
        while after < 20:
            after += over.is_set()  # before the append: that comes behind the last deletion
            batch = [stream.append(b"%d %d" % (k, n + i)) for i in range(1 if over.is_set() else 8)]
            for i, receipt in enumerate(batch):
                try:
                    offset = receipt.result(WAIT).offset
                except ringwal.StreamDeleted:
                    assert not after
                    continue
                if after:
                    done.append((b"%d %d" % (k, n + i), offset))
            n += len(batch)
        return done

    with ThreadPoolExecutor(workers) as pool:
        works = [pool.submit(work, k) for k in range(workers)]
        try:
            for n in range(25):
                until(lambda: "s" in names(clients[-1]), "the stream is there again")
                if n % 5 == 4:
                    running.strike("drain" if n % 2 else "wal")
                clients[-1].delete_stream("s")
        finally:
            over.set()
        acked = {offset: data for each in works for data, offset in each.result(WAIT)}
    found = dict(records(clients[0].stream("s")))
    assert list(found) == list(range(len(found)))
    assert len(acked) == 20 * workers
    assert acked.items() <= found.items()
    for k in range(workers):
        own = [int(data.split()[1]) for data in found.values() if data.startswith(b"%d " % k)]
        assert own == sorted(set(own))
    for client in clients:
        client.close()
    running.kill()
    start()
    with ringwal.connect(directory) as client:
        assert dict(records(client.stream("s"))) == found
