"""Who shares a producer, and who cannot: threads, tasks, a fork's child, pickles, signal handlers."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import ringwal
import ringwal.aio
from tests.support.rig import WAIT, Engine, children_of, stop_process

EACH = 300


@pytest.fixture
def client(directory: Path, start: Callable[..., Engine]) -> Iterator[ringwal.Client]:
    start(max_outstanding=32)
    with ringwal.connect(directory, append_timeout=WAIT) as made:
        yield made


def data_of(client: ringwal.Client) -> list[bytes]:
    return [record.data for record in client.stream("s").records()]


def test_threads_share_it(client: ringwal.Client) -> None:
    producer = client.producer("s", "p")
    found: list[list[tuple[int, int]]] = [[] for _ in range(4)]

    def append(who: int) -> None:
        receipts = [producer.append(b"%d:%d" % (who, n)) for n in range(EACH)]
        found[who] = [(each.seq, each.result(WAIT).offset) for each in receipts]

    threads = [threading.Thread(target=append, args=[who]) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert sorted(pair for each in found for pair in each) == [(n, n) for n in range(4 * EACH)]
    data = data_of(client)
    assert all([data[at] for _, at in each] == [b"%d:%d" % (who, n) for n in range(EACH)] for who, each in enumerate(found))
    assert producer.next == 4 * EACH


def test_threads_share_it_over_the_end_of_an_engine(directory: Path, start: Callable[..., Engine]) -> None:
    engine = start()
    with ringwal.connect(directory, reconnect=WAIT, append_timeout=WAIT) as client:
        producer = client.producer("s", "p")
        begun = threading.Barrier(5)
        found: list[list[int]] = [[] for _ in range(4)]

        def append(who: int) -> None:
            for n in range(EACH):
                receipt = producer.append(b"%d:%d" % (who, n))
                if n == EACH // 3:
                    begun.wait(WAIT)
                found[who].append(receipt.result(WAIT).offset)

        threads = [threading.Thread(target=append, args=[who]) for who in range(4)]
        for thread in threads:
            thread.start()
        begun.wait(WAIT)
        engine.kill()
        start()
        for thread in threads:
            thread.join(WAIT)
        data = data_of(client)
        assert len(data) == 4 * EACH
        for who, offsets in enumerate(found):
            assert [data[at] for at in offsets] == [b"%d:%d" % (who, n) for n in range(EACH)]


def in_child(work: Callable[[], str]) -> str:
    """What it says there, in a fork."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            said = work()
        except BaseException as error:  # noqa: BLE001  it must not return into pytest
            said = f"{type(error).__name__} {getattr(error, 'outcome', '')} {error}"
        os.write(into, said.encode())
        os._exit(0)
    os.close(into)
    with os.fdopen(out, "rb") as said_there:
        found = said_there.read().decode()
    os.waitpid(pid, 0)
    return found


def test_a_forks_child_claims_one_of_its_own(client: ringwal.Client) -> None:
    producer = client.producer("s", "p")
    receipt = producer.append(b"0")
    receipt.result(WAIT)
    assert in_child(lambda: str(producer.append(b"x"))).startswith("ForkError not_appended this producer was claimed before a")
    assert in_child(lambda: str(client.producer("s", "own").append(b"1").result(WAIT).offset)) == "1"
    assert producer.append(b"2").result(WAIT).offset == 2, "nobody has fenced it"
    assert in_child(lambda: str(client.producer("s", "p").next)) == "2"
    with pytest.raises(ringwal.ProducerFenced):
        producer.append(b"3").result(WAIT)
    assert data_of(client) == [b"0", b"1", b"2"]


def test_a_receipt_is_the_parents(directory: Path, start: Callable[..., Engine]) -> None:
    engine = start()
    with ringwal.connect(directory, reconnect=WAIT) as client:
        producer = client.producer("s", "p")
        producer.append(b"0").result(WAIT)
        pids = [*children_of(engine.process.pid), engine.process.pid]
        for pid in pids:
            stop_process(pid)
        receipt = producer.append(b"1")
        said = in_child(lambda: str(receipt.result(1.0)))
        assert said.startswith("ForkError unknown"), said
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        assert receipt.result(WAIT).offset == 1


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda what: pickle.loads(pickle.dumps(what))])
def test_it_is_not_passed_on(client: ringwal.Client, again: Callable[[object], object]) -> None:
    producer = client.producer("s", "p")
    receipt = producer.append(b"0")
    with pytest.raises(TypeError, match=r"a Producer is neither pickled nor copied: .*claim it where they arrive"):
        again(producer)
    with pytest.raises(TypeError, match=r"a ProducerReceipt is neither pickled nor copied: .*result"):
        again(receipt)
    ack = receipt.result(WAIT)
    repeated = producer.append(b"0", seq=0).result(WAIT)
    assert (again(ack), again(repeated)) == (ack, repeated)
    assert again(repeated).duplicate  # type: ignore[attr-defined]

    async def main() -> None:
        async with ringwal.aio.connect(client.path) as own:
            producer = await own.producer("s", "q")
            receipt = producer.append_nowait(b"1")
            with pytest.raises(TypeError, match=r"a Producer of ringwal.aio is neither pickled nor copied: .*event loop"):
                again(producer)
            with pytest.raises(TypeError, match=r"a ProducerReceipt is neither pickled nor copied: .*the Ack"):
                again(receipt)
            await receipt

    asyncio.run(main())


def test_a_signal_handler_has_one_of_its_own(client: ringwal.Client) -> None:
    producer, other = client.producer("s", "p"), client.producer("s", "handler")
    said: list[str] = []

    inside: list[None] = []

    def handle(*_: object) -> None:
        if inside:  # one at a time
            return
        inside.append(None)
        other.append(b"h")
        try:
            producer.append(b"x")
        except ringwal.Error as error:
            said.append(f"{error.outcome} {error}")
        inside.clear()

    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        sent = 0
        while len(said) < 3:
            producer.append(b"m")
            sent += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    producer.flush(WAIT)
    other.flush(WAIT)
    data = data_of(client)
    assert (data.count(b"m") + data.count(b"x"), data.count(b"h")) == (producer.next, other.next)
    assert data.count(b"m") == sent
    assert all(each.startswith("not_appended this thread is in the middle of an append of this producer") for each in said)


class Interrupt(Exception):
    """As from a signal handler, which may run behind any bytecode."""


def strike(call: Callable[[], object], after: int) -> bool:
    """Makes the call; an exception comes after so many bytecodes of the client. True: it did."""
    left = after

    def trace(frame: types.FrameType, event: str, _: object) -> Any:
        nonlocal left
        if "/ringwal/" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left == 0:
                raise Interrupt
        return trace

    sys.settrace(trace)
    try:
        call()
    except Interrupt:
        return True
    finally:
        sys.settrace(None)
    return False


def test_what_an_interrupt_leaves_open_is_no_repeat(client: ringwal.Client) -> None:
    """Wherever it strikes: each record is there once, in order, and the next one has a sequence of its own."""
    producer = client.producer("s", "p")
    producer.append(b"0").result(WAIT)
    interrupted: set[int] = set()
    count = 1
    while strike(partial(producer.append, b"%d" % count), count):
        interrupted.add(count)
        count += 1
        if count % 3:  # else the next one is struck, too
            assert not producer.append(b"%d" % count).result(WAIT).duplicate
            count += 1
    assert len(interrupted) > 50
    producer.flush(WAIT)
    found = list(map(int, data_of(client)))
    assert len(found) == producer.next
    assert found == sorted(set(found))
    assert set(range(count + 1)) - set(found) <= interrupted


# --------------------------------------------------------------------------------------------------------- asyncio


def test_tasks_keep_the_order_of_their_calls(directory: Path, start: Callable[..., Engine]) -> None:
    engine = start()

    async def main() -> None:
        async with ringwal.aio.connect(directory, append_timeout=WAIT) as own:
            producer = await own.producer("s", "p")
            first = producer.append_nowait(b"0" + b"." * 20_000)  # attaches first
            assert (first.done(), first.seq) == (False, None)
            later = [producer.append_nowait(b"%d" % n + b"." * 20_000 * (n % 3 == 0)) for n in range(1, EACH)]
            while not later[EACH // 2].done():
                later.append(producer.append_nowait(b"%d" % (len(later) + 1)))
                await asyncio.sleep(0)
            acks = await asyncio.gather(first, *later)
            count = len(acks)
            assert [ack.offset for ack in acks] == list(range(count))
            assert [first.seq, *(each.seq for each in later)] == list(range(count))
            assert all(each.done() for each in later)
            pids = children_of(engine.process.pid)
            for pid in pids:
                stop_process(pid)
            sizes = [20_000 * (n % 3 == 0) for n in range(20)]  # a small one finds room where a large one waits
            receipts = [producer.append_nowait(b"%d" % (count + n) + b"." * size) for n, size in enumerate(sizes)]
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            assert [(await each).offset for each in receipts] == list(range(count, count + 20))
            assert await first == await first == ringwal.Ack("s", 0, 1)

    asyncio.run(main())
    with ringwal.connect(directory) as client:
        data = data_of(client)
    assert [int(each.rstrip(b".")) for each in data] == list(range(len(data)))


def test_cancelling_an_await_leaves_the_append(client: ringwal.Client) -> None:
    async def main() -> None:
        async with ringwal.aio.connect(client.path, append_timeout=WAIT) as own:
            producer = await own.producer("s", "p")
            tasks = [asyncio.create_task(producer.append(b"%d" % n)) for n in range(EACH)]
            await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            found = await asyncio.gather(*tasks, return_exceptions=True)
            assert [each.offset for each in found[1::2]] == list(range(1, EACH, 2))  # type: ignore[union-attr]
            await producer.flush()
            assert producer.next == EACH

    asyncio.run(main())
    assert data_of(client) == [b"%d" % n for n in range(EACH)]


def test_a_wait_for_room_does_not_hold_the_loop(client: ringwal.Client) -> None:
    async def main() -> None:
        async with ringwal.aio.connect(client.path, append_timeout=WAIT) as own:
            producer, stream = await own.producer("s", "p"), own.stream("other")
            receipts = [producer.append_nowait(b"." * 20_000) for _ in range(EACH)]
            assert not receipts[-1].done()
            turns = 0
            while not receipts[-1].done():
                turns += 1
                await asyncio.sleep(0)
            assert turns > 1
            await stream.append(b"x")
            await producer.flush()

    asyncio.run(main())


def test_another_loop_is_told_whose_it_is(client: ringwal.Client) -> None:
    async def make() -> tuple[ringwal.aio.Client, ringwal.aio.Producer]:
        own = await ringwal.aio.connect(client.path)
        return own, await own.producer("s", "p")

    async def use(producer: ringwal.aio.Producer) -> None:
        with pytest.raises(RuntimeError, match="another event loop"):
            producer.append_nowait(b"x")
        with pytest.raises(RuntimeError, match="another event loop"):
            await producer.flush()

    loop = asyncio.new_event_loop()
    own, producer = loop.run_until_complete(make())
    asyncio.run(use(producer))
    assert loop.run_until_complete(producer.append(b"0")).offset == 0
    loop.run_until_complete(own.close())
    loop.close()


def test_a_receipt_that_nobody_awaits_is_told_of_by_flush(client: ringwal.Client) -> None:
    async def main() -> None:
        async with ringwal.aio.connect(client.path, append_timeout=WAIT) as own:
            producer = await own.producer("s", "p")
            producer.append_nowait(b"." * (1 << 20))  # larger than its lane, which is not attached yet
            producer.append_nowait(b"0")
            with pytest.raises(ringwal.RecordTooLarge):
                await producer.flush()
            await producer.flush()
            producer.append_nowait(b"x", seq=5)
            with pytest.raises(ringwal.SequenceGap):
                await producer.flush()
            assert (await producer.append(b"1")).offset == 1

    asyncio.run(main())
    assert data_of(client) == [b"0", b"1"]
