"""What users are shown: every public name, and how it is called. Whoever changes that changes this file."""

from __future__ import annotations

import asyncio
import inspect
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ringwal
import ringwal.aio
import ringwal.logging
from tests.support.rig import WAIT, Engine

VALUES = """
    Ack At Backup Config ConsumerInfo Last Record Restored StreamInfo StreamRecord
    EARLIEST LATEST UNCHANGED __version__
"""
ERRORS = """
    AckTimeout BackpressureTimeout ClosedError ConfigError ConsumerFenced CorruptionError EngineFailed Error FileError ForkError
    Locked NoSuchStream NotRunning NotWritable OffsetMismatch OffsetTrimmed ProducerFenced RecordTooLarge SequenceGap
    ShmUnavailable StorageFull StreamDeleted StreamExists VersionMismatch
"""
PLACES = "Batch BatchReceipt Client Consumer Producer ProducerReceipt ReadOnlyLog ReadOnlyStream Receipt Stream Supervisor"
CALLS = "backup connect open_readonly restore"

CONNECT = (
    "(path: str | os.PathLike[str], *, autostart: bool = False, timeout: float | None = 5.0, lane_bytes: int | None = None,"
    " append_timeout: float | None = 5.0, reconnect: float | None = None)"
)
CREATED = (
    "(name: str, *, retention_age: Age | None = None, retention_bytes: Size | None = None,"
    " retention_records: Count | None = None, retain_until: Iterable[str] = (),"
    " exist_ok: bool = False)"
)
CONFIGURED = (
    "(*, retention_age: Age | Unchanged | None = UNCHANGED, retention_bytes: Size | Unchanged | None = UNCHANGED,"
    " retention_records: Count | Unchanged | None = UNCHANGED, retain_until: Iterable[str] | Unchanged = UNCHANGED)"
)
READ = (
    "(start: Position = 0, max_records: int = 1000, max_bytes: int | None = None, *, until: Position = LATEST,"
    " wait: float | None = None)"
)
FOLLOWED = (
    "*, max_records: int = 1000, idle_timeout: float | None = None, missing: Literal['raise', 'wait'] = 'raise',"
    " on_trimmed: Literal['raise', 'earliest'] = 'raise')"
)
RANGE = "(start: Position = EARLIEST, until: Position = LATEST, *, on_trimmed: Literal['raise', 'earliest'] = 'raise')"
ONE = "(data: Buffer, timestamp_ns: int | None = None, expected_offset: int | None = None)"
MANY = (
    "(records: Iterable[Buffer], timestamp_ns: int | Iterable[int] | None = None,"
    " expected_offset: int | None = None)"
)
PATIENT = "(timeout: float | None = 30.0)"

CONSUMED = (
    "(name: str, streams: Iterable[str], start: Position = EARLIEST, *,"
    " on_trimmed: Literal['raise', 'earliest'] = 'raise')"
)

OF_CLIENT = {
    "batch": "(*, timeout: float | None = 30.0) -> Batch",
    "close": f"{PATIENT} -> None",
    "consumer": f"{CONSUMED} -> Consumer",
    "consumers": "() -> list[ConsumerInfo]",
    "delete_consumer": "(name: str) -> list[str]",
    "create_stream": f"{CREATED} -> Stream",
    "delete_stream": "(name: str) -> None",
    "path": "Path",
    "producer": "(stream: str, name: str) -> Producer",
    "status": "() -> dict[str, Any]",
    "stream": "(name: str) -> Handle",
    "streams": "() -> list[StreamInfo]",
    "tail": f"(streams: Mapping[str, Position], {FOLLOWED} -> Iterator[StreamRecord]",
}
OF_STREAM = {
    "append": f"{ONE} -> Receipt",
    "append_many": f"{MANY} -> Receipt",
    "client": "Client",
    "configure": f"{CONFIGURED} -> None",
    "flush": f"{PATIENT} -> None",
    "name": "str",
    "offset_at": "(when: datetime | At) -> int",
    "read": f"{READ} -> list[Record]",
    "records": f"{RANGE} -> Iterator[Record]",
    "stat": "() -> StreamInfo",
    "tail": f"(start: Position = LATEST, {FOLLOWED} -> Iterator[Record]",
    "trim": "(before: int | At | datetime) -> int",
}
OF_RECEIPT = {
    "count": "int",
    "done": "() -> bool",
    "exception": f"{PATIENT} -> Error | None",
    "future": "() -> Future[Ack]",
    "result": f"{PATIENT} -> Ack",
    "stream": "str",
}
NUMBERED = "(data: Buffer, seq: int | None = None, timestamp_ns: int | None = None)"
NUMBERED_MANY = (
    "(records: Iterable[Buffer], seq: int | None = None, timestamp_ns: int | Iterable[int] | None = None)"
)
OF_PRODUCER = {
    "append": f"{NUMBERED} -> ProducerReceipt",
    "append_many": f"{NUMBERED_MANY} -> ProducerReceipt",
    "flush": f"{PATIENT} -> None",
    "name": "str",
    "next": "int",
    "stream": "str",
}
OF_PRODUCER_RECEIPT = {
    "count": "int",
    "done": "() -> bool",
    "exception": f"{PATIENT} -> Error | None",
    "result": f"{PATIENT} -> Ack",
    "seq": "int",
    "stream": "str",
}
GATHERED = (
    "(stream: str | Handle, data: Buffer, timestamp_ns: int | None = None, expected_offset: int | None = None) -> None"
)
OF_BATCH = {
    "append": GATHERED,
    "commit": "(consumer: ConsumerCore, record: StreamRecord | None = None) -> None",
    "receipt": "BatchReceipt",
}
OF_CONSUMER = {
    "close": f"{PATIENT} -> None",
    "commit": "(record: StreamRecord | None = None, *, wait: bool = True, timeout: float | None = 30.0) -> None",
    "committed": "dict",
    "flush": f"{PATIENT} -> None",
    "lag": "dict",
    "name": "str",
    "poll": "(max_records: int = 1000, timeout: float | None = 0.0) -> list[StreamRecord]",
    "positions": "dict",
    "seek": "(stream: str, position: Position) -> None",
    "streams": "tuple",
}
OF_AIO_CONSUMER = {
    **OF_CONSUMER,
    "close": f"async {PATIENT} -> None",
    "commit": "async (record: StreamRecord | None = None) -> None",
    "commit_nowait": "(record: StreamRecord | None = None) -> None",
    "flush": f"async {PATIENT} -> None",
    "poll": f"async {OF_CONSUMER['poll']}",
    "seek": f"async {OF_CONSUMER['seek']}",
}
OF_BATCH_RECEIPT = {
    "count": "int",
    "done": "() -> bool",
    "exception": f"{PATIENT} -> Error | None",
    "result": "(timeout: float | None = 30.0) -> list[Ack]",
}
AWAITED = (
    "close", "consumer", "consumers", "create_stream", "delete_consumer", "delete_stream", "producer", "status", "streams",
)  # fmt: skip
OF_AIO_CLIENT = {
    **{name: f"async {said}" if name in AWAITED else said for name, said in OF_CLIENT.items()},
    "tail": f"(streams: Mapping[str, Position], {FOLLOWED} -> AsyncIterator[StreamRecord]",
}
OF_AIO_STREAM = {
    "append": f"async {ONE} -> Ack",
    "append_nowait": f"{ONE} -> Receipt",
    "append_many": f"async {MANY} -> Ack",
    "append_many_nowait": f"{MANY} -> Receipt",
    "client": "Client",
    "configure": f"async {CONFIGURED} -> None",
    "flush": f"async {PATIENT} -> None",
    "name": "str",
    "offset_at": "async (when: datetime | At) -> int",
    "read": f"async {READ} -> list[Record]",
    "records": f"{RANGE} -> AsyncIterator[Record]",
    "stat": "async () -> StreamInfo",
    "tail": f"(start: Position = LATEST, {FOLLOWED} -> AsyncIterator[Record]",
    "trim": "async (before: int | At | datetime) -> int",
}
OF_AIO_RECEIPT = {"count": "int", "done": "() -> bool", "stream": "str"}
OF_AIO_PRODUCER = {
    "append": f"async {NUMBERED} -> Ack",
    "append_nowait": f"{NUMBERED} -> ProducerReceipt",
    "append_many": f"async {NUMBERED_MANY} -> Ack",
    "append_many_nowait": f"{NUMBERED_MANY} -> ProducerReceipt",
    "flush": f"async {PATIENT} -> None",
    "name": "str",
    "next": "int",
    "stream": "str",
}
OF_AIO_PRODUCER_RECEIPT = {**OF_AIO_RECEIPT, "seq": "int"}
OF_HANDLER = {
    "buffered": "int",
    "close": "() -> None",
    "dropped": "int",
    "emit": "(record: logging.LogRecord) -> None",
    "encoding": "str",
    "flush": "() -> None",
    "flush_timeout": "float",
    "path": "Path",
    "stream": "str",
    "unknown": "int",
}
HANDLER = (
    "(path: str | os.PathLike[str], stream: str, *, on_down: Literal['buffer', 'drop', 'raise'] = 'buffer',"
    " autostart: bool = False, buffer_records: int = 10000, buffer_bytes: int = 8388608, max_wait: float | None = None,"
    " flush_timeout: float = 5.0, lane_bytes: int | None = None, encoding: str = 'utf-8', level: int | str = 0) -> None"
)


def words(*lists: str) -> list[str]:
    return sorted(word for each in lists for word in each.split())


def called(call: Callable[..., Any]) -> str:
    """The signature, without the object it is called on."""
    parts, keyword_only = [], False
    signature = inspect.signature(call)
    for each in signature.parameters.values():
        if each.name == "self":
            continue
        if each.kind is each.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            parts.append("*")
        default = "" if each.default is each.empty else f" = {each.default!r}"
        parts.append(f"{each.name}: {each.annotation}{default}")
    kind = "async " if inspect.iscoroutinefunction(call) else ""
    returns = f" -> {signature.return_annotation}"
    return f"{kind}({', '.join(parts)}){returns}"


def surface(thing: object) -> dict[str, str]:
    """What tab completion shows of that object, and how it is called."""
    found = {}
    for name in dir(thing):
        if not name.startswith("_"):
            value = getattr(thing, name)
            found[name] = called(value) if callable(value) else type(value).__name__.replace("PosixPath", "Path")
    return found


@pytest.fixture
def client(directory: Path, start: Callable[..., Engine]) -> Iterator[ringwal.Client]:
    start()
    with ringwal.connect(directory) as client:
        yield client


def test_the_names_of_the_modules() -> None:
    assert sorted(ringwal.__all__) == words(VALUES, ERRORS, PLACES, CALLS)
    assert dir(ringwal) == sorted([*ringwal.__all__, "aio", "logging"])
    assert all(hasattr(ringwal, name) for name in dir(ringwal))
    assert ringwal.aio.__all__ == [name for name in dir(ringwal.aio) if not name.startswith("_")]
    assert ringwal.aio.__all__ == words("Batch BatchReceipt Client Consumer Producer ProducerReceipt Receipt Stream connect")
    assert ringwal.logging.__all__ == ["StreamHandler"]


def test_what_is_not_imported_is_not_shown() -> None:
    """asyncio is loaded by who uses it."""
    program = "import sys, ringwal; print('aio' in dir(ringwal), 'asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert done.stdout == "False False\n"


def test_the_synchronous_face(client: ringwal.Client) -> None:
    assert called(ringwal.connect) == f"{CONNECT} -> Client"
    stream = client.stream("s")
    receipt, batch = stream.append(b"x"), stream.append_many([b"x", b"y"])
    assert surface(client) == OF_CLIENT
    assert surface(stream) == OF_STREAM
    assert surface(receipt) == surface(batch) == OF_RECEIPT
    batch.result(WAIT)
    producer = client.producer("s", "p")
    assert surface(producer) == OF_PRODUCER
    assert surface(producer.append(b"x")) == OF_PRODUCER_RECEIPT
    with client.batch() as together:
        together.append("s", b"x")
    assert surface(together) == OF_BATCH
    assert surface(together.receipt) == OF_BATCH_RECEIPT
    with client.consumer("c", ["s"]) as consumer:
        assert surface(consumer) == OF_CONSUMER


def test_the_asyncio_face(client: ringwal.Client) -> None:
    async def main() -> None:
        connecting = ringwal.aio.connect(client.path)
        assert surface(connecting) == {}, "it is awaited, or entered"
        async with connecting as own:
            stream = own.stream("s")
            receipt = stream.append_nowait(b"x")
            assert surface(own) == OF_AIO_CLIENT
            assert surface(stream) == OF_AIO_STREAM
            assert surface(receipt) == OF_AIO_RECEIPT
            await receipt
            producer = await own.producer("s", "p")
            await producer.append(b"x")
            numbered = producer.append_nowait(b"x")
            assert surface(producer) == OF_AIO_PRODUCER
            assert surface(numbered) == OF_AIO_PRODUCER_RECEIPT
            await numbered
            async with own.batch() as together:
                together.append("s", b"x")
            async with await own.consumer("c", ["s"]) as consumer:
                assert surface(consumer) == OF_AIO_CONSUMER
            assert surface(together) == OF_BATCH
            assert surface(together.receipt) == {"count": "int", "done": "() -> bool"}

    assert called(ringwal.aio.connect) == f"{CONNECT} -> Connecting"
    asyncio.run(main())


def test_the_handler(tmp_path: Path) -> None:
    handler = ringwal.logging.StreamHandler(tmp_path, "s")
    assert called(ringwal.logging.StreamHandler.__init__) == HANDLER
    inherited = {name for name in surface(logging.Handler()) if name not in vars(ringwal.logging.StreamHandler)}
    assert {name: said for name, said in surface(handler).items() if name not in inherited} == OF_HANDLER
    handler.close()


def test_the_faces_have_the_same_names_and_the_same_arguments() -> None:
    for ours, others in ((OF_CLIENT, OF_AIO_CLIENT), (OF_STREAM, OF_AIO_STREAM), (OF_PRODUCER, OF_AIO_PRODUCER)):
        assert {name for name in others if not name.endswith("_nowait")} == set(ours)
        for name, said in ours.items():
            assert others[name].removeprefix("async ").partition(" -> ")[0] == said.partition(" -> ")[0]
