"""Numbers at the edge of the API: each argument has its rule, and what breaks it is told the limits."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest

import ringwal
import ringwal.aio
from ringwal.config import Kind, from_text, settings
from ringwal.logging import StreamHandler
from tests.support.rig import WAIT, Engine

HUGE = 10**400
SECONDS, WHOLE = "1000000000", "9223372036854775807"
WRONG: dict[str, list[Any]] = {
    "seconds": [math.nan, -math.inf, -1, -0.001, True, 1e10, 2**63, 2**64, HUGE, 10**5000, "1", b"1", 1j, [1]],
    "whole": [
        math.nan, math.inf, -math.inf, -1, -2, -3, True, False, 1.0, 1.5, 2**63, 2**64, HUGE, 10**5000, "1", b"1", 1j, [1],
    ],
}

# Of every call that takes a number: the argument, its kind, and what stands in the message of a refusal.
CALLS: list[tuple[Callable[..., Any], str, str, str]] = [
    (ringwal.connect, "timeout", "seconds", SECONDS),
    (ringwal.connect, "append_timeout", "seconds", SECONDS),
    (ringwal.connect, "reconnect", "seconds", SECONDS),
    (ringwal.connect, "lane_bytes", "whole", "1073741824"),
    (ringwal.Client, "timeout", "seconds", SECONDS),
    (ringwal.Client, "append_timeout", "seconds", SECONDS),
    (ringwal.Client, "reconnect", "seconds", SECONDS),
    (ringwal.Client, "lane_bytes", "whole", "1073741824"),
    (ringwal.Client.close, "timeout", "seconds", SECONDS),
    (ringwal.Client.batch, "timeout", "seconds", SECONDS),
    (ringwal.Client.consumer, "start", "whole", WHOLE),
    (ringwal.Client.tail, "max_records", "whole", WHOLE),
    (ringwal.Client.tail, "idle_timeout", "seconds", SECONDS),
    (ringwal.Stream.append, "timestamp_ns", "whole", WHOLE),
    (ringwal.Stream.append, "expected_offset", "whole", WHOLE),
    (ringwal.Stream.append_many, "expected_offset", "whole", WHOLE),
    (ringwal.Stream.flush, "timeout", "seconds", SECONDS),
    (ringwal.Stream.read, "start", "whole", WHOLE),
    (ringwal.Stream.read, "max_records", "whole", WHOLE),
    (ringwal.Stream.read, "max_bytes", "whole", WHOLE),
    (ringwal.Stream.read, "until", "whole", WHOLE),
    (ringwal.Stream.read, "wait", "seconds", SECONDS),
    (ringwal.Stream.records, "start", "whole", WHOLE),
    (ringwal.Stream.records, "until", "whole", WHOLE),
    (ringwal.Stream.tail, "start", "whole", WHOLE),
    (ringwal.Stream.tail, "max_records", "whole", WHOLE),
    (ringwal.Stream.tail, "idle_timeout", "seconds", SECONDS),
    (ringwal.Stream.trim, "before", "whole", WHOLE),
    (ringwal.Last, "count", "whole", WHOLE),
    (ringwal.ReadOnlyStream.read, "start", "whole", WHOLE),
    (ringwal.ReadOnlyStream.read, "until", "whole", WHOLE),
    (ringwal.ReadOnlyStream.records, "start", "whole", WHOLE),
    (ringwal.ReadOnlyStream.records, "until", "whole", WHOLE),
    (ringwal.ReadOnlyStream.offset_at, "when", "whole", WHOLE),
    (ringwal.ReadOnlyStream.read, "max_records", "whole", WHOLE),
    (ringwal.ReadOnlyStream.read, "max_bytes", "whole", WHOLE),
    (ringwal.backup, "rate", "whole", WHOLE),
    (ringwal.backup, "timeout", "seconds", SECONDS),
    (ringwal.Receipt.result, "timeout", "seconds", SECONDS),
    (ringwal.Receipt.exception, "timeout", "seconds", SECONDS),
    (ringwal.BatchReceipt.result, "timeout", "seconds", SECONDS),
    (ringwal.BatchReceipt.exception, "timeout", "seconds", SECONDS),
    (ringwal.Consumer.poll, "max_records", "whole", WHOLE),
    (ringwal.Consumer.poll, "timeout", "seconds", SECONDS),
    (ringwal.Consumer.commit, "timeout", "seconds", SECONDS),
    (ringwal.Consumer.seek, "position", "whole", WHOLE),
    (ringwal.Consumer.flush, "timeout", "seconds", SECONDS),
    (ringwal.Consumer.close, "timeout", "seconds", SECONDS),
    (ringwal.Producer.append, "seq", "whole", WHOLE),
    (ringwal.Producer.append, "timestamp_ns", "whole", WHOLE),
    (ringwal.Producer.append_many, "seq", "whole", WHOLE),
    (ringwal.Producer.flush, "timeout", "seconds", SECONDS),
    (ringwal.ProducerReceipt.result, "timeout", "seconds", SECONDS),
    (ringwal.ProducerReceipt.exception, "timeout", "seconds", SECONDS),
]
# What such a call needs beside.
BESIDE: dict[Callable[..., Any], dict[str, Any]] = {
    ringwal.Stream.append: {"data": b"x"},
    ringwal.Stream.append_many: {"records": [b"x"]},
    ringwal.Producer.append: {"data": b"x"},
    ringwal.Producer.append_many: {"records": [b"x"]},
    ringwal.backup: {"dest": "/nowhere/at/all"},
    ringwal.Client.tail: {"streams": {"s": 0}},
    ringwal.Client.consumer: {"name": "c", "streams": ["s"]},
    ringwal.Consumer.seek: {"stream": "s"},
}
# Where several numbers may be given, and are refused in other words: test_times.py has them.
SEVERAL = {("Stream.append_many", "timestamp_ns"), ("Producer.append_many", "timestamp_ns")}
# Not called by users: the errors' own facts, and tuples that are handed out.
DATA = (BaseException, tuple)


def name_of(call: Callable[..., Any]) -> str:
    return call.__qualname__


def public_calls() -> Iterator[Callable[..., Any]]:
    for name in ringwal.__all__:
        value = getattr(ringwal, name)
        if not callable(value) or (isinstance(value, type) and issubclass(value, DATA)):
            continue
        if value is not ringwal.Config:
            yield value
        if isinstance(value, type):
            yield from (member for key, member in vars(value).items() if inspect.isfunction(member) and not key.startswith("_"))


def test_every_number_that_a_call_takes_stands_in_the_table() -> None:
    internal = {"Config.fitted", "Batch", "Consumer"}
    found = {
        (name_of(call), argument.name)
        for call in public_calls()
        if name_of(call) not in internal
        for argument in inspect.signature(call).parameters.values()
        if {"int", "float", "Position"} & set(str(argument.annotation).replace("|", " ").split())
    }
    assert found - SEVERAL == {(name_of(call), argument) for call, argument, _, _ in CALLS}


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[type, Any]]:
    """A client, a stream of it and a receipt, by their classes."""
    running = Engine(tmp_path_factory.mktemp("values") / "log")
    try:
        with ringwal.connect(running.directory) as client, ringwal.open_readonly(running.directory) as log:
            stream = client.stream("s")
            receipt = stream.append(b"x")
            receipt.result(WAIT)
            looked_at: dict[type, Any] = {ringwal.ReadOnlyLog: log, ringwal.ReadOnlyStream: log.stream("s")}
            producer = client.producer("made", "p")
            looked_at |= {ringwal.Producer: producer, ringwal.ProducerReceipt: producer.append(b"x")}
            with client.batch() as batch:
                batch.append("s", b"x")
            looked_at |= {ringwal.Consumer: client.consumer("c", ["s"]), ringwal.BatchReceipt: batch.receipt}
            yield {ringwal.Client: client, ringwal.Stream: stream, ringwal.Receipt: receipt, **looked_at}
    finally:
        running.close()


def bound(call: Callable[..., Any], used: dict[type, Any]) -> Callable[..., Any]:
    for cls, value in used.items():
        if vars(cls).get(call.__name__) is call:
            return getattr(value, call.__name__)  # type: ignore[no-any-return]
    return call if call is ringwal.Last else lambda **given: call(used[ringwal.Client].path, **given)


@pytest.mark.parametrize(
    ("call", "argument", "kind", "limit"), CALLS, ids=[f"{name_of(call)}-{argument}" for call, argument, _, _ in CALLS]
)
def test_a_number_outside_of_its_limits_is_a_value_error_that_names_them(
    used: dict[type, Any], call: Callable[..., Any], argument: str, kind: str, limit: str
) -> None:
    for value in WRONG[kind]:
        with pytest.raises(ValueError, match=f"^{argument} is .*{limit}") as caught:
            bound(call, used)(**BESIDE.get(call, {}), **{argument: value})
        assert len(str(caught.value)) < 200
    assert used[ringwal.Stream].append(b"the client goes on").result(WAIT).count == 1


def test_what_means_for_ever_elsewhere_means_it_here(used: dict[type, Any]) -> None:
    client, stream, receipt = used[ringwal.Client], used[ringwal.Stream], used[ringwal.Receipt]
    endless: list[Any] = [None, math.inf, 1_000_000_000, Fraction(10**9)]
    for forever in endless:
        assert receipt.result(forever) == ("s", 0, 1)
        assert receipt.exception(forever) is None
        stream.flush(forever)
        assert next(stream.tail(0, idle_timeout=forever)).offset == 0
        with ringwal.connect(client.path, timeout=forever, append_timeout=forever) as other:
            other.stream("s").append(b"y").result(forever)
            other.close(forever)


def test_the_limits_themselves_are_taken(used: dict[type, Any]) -> None:
    client, stream, receipt = used[ringwal.Client], used[ringwal.Stream], used[ringwal.Receipt]
    assert receipt.result(0) == ("s", 0, 1)
    assert stream.read(0, 0) == []
    assert stream.read(2**63 - 1) == []
    assert len(stream.read(0, 2**63 - 1, 2**63 - 1)) > 0
    assert [record.offset for record in stream.read(0, max_records=5, max_bytes=0)] == [0]  # one, however large
    assert list(stream.records(2**63 - 1, 2**63 - 1)) == []
    assert list(stream.tail(2**63 - 1, max_records=2**63 - 1, idle_timeout=0)) == []
    with ringwal.connect(client.path, lane_bytes=64 << 10) as other:
        other.stream("s").append(b"z").result(WAIT)


@pytest.mark.parametrize("size", [0, 1, (64 << 10) - 1, (1 << 30) + 1])
def test_a_lane_outside_of_its_limits_is_refused_and_not_made_to_fit(tmp_path: Path, size: int) -> None:
    takers: list[Callable[..., Any]] = [ringwal.connect, ringwal.aio.connect, partial(StreamHandler, stream="s")]
    for taker in takers:
        with pytest.raises(ValueError, match=r"^lane_bytes is .* from 65536 to 1073741824"):
            taker(tmp_path, lane_bytes=size)


def test_no_wait_at_all_ends_at_once(directory: Path) -> None:
    with pytest.raises(ringwal.NotRunning):
        ringwal.connect(directory, timeout=0)


# ------------------------------------------------------------------------------------------------------- settings


def test_every_setting_that_is_a_number_has_limits() -> None:
    assert {setting.kind for setting in settings()} == set(get_args(Kind))
    for field in dataclasses.fields(ringwal.Config):
        kind = field.metadata["kind"]
        if kind == "choice":
            continue
        values = WRONG["seconds" if kind in ("seconds", "duration") else "whole"]
        for value in [*values, math.inf, -1, *([] if field.default is None else [None])]:
            with pytest.raises(ringwal.ConfigError, match=f"^{field.name} is .*; (at most|it must be|write)") as caught:
                ringwal.Config(**{field.name: value})
            assert len(str(caught.value)) < 200


def test_every_setting_that_is_written_has_them_too() -> None:
    for setting in settings():
        if setting.kind == "choice":
            continue
        for text in ("inf", "-inf", "nan", "-1", "1e400", "9" * 30, "9" * 5000, "", "0x10", "True"):
            with pytest.raises(ringwal.ConfigError) as caught:
                from_text({setting.name: text})
            assert len(str(caught.value)) < 200
