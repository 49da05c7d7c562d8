"""Consumers, in each face of the client: they go on where they have committed, and only one at a time has a name."""

from __future__ import annotations

import copy
import datetime
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import ringwal
from tests.support.faces import Connected, Consuming, Face
from tests.support.rig import WAIT, Engine, children_of, stop_process, until

MANY = 200
STREAMS = ("a", "b", "c")


@pytest.fixture
def engine(start: Callable[..., Engine]) -> Engine:
    return start(max_outstanding=64, max_streams=64)


@pytest.fixture
def client(face: Face, directory: Path, engine: Engine) -> Iterator[Connected]:
    with face.connect(directory) as made:
        yield made


def numbers(start: int, end: int) -> list[bytes]:
    return [b"%d" % n for n in range(start, end)]


def spread(client: Connected, count: int, first: int = 0, streams: Sequence[str] = STREAMS) -> list[bytes]:
    """So many records, one behind the other in the log, over the streams in turn."""
    for n in range(first, first + count):
        client.append(streams[n % len(streams)], b"%d" % n)
    return numbers(first, first + count)


def taken(consumer: Consuming, count: int) -> list[ringwal.StreamRecord]:
    """So many records, waited for."""
    found: list[ringwal.StreamRecord] = []
    while len(found) < count:
        more = consumer.poll(count - len(found), WAIT)
        assert more, f"only {len(found)} of {count} records came"
        found += more
    return found


def data_of(records: Sequence[ringwal.StreamRecord]) -> list[bytes]:
    return [record.data for record in records]


def fenced(call: Callable[[], object], name: str = "c", why: str = "another process has claimed it since") -> None:
    with pytest.raises(ringwal.ConsumerFenced, match=rf"consumer '{name}' is fenced: {why}") as caught:
        call()
    assert (caught.value.outcome, caught.value.retriable) == ("not_appended", False)


def rows(client: Connected) -> dict[tuple[str, str], int]:
    return {(row.name, row.stream): row.committed for row in client.consumers()}


# ------------------------------------------------------------------------------------------------ where it begins


@pytest.mark.parametrize(
    ("position", "begins"),
    [(ringwal.EARLIEST, 0), (ringwal.LATEST, 10), (ringwal.Last(3), 7), (ringwal.Last(99), 0), (4, 4), (10, 10), (999, 10)],
    ids=str,
)
def test_one_that_is_new_begins_where_it_says(client: Connected, position: Any, begins: int) -> None:
    client.append_all("s", numbers(0, 10))
    consumer = client.consumer("c", ["s"], position)
    assert consumer.committed == consumer.positions == {"s": begins} and consumer.lag == {"s": 10 - begins}
    client.append("s", b"10")
    assert data_of(taken(consumer, 11 - begins)) == numbers(begins, 11)
    assert consumer.positions == {"s": 11} and consumer.committed == {"s": begins}


def test_it_begins_behind_what_is_trimmed(client: Connected) -> None:
    client.append_all("s", numbers(0, 10))
    client.trim("s", 4)
    assert client.consumer("c", ["s"]).committed == {"s": 4}
    assert data_of(taken(client.consumer("d", ["s"]), 6)) == numbers(4, 10)


def test_streams_that_are_not_there_are_made(client: Connected) -> None:
    consumer = client.consumer("c", ["new"])
    assert consumer.poll() == []
    client.append("new", b"0")
    (record,) = consumer.poll(timeout=WAIT)
    assert (record.stream, record.offset, record.data) == ("new", 0, b"0")


def test_several_streams_come_in_log_order(client: Connected) -> None:
    sent = spread(client, MANY)
    consumer = client.consumer("c", STREAMS)
    assert consumer.streams == STREAMS
    assert data_of(taken(consumer, MANY)) == sent
    assert sum(consumer.positions.values()) == MANY


def test_where_it_begins_matters_only_where_it_is_new(client: Connected) -> None:
    spread(client, 30)
    first = client.consumer("c", ["a"])
    first.commit(taken(first, 4)[-1])
    second = client.consumer("c", ["a", "b"], ringwal.LATEST)
    assert second.committed == {"a": 4, "b": 10}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("c", "s"), TypeError),
        (("c", []), ValueError),
        (("c", ["s", "s"]), ValueError),
        (("c", [f"s{n}" for n in range(65)]), ValueError),
        (("", ["s"]), ringwal.ConfigError),
        (("c" * 121, ["s"]), ringwal.ConfigError),
        (("c", [""]), ringwal.ConfigError),
        (("c", ["s"], -1), ValueError),
        (("c", ["s"], "EARLIEST"), ValueError),
    ],
    ids=["a string", "none", "twice", "65", "no name", "a long name", "no stream's name", "negative", "a word"],
)
def test_what_is_no_consumer_is_refused_and_nothing_is_made(
    client: Connected, arguments: tuple[Any, ...], error: type[Exception]
) -> None:
    with pytest.raises(error):
        client.consumer(*arguments)
    assert client.consumers() == []


# ------------------------------------------------------------------------------------------------------- reading


def test_polls_and_iterations_go_on_from_each_other(client: Connected) -> None:
    consumer = client.consumer("c", STREAMS)
    sent = spread(client, MANY)
    found = data_of(taken(consumer, 7))
    found += data_of(list(islice(consumer.records(), 11)))
    found += data_of(consumer.poll(5))
    for record in consumer.records():
        found.append(record.data)
        found += data_of(consumer.poll(3))
        if len(found) == MANY:
            break
    assert found == sent
    assert consumer.poll() == []
    assert data_of(list(islice(consumer.records(), 0))) == []
    assert consumer.positions == {"a": 67, "b": 67, "c": 66}


def test_what_is_fetched_and_not_given_out_is_not_committed(client: Connected) -> None:
    sent = spread(client, MANY)
    consumer = client.consumer("c", STREAMS)
    assert data_of(list(islice(consumer.records(), 10))) == sent[:10]
    consumer.commit()
    assert consumer.committed == {"a": 4, "b": 3, "c": 3}
    assert data_of(taken(client.consumer("c", STREAMS), MANY - 10)) == sent[10:]


def test_a_poll_waits_as_long_as_it_says(client: Connected) -> None:
    consumer = client.consumer("c", ["s"])
    assert consumer.poll(timeout=0.01) == []
    client.append("s", b"0")
    assert data_of(consumer.poll(timeout=None)) == [b"0"]
    for wrong in ({"max_records": 0}, {"timeout": -1}, {"max_records": "1"}):
        with pytest.raises(ValueError, match=r"must be"):
            consumer.poll(**wrong)


def test_it_seeks(client: Connected) -> None:
    sent = spread(client, 30)
    consumer = client.consumer("c", STREAMS)
    assert data_of(taken(consumer, 30)) == sent
    for to, begins in ((3, 3), (ringwal.EARLIEST, 0), (ringwal.Last(2), 8), (ringwal.LATEST, 10)):
        consumer.seek("b", to)
        assert consumer.positions == {"a": 10, "b": begins, "c": 10}
        assert data_of(consumer.poll()) == sent[1::3][begins:]
    assert list(consumer.committed.values()) == [0] * 3
    with pytest.raises(ValueError, match="no stream of this consumer"):
        consumer.seek("d", 0)


def test_it_seeks_times(client: Connected) -> None:
    client.append_all("s", numbers(0, 5))
    now = datetime.datetime.now(datetime.UTC)
    consumer = client.consumer("c", ["s"])
    taken(consumer, 5)
    middle = next(iter(client.records("s", 2))).timestamp_ns
    consumer.seek("s", ringwal.At.from_ns(middle))
    begins = client.offset_at("s", ringwal.At.from_ns(middle))
    assert consumer.positions == {"s": begins} and data_of(consumer.poll()) == numbers(begins, 5)
    consumer.seek("s", now - datetime.timedelta(hours=1))
    assert data_of(consumer.poll()) == numbers(0, 5)


def test_iterating_it_seeks_back(client: Connected) -> None:
    client.append_all("s", numbers(0, 10))
    consumer, found = client.consumer("c", ["s"]), []
    for record in consumer.records():
        found.append(record.data)
        if len(found) == 5:
            consumer.seek("s", 2)
        if len(found) == 13:
            break
    assert found == numbers(0, 5) + numbers(2, 10)


# ------------------------------------------------------------------------------------------------------ committing


def test_a_commit_is_up_to_a_record_or_to_all_that_was_given_out(client: Connected) -> None:
    spread(client, 30)
    consumer = client.consumer("c", STREAMS)
    records = taken(consumer, 12)
    consumer.commit(records[4])  # of b
    assert consumer.committed == {"a": 0, "b": 2, "c": 0} == {row.stream: row.committed for row in client.consumers()}
    consumer.commit()
    assert consumer.committed == {"a": 4, "b": 4, "c": 4} and consumer.lag == {"a": 6, "b": 6, "c": 6}
    again = client.consumer("c", STREAMS)
    assert data_of(taken(again, 18)) == numbers(12, 30)


def test_an_older_record_does_not_go_back_and_a_seek_does(client: Connected) -> None:
    client.append_all("s", numbers(0, 10))
    consumer = client.consumer("c", ["s"])
    records = taken(consumer, 10)
    consumer.commit(records[6])
    consumer.commit(records[2])
    assert consumer.committed == {"s": 7}
    consumer.commit_soon(records[1])
    consumer.flush()
    assert rows(client) == {("c", "s"): 7}
    consumer.seek("s", 3)
    consumer.commit()
    assert consumer.committed == {"s": 3} and rows(client) == {("c", "s"): 3}
    consumer.commit(consumer.poll(1)[0])
    assert rows(client) == {("c", "s"): 4}


def test_commits_that_nobody_waits_for_are_there_when_it_is_closed(client: Connected) -> None:
    spread(client, MANY)
    consumer = client.consumer("c", STREAMS)
    for record in islice(consumer.records(), MANY):
        consumer.commit_soon(record)
    consumer.close()
    assert rows(client) == {("c", "a"): 67, ("c", "b"): 67, ("c", "c"): 66}
    for call in (consumer.commit, consumer.commit_soon, consumer.poll, consumer.flush, lambda: consumer.seek("a", 0)):
        with pytest.raises(ringwal.ClosedError):
            call()
    consumer.close()


def test_closing_the_client_closes_them(face: Face, directory: Path, engine: Engine) -> None:
    with face.connect(directory) as client:
        client.append_all("s", numbers(0, MANY))
        consumer = client.consumer("c", ["s"])
        for record in taken(consumer, MANY):
            consumer.commit_soon(record)
        client.close()
        with pytest.raises(ringwal.ClosedError):
            consumer.poll()
    with face.connect(directory) as client:
        assert rows(client) == {("c", "s"): MANY}


def test_what_it_commits_is_on_its_way_before_it_sleeps(face: Face, directory: Path, engine: Engine) -> None:
    with face.connect(directory) as client, ringwal.connect(directory, timeout=WAIT) as other:
        client.append_all("s", numbers(0, MANY))
        consumer = client.consumer("c", ["s"])
        for record in taken(consumer, MANY):
            consumer.commit_soon(record)
        sleeper = threading.Thread(target=consumer.poll, kwargs={"timeout": None})
        sleeper.start()
        until(lambda: other.consumers()[0].committed == MANY, "the last one to be committed", WAIT)
        other.stream("s").append(b"wakes it").result(WAIT)
        sleeper.join(WAIT)
        assert not sleeper.is_alive()


def test_names_are_independent_of_each_other(client: Connected) -> None:
    sent = spread(client, 30)
    one, two = client.consumer("one", STREAMS), client.consumer("two", ["a", "b"])
    one.commit(taken(one, 30)[-1])
    two.commit(taken(two, 3)[-1])
    assert rows(client) == {
        ("one", "a"): 0, ("one", "b"): 0, ("one", "c"): 10, ("two", "a"): 2, ("two", "b"): 0,
    }  # fmt: skip
    assert data_of(taken(client.consumer("three", STREAMS), 30)) == sent


@pytest.mark.parametrize("offset", [10, 11, 1 << 40])
def test_a_record_that_was_not_given_out_cannot_be_committed(client: Connected, offset: int) -> None:
    """Its lane would be refused, with all that else is appended in it."""
    client.append_all("s", numbers(0, 10))
    consumer = client.consumer("c", ["s"])
    (*_, last) = taken(consumer, 10)
    for commit in (consumer.commit, consumer.commit_soon, lambda r: client.transform([("out", b"x")], [(consumer, r)])):
        with pytest.raises(ValueError, match=r"has not given out"):
            commit(last._replace(offset=offset))
    with pytest.raises(ValueError, match=f"no offset {offset + 1}"):
        consumer.seek("s", offset + 1)
    assert consumer.positions == {"s": 10}
    consumer.commit()
    assert client.append("s", b"10") == 10
    consumer.commit(taken(consumer, 1)[0])
    assert rows(client) == {("c", "s"): 11}


def test_what_a_batch_was_for_that_failed_is_given_out_again(client: Connected) -> None:
    """Else the next commit would go over it. Whoever sends the same again may."""
    client.append_all("s", numbers(0, 10))
    consumer = client.consumer("c", ["s"])
    first, second, *_ = taken(consumer, 5)
    with pytest.raises(ringwal.OffsetMismatch), client.gather() as batch:
        batch.append("out", b"0", None, 99)
        batch.commit(consumer.consumer, first)
    assert data_of(consumer.poll(2)) == numbers(0, 2)
    with pytest.raises(ZeroDivisionError), client.gather() as batch:
        batch.commit(consumer.consumer, second)
        raise ZeroDivisionError
    client.transform([("out", b"0")], [(consumer, first)])
    assert data_of(consumer.poll(2)) == numbers(1, 3)
    with pytest.raises(ValueError, match="record 0 of 's' is committed already"):
        client.transform([("out", b"0")], [(consumer, first)])
    consumer.commit()
    assert rows(client) == {("c", "s"): 3}
    assert [record.data for record in client.records("out")] == [b"0"]


def test_a_batch_of_which_nobody_knows_holds_its_consumer_up(
    face: Face, directory: Path, start: Callable[..., Engine]
) -> None:
    """Until its receipt says what became of it. What was committed before it, or less than it, does not go behind it."""
    running = start()
    wal = running.facts["wal_pid"]
    with face.connect(directory) as client:
        client.append_all("s", numbers(0, 10))
        client.append("out", b"first")
        consumer = client.consumer("c", ["s"])
        records = taken(consumer, 10)
        stop_process(wal)
        for record in records[:2]:
            consumer.commit_soon(record)
        with pytest.raises(ringwal.AckTimeout, match="do not send it again"), client.gather(0.1) as batch:
            batch.append("out", b"2")
            batch.commit(consumer.consumer, records[2])
        with pytest.raises(ValueError, match="the next record gets 10"):
            consumer.seek("s", 11)
        for call in (consumer.commit, consumer.poll, lambda: client.transform([("out", b"2")], [(consumer, records[2])])):
            with pytest.raises(ringwal.Error, match=r"outcome that is not known.* claim it anew") as caught:
                call()
            assert caught.value.outcome == "not_appended"
        os.kill(wal, signal.SIGCONT)
        assert batch.receipt.result() == [("out", 1, 1)]
        consumer.flush()
        assert rows(client) == {("c", "s"): 3} and consumer.committed == {"s": 3}
        consumer.commit(records[3])
        assert rows(client) == {("c", "s"): 4}


def test_seeking_takes_no_commit_back(client: Connected) -> None:
    client.append_all("s", numbers(0, 10))
    consumer = client.consumer("c", ["s"])
    records = taken(consumer, 10)
    consumer.commit_soon(records[0])
    consumer.commit_soon(records[7])
    consumer.seek("s", ringwal.LATEST)
    consumer.flush()
    assert rows(client) == {("c", "s"): 8}


def test_a_stream_that_was_made_anew_is_another_one(client: Connected) -> None:
    for name in ("a", "b"):
        client.append_all(name, numbers(0, 2))
    consumer = client.consumer("c", ["a", "b"])
    taken(consumer, 4)
    client.delete("a")
    client.append_all("a", numbers(10, 15))
    consumer.seek("b", 0)
    for _ in range(2):
        with pytest.raises(ringwal.StreamDeleted, match="another one has its name"):
            consumer.poll()
    assert data_of(client.consumer("c", ["a"]).poll()) == numbers(10, 15)


# -------------------------------------------------------------------------------------------------------- restarts


@pytest.mark.parametrize("end", ["stop", "kill"])
@pytest.mark.parametrize("named", [True, False], ids=["by the checkpoint", "by the log"])
def test_it_goes_on_where_it_was(
    face: Face, directory: Path, start: Callable[..., Engine], end: str, *, named: bool
) -> None:
    """A checkpoint is named each time a segment is filled, so records fill some, or none."""
    padding, expected = b"." * (20_000 if named else 1), []
    for life in range(4):
        engine = start()
        with face.connect(directory, append_timeout=WAIT) as client:
            assert rows(client) == ({("c", name): 40 * life for name in STREAMS} if life else {})
            for n in range(120 * life, 120 * (life + 1)):
                client.begin(STREAMS[n % 3], b"%d " % n + padding)
            for name in STREAMS:
                client.flush(name)
            consumer = client.consumer("c", STREAMS)
            assert consumer.committed == dict.fromkeys(STREAMS, 40 * life)
            found = taken(consumer, 120)
            expected += [int(data.split()[0]) for data in data_of(found)]
            for record in found[:-3]:
                consumer.commit_soon(record)
            consumer.commit()
            if end == "kill":
                engine.kill()
        if end == "stop":
            assert engine.terminate() == 0
    assert sorted(expected) == list(range(480))


def test_what_was_not_committed_comes_again(face: Face, directory: Path, start: Callable[..., Engine]) -> None:
    engine = start()
    with face.connect(directory) as client:
        sent = spread(client, 30)
        consumer = client.consumer("c", STREAMS)
        records = taken(consumer, 30)
        for record in records[:9]:
            consumer.commit(record)
        engine.kill()
    start()
    with face.connect(directory) as client:
        assert data_of(taken(client.consumer("c", STREAMS), 21)) == sent[9:]


def test_with_reconnect_it_goes_on_over_the_end_of_an_engine(face: Face, directory: Path, start: Callable[..., Engine]) -> None:
    engine = start()
    with face.connect(directory, reconnect=WAIT) as client:
        consumer = client.consumer("c", STREAMS)
        for life in range(4):
            sent = spread(client, 30, 30 * life)
            records = taken(consumer, 30)
            assert data_of(records) == sent
            for record in records:
                consumer.commit_soon(record)
            engine.kill()
            engine = start()
            consumer.flush()
            assert rows(client) == {("c", name): 10 * (life + 1) for name in STREAMS}
        assert consumer.poll() == []
        assert {row.claimed for row in client.consumers()} == {1}


def test_without_it_the_end_of_an_engine_says_what_became_of_a_commit(
    face: Face, directory: Path, start: Callable[..., Engine]
) -> None:
    engine = start()
    with face.connect(directory) as client:
        client.append_all("s", numbers(0, 10))
        consumer = client.consumer("c", ["s"])
        records = taken(consumer, 10)
        consumer.commit(records[3])
        for pid in children_of(engine.process.pid):
            stop_process(pid)
        consumer.commit_soon(records[5])
        engine.kill()
        with pytest.raises(ringwal.EngineFailed) as caught:
            consumer.flush()
        assert caught.value.outcome == "unknown"
        with pytest.raises((ringwal.EngineFailed, ringwal.NotRunning)):
            consumer.poll(timeout=WAIT)
        start()
        again = client.consumer("c", ["s"])
        assert again.committed["s"] in (4, 6)
        fenced(lambda: consumer.commit(records[7]))


def test_a_commit_that_is_late_says_so_and_goes_on(directory: Path, start: Callable[..., Engine]) -> None:
    engine = start()
    with ringwal.connect(directory, reconnect=WAIT) as client:
        client.stream("s").append_many(numbers(0, 10)).result(WAIT)
        consumer = client.consumer("c", ["s"])
        records = consumer.poll(timeout=WAIT)
        for pid in children_of(engine.process.pid):
            stop_process(pid)
        for _ in range(2):
            with pytest.raises(ringwal.AckTimeout):
                consumer.commit(records[3], timeout=0.05)
        assert consumer.committed == {"s": 0}
        engine.kill()
        start()
        consumer.flush(WAIT)
        assert consumer.committed == {"s": 4}


def test_a_poll_does_not_wait_for_commits_that_are_on_their_way(
    face: Face, directory: Path, start: Callable[..., Engine]
) -> None:
    engine = start()
    with face.connect(directory, reconnect=WAIT) as client:
        client.append_all("s", numbers(0, 10))
        consumer = client.consumer("c", ["s"])
        records = taken(consumer, 10)
        for pid in children_of(engine.process.pid):
            stop_process(pid)
        for record in records:
            consumer.commit_soon(record)
            assert consumer.poll(timeout=0) == consumer.poll(timeout=0.01) == []
        engine.kill()
        start()
        consumer.flush()
        assert rows(client) == {("c", "s"): 10}


# ------------------------------------------------------------------------------------------------------------ fence


def test_the_newer_one_of_a_name_works_and_the_older_one_is_fenced(face: Face, directory: Path, engine: Engine) -> None:
    with face.connect(directory) as client, face.connect(directory) as other:
        spread(client, 30)
        older = client.consumer("c", STREAMS)
        records = taken(older, 10)
        older.commit(records[2])
        newer = other.consumer("c", STREAMS)
        fenced(lambda: older.commit(records[5]))
        for call in (older.poll, older.commit, lambda: older.commit_soon(records[6]), older.flush, lambda: older.seek("a", 0)):
            fenced(call)
        older.close()
        newer.commit(taken(newer, 29)[-1])
        assert rows(other) == {("c", "a"): 0, ("c", "b"): 0, ("c", "c"): 10}


def test_a_fence_is_of_all_streams(face: Face, directory: Path, engine: Engine) -> None:
    """Also of those that the newer one does not read."""
    with face.connect(directory) as client, face.connect(directory) as other:
        spread(client, 30)
        older = client.consumer("c", STREAMS)
        records = taken(older, 30)
        newer = other.consumer("c", ["d"])
        fenced(lambda: older.commit(records[0]))
        assert rows(other) == {("c", name): 0 for name in (*STREAMS, "d")}
        newer.commit()


def test_what_is_not_waited_for_is_told_that_it_is_fenced(face: Face, directory: Path, engine: Engine) -> None:
    with face.connect(directory) as client, face.connect(directory) as other:
        client.append_all("s", numbers(0, MANY))
        older = client.consumer("c", ["s"])
        records = taken(older, MANY)
        other.consumer("c", ["s"])
        older.commit_soon(records[0])
        fenced(older.flush)
        assert rows(other) == {("c", "s"): 0}


def test_one_that_is_fenced_in_a_batch_appends_nothing(face: Face, directory: Path, engine: Engine) -> None:
    with face.connect(directory) as client, face.connect(directory) as other:
        client.append_all("in", numbers(0, 10))
        older = client.consumer("c", ["in"])
        records = taken(older, 10)
        client.transform([("out", b"0")], [(older, records[0])])
        assert older.committed == {"in": 1}
        newer = other.consumer("c", ["in"])
        fenced(lambda: client.transform([("out", b"x"), ("elsewhere", b"x")], [(older, records[5])]))
        fenced(lambda: client.transform([("out", b"x")], [(older, records[5])]))
        other.transform([("out", b"1")], [(newer, taken(newer, 1)[0])])
        assert [record.data for record in client.records("out")] == [b"0", b"1"]
        assert rows(client) == {("c", "in"): 2}


CLAIMS = """
import sys
import ringwal
directory, streams = sys.argv[1], sys.argv[2].split()
with ringwal.connect(directory, timeout=30) as client:
    print("ready", flush=True)
    sys.stdin.readline()
    consumer = client.consumer("c", streams)
    print("claimed", flush=True)
    sys.stdin.readline()
    try:
        for record in consumer.poll(timeout=30):
            consumer.commit(record)
    except ringwal.ConsumerFenced:
        print("fenced", flush=True)
    else:
        print("has it", flush=True)
"""


@pytest.mark.parametrize("count", [8])
def test_of_processes_that_claim_at_once_one_has_all_rows(directory: Path, engine: Engine, count: int) -> None:
    names = [f"s{n}" for n in range(6)]
    with ringwal.connect(directory, timeout=WAIT) as client:
        for name in names:
            client.stream(name).append(b"x").result(WAIT)
        # Each reads them in another order: a claim that went row by row would end with some here, and some there.
        orders = [names[n % 6 :] + names[: n % 6] for n in range(count)]
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", CLAIMS, str(directory), " ".join(order)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for order in orders
        ]  # fmt: skip
        try:
            said = []
            for word in ("ready", "claimed", None):
                for process in processes:
                    assert process.stdout is not None and process.stdin is not None
                    line = process.stdout.readline().strip()
                    assert word in (None, line)
                    said.append(line)
                for process in processes if word else ():
                    assert process.stdin is not None
                    process.stdin.write("\n")
                    process.stdin.flush()
        finally:
            for process in processes:
                process.communicate(timeout=WAIT)
        assert sorted(said[2 * count :]) == ["fenced"] * (count - 1) + ["has it"]
        assert {(row.committed, row.claimed) for row in client.consumers()} == {(1, count)}


def test_of_threads_that_claim_at_once_one_has_all_rows(face: Face, directory: Path, engine: Engine) -> None:
    with face.connect(directory) as client:
        spread(client, 30)
        for _ in range(5):
            made: list[Consuming] = []

            def claim(made: list[Consuming] = made) -> None:
                made.append(client.consumer("c", STREAMS))

            threads = [threading.Thread(target=claim) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(WAIT)
            assert len(made) == 8
            left = []
            for consumer in made:
                for name in STREAMS:
                    consumer.seek(name, ringwal.LATEST)
                try:
                    consumer.commit()
                except ringwal.ConsumerFenced:
                    continue
                left.append(consumer)
            assert len(left) == 1
            for name in STREAMS:
                left[0].seek(name, 0)
            left[0].commit()


# --------------------------------------------------------------------------------------------------------- deletion


def test_one_that_is_deleted_is_fenced_and_begins_anew(client: Connected) -> None:
    spread(client, 30)
    consumer, other = client.consumer("c", STREAMS), client.consumer("d", ["a"])
    records = taken(consumer, 30)
    consumer.commit(records[14])
    assert client.delete_consumer("c") == list(STREAMS)
    assert rows(client) == {("d", "a"): 0}
    fenced(lambda: consumer.commit(records[-1]), why="it was deleted")
    assert client.delete_consumer("c") == []
    again = client.consumer("c", ["a"])
    assert again.committed == {"a": 0}
    other.commit(taken(other, 1)[0])


def test_a_deleted_stream_is_told_and_not_made_again(client: Connected) -> None:
    spread(client, 30)
    consumer = client.consumer("c", STREAMS)
    records = taken(consumer, 30)
    client.delete("b")
    assert set(rows(client)) == {("c", "a"), ("c", "c")}
    told = 0
    calls: list[Callable[[], object]] = [partial(consumer.commit_soon, record) for record in records[:3]]
    for call in (*calls, consumer.flush, consumer.flush):
        try:
            call()
        except ringwal.StreamDeleted:
            told += 1
    assert told == 1
    assert rows(client) == {("c", "a"): 1, ("c", "c"): 1}, "the others are committed all the same"
    with pytest.raises((ringwal.StreamDeleted, ringwal.ConsumerFenced)):
        client.transform([("out", b"x")], [(consumer, records[4])])
    assert sorted(info.name for info in client.streams() if info.name != "out") == ["a", "c"]
    assert not any(info.confirmed_offset for info in client.streams() if info.name == "out")


def test_a_reader_of_a_deleted_stream_is_told(client: Connected) -> None:
    spread(client, 30)
    consumer = client.consumer("c", STREAMS)
    taken(consumer, 30)
    client.delete("b")
    with pytest.raises(ringwal.StreamDeleted):
        consumer.poll(timeout=WAIT)
    again = client.consumer("c", STREAMS)
    assert again.committed == {"a": 0, "b": 0, "c": 0}


def test_what_is_trimmed_before_it_is_read_is_told(client: Connected) -> None:
    client.append_all("s", numbers(0, 120))
    consumer = client.consumer("c", ["s"])
    client.trim("s", 100)
    with pytest.raises(ringwal.OffsetTrimmed) as caught:
        consumer.poll(timeout=WAIT)
    assert caught.value.start_offset == 100
    consumer.seek("s", ringwal.EARLIEST)
    assert data_of(consumer.poll()) == numbers(100, 120)
    consumer.commit()
    lenient = client.consumer("d", ["s"], 3, on_trimmed="earliest")
    assert lenient.lag == {"s": 20}
    assert data_of(taken(lenient, 20)) == numbers(100, 120)
    lenient.commit()
    assert rows(client) == {("c", "s"): 120, ("d", "s"): 120}


# -------------------------------------------------------------------------------------------------------- retention


def test_what_consumers_have_not_committed_is_kept_and_the_rest_goes(client: Connected) -> None:
    client.create("s", retention_records=1, retain_until=["ship", "bill"])
    client.append_all("s", numbers(0, MANY))
    ship, bill = client.consumer("ship", ["s"]), client.consumer("bill", ["s"])
    shipped, billed = taken(ship, MANY), taken(bill, MANY)
    ship.commit(shipped[149])
    bill.commit(billed[49])
    until(lambda: client.stat("s").start_offset == 50, "what both have committed to go", WAIT)
    bill.commit(billed[99])
    until(lambda: client.stat("s").start_offset == 100, "more of it to go", WAIT)
    ship.commit()
    bill.commit()
    until(lambda: client.stat("s").start_offset == MANY - 1, "all but one to go", WAIT)


def test_one_that_was_never_claimed_holds_all_of_it(client: Connected) -> None:
    client.create("s", retention_records=1, retain_until=["ship", "nobody"])
    client.create("free", retention_records=1)
    client.append_all("s", numbers(0, 50))
    ship = client.consumer("ship", ["s"])
    taken(ship, 50)
    ship.commit()
    client.append_all("free", numbers(0, 50))
    until(lambda: client.stat("free").start_offset == 49, "another stream to be trimmed", WAIT)
    assert client.stat("s").start_offset == 0
    nobody = client.consumer("nobody", ["s"], ringwal.LATEST)
    until(lambda: client.stat("s").start_offset == 49, "all but one to go", WAIT)
    nobody.close()
    client.append_all("s", numbers(50, 60))
    client.delete_consumer("nobody")
    taken(ship, 10)
    ship.commit()
    client.append_all("free", numbers(0, 50))
    until(lambda: client.stat("free").start_offset == 99, "another stream to be trimmed", WAIT)
    assert client.stat("s").start_offset == 49


# ----------------------------------------------------------------------------------------------------------- limits


def test_a_full_table_is_told(face: Face, directory: Path, start: Callable[..., Engine]) -> None:
    start(max_producers=2, producer_age=0)
    with face.connect(directory) as client:
        consumer = client.consumer("c", ["a", "b"])
        with pytest.raises(ringwal.ShmUnavailable, match="max_producers"):
            client.consumer("d", ["a"])
        with pytest.raises(ringwal.ShmUnavailable, match="max_producers"):
            client.producer("a", "p")
        client.append("a", b"0")
        consumer.commit(taken(consumer, 1)[0])
        assert rows(client) == {("c", "a"): 1, ("c", "b"): 0}
        client.delete_consumer("c")
        assert client.consumer("d", ["a", "b"]).committed == {"a": 0, "b": 0}


def test_a_claim_that_finds_no_room_takes_nothing_and_nobody_down(
    face: Face, directory: Path, start: Callable[..., Engine]
) -> None:
    start(max_producers=3, producer_age=0)
    with face.connect(directory) as client:
        consumer = client.consumer("c", ["a", "b"])
        before = client.consumers()
        with pytest.raises(ringwal.ShmUnavailable, match="max_producers"):
            client.consumer("c", ["a", "b", "d", "e"])
        assert client.consumers() == before and sorted(info.name for info in client.streams()) == ["a", "b"]
        client.append("a", b"0")
        consumer.commit(taken(consumer, 1)[0])


def test_one_of_more_rows_than_an_answer_holds_is_claimed_and_deleted(
    face: Face, directory: Path, start: Callable[..., Engine]
) -> None:
    start(max_streams=1024)
    names = [f"{n:04d}".ljust(120, "x") for n in range(600)]
    with face.connect(directory) as client:
        for first in range(0, len(names), 50):
            assert client.consumer("c", names[first : first + 50]).committed == dict.fromkeys(names[first : first + 50], 0)
        assert client.delete_consumer("c") == names
        assert client.consumers() == []


def test_as_many_streams_as_there_may_be(face: Face, directory: Path, start: Callable[..., Engine]) -> None:
    start(max_streams=128)
    names = [f"{n:03}" + "n" * 117 for n in range(64)]
    with face.connect(directory) as client:
        consumer = client.consumer("c" * 120, names)
        assert consumer.committed == dict.fromkeys(names, 0)
        spread(client, 64, streams=names)
        assert data_of(taken(consumer, 64)) == numbers(0, 64)
        consumer.commit()
        assert {row.lag for row in client.consumers()} == {0}
        assert client.delete_consumer("c" * 120) == names


def test_the_client_of_another_is_refused(face: Face, directory: Path, engine: Engine) -> None:
    with face.connect(directory) as client, face.connect(directory) as other:
        consumer = client.consumer("c", ["s"])
        with pytest.raises(ValueError, match="another client"):
            other.transform([("out", b"x")], [(consumer, None)])


def test_in_the_child_of_a_fork_it_is_the_parents(directory: Path, engine: Engine) -> None:
    with ringwal.connect(directory, timeout=WAIT) as client:
        client.stream("s").append_many(numbers(0, 10)).result(WAIT)
        consumer = client.consumer("c", ["s"])
        record = consumer.poll(1, WAIT)[0]
        seen, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            told = b""
            soon = partial(consumer.commit, record, wait=False)
            calls: list[Callable[[], object]] = [consumer.poll, consumer.commit, consumer.flush, soon]
            try:
                for call in calls:
                    try:
                        call()
                    except ringwal.ForkError as error:
                        told += str(error.outcome).encode() + b" "
                consumer.close()
                told += b"%d" % client.consumer("of the child", ["s"]).committed["s"]
            finally:
                os.write(tell, told)
                os._exit(0)
        os.close(tell)
        with os.fdopen(seen, "rb") as pipe:
            assert pipe.read() == b"not_appended " * 4 + b"0"
        os.waitpid(pid, 0)
        consumer.commit(record)
        assert {(row.name, row.committed) for row in client.consumers()} == {("c", 1), ("of the child", 0)}


def test_it_is_neither_pickled_nor_copied(client: Connected) -> None:
    consumer: Any = client.consumer("c", ["s"])
    for make in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="neither pickled nor copied"):
            make(consumer.consumer)


# ----------------------------------------------------------------------------------------------------- in batches


def test_a_batch_commits_with_what_it_appends(client: Connected) -> None:
    spread(client, 30)
    consumer = client.consumer("c", STREAMS)
    records = taken(consumer, 12)
    client.transform([("out", b"0"), ("out", b"1")], [(consumer, records[0]), (consumer, records[4])])
    assert consumer.committed == {"a": 1, "b": 2, "c": 0}
    client.transform([("out", b"2")], [(consumer, None)])
    assert consumer.committed == {"a": 4, "b": 4, "c": 4}
    client.transform([], [(consumer, None)])
    taken(consumer, 3)
    client.transform([], [(consumer, None)])
    assert rows(client) == {("c", name): 5 for name in STREAMS}
    assert [record.data for record in client.records("out")] == numbers(0, 3)


def test_a_batch_does_not_append_where_it_commits(client: Connected) -> None:
    client.append("s", b"0")
    consumer = client.consumer("c", ["s"])
    record = taken(consumer, 1)[0]
    with pytest.raises(ValueError, match="cannot commit in it, too"):
        client.transform([("s", b"x")], [(consumer, record)])
    assert client.stat("s").confirmed_offset == 1 and consumer.committed == {"s": 0}


def test_what_was_on_its_way_before_a_batch_is_not_committed_behind_it(
    face: Face, directory: Path, start: Callable[..., Engine]
) -> None:
    """It was lost with its engine, and is older than what the batch has committed in the next one."""
    engine = start()
    with face.connect(directory, reconnect=WAIT) as client:
        client.append_all("in", numbers(0, 20))
        consumer = client.consumer("c", ["in"])
        records = taken(consumer, 20)
        for pid in children_of(engine.process.pid):
            stop_process(pid)
        consumer.commit_soon(records[4])
        engine.kill()
        start()
        client.transform([("out", b"x")], [(consumer, records[9])])
        assert consumer.committed == {"in": 10}
        consumer.flush()
        assert consumer.committed == {"in": 10} and rows(client) == {("c", "in"): 10}
        consumer.commit(records[14])
        assert rows(client) == {("c", "in"): 15}


def test_a_receipt_that_is_asked_again_changes_nothing(directory: Path, engine: Engine) -> None:
    with ringwal.connect(directory, timeout=WAIT) as client:
        client.stream("in").append_many(numbers(0, 20)).result(WAIT)
        consumer = client.consumer("c", ["in"])
        records = consumer.poll(timeout=WAIT)
        with client.batch() as batch:
            batch.append("out", b"x")
            batch.commit(consumer, records[4])
        consumer.commit(records[9])
        batch.receipt.result(WAIT)
        assert consumer.committed == {"in": 10}
        consumer.seek("in", 2)
        consumer.commit()
        batch.receipt.result(WAIT)
        assert consumer.committed == {"in": 2}


# ------------------------------------------------------------------------------------------ exactly once, over kills

TRANSFORMS = """
import sys
import ringwal
directory, seed = sys.argv[1:]
with ringwal.connect(directory, timeout=30, reconnect=30) as client:
    while True:
        consumer = client.consumer("transform", ["in-0", "in-1"])
        print("claimed", flush=True)
        try:
            while True:
                records = consumer.poll(max_records=7, timeout=None)
                with client.batch() as batch:
                    for record in records:
                        batch.append("out", record.stream.encode() + b" " + record.data)
                    batch.commit(consumer)
                print(len(records), flush=True)
        except ringwal.EngineFailed as error:
            assert error.outcome == "unknown"  # the claim says what is there
"""


def test_a_transform_that_is_killed_and_whose_engine_is_gives_each_record_once(
    directory: Path, start: Callable[..., Engine]
) -> None:
    chance, total = random.Random(str(directory)), 3000
    engine = start()

    def begin() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", TRANSFORMS, str(directory), "0"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def told(process: subprocess.Popen[str], lines: int) -> None:
        assert process.stdout is not None
        for _ in range(lines):
            assert process.stdout.readline(), "it has ended"

    transform = begin()
    try:
        for kill in range(12):
            with ringwal.connect(directory, timeout=WAIT, reconnect=WAIT, append_timeout=WAIT) as client:
                for n in range(total // 12 * kill, total // 12 * (kill + 1)):
                    client.stream(f"in-{n % 2}").append(b"%d" % n)
                for n in range(2):
                    client.stream(f"in-{n}").flush(WAIT)
            told(transform, 1 + chance.randint(1, 20))  # the moment of the kill is the random variable
            if kill % 3 != 0:
                engine.kill()
            if kill % 3 != 1:
                transform.kill()
                transform.communicate()
            if kill % 3 != 0:
                engine = start()
            if kill % 3 != 1:
                transform = begin()
        with ringwal.connect(directory, timeout=WAIT, reconnect=WAIT) as client:
            out = client.stream("out")
            until(lambda: out.stat().confirmed_offset >= total, "all of it to be transformed", WAIT)
            found = [record.data.decode().split() for record in out.records()]
            for n in range(2):
                assert [int(at) for stream, at in found if stream == f"in-{n}"] == list(range(n, total, 2))
            assert len(found) == total
            assert {row.lag for row in client.consumers()} == {0}
    finally:
        transform.kill()
        transform.communicate()
