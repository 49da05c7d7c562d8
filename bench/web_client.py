"""The client process of `bench.web`: connections that stay, each with one request under way, in HTTP/1.1 written by hand.

    python -m bench.web_client '{"port": 8000, "connections": 64, "workers": 4, ...}'

It gets its task as JSON, and prints what it found as JSON.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import sys
import time
from array import array
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from bench import aio_loads, stats

clock = time.perf_counter_ns
HOST = "127.0.0.1"
END = b"\r\n\r\n"
OK = b"HTTP/1.1 200 "
TRIES = 100
"""Connections that are made for one that is wanted, at the most."""

Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class Task:
    """What the client is told."""

    port: int
    connections: int
    workers: int
    loop: str = "uvloop"
    record_bytes: int = 300
    warm: float = 0.5
    seconds: float = 3.0


@dataclass(slots=True)
class Count:
    """What the connections share."""

    begin: int
    end: int
    answered: int = 0
    """With 200, also outside the window."""
    samples: array[int] = field(default_factory=lambda: array("Q"))


def request(method: str, path: str, body: bytes = b"") -> bytes:
    """As it goes down the wire."""
    head = f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/octet-stream\r\nContent-Length: {len(body)}"
    return head.encode() + END + body


def _refuse(head: bytes) -> None:
    if not head.startswith(OK):
        raise ConnectionError(f"the service answered {head.partition(END[:2])[0].decode(errors='replace')!r}")


async def _worker_of(line: Line) -> bytes:
    """Which process serves this connection."""
    reader, writer = line
    writer.write(request("GET", "/worker"))
    head = await reader.readuntil(END)
    _refuse(head)
    length = head.lower().partition(b"content-length:")[2].split(maxsplit=1)[0]
    return await reader.readexactly(int(length))


@contextlib.asynccontextmanager
async def lines(task: Task) -> AsyncIterator[list[Line]]:
    """Connections, as many to each worker as to any other.

    The kernel deals them out by a hash of the client's port, and an uneven hand would be luck of one contender.
    """
    share = -(-task.connections // task.workers)
    served: collections.Counter[bytes] = collections.Counter()
    kept: list[Line] = []
    try:
        for _ in range(task.connections * TRIES):
            if len(kept) == task.connections:
                break
            line = await asyncio.open_connection(HOST, task.port)
            kept.append(line)
            worker = await _worker_of(line)
            if served[worker] == share:
                kept.pop()[1].close()
            else:
                served[worker] += 1
        else:
            raise ConnectionError(f"{task.connections} connections do not spread over {task.workers} workers: {served}")
        yield kept
    finally:
        for _, writer in kept:
            writer.close()


async def _one(line: Line, post: bytes, count: Count) -> None:
    reader, writer = line
    write, until, begin, end, samples = writer.write, reader.readuntil, count.begin, count.end, count.samples
    sent = clock()
    while sent < end:
        write(post)
        head = await until(END)  # the answer has no body
        if not head.startswith(OK):
            _refuse(head)
        done = clock()
        count.answered += 1
        if begin <= done <= end:
            samples.append(done - sent)
        sent = done


async def load(task: Task) -> dict[str, Any]:
    """Makes the load; what it found."""
    post = request("POST", "/", bytes(range(100)) * (task.record_bytes // 100) + bytes(task.record_bytes % 100))
    async with lines(task) as connected:
        begin = clock() + int(task.warm * 1e9)
        count = Count(begin, begin + int(task.seconds * 1e9))
        async with asyncio.TaskGroup() as group:
            for line in connected:
                group.create_task(_one(line, post, count))
    return {
        "requests_per_s": len(count.samples) / task.seconds,
        "answered": count.answered,
        "request_us": stats.latency_us(count.samples),
    }


def main() -> None:
    """See above."""
    task = Task(**json.loads(sys.argv[1]))
    try:
        found = aio_loads.run(load(task), task.loop)
    except* (OSError, EOFError) as failed:
        sys.exit(f"{failed.exceptions[0]}")
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
