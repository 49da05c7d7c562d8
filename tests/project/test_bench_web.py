"""The benchmark of a web service: every contender serves, what it answered is stored, and nothing is left behind."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from bench import processes, web, web_client
from bench.contender import ContenderFailedError

SHAPE = web.Shape(0.2, workers=2, connections=5)


def quiet(_: str) -> None:
    """Says nothing."""


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path) -> Iterator[None]:
    for place in (tmp_path, *tmp_path.parents[:2]):
        place.chmod(0o711)  # a server that will not run as root must be able to enter
    before = set(processes.tree(os.getpid()))
    yield
    assert set(processes.tree(os.getpid())) <= before
    assert list(tmp_path.iterdir()) == []


def test_every_contender_serves_and_what_it_answered_is_stored(tmp_path: Path) -> None:
    peer = shutil.which("redis-server") is not None and importlib.util.find_spec("redis") is not None
    found = web.measure(tmp_path, SHAPE, 1, quiet)
    for who in web.CONTENDERS if peer else ("ringwal", "nothing"):
        middle = found["contenders"][who]["median"]
        assert middle["requests_per_s"] > 0
        assert middle["answered"] >= middle["request_us.n"] > 0
    assert found["ratios"].keys() == ({"ringwal/redis", "ringwal/nothing"} if peer else {"ringwal/nothing"})
    assert all(who in web.tables(found) for who in web.CONTENDERS)


def test_without_redis_it_says_so_and_measures_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    found = web.measure(tmp_path, SHAPE, 1, quiet, ("redis", "nothing"))
    assert "redis was not run: redis-server is not installed" in web.tables(found)
    assert found["contenders"]["nothing"]["median"]["requests_per_s"] > 0
    assert found["ratios"] == {}


def test_what_was_answered_and_is_not_stored_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "STREAM", "another")
    with pytest.raises(ContenderFailedError, match="answered with 200, 0 are stored"):
        web.measure(tmp_path, SHAPE, 1, quiet, ("ringwal",))


def test_an_answer_that_is_not_200_ends_the_load() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(web_client.END)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1")
        await reader.readuntil(web_client.END)
        writer.write(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async def main() -> None:
        async with await asyncio.start_server(serve, web_client.HOST, 0) as server:
            task = web_client.Task(server.sockets[0].getsockname()[1], connections=1, workers=1)
            await web_client.load(task)

    with pytest.raises(ExceptionGroup) as failed:
        asyncio.run(main())
    assert failed.group_contains(ConnectionError, match="500 Internal Server Error")
