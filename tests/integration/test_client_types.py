"""What a type checker says of an append is what happens."""

from __future__ import annotations

import array
import json
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ringwal
from tests.support.rig import CHECKOUT, WAIT, Engine

GOOD = [
    'stream.append(b"abc")',
    'stream.append(bytearray(b"abc"))',
    'stream.append(memoryview(b"abc"))',
    'stream.append(array.array("i", [1, 2]))',
    "stream.append(mmap.mmap(-1, 10))",
    "stream.append(Whole())",
    'stream.append_many([b"abc", bytearray(b"d"), memoryview(b"e")])',
    'stream.append_many((b"abc", b"d"))',
    'stream.append_many({b"abc": 1})',
    'stream.append_many(bytes([n]) for n in range(3))',
    'stream.append_many(iter([b"abc"]))',
    'stream.append_many(map(str.encode, ["a", "b"]))',
    "stream.append_many([Whole()])",
]
BAD = [
    'stream.append("text")',
    "stream.append(1)",
    "stream.append(1.5)",
    "stream.append(None)",
    'stream.append([b"abc"])',
    'stream.append_many(b"abc")',
    'stream.append_many(bytearray(b"abc"))',
    "stream.append_many(view)",
    'stream.append_many("text")',
    'stream.append_many(["text"])',
    'stream.append_many([b"abc", "text"])',
    "stream.append_many([1])",
    "stream.append_many(1)",
    "stream.append_many(None)",
]
NUMBERED = [
    "client.producer('s', 'p').next + 1",
    "producer.append(b'x').result(1.0).offset + 1",
    "producer.append(memoryview(b'x'), seq=3, timestamp_ns=5).seq + 1",
    "producer.append_many([b'x', bytearray(b'y')], seq=4, timestamp_ns=[1, 2]).count + 1",
    "producer.append(b'x', 3).exception() is None",
    "producer.append(b'x').result().duplicate and None",
    "producer.flush(timeout=None)",
]
MISNUMBERED = [
    "client.producer('s')",
    "client.producer(1, 'p')",
    "producer.append('text')",
    "producer.append(b'x', seq='3')",
    "producer.append(b'x', expected_offset=3)",
    "producer.append_many(b'x')",
    "producer.append(b'x').offset",
    "producer.append(b'x').future()",
]
READ = [
    "ringwal.Last(3).count + 1",
    "stream.read(ringwal.Last(3))[0].data.decode()",
    "stream.read(0, until=ringwal.LATEST, wait=1.5)",
    'next(stream.tail(ringwal.EARLIEST, missing="wait", on_trimmed="earliest")).offset + 1',
    'next(client.tail({"a": 0, "b": ringwal.LATEST, "c": ringwal.Last(1)})).stream.upper()',
    "stream.append(b'x').result(1.0).offset + 1",
]
MISREAD = [
    'ringwal.Last("3")',
    'stream.read("0")',
    'stream.read(0, wait="long")',
    'stream.tail(missing="ignore")',
    'stream.tail(on_trimmed="latest")',
    'client.tail(["a", "b"])',
    "client.tail({1: 0})",
    "stream.append(b'x').offset",
    "stream.attachment()",
]
AWAITED = [
    '(await stream.append(b"x")).offset + 1',
    '(await stream.append_nowait(b"")).offset + 1',
    '(await stream.append_many([b"x", bytearray(b"y")])).count + 1',
    '(await stream.append_many_nowait([b"x"])).count + 1',
    "stream.append_nowait(memoryview(b'x')).done() and None",
    "(await stream.read(ringwal.Last(3), wait=1.5))[0].data.decode()",
    "[record.data.decode() async for record in stream.tail(ringwal.Last(2), on_trimmed='earliest')]",
    "[record.offset + 1 async for record in stream.records()]",
    '[record.stream.upper() async for record in client.tail({"a": 0, "b": ringwal.LATEST})]',
    "(await client.create_stream('s')).name.upper()",
    "(await connect(path)).stream('s').name.upper()",
    "await asyncio.gather(stream.append(b'x'), stream.append_nowait(b'y'))",
    "(await client.producer('s', 'p')).next + 1",
    "(await producer.append(b'x', seq=3)).offset + 1",
    "(await producer.append_nowait(b'x')).duplicate and None",
    "(await producer.append_many([b'x'], seq=1)).count + 1",
    "(await producer.append_many_nowait([b'x'])).count + 1",
    "await asyncio.gather(producer.append(b'x'), producer.append_nowait(b'y'))",
    "await producer.flush()",
]
MISTAKEN = [
    'await stream.append("text")',
    'stream.append_nowait("text")',
    'await stream.append_many(b"abc")',
    "stream.append(b'x').offset",
    "stream.append_nowait(b'x').offset",
    "stream.append_nowait(b'x').result()",
    "await stream.tail()",
    "[record for record in stream.tail()]",
    "[record for record in stream.records()]",
    "await client.stream('s')",
    "connect(path).stream('s')",
    'client.tail(["a", "b"])',
    'stream.tail(missing="ignore")',
    "client.producer('s', 'p').next",
    "producer.append(b'x').offset",
    "producer.append_nowait(b'x').result()",
    "producer.append_nowait('text')",
    "producer.append_nowait(b'x').seq + 1",
    "await producer.append(b'x', seq='3')",
]
HEAD = """
import array
import mmap
import ringwal

class Whole:
    def __buffer__(self, flags: int) -> memoryview:
        return memoryview(b"whole")

def check(stream: ringwal.Stream, view: memoryview) -> None:
"""


READING_HEAD = """
import ringwal

def check(client: ringwal.Client, stream: ringwal.Stream) -> None:
"""
NUMBERED_HEAD = """
import ringwal

def check(client: ringwal.Client, producer: ringwal.Producer) -> None:
"""
AIO_HEAD = """
import asyncio
import ringwal
from ringwal.aio import Client, Producer, Stream, connect

async def enter(path: str) -> int:
    async with connect(path, autostart=True) as client:
        return (await client.stream("s").append(b"x")).offset

async def check(client: Client, stream: Stream, producer: Producer, path: str) -> None:
"""
PROGRAMS = {
    "appends": (HEAD, GOOD, BAD),
    "producers": (NUMBERED_HEAD, NUMBERED, MISNUMBERED),
    "reading": (READING_HEAD, READ, MISREAD),
    "asyncio": (AIO_HEAD, AWAITED, MISTAKEN),
}


def of_mypy(program: Path) -> set[int]:
    """Numbers of the lines in which it finds an error."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", str(program.parent / "cache")]
    done = run([*command, program.name], program.parent, MYPYPATH=str(CHECKOUT / "engine"))
    lines = [line.split(":") for line in done.splitlines() if line.startswith(program.name + ":") and "error" in line]
    return {int(line[1]) for line in lines}


def of_pyright(program: Path) -> set[int]:
    """The same, of the one that is in the wheel: nothing is fetched."""
    settings = {"extraPaths": [str(CHECKOUT / "engine")], "typeCheckingMode": "standard", "include": [program.name]}
    (program.parent / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson"]
    done = run(command, program.parent, PYRIGHT_PYTHON_USE_BUNDLED_PYRIGHT="1", PATH=os.environ["PATH"])
    found = json.loads(done)
    assert found["summary"]["filesAnalyzed"] == 1
    return {each["range"]["start"]["line"] + 1 for each in found["generalDiagnostics"] if each["severity"] == "error"}


def run(command: list[str], place: Path, **environment: str) -> str:
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("part", PROGRAMS)
@pytest.mark.parametrize(("name", "errors_of"), [("mypy", of_mypy), ("pyright", of_pyright)], ids=["mypy", "pyright"])
def test_a_type_checker_takes_what_is_right_and_nothing_else(
    tmp_path: Path, name: str, errors_of: Callable[[Path], set[int]], part: str
) -> None:
    pytest.importorskip(name)
    head, good, bad = PROGRAMS[part]
    program = tmp_path / "program.py"
    calls = [*good, *bad]
    program.write_text(head + "".join(f"    {call}\n" for call in calls))
    first = head.count("\n") + 1
    found = errors_of(program)
    assert {calls[line - first] if line >= first else f"line {line} of the head" for line in found} == set(bad)


class Words:
    """Something with a buffer, before and after Python 3.12: a class written in Python has none before."""

    def __new__(cls) -> Any:
        return memoryview(b"whole")


@pytest.fixture
def stream(directory: Path, start: Callable[..., Engine]) -> Iterator[ringwal.Stream]:
    start()
    with ringwal.connect(directory) as client:
        yield client.stream("s")


def test_the_same_is_so_when_it_runs(stream: ringwal.Stream) -> None:
    names = {"stream": stream, "array": array, "mmap": mmap, "Whole": Words, "view": memoryview(b"abc")}
    for call in GOOD:
        assert eval(call, names).result(WAIT).count > 0
    for call in BAD:
        with pytest.raises(TypeError):
            eval(call, names)
    assert stream.append(b"as before").result(WAIT).count == 1
