"""The Python side's hot pieces, with a real engine behind them."""

from __future__ import annotations

from typing import Any

import ringwal

RECORD = bytes(range(256)) * 4
APPENDS = 400
ROUNDS = 40


def test_append(benchmark: Any, client: ringwal.Client) -> None:
    """One round is 400 calls of `append(1 KiB)`, with room for all of them."""
    stream = client.stream("append")

    def setup() -> None:
        stream.flush()

    def appends() -> None:
        append = stream.append
        for _ in range(APPENDS):
            append(RECORD)

    benchmark.pedantic(appends, setup=setup, rounds=ROUNDS)


def test_append_many(benchmark: Any, client: ringwal.Client) -> None:
    """One round is one `append_many` of 1,000 x 128 B."""
    stream, records = client.stream("many"), [RECORD[:128]] * 1000

    def setup() -> None:
        stream.flush()

    benchmark.pedantic(stream.append_many, args=(records,), setup=setup, rounds=ROUNDS)


def test_receipt_resolution(benchmark: Any, client: ringwal.Client) -> None:
    """One round asks 400 receipts whose appends are confirmed and which nobody has looked at."""
    stream = client.stream("receipts")

    def setup() -> tuple[tuple[list[ringwal.Receipt]], dict[str, Any]]:
        receipts = [stream.append(RECORD) for _ in range(APPENDS)]
        receipts.pop().result()  # one stream is confirmed in order: now all are
        return (receipts,), {}

    def resolve(receipts: list[ringwal.Receipt]) -> int:
        return [receipt.result() for receipt in receipts][-1].count

    assert benchmark.pedantic(resolve, setup=setup, rounds=ROUNDS) == 1


def test_read(benchmark: Any, client: ringwal.Client) -> None:
    """Reads 1,000 records of 1 KiB that are still in the log ring, digests checked."""
    stream = client.stream("read")
    for _ in range(1000):
        stream.append(RECORD)
    stream.flush()
    assert len(benchmark(stream.read, 0, 1000)) == 1000
