"""A client in each of its faces, behind one set of calls: a scenario is written once, and goes through all of them.

The calls wait, whatever the face. An asyncio client has a loop in a thread of its own, so that several threads may call.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import uvloop

import ringwal
import ringwal.aio

WAIT = 30.0
Found = TypeVar("Found")


class Pending(Protocol):
    """An append of which nobody has waited for the end."""

    def done(self) -> bool: ...
    def result(self) -> ringwal.Ack: ...


class PendingBatch(Protocol):
    """The same, of a batch of several streams."""

    def done(self) -> bool: ...
    def result(self) -> list[ringwal.Ack]: ...


class Gathering(Protocol):
    """A batch of several streams. Its block is a plain ``with``, whatever the face."""

    def __enter__(self) -> Self: ...
    def __exit__(self, kind: Any, error: Any, trace: Any, /) -> None: ...
    def __len__(self) -> int: ...
    def append(
        self, stream: Any, data: Any, timestamp_ns: int | None = None, expected_offset: int | None = None
    ) -> None: ...
    def commit(self, consumer: Any, record: Any = None, /) -> None:
        """``consumer`` is the face's own."""

    @property
    def receipt(self) -> PendingBatch: ...


class Numbering(Protocol):
    """A producer, claimed."""

    @property
    def next(self) -> int: ...
    def begin(self, data: Any, **terms: Any) -> Pending: ...
    def begin_many(self, records: Iterable[Any], **terms: Any) -> Pending: ...
    def append(self, data: Any, **terms: Any) -> ringwal.Ack:
        """Confirmed."""

    def flush(self, timeout: float | None = WAIT) -> None: ...


class Consuming(Protocol):
    """A consumer, claimed."""

    consumer: Any
    """As the face has it."""

    streams: tuple[str, ...]

    @property
    def committed(self) -> dict[str, int]: ...
    @property
    def positions(self) -> dict[str, int]: ...
    @property
    def lag(self) -> dict[str, int]: ...
    def poll(self, max_records: int = 1000, timeout: float | None = 0.0) -> list[ringwal.StreamRecord]: ...
    def records(self) -> Iterator[ringwal.StreamRecord]:
        """For ever."""

    def commit(self, record: ringwal.StreamRecord | None = None) -> None:
        """Confirmed."""

    def commit_soon(self, record: ringwal.StreamRecord | None = None) -> None:
        """Not waited for."""

    def seek(self, stream: str, position: Any) -> None: ...
    def flush(self, timeout: float | None = WAIT) -> None: ...
    def close(self, timeout: float | None = WAIT) -> None: ...


class Connected(Protocol):
    """A client. What it raises is what the face raises."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...

    def close(self, timeout: float | None = WAIT) -> None: ...
    def create(self, name: str, **settings: Any) -> None: ...
    def delete(self, name: str) -> None: ...
    def trim(self, name: str, before: Any) -> int: ...
    def configure(self, name: str, **settings: Any) -> None: ...
    def stat(self, name: str) -> ringwal.StreamInfo: ...
    def offset_at(self, name: str, when: Any) -> int: ...
    def streams(self) -> list[ringwal.StreamInfo]: ...
    def status(self) -> dict[str, Any]: ...
    def flush(self, name: str, timeout: float | None = WAIT) -> None: ...
    def producer(self, stream: str, name: str) -> Numbering: ...
    def handle(self, name: str) -> Any:
        """Of that stream, as the face has it."""

    def gather(self, timeout: float | None = WAIT) -> Gathering:
        """A batch; its block is still to be entered."""

    def batch(self, *appends: tuple[Any, ...]) -> list[ringwal.Ack]:
        """Of these appends: stream, data, and what it is appended on. Confirmed."""

    def consumer(self, name: str, streams: Iterable[str], start: Any = ringwal.EARLIEST, **options: Any) -> Consuming: ...
    def consumers(self) -> list[ringwal.ConsumerInfo]: ...
    def delete_consumer(self, name: str) -> list[str]: ...
    def transform(
        self, appends: Sequence[tuple[str, bytes]], commits: Sequence[tuple[Consuming, ringwal.StreamRecord | None]]
    ) -> None:
        """In one batch, confirmed."""

    def begin(self, name: str, data: Any, **terms: Any) -> Pending:
        """An append that is not waited for."""

    def begin_many(self, name: str, records: Iterable[Any], **terms: Any) -> Pending:
        """The same, of a batch."""

    def append(self, name: str, data: bytes) -> int:
        """Confirmed; returns the offset."""

    def append_all(self, name: str, records: Iterable[bytes]) -> None:
        """Each by itself, and all confirmed at the end."""

    def fill(self, name: str, records: Sequence[bytes]) -> tuple[list[Pending], list[ringwal.Error]]:
        """Begins them one behind the other, more than there is room for: those that found room, and what was said of those
        that were refused. A face that waits for room itself stops at the first of these."""

    def at_once(self, name: str, records: Sequence[bytes]) -> list[int | ringwal.Error]:
        """Each by a caller of its own, who waits for the end: the offset, or what was raised."""

    def read(self, name: str, *args: Any, **options: Any) -> list[ringwal.Record]: ...
    def records(self, name: str, *args: Any, **options: Any) -> Iterator[ringwal.Record]: ...
    def tail(self, name: str, *args: Any, **options: Any) -> Iterator[ringwal.Record]: ...

    def merged(self, streams: Mapping[str, Any], **options: Any) -> Iterator[ringwal.StreamRecord]: ...


class Face(Protocol):
    """One of them."""

    name: str

    def connect(self, directory: Path, **options: Any) -> Connected: ...


class _Batching:
    """What is the same in all faces."""

    def gather(self, timeout: float | None = WAIT) -> Gathering:
        raise NotImplementedError

    def batch(self, *appends: tuple[Any, ...]) -> list[ringwal.Ack]:
        with self.gather() as batch:
            for stream, data, *terms in appends:
                batch.append(stream, data, **(terms[0] if terms else {}))
        return batch.receipt.result()


class _SyncNumbering:
    def __init__(self, producer: ringwal.Producer) -> None:
        self._producer = producer

    @property
    def next(self) -> int:
        return self._producer.next

    def begin(self, data: Any, **terms: Any) -> Pending:
        return self._producer.append(data, **terms)

    def begin_many(self, records: Iterable[Any], **terms: Any) -> Pending:
        return self._producer.append_many(records, **terms)

    def append(self, data: Any, **terms: Any) -> ringwal.Ack:
        return self._producer.append(data, **terms).result(WAIT)

    def flush(self, timeout: float | None = WAIT) -> None:
        self._producer.flush(timeout)


class _SyncConsuming:
    def __init__(self, consumer: ringwal.Consumer) -> None:
        self.consumer = consumer
        self.streams = consumer.streams

    @property
    def committed(self) -> dict[str, int]:
        return self.consumer.committed

    @property
    def positions(self) -> dict[str, int]:
        return self.consumer.positions

    @property
    def lag(self) -> dict[str, int]:
        return self.consumer.lag

    def poll(self, max_records: int = 1000, timeout: float | None = 0.0) -> list[ringwal.StreamRecord]:
        return self.consumer.poll(max_records, timeout)

    def records(self) -> Iterator[ringwal.StreamRecord]:
        return iter(self.consumer)

    def commit(self, record: ringwal.StreamRecord | None = None) -> None:
        self.consumer.commit(record)

    def commit_soon(self, record: ringwal.StreamRecord | None = None) -> None:
        self.consumer.commit(record, wait=False)

    def seek(self, stream: str, position: Any) -> None:
        self.consumer.seek(stream, position)

    def flush(self, timeout: float | None = WAIT) -> None:
        self.consumer.flush(timeout)

    def close(self, timeout: float | None = WAIT) -> None:
        self.consumer.close(timeout)


class _Sync(_Batching):
    def __init__(self, client: ringwal.Client) -> None:
        self.client = client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close(WAIT)

    def close(self, timeout: float | None = WAIT) -> None:
        self.client.close(timeout)

    def create(self, name: str, **settings: Any) -> None:
        self.client.create_stream(name, **settings)

    def delete(self, name: str) -> None:
        self.client.delete_stream(name)

    def trim(self, name: str, before: Any) -> int:
        return self.client.stream(name).trim(before)

    def configure(self, name: str, **settings: Any) -> None:
        self.client.stream(name).configure(**settings)

    def stat(self, name: str) -> ringwal.StreamInfo:
        return self.client.stream(name).stat()

    def offset_at(self, name: str, when: Any) -> int:
        return self.client.stream(name).offset_at(when)

    def streams(self) -> list[ringwal.StreamInfo]:
        return self.client.streams()

    def status(self) -> dict[str, Any]:
        return self.client.status()

    def flush(self, name: str, timeout: float | None = WAIT) -> None:
        self.client.stream(name).flush(timeout)

    def handle(self, name: str) -> Any:
        return self.client.stream(name)

    def gather(self, timeout: float | None = WAIT) -> Gathering:
        return self.client.batch(timeout=timeout)

    def producer(self, stream: str, name: str) -> Numbering:
        return _SyncNumbering(self.client.producer(stream, name))

    def consumer(self, name: str, streams: Iterable[str], start: Any = ringwal.EARLIEST, **options: Any) -> Consuming:
        return _SyncConsuming(self.client.consumer(name, streams, start, **options))

    def consumers(self) -> list[ringwal.ConsumerInfo]:
        return self.client.consumers()

    def delete_consumer(self, name: str) -> list[str]:
        return self.client.delete_consumer(name)

    def transform(
        self, appends: Sequence[tuple[str, bytes]], commits: Sequence[tuple[Consuming, ringwal.StreamRecord | None]]
    ) -> None:
        with self.client.batch(timeout=WAIT) as batch:
            for name, data in appends:
                batch.append(name, data)
            for one, record in commits:
                assert isinstance(one, _SyncConsuming)
                batch.commit(one.consumer, record)

    def begin(self, name: str, data: Any, **terms: Any) -> Pending:
        return self.client.stream(name).append(data, **terms)

    def begin_many(self, name: str, records: Iterable[Any], **terms: Any) -> Pending:
        return self.client.stream(name).append_many(records, **terms)

    def append(self, name: str, data: bytes) -> int:
        return self.client.stream(name).append(data).result(WAIT).offset

    def append_all(self, name: str, records: Iterable[bytes]) -> None:
        stream = self.client.stream(name)
        for data in records:
            stream.append(data)
        stream.flush(WAIT)

    def fill(self, name: str, records: Sequence[bytes]) -> tuple[list[Pending], list[ringwal.Error]]:
        stream = self.client.stream(name)
        began: list[Pending] = []
        try:
            began.extend(map(stream.append, records))
        except ringwal.Error as error:
            return began, [error]
        raise AssertionError("there was room for all of them")

    def at_once(self, name: str, records: Sequence[bytes]) -> list[int | ringwal.Error]:
        def append(data: bytes) -> int | ringwal.Error:
            try:
                return self.append(name, data)
            except ringwal.Error as error:
                return error

        with ThreadPoolExecutor(len(records)) as callers:
            return list(callers.map(append, records))

    def read(self, name: str, *args: Any, **options: Any) -> list[ringwal.Record]:
        return self.client.stream(name).read(*args, **options)

    def records(self, name: str, *args: Any, **options: Any) -> Iterator[ringwal.Record]:
        return self.client.stream(name).records(*args, **options)

    def tail(self, name: str, *args: Any, **options: Any) -> Iterator[ringwal.Record]:
        return self.client.stream(name).tail(*args, **options)

    def merged(self, streams: Mapping[str, Any], **options: Any) -> Iterator[ringwal.StreamRecord]:
        return self.client.tail(streams, **options)


class SyncFace:
    name = "sync"

    def connect(self, directory: Path, **options: Any) -> Connected:
        return _Sync(ringwal.connect(directory, **{"timeout": WAIT, **options}))


class _AioPending:
    def __init__(self, run: _Loop, receipt: ringwal.aio.Receipt | ringwal.aio.ProducerReceipt) -> None:
        self._run, self._receipt = run, receipt

    def done(self) -> bool:
        return self._receipt.done()

    def result(self) -> ringwal.Ack:
        async def awaited() -> ringwal.Ack:
            async with asyncio.timeout(WAIT):
                return await self._receipt

        return self._run(awaited)


class _Loop:
    """An event loop in a thread. Calls are made in it, and waited for by the thread that makes them."""

    def __init__(self, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self._loop = new_loop()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._serve, name="face", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._ended.wait())

    def __call__(self, call: Callable[[], Awaitable[Found]]) -> Found:
        """As a task of the loop; ``call`` is made in it."""

        async def called() -> Found:
            return await call()

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result()

    def here(self, call: Callable[[], Found]) -> Found:
        """A plain call, made in the loop."""

        async def called() -> Found:
            return call()

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result()

    def end(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join(WAIT)
            assert not self._thread.is_alive()


class _AioNumbering:
    def __init__(self, run: _Loop, producer: ringwal.aio.Producer) -> None:
        self._run, self._producer = run, producer

    @property
    def next(self) -> int:
        return self._producer.next

    def begin(self, data: Any, **terms: Any) -> Pending:
        return _AioPending(self._run, self._run.here(lambda: self._producer.append_nowait(data, **terms)))

    def begin_many(self, records: Iterable[Any], **terms: Any) -> Pending:
        return _AioPending(self._run, self._run.here(lambda: self._producer.append_many_nowait(records, **terms)))

    def append(self, data: Any, **terms: Any) -> ringwal.Ack:
        return self._run(lambda: self._producer.append(data, **terms))

    def flush(self, timeout: float | None = WAIT) -> None:
        self._run(lambda: self._producer.flush(timeout))


class _AioPendingBatch:
    def __init__(self, run: _Loop, receipt: ringwal.aio.BatchReceipt) -> None:
        self._run, self._receipt = run, receipt

    def done(self) -> bool:
        return self._receipt.done()

    def result(self) -> list[ringwal.Ack]:
        async def awaited() -> list[ringwal.Ack]:
            async with asyncio.timeout(WAIT):
                return await self._receipt

        return self._run(awaited)


class _AioBatch:
    def __init__(self, run: _Loop, batch: ringwal.aio.Batch) -> None:
        self._run, self._batch = run, batch

    def __enter__(self) -> Self:
        self._run(self._batch.__aenter__)
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._run(lambda: self._batch.__aexit__(kind, error, trace))

    def __len__(self) -> int:
        return len(self._batch)

    def append(
        self, stream: Any, data: Any, timestamp_ns: int | None = None, expected_offset: int | None = None
    ) -> None:
        self._run.here(lambda: self._batch.append(stream, data, timestamp_ns, expected_offset))

    def commit(self, consumer: Any, record: Any = None, /) -> None:
        self._run.here(lambda: self._batch.commit(consumer, record))

    @property
    def receipt(self) -> PendingBatch:
        return _AioPendingBatch(self._run, self._batch.receipt)


class _AioConsuming:
    def __init__(self, run: _Loop, consumer: ringwal.aio.Consumer) -> None:
        self._run = run
        self.consumer = consumer
        self.streams = consumer.streams

    @property
    def committed(self) -> dict[str, int]:
        return self._run.here(lambda: self.consumer.committed)

    @property
    def positions(self) -> dict[str, int]:
        return self._run.here(lambda: self.consumer.positions)

    @property
    def lag(self) -> dict[str, int]:
        return self._run.here(lambda: self.consumer.lag)

    def poll(self, max_records: int = 1000, timeout: float | None = 0.0) -> list[ringwal.StreamRecord]:
        return self._run(lambda: self.consumer.poll(max_records, timeout))

    def records(self) -> Iterator[ringwal.StreamRecord]:
        found = self._run.here(self.consumer.__aiter__)
        try:
            while True:
                yield self._run(lambda: anext(found))
        finally:
            self._run(found.aclose)  # type: ignore[attr-defined]  # it is a generator

    def commit(self, record: ringwal.StreamRecord | None = None) -> None:
        self._run(lambda: self.consumer.commit(record))

    def commit_soon(self, record: ringwal.StreamRecord | None = None) -> None:
        self._run.here(lambda: self.consumer.commit_nowait(record))

    def seek(self, stream: str, position: Any) -> None:
        self._run(lambda: self.consumer.seek(stream, position))

    def flush(self, timeout: float | None = WAIT) -> None:
        self._run(lambda: self.consumer.flush(timeout))

    def close(self, timeout: float | None = WAIT) -> None:
        self._run(lambda: self.consumer.close(timeout))


class _Aio(_Batching):
    def __init__(self, loop: _Loop, directory: Path, options: dict[str, Any]) -> None:
        self._run = loop
        try:
            self.client = self._run(lambda: ringwal.aio.connect(directory, **options))
        except BaseException:
            loop.end()
            raise

    def _each(self, make: Callable[[], AsyncIterator[Found]]) -> Iterator[Found]:
        found = make()
        try:
            while True:
                try:
                    record = self._run(lambda: anext(found))
                except StopAsyncIteration:
                    return
                yield record
        except GeneratorExit:
            self._run(found.aclose)  # type: ignore[attr-defined]  # it is a generator
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.close()
        finally:
            self._run.end()

    def close(self, timeout: float | None = WAIT) -> None:
        self._run(lambda: self.client.close(timeout))

    def create(self, name: str, **settings: Any) -> None:
        self._run(lambda: self.client.create_stream(name, **settings))

    def delete(self, name: str) -> None:
        self._run(lambda: self.client.delete_stream(name))

    def trim(self, name: str, before: Any) -> int:
        return self._run(lambda: self.client.stream(name).trim(before))

    def configure(self, name: str, **settings: Any) -> None:
        self._run(lambda: self.client.stream(name).configure(**settings))

    def stat(self, name: str) -> ringwal.StreamInfo:
        return self._run(lambda: self.client.stream(name).stat())

    def offset_at(self, name: str, when: Any) -> int:
        return self._run(lambda: self.client.stream(name).offset_at(when))

    def streams(self) -> list[ringwal.StreamInfo]:
        return self._run(self.client.streams)

    def status(self) -> dict[str, Any]:
        return self._run(self.client.status)

    def flush(self, name: str, timeout: float | None = WAIT) -> None:
        self._run(lambda: self.client.stream(name).flush(timeout))

    def handle(self, name: str) -> Any:
        return self._run.here(lambda: self.client.stream(name))

    def gather(self, timeout: float | None = WAIT) -> Gathering:
        return _AioBatch(self._run, self._run.here(lambda: self.client.batch(timeout=timeout)))

    def producer(self, stream: str, name: str) -> Numbering:
        return _AioNumbering(self._run, self._run(lambda: self.client.producer(stream, name)))

    def consumer(self, name: str, streams: Iterable[str], start: Any = ringwal.EARLIEST, **options: Any) -> Consuming:
        return _AioConsuming(self._run, self._run(lambda: self.client.consumer(name, streams, start, **options)))

    def consumers(self) -> list[ringwal.ConsumerInfo]:
        return self._run(self.client.consumers)

    def delete_consumer(self, name: str) -> list[str]:
        return self._run(lambda: self.client.delete_consumer(name))

    def transform(
        self, appends: Sequence[tuple[str, bytes]], commits: Sequence[tuple[Consuming, ringwal.StreamRecord | None]]
    ) -> None:
        async def together() -> None:
            async with self.client.batch(timeout=WAIT) as batch:
                for name, data in appends:
                    batch.append(name, data)
                for one, record in commits:
                    assert isinstance(one, _AioConsuming)
                    batch.commit(one.consumer, record)

        self._run(together)

    def begin(self, name: str, data: Any, **terms: Any) -> Pending:
        return _AioPending(self._run, self._run.here(lambda: self.client.stream(name).append_nowait(data, **terms)))

    def begin_many(self, name: str, records: Iterable[Any], **terms: Any) -> Pending:
        return _AioPending(self._run, self._run.here(lambda: self.client.stream(name).append_many_nowait(records, **terms)))

    def append(self, name: str, data: bytes) -> int:
        return self._run(lambda: self.client.stream(name).append(data)).offset

    def append_all(self, name: str, records: Iterable[bytes]) -> None:
        async def all_of_them() -> None:
            stream = self.client.stream(name)
            for data in records:
                stream.append_nowait(data)
            await stream.flush(WAIT)

        self._run(all_of_them)

    def fill(self, name: str, records: Sequence[bytes]) -> tuple[list[Pending], list[ringwal.Error]]:
        async def until_the_last_is_refused() -> tuple[list[Pending], list[ringwal.Error]]:
            receipts = [self.client.stream(name).append_nowait(data) for data in records]
            accepted: list[Pending] = []
            errors: list[ringwal.Error] = []
            with contextlib.suppress(ringwal.Error):
                await receipts[-1]
                raise AssertionError("there was room for all of them")
            for receipt in receipts:
                try:
                    if receipt.done():
                        await receipt
                except ringwal.Error as error:
                    errors.append(error)
                else:
                    accepted.append(_AioPending(self._run, receipt))
                    assert not errors, "what comes behind one that was refused found room"
            return accepted, errors

        return self._run(until_the_last_is_refused)

    def at_once(self, name: str, records: Sequence[bytes]) -> list[int | ringwal.Error]:
        async def all_of_them() -> list[Any]:
            stream = self.client.stream(name)
            return await asyncio.gather(*map(stream.append, records), return_exceptions=True)

        found = self._run(all_of_them)
        return [each if isinstance(each, ringwal.Error) else each.offset for each in found]

    def read(self, name: str, *args: Any, **options: Any) -> list[ringwal.Record]:
        return self._run(lambda: self.client.stream(name).read(*args, **options))

    def records(self, name: str, *args: Any, **options: Any) -> Iterator[ringwal.Record]:
        return self._each(lambda: self.client.stream(name).records(*args, **options))

    def tail(self, name: str, *args: Any, **options: Any) -> Iterator[ringwal.Record]:
        return self._each(lambda: self.client.stream(name).tail(*args, **options))

    def merged(self, streams: Mapping[str, Any], **options: Any) -> Iterator[ringwal.StreamRecord]:
        return self._each(lambda: self.client.tail(streams, **options))


class AioFace:
    def __init__(self, name: str, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self.name = name
        self._new_loop = new_loop

    def connect(self, directory: Path, **options: Any) -> Connected:
        return _Aio(_Loop(self._new_loop), directory, {"timeout": WAIT, **options})


BEGINNING_AT_THE_CALL: tuple[Face, ...] = (SyncFace(),)
"""Where a tail begins is fixed by the call; in the other faces it is by the first step, as a plain call cannot wait."""
FACES: tuple[Face, ...] = (
    *BEGINNING_AT_THE_CALL,
    AioFace("asyncio", asyncio.new_event_loop),
    AioFace("uvloop", uvloop.new_event_loop),
)
