"""Whatever a program passes on to another process comes back as what it was, or leads to the same place, or says why not."""

from __future__ import annotations

import asyncio
import copy
import errno
import gc
import inspect
import pickle
import types
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import ringwal
import ringwal.aio
from ringwal import config
from tests.support.rig import WAIT, Engine, until

Pass = Callable[[Any], Any]
PASSES: dict[str, Pass] = {
    **{f"protocol {n}": partial(lambda n, what: pickle.loads(pickle.dumps(what, n)), n) for n in range(2, 6)},
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}
passed_on = pytest.mark.parametrize("again", PASSES.values(), ids=PASSES)

CORRUPTION = ringwal.CorruptionError("bad block", segment=3, position=4096).denying("orders", 7, 9)
ABSENT = ringwal.NotRunning("no engine")
ABSENT.why = "absent"
ERRORS: list[ringwal.Error] = [
    ringwal.AckTimeout("not in time"),
    ringwal.BackpressureTimeout("full"),
    ringwal.ClosedError("closed", outcome="unknown"),
    ringwal.ConfigError("not so"),
    CORRUPTION,
    ringwal.EngineFailed("write failed", errno.EIO),
    ringwal.Error("any", outcome="not_appended"),
    ringwal.FileError("not yours", errno.EACCES, "/d", 0),
    ringwal.ForkError("the parent's"),
    ringwal.Locked("in use", 4711),
    ringwal.NoSuchStream("no stream"),
    ABSENT,
    ringwal.NotWritable("for reading"),
    ringwal.OffsetMismatch("it goes on elsewhere", 5),
    ringwal.ConsumerFenced("claimed since"),
    ringwal.ProducerFenced("fenced", outcome="unknown"),
    ringwal.SequenceGap("something is missing", 7),
    ringwal.OffsetTrimmed("gone", 17),
    ringwal.RecordTooLarge("too large", limit=42),
    ringwal.ShmUnavailable("no room", 1 << 20),
    ringwal.StorageFull("full", errno.EDQUOT),
    ringwal.StreamDeleted("deleted"),
    ringwal.StreamExists("other settings"),
    ringwal.VersionMismatch("another build"),
]
VALUES: list[Any] = [
    ringwal.Ack("orders", 3, 2),
    ringwal.At(datetime(2027, 1, 31, 9, 30, tzinfo=UTC)),
    ringwal.At.from_ns(1801387800123456789),
    ringwal.Backup("b", "d", "00", "2027-01-31T09:30:00Z", 4096, 3, 1, 1, 1, 5, 2, 0.5),
    ringwal.Config(),
    ringwal.Config(segment_bytes=8 << 20, ring_bytes=1 << 20, max_streams=256, retention_age="30d"),
    ringwal.ConsumerInfo("billing", "orders", 3, 2, 1, 10**18),
    ringwal.Last(100),
    ringwal.Record(5, b"x", 10**18, 7),
    ringwal.StreamRecord(5, b"x", 10**18, 7, "orders"),
    ringwal.Restored("d", "b", "00", "2027-01-31T09:30:00Z", 3, 5, 2, 0.5),
    ringwal.StreamInfo("orders", 1, 3, 2, 20, 10**18, 0, 60.0, None, 5, ("billing",), ("retention_age",)),
]
PLACES = {"Client", "Stream", "ReadOnlyLog", "ReadOnlyStream"}
"""They lead to a place, and do so where they arrive."""
STAY = {"Batch", "BatchReceipt", "Consumer", "Producer", "ProducerReceipt", "Receipt", "Supervisor"}
"""They are of their process."""
SAME = {"EARLIEST", "LATEST", "UNCHANGED", "__version__"}
"""Constants, of which there is one each."""


def name_of(value: object) -> str:
    return type(value).__name__


def test_nothing_that_is_public_was_forgotten_here() -> None:
    said = [{*map(name_of, ERRORS)}, {*map(name_of, VALUES)}, PLACES, STAY, SAME]
    functions = {name for name in ringwal.__all__ if isinstance(getattr(ringwal, name), types.FunctionType)}
    assert sorted(functions | set().union(*said)) == sorted(ringwal.__all__)
    assert sum(map(len, said)) + len(functions) == len(ringwal.__all__), "and each is one of them only"


@passed_on
@pytest.mark.parametrize("name", [name for name in ringwal.__all__ if name not in PLACES | STAY | SAME])
def test_a_public_class_or_function_is_itself(name: str, again: Pass) -> None:
    what = getattr(ringwal, name)
    assert inspect.isclass(what) or inspect.isfunction(what)
    assert again(what) is what


@passed_on
@pytest.mark.parametrize("error", ERRORS, ids=name_of)
def test_an_error_keeps_its_words_and_its_facts(error: ringwal.Error, again: Pass) -> None:
    found = again(error)
    assert type(found) is type(error)
    assert (str(found), found.args, found.facts()) == (str(error), error.args, error.facts())
    assert (found.outcome, found.retriable) == (error.outcome, error.retriable)
    assert getattr(found, "errno", None) == getattr(error, "errno", None)


@passed_on
@pytest.mark.parametrize("value", VALUES, ids=name_of)
def test_a_value_is_equal(value: Any, again: Pass) -> None:
    found = again(value)
    assert type(found) is type(value)
    assert found == value
    assert repr(found) == repr(value)


@passed_on
def test_settings_that_were_not_said_still_give_way_to_the_log_that_is_there(again: Pass) -> None:
    found = again(ringwal.Config(retention_records=5))
    assert isinstance(found.segment_bytes, config.Unsaid)
    assert found.fitted(8 << 20, 1 << 20).segment_bytes == 8 << 20


@passed_on
def test_a_constant_is_the_same(again: Pass) -> None:
    for name in SAME:
        assert again(getattr(ringwal, name)) == getattr(ringwal, name)
    assert again(ringwal.UNCHANGED) is ringwal.UNCHANGED


@passed_on
def test_what_is_of_its_process_says_so_and_what_to_pass_on(directory: Path, start: Callable[..., Engine], again: Pass) -> None:
    start()
    with ringwal.connect(directory) as client:
        stream = client.stream("orders")
        for receipt in (stream.append(b"x"), stream.append_many([b"y", b"z"])):
            with pytest.raises(TypeError, match=r"^a Receipt is neither .*pass on what result\(\) returns"):
                again(receipt)
            assert again(receipt.result(WAIT)) == receipt.result(WAIT)


@passed_on
def test_what_is_of_an_event_loop_says_so_and_what_to_pass_on(
    directory: Path, start: Callable[..., Engine], again: Pass
) -> None:
    start()

    async def main() -> None:
        connecting = ringwal.aio.connect(directory)
        with pytest.raises(TypeError, match="pass on the path"):
            again(connecting)
        async with connecting as client:
            stream = client.stream("orders")
            receipt = stream.append_nowait(b"x")
            for what, said in ((client, "its path"), (stream, "its name"), (receipt, "the Ack")):
                with pytest.raises(TypeError, match=rf"^a {name_of(what)} .*is neither pickled nor copied: .*{said}"):
                    again(what)
            assert again(await receipt) == ringwal.Ack("orders", 0, 1)

    asyncio.run(main())


def test_an_engine_of_this_process_says_so_and_what_to_pass_on(directory: Path) -> None:
    def ready(_: object) -> None:
        for again in PASSES.values():
            with pytest.raises(TypeError, match=r"^a Supervisor is neither .*Pass on its directory and its config"):
                again(running)
        running.stop()

    running = ringwal.Supervisor(directory, on_ready=ready)
    assert running.run() == 0


@passed_on
def test_a_client_and_its_stream_lead_to_the_same_log(directory: Path, start: Callable[..., Engine], again: Pass) -> None:
    start()
    with ringwal.connect(directory, lane_bytes=128 << 10, append_timeout=1.5) as client:
        client.stream("orders").append(b"x").result(WAIT)
        with again(client) as other:
            assert (other.path, other._options) == (client.path, client._options)
            assert other.stream("orders").append(b"y").result(WAIT).offset == 1
        stream = again(client.stream("orders"))
        assert (stream.client is client) == (again is copy.copy), "a shallow copy shares what it refers to"
        with nullcontext() if stream.client is client else stream.client:
            assert [record.data for record in stream.read(0)] == [b"x", b"y"]
            assert stream.append(b"z").result(WAIT).offset == 2
        assert client.stream("orders").append(b"and the first one").result(WAIT).offset == 3


@pytest.fixture
def collector_rests() -> Iterator[None]:
    """As in servers that freeze what they have loaded, or put the collector off."""
    gc.disable()
    yield
    gc.enable()
    gc.collect()


def places(client: ringwal.Client) -> int:
    """How many the engine has given to writers."""
    return len(client.status()["clients"])


def test_streams_that_come_with_every_task_take_one_place(
    directory: Path, start: Callable[..., Engine], collector_rests: None
) -> None:
    start(max_clients=4)
    with ringwal.connect(directory) as client:
        sent = pickle.dumps(client.stream("orders"))
        for n in range(16):
            stream = pickle.loads(sent)
            assert stream.append(b"%d" % n).result(WAIT).offset == n
        assert places(client) == 1
        stream.client.close()
        assert pickle.loads(sent).append(b"after").result(WAIT).offset == 16, "what was closed is not what comes next"
        pickle.loads(sent).client.close()
        until(lambda: places(client) == 0, "the others have gone")


def test_a_log_that_has_taken_the_place_of_another_is_not_taken_for_it(
    directory: Path, start: Callable[..., Engine]
) -> None:
    first = start()
    with ringwal.connect(directory) as client:
        old = pickle.loads(pickle.dumps(client.stream("orders")))
    with old.client:
        old.append(b"old").result(WAIT)
        assert first.terminate() == 0
        directory.rename(directory.with_name("elsewhere"))
        start()
        with ringwal.connect(directory) as client:
            new = pickle.loads(pickle.dumps(client.stream("orders")))
            with new.client:
                assert new.append(b"new").result(WAIT).offset == 0


@passed_on
def test_a_log_that_is_open_for_reading_is_opened_again(directory: Path, start: Callable[..., Engine], again: Pass) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        client.stream("orders").append(b"x").result(WAIT)
    assert running.terminate() == 0
    with ringwal.open_readonly(directory) as log, closing(again(log)) as other:
        assert other.path == log.path
        assert other.streams() == log.streams()
        stream = again(log.stream("orders"))
        assert [record.data for record in stream.read()] == [b"x"]
        assert (stream.log is log) == (again is copy.copy)
        if stream.log is not log:
            stream.log.close()
        assert [record.data for record in log.stream("orders").read()] == [b"x"]
