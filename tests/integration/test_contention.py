"""Eight processes, one hot stream and a hundred others: dense, in order, byte for byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ringwal
from tests.support.payload import origin_of
from tests.support.rig import CHECKOUT, WAIT, Engine, environment, read_all

RECORDS = int(os.environ.get("RINGWAL_TEST_RECORDS", "100000"))
"""In total; a million is what the design is for."""
WRITERS = 8
OTHERS = [f"other-{k}" for k in range(100)]
PATIENCE = WAIT + RECORDS / 2000

WRITER = """
import sys
sys.path.append(sys.argv[1])
import ringwal
from tests.support.payload import Origin, payload
writer, count = int(sys.argv[3]), int(sys.argv[4])
others = [f"other-{k}" for k in range(100)]
numbers = dict.fromkeys(["hot", *others], 0)
with ringwal.connect(sys.argv[2], timeout=30.0, append_timeout=60.0) as client:
    handles = {name: client.stream(name) for name in numbers}
    last = {}
    for turn in range(count):
        name = "hot" if turn % 2 else others[(turn // 2 + 13 * writer) % 100]
        n = numbers[name]
        numbers[name] = n + 1
        last[name] = handles[name].append(payload(Origin(name, str(writer), n)))
    for receipt in last.values():
        receipt.result(120)
    for handle in handles.values():
        handle.flush(120)
print(__import__("json").dumps(numbers))
"""


def test_many_writers_on_one_hot_stream_and_a_hundred_others(directory: Path, start: Callable[..., Engine]) -> None:
    running = start(ring_bytes="8MiB", segment_bytes="16MiB", lane_bytes="512KiB")
    program = [sys.executable, "-c", WRITER, str(CHECKOUT), str(directory)]
    fleet = [
        subprocess.Popen(
            [*program, str(k), str(RECORDS // WRITERS)], stdout=subprocess.PIPE, cwd="/", env=environment(CHECKOUT)
        )
        for k in range(WRITERS)
    ]
    wanted = [json.loads(process.communicate(timeout=PATIENCE)[0]) for process in fleet]
    assert [process.returncode for process in fleet] == [0] * WRITERS
    running.kill()
    start(ring_bytes="8MiB", segment_bytes="16MiB", lane_bytes="512KiB")
    total = 0
    with ringwal.connect(directory, timeout=WAIT) as client:
        for name in ["hot", *OTHERS]:
            following = dict.fromkeys(range(WRITERS), 0)
            for offset, record in enumerate(read_all(client.stream(name))):
                origin = origin_of(record.data)
                assert origin is not None
                writer = int(origin.writer)
                assert (record.offset, origin.stream, origin.number) == (offset, name, following[writer])
                following[writer] += 1
                total += 1
            assert [following[k] for k in range(WRITERS)] == [numbers[name] for numbers in wanted]
    assert total == RECORDS // WRITERS * WRITERS
