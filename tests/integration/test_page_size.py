"""A machine whose pages are larger than 4 KiB (aarch64 has 16 or 64): all that is mapped is a multiple of them."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringwal import memory
from ringwal._native import ffi, lib
from ringwal.config import KIB, MIB, Config
from tests.support import rig
from tests.support.rig import WAIT


@pytest.fixture(params=[16 * KIB, 64 * KIB])
def page(request: pytest.FixtureRequest) -> Iterator[int]:
    size: int = request.param
    lib.rw_assume_page(size)
    yield size
    lib.rw_assume_page(0)


def test_the_page_is_the_machines_own() -> None:
    assert lib.rw_system_page() == mmap.PAGESIZE


@pytest.mark.parametrize("lane_bytes", [0, 64 * KIB, MIB])
def test_a_lane_has_whole_pages_and_its_data_behind_its_header(page: int, lane_bytes: int) -> None:
    config = Config(max_clients=2, max_outstanding=16, max_streams=16, ring_bytes=MIB)
    with memory.create_control(config, bytes(16), 1, epoch_begin=0, position=0, block_number=0) as control:
        size = memory.lane_size(lane_bytes)
        assert size % page == 0
        fd = memory.create_lane(control, 1, 7, size)
        try:
            assert os.fstat(fd).st_size % page == 0
            with memory.attach_lane(control, fd, 1, 7, size) as lane:
                data = ffi.cast("uint8_t *", lane.pointer) + lane.header
                assert int(ffi.cast("uintptr_t", data)) % page == 0
                assert (lane.pointer.slot, lane.pointer.generation, lane.pointer.lane_bytes) == (1, 7, size)
                data[size - 1], data[0] = 11, 22
                assert (data[2 * size - 1], data[size]) == (11, 22)
                assert os.pread(fd, 1, size - 1) == bytes([11])
        finally:
            os.close(fd)


ENGINE = """
import os, signal, sys, threading, ringwal
from ringwal._native import lib
lib.rw_assume_page(int(sys.argv[2]))
for life in range(2):
    ready = threading.Event()
    engine = ringwal.Supervisor(sys.argv[1], on_ready=lambda facts: ready.set())
    codes = []
    thread = threading.Thread(target=lambda: codes.append(engine.run()))
    thread.start()
    assert ready.wait(30)
    with ringwal.connect(sys.argv[1], timeout=30, append_timeout=30, lane_bytes=1 << 18) as client:
        stream = client.create_stream("s")
        tail = stream.tail(start=0)
        for n in range(100):
            stream.append(bytes([n]) * 10_000).result(30)
            assert next(tail).data == bytes([n]) * 10_000
        os.kill(client.status()["wal_pid"], signal.SIGKILL)
        stream.append(b"after").result(30)
        print(stream.stat().records, client.status()["restarts"])
    engine.stop()
    thread.join()
print(codes)
"""


def test_an_engine_and_its_client_work_with_larger_pages(page: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ENGINE, str(tmp_path / "log"), str(page)]
    done = subprocess.run(
        command, env=rig.environment(rig.CHECKOUT), timeout=2 * WAIT, check=False, capture_output=True, text=True
    )
    assert done.stdout == "101 1\n202 1\n[0]\n", done.stderr
