"""Producers that number what they append, in each face of the client: a repeat is known as one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import ringwal
from tests.support.faces import FACES, Connected, Face, Pending
from tests.support.rig import WAIT, Engine, children_of, stop_process

MANY = 200


@pytest.fixture
def engine(start: Callable[..., Engine]) -> Engine:
    return start(max_outstanding=16, max_streams=64)


@pytest.fixture
def client(face: Face, directory: Path, engine: Engine) -> Iterator[Connected]:
    with face.connect(directory) as made:
        yield made


def facts(ack: ringwal.Ack) -> tuple[int, int, bool]:
    return ack.offset, ack.count, ack.duplicate


def data_of(client: Connected, name: str = "s") -> list[bytes]:
    return [record.data for record in client.records(name)]


def numbers(start: int, end: int) -> list[bytes]:
    return [b"%d" % n for n in range(start, end)]


def fenced(call: Callable[[], object], why: str) -> None:
    said = rf"^nothing was appended to 's': this producer is fenced: .*{why}"
    with pytest.raises(ringwal.ProducerFenced, match=said) as caught:
        call()
    assert (caught.value.outcome, caught.value.retriable) == ("not_appended", False)


def refusal_of(pending: Pending) -> ringwal.Error | None:
    try:
        pending.result()
    except ringwal.Error as error:
        return error
    return None


def gap(call: Callable[[], object]) -> int | None:
    with pytest.raises(ringwal.SequenceGap, match=r"next sequence there is .*; append what is missing first") as caught:
        call()
    assert caught.value.outcome == "not_appended"
    return caught.value.expected


# ------------------------------------------------------------------------------------------------------- sequences


def test_it_numbers_by_itself(client: Connected) -> None:
    producer = client.producer("s", "p")
    assert producer.next == 0
    assert facts(producer.append(b"0")) == (0, 1, False)
    assert facts(producer.begin_many([b"1", bytearray(b"2"), memoryview(b"3")]).result()) == (1, 3, False)
    sent = [producer.begin(data) for data in numbers(4, MANY)]
    assert [facts(each.result()) for each in sent] == [(n, 1, False) for n in range(4, MANY)]
    assert producer.next == MANY
    assert data_of(client) == numbers(0, MANY)
    assert facts(client.producer("s", "p").append(b"%d" % MANY)) == (MANY, 1, False), "the next one goes on"


def test_who_numbers_himself_may_repeat(client: Connected) -> None:
    producer = client.producer("s", "p")
    for n in (0, 1, 1, 0, 2):
        assert producer.append(b"%d" % n, seq=n).offset == n
    assert facts(producer.append(b"2", seq=2)) == (2, 1, True)
    assert facts(producer.append(b"whatever", seq=0)) == (0, 1, True)
    assert producer.next == 3, "a repeat does not put it back"
    assert facts(producer.append(b"3", timestamp_ns=7)) == (3, 1, False)
    assert facts(producer.begin_many([b"4", b"5"], seq=4, timestamp_ns=[8, 9]).result()) == (4, 2, False)
    assert data_of(client) == numbers(0, 6)
    assert [record.own_timestamp_ns for record in client.read("s")] == [None, None, None, 7, 8, 9]


def test_a_repeat_is_where_its_original_is_among_the_records_of_others(client: Connected) -> None:
    one, two = client.producer("s", "one"), client.producer("s", "two")
    where: list[int] = []
    for n in range(0, 60, 3):
        client.append("s", b"nobody's")
        where += [one.append(b"%d" % n).offset]
        two.begin_many([b"another's"] * (n % 4 + 1)).result()
        first = one.begin_many([b"%d" % (n + 1), b"%d" % (n + 2)]).result().offset
        where += [first, first + 1]
    assert [facts(one.append(b"", seq=n)) for n in range(60)] == [(offset, 1, True) for offset in where]
    assert facts(one.begin_many([b"", b""], seq=58).result()) == (where[58], 2, True)
    assert one.next == 60
    ours = [record.offset for record in client.records("s") if record.data.isdigit()]
    assert ours == where


def test_repeats_that_are_sent_at_once_are_answered_in_their_order(client: Connected) -> None:
    producer = client.producer("s", "p")
    first = [producer.begin(data) for data in numbers(0, 40)]
    again = [producer.begin(data, seq=n) for n, data in enumerate(numbers(0, 40))]
    assert [facts(each.result()) for each in first] == [(n, 1, False) for n in range(40)]
    assert [facts(each.result()) for each in again] == [(n, 1, True) for n in range(40)]


def test_what_would_leave_a_gap_is_not_appended(client: Connected) -> None:
    producer = client.producer("s", "p")
    assert gap(producer.begin(b"x", seq=1).result) == 0
    producer.append(b"0")
    early = [producer.begin(b"x", seq=n) for n in (2, 3, 100)]
    assert producer.next == 1, "what is refused is not counted"
    assert [gap(each.result) for each in early] == [1, 1, 1]
    assert gap(producer.begin_many([b"0", b"1"], seq=0).result) == 1, "one half is there, and the other is not"
    assert facts(producer.append(b"1")) == (1, 1, False)
    assert data_of(client) == numbers(0, 2)


@pytest.mark.parametrize("wrong", [-1, 1 << 64, 1.0, "1", True])
def test_what_is_no_sequence_is_refused_in_place(client: Connected, wrong: Any) -> None:
    producer = client.producer("s", "p")
    for call in (producer.begin, lambda data, **terms: producer.begin_many([data], **terms)):
        with pytest.raises(ValueError, match=r"seq is .*; it must be a whole number from 0 to"):
            call(b"x", seq=wrong)
    with pytest.raises(TypeError):
        producer.begin("text")
    with pytest.raises(ValueError, match="at least one record"):
        producer.begin_many([])
    assert producer.append(b"0").offset == 0


def test_a_name_that_is_none_is_refused(client: Connected) -> None:
    for stream, name in (("s", ""), ("s", "x" * 200), ("", "p"), ("_own", "p"), ("s", "\n")):
        with pytest.raises(ringwal.ConfigError):
            client.producer(stream, name)
    assert client.producer("s", "_mine").next == 0, "only streams have names of the engine's own"


def test_what_is_too_large_uses_up_no_sequence(client: Connected) -> None:
    producer = client.producer("s", "p")
    large = producer_refusal(producer, b"x" * (1 << 20))
    assert large.outcome == "not_appended"
    assert producer.next == 0
    assert facts(producer.append(b"0")) == (0, 1, False)
    producer_refusal(producer, b"x" * (1 << 20))
    sent = [producer.begin(data) for data in numbers(1, 5)]
    assert [each.result().offset for each in sent] == [1, 2, 3, 4]


def producer_refusal(producer: Any, data: bytes) -> ringwal.Error:
    with pytest.raises(ringwal.RecordTooLarge) as caught:
        producer.begin(data).result()
    return caught.value


def test_flush_tells_of_what_nobody_asked(client: Connected) -> None:
    producer = client.producer("s", "p")
    producer.append(b"0")
    producer.begin(b"0", seq=0)  # a repeat is no failure
    producer.flush()
    client.flush("s")
    producer.begin(b"x", seq=7)
    producer.begin(b"1")
    assert gap(producer.flush) == 1
    producer.flush()  # it has been told
    asked = producer.begin(b"x", seq=9)
    assert gap(asked.result) == gap(asked.result) == 2
    assert asked.done()
    producer.flush()
    producer.begin(b"x", seq=9)
    for data in numbers(2, MANY):  # its cell is another's by then
        producer.begin(data)
    assert gap(producer.flush) == 2
    assert data_of(client) == numbers(0, MANY)


def test_a_repeat_that_nobody_asked_about_is_no_failure_of_the_client(face: Face, directory: Path, engine: Engine) -> None:
    with face.connect(directory) as client:
        producer = client.producer("s", "p")
        producer.append(b"0")
        for _ in range(MANY):
            producer.begin(b"0", seq=0)
        client.flush("s")


# --------------------------------------------------------------------------------------------------------- claims


def test_producers_of_one_stream_and_one_name_in_several_streams(client: Connected) -> None:
    names = [(stream, name) for stream in ("a", "b", "c") for name in ("p", "q")]
    producers = [client.producer(*each) for each in names]
    for n in range(20):
        for producer, (_, name) in zip(producers, names, strict=True):
            producer.begin(f"{name}{n}".encode())
    for producer in producers:
        producer.flush()
        assert producer.next == 20
    for stream in "abc":
        found = data_of(client, stream)
        for name in ("p", "q"):
            assert [data for data in found if data.startswith(name.encode())] == [f"{name}{n}".encode() for n in range(20)]


def test_a_newer_claim_fences_the_older_one(face: Face, directory: Path, engine: Engine) -> None:
    with face.connect(directory) as client, face.connect(directory) as other:
        older = client.producer("s", "p")
        older.append(b"0")
        newer = other.producer("s", "p")
        assert newer.next == 1
        fenced(older.begin(b"x").result, "another process has claimed it")
        fenced(older.begin(b"0", seq=0).result, "another process has claimed it")
        assert facts(newer.append(b"1")) == (1, 1, False)
        assert facts(newer.append(b"0", seq=0)) == (0, 1, True)
        older.begin(b"x")
        fenced(older.flush, "another process has claimed it")
        again = client.producer("s", "p")
        assert facts(again.append(b"2")) == (2, 1, False)
        fenced(newer.begin(b"x").result, "another process has claimed it")
        assert data_of(client) == numbers(0, 3)


def test_one_that_was_forgotten_is_fenced_and_never_new(
    face: Face, directory: Path, start: Callable[..., Engine]
) -> None:
    start(max_producers=1, producer_age=0)
    with face.connect(directory) as client:
        first = client.producer("s", "first")
        first.append(b"0")
        second = client.producer("s", "second")
        assert second.next == 0
        fenced(first.begin(b"1").result, "the engine has forgotten it")
        fenced(first.begin(b"0", seq=0).result, "the engine has forgotten it")
        assert facts(second.append(b"1")) == (1, 1, False)
        assert data_of(client) == numbers(0, 2)


def test_one_that_is_not_silent_is_not_forgotten(face: Face, directory: Path, start: Callable[..., Engine]) -> None:
    start(max_producers=2)
    with face.connect(directory) as client:
        producers = [client.producer("s", "a"), client.producer("s", "b")]
        with pytest.raises(ringwal.ShmUnavailable, match=r"remembers 2 producers.*max_producers"):
            client.producer("s", "c")
        assert [each.append(b"x").offset for each in producers] == [0, 1]
        assert client.producer("s", "a").next == 1, "whose name is known needs no place"


def test_a_deleted_stream_takes_its_producers_along(client: Connected) -> None:
    producer = client.producer("s", "p")
    producer.append(b"old")
    client.delete("s")
    fenced(producer.begin(b"x").result, "the engine has forgotten it")
    client.append("s", b"new")
    fenced(producer.begin(b"old", seq=0).result, "the engine has forgotten it")
    again = client.producer("s", "p")
    assert again.next == 0
    assert facts(again.append(b"newer")) == (1, 1, False)
    assert data_of(client) == [b"new", b"newer"]


# -------------------------------------------------------------------------------------------------------- restarts


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_it_goes_on_where_it_was(face: Face, directory: Path, start: Callable[..., Engine], end: str) -> None:
    for life in range(4):
        engine = start()
        with face.connect(directory) as client:
            producer = client.producer("s", "p")
            assert producer.next == 10 * life
            for n, data in enumerate(numbers(0, 10 * life)):
                assert facts(producer.append(data, seq=n)) == (n, 1, True), "older ones are found in the log"
            producer.begin_many(numbers(10 * life, 10 * life + 5))
            for data in numbers(10 * life + 5, 10 * life + 10):
                producer.begin(data)
            producer.flush()
            assert data_of(client) == numbers(0, 10 * life + 10)
            if end == "kill":
                engine.kill()
        if end == "stop":
            assert engine.terminate() == 0


def test_a_repeat_of_what_is_trimmed_says_so(face: Face, directory: Path, start: Callable[..., Engine]) -> None:
    start()
    with face.connect(directory) as client:
        producer = client.producer("s", "p")
        for n in range(120):
            producer.begin(b"%d" % n)
        producer.flush()
        kept = client.trim("s", 100)
        assert kept == 100
        assert facts(producer.append(b"", seq=0)) == (-1, 1, True)
        assert facts(producer.append(b"", seq=kept - 1)) == (-1, 1, True)
        assert facts(producer.append(b"", seq=kept)) == (kept, 1, True)
        assert facts(producer.append(b"", seq=119)) == (119, 1, True)
        assert facts(producer.append(b"120")) == (120, 1, False)


def test_with_reconnect_every_outcome_is_known(face: Face, directory: Path, start: Callable[..., Engine]) -> None:
    engine = start()
    with face.connect(directory, reconnect=WAIT) as client:
        producer = client.producer("s", "p")
        sent = []
        for life in range(4):
            sent += [producer.begin(data) for data in numbers(MANY * life, MANY * (life + 1))]
            engine.kill()
            sent.append(None)  # type: ignore[arg-type]
            engine = start()
        found = [each.result() for each in sent if each is not None]
        assert [ack.count for ack in found] == [1] * 4 * MANY
        assert [ack.offset for ack in found] == list(range(4 * MANY))
        assert not any(ack.duplicate for ack in found), "each was new when it was appended"
        producer.flush()
        assert data_of(client) == numbers(0, 4 * MANY)
        assert producer.next == 4 * MANY
        assert facts(producer.append(b"", seq=MANY)) == (MANY, 1, True)


def test_closing_sends_again_what_was_lost(face: Face, directory: Path, start: Callable[..., Engine]) -> None:
    engine = start()
    with face.connect(directory, reconnect=WAIT) as client:
        producer = client.producer("s", "p")
        for data in numbers(0, MANY):
            producer.begin(data)
        engine.kill()
        start()
    with face.connect(directory) as client:
        assert data_of(client) == numbers(0, MANY)
        assert client.producer("s", "p").next == MANY


def test_without_reconnect_the_same_sequence_settles_it(face: Face, directory: Path, start: Callable[..., Engine]) -> None:
    engine = start()
    with face.connect(directory) as client:
        producer = client.producer("s", "p")
        producer.append(b"0")  # so there is a lane
        sent = [producer.begin(data) for data in numbers(1, MANY)]
        engine.kill()
        unknown = []
        for n, each in enumerate(sent, 1):
            error = refusal_of(each)
            assert each.done()
            if error is None:
                assert each.result().offset == n
            else:
                assert (type(error), error.outcome) == (ringwal.EngineFailed, "unknown")
                assert f"append it again with seq={n}" in str(error)
                unknown.append(n)
        start()
        assert producer.next == MANY
        for n in unknown:
            assert producer.append(b"%d" % n, seq=n).offset == n
        assert facts(producer.append(b"%d" % MANY)) == (MANY, 1, False)
        assert data_of(client) == numbers(0, MANY + 1)


def test_what_was_lost_to_a_newer_claim_is_known_too(face: Face, directory: Path, start: Callable[..., Engine]) -> None:
    engine = start()
    with face.connect(directory, reconnect=WAIT) as client, face.connect(directory, reconnect=WAIT) as other:
        older = client.producer("s", "p")
        sent = [older.begin(data) for data in numbers(0, MANY)]
        engine.kill()
        start()
        newer = other.producer("s", "p")
        there = newer.next
        newer.begin(b"the newer one's").result()
        for n, each in enumerate(sent):
            if n < there:
                assert facts(each.result()) == (n, 1, False)
            else:
                fenced(each.result, "another process has claimed it")
        assert data_of(other) == [*numbers(0, there), b"the newer one's"]


def test_one_that_waits_for_an_engine_says_when_it_is_late(directory: Path, start: Callable[..., Engine]) -> None:
    engine = start()
    with ringwal.connect(directory, reconnect=WAIT) as client:
        producer = client.producer("s", "p")
        producer.append(b"0").result(WAIT)
        for pid in children_of(engine.process.pid):
            stop_process(pid)
        receipt = producer.append(b"1")
        engine.kill()
        for _ in range(2):
            with pytest.raises(ringwal.AckTimeout, match=r"not confirmed within 0.05 s"):
                receipt.result(0.05)
            assert not receipt.done()
        with pytest.raises(ringwal.AckTimeout, match="1 appends are not confirmed"):
            producer.flush(0.05)
        start()
        assert facts(receipt.result(WAIT)) == (1, 1, False)


# ----------------------------------------------------------------------------------------------------------- limits


def test_a_full_lane_is_waited_for_in_order(face: Face, directory: Path, start: Callable[..., Engine]) -> None:
    start(max_outstanding=16)
    large = [b"%d" % n + b"." * 20_000 for n in range(100)]
    with face.connect(directory, append_timeout=WAIT) as client:
        producer = client.producer("s", "p")
        sent = [producer.begin(data) for data in large]
        assert [each.result().offset for each in sent] == list(range(100))
        assert data_of(client) == large


def test_a_closed_client_appends_nothing(face: Face, directory: Path, engine: Engine) -> None:
    with ExitStack() as stack:
        client = stack.enter_context(face.connect(directory, reconnect=WAIT))
        producer = client.producer("s", "p")
        sent = producer.begin(b"0")
        client.close()
        assert facts(sent.result()) == (0, 1, False)
        with pytest.raises(ringwal.ClosedError) as caught:
            producer.begin(b"1").result()
        assert caught.value.outcome == "not_appended"
        with pytest.raises(ringwal.ClosedError):
            client.producer("s", "p")
        assert producer.next == 1


def test_what_was_pending_when_it_was_closed_is_unknown(face: Face, directory: Path, start: Callable[..., Engine]) -> None:
    engine = start()
    with face.connect(directory, reconnect=WAIT) as client:
        producer = client.producer("s", "p")
        producer.append(b"0")
        for pid in children_of(engine.process.pid):
            stop_process(pid)
        sent = producer.begin(b"1")
        engine.kill()
        with pytest.raises(ringwal.AckTimeout):
            client.close(0.1)
        with pytest.raises((ringwal.EngineFailed, ringwal.ClosedError)) as caught:
            sent.result()
        assert (caught.value.outcome, sent.done()) == ("unknown", True)


def test_what_waits_for_an_engine_when_it_is_closed_is_not_appended(directory: Path, start: Callable[..., Engine]) -> None:
    engine = start()
    for face in FACES[1:]:
        with face.connect(directory, reconnect=WAIT) as client:
            producer = client.producer("s", "p")
            engine.kill()
            sent = producer.begin(b"0")
            with contextlib.suppress(ringwal.AckTimeout):
                client.close(0.1)
            with pytest.raises(ringwal.Error) as caught:
                sent.result()
            assert caught.value.outcome == "not_appended"
        engine = start()
