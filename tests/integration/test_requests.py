"""What may come on the socket, and that none of it ends, blocks or slows the engine for others."""

from __future__ import annotations

import array
import contextlib
import errno
import json
import logging
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ringwal
from ringwal import memory
from ringwal._native import lib
from ringwal.config import KIB, MIB
from ringwal.processes import service
from ringwal.protocol.client import Registration
from ringwal.protocol.messages import SOCKET_NAME
from tests.integration.test_supervisor import WAIT, Engine, open_files, wait_until
from tests.support import rig
from tests.support.rig import stop_process, until

HELLO = {"op": "hello", "layout": lib.rw_fingerprint(), "format": lib.RW_FORMAT_VERSION, "pid": 1, "role": "client"}


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(tmp_path / "log", lane_bytes=64 * KIB)
    yield engine
    engine.close()


class Raw:
    """A connection that sends whatever it likes."""

    def __init__(self, engine: Engine | rig.Engine) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(WAIT)
        self._socket.connect(str(Path(engine.facts["directory"], SOCKET_NAME)))

    def ask(self, packet: bytes) -> dict[str, Any] | None:
        """The answer; None: hung up."""
        self.send(packet)
        return self.answer()

    def send(self, packet: bytes) -> None:
        self._socket.send(packet)

    def answer(self) -> dict[str, Any] | None:
        fds = array.array("i")
        packet, ancillary, _, _ = self._socket.recvmsg(1 << 16, 1024)
        for _, _, data in ancillary:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        for fd in fds:
            os.close(fd)
        return json.loads(packet) if packet else None

    def patience(self, seconds: float) -> None:
        self._socket.settimeout(seconds)

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def raw(engine: Engine | rig.Engine, *, greeted: bool = True) -> Iterator[Raw]:
    with contextlib.closing(Raw(engine)) as connection:
        if greeted:
            answer = connection.ask(json.dumps(HELLO).encode())
            assert answer is not None
            assert answer["ok"]
        yield connection


BROKEN = {
    "a surrogate as tag": b'{"op": "status", "tag": "\\ud800"}',
    "a huge tag": b'{"op": "status", "tag": "' + b"x" * 65_400 + b'"}',
    "a tag that does not fit back": b'{"op": "status", "tag": "' + b"\\u0001" * 10_800 + b'"}',
    "a huge number as tag": b'{"op": "status", "tag": ' + b"9" * 4000 + b"}",
    "a number beyond all limits": b'{"op": "status", "tag": ' + b"9" * 60_000 + b"}",
    "a list as tag": b'{"op": "status", "tag": []}',
    "a huge key": b'{"' + b"k" * 60_000 + b'": 1, "op": "status", "tag": 1}',
    "a huge operation": b'{"tag": 1, "op": "' + b"\\u0001" * 10_000 + b'"}',
    "a huge layout": b'{"tag": 1, "op": "hello", "layout": "' + b"\\ud800" * 10_000 + b'"}',
    "no UTF-8": b'{"op": "status", "tag": "\xff"}',
    "an infinite number of bytes": b'{"op": "lane", "bytes": 1e999, "tag": [1e999]}',
    "a lane of a size beyond words": b'{"op": "lane", "tag": 1, "bytes": ' + b"9" * 4000 + b"}",
    **{
        f"{depth} deep": b'{"op": "hello", "tag": ' + b"[" * depth + b"]" * depth + b"}"
        for depth in (10, *range(900, 1000, 7), 30_000)
    },
}


@pytest.mark.parametrize("packet", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("greeted", [False, True])
def test_a_broken_request_ends_its_own_connection_only(running: Engine, packet: bytes, greeted: bool) -> None:
    with raw(running) as other:
        with raw(running, greeted=greeted) as broken, contextlib.suppress(ConnectionError):
            answer = broken.ask(packet)
            assert answer is None or not answer["ok"]
            if answer is not None:
                assert broken.answer() is None
        answer = other.ask(b'{"op": "status", "tag": 1}')
        assert answer is not None
        assert answer["state"] == "running"


def test_requests_that_cannot_be_meant_are_refused_and_the_connection_goes_on(running: Engine) -> None:
    with raw(running) as client:
        for request in (
            {"op": "stream", "name": "\ud800"}, {"op": "stream", "name": "x" * 4000}, {"op": "stream", "name": 5},
            {"op": "stream"}, {"op": "lane", "bytes": -1}, {"op": "lane", "bytes": 1 << 40}, {"op": "\udfff" * 200},
            {"op": "release", "slot": 1 << 63, "generation": -1},
        ):  # fmt: skip
            answer = client.ask(json.dumps({**request, "tag": 7}).encode())
            assert answer is not None
            assert answer["tag"] == 7
            assert not answer["ok"] or request["op"] == "release"


def test_a_fault_in_serving_one_client_ends_its_connection_only(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever the fault: the boundary is told of it by an exception that nobody foresaw.
    desk = service.Service.__new__(service.Service)
    dropped: list[object] = []
    monkeypatch.setattr(desk, "drop", dropped.append)
    connection: Any = type("Peer", (), {"pid": 17})()
    with caplog.at_level(logging.ERROR, "ringwal"), desk._served(connection):
        dict[str, int]().pop("unforeseen")
    assert dropped == [connection]
    assert "process 17" in caplog.text


def test_while_a_large_lane_is_made_others_are_served(running: Engine) -> None:
    size = 256 * MIB
    with raw(running) as patient, raw(running) as other:
        patient.send(b'{"op": "lane", "bytes": %d, "tag": 2}' % size)
        other.ask(b'{"op": "status", "tag": 1}')  # may have come together with the request for the lane, and be answered first
        answer = other.ask(b'{"op": "status", "tag": 2}')
        assert answer is not None
        assert answer["clients_attached"] == 0  # a lane made in one go would be there by now
        granted = patient.answer()
        assert granted is not None
        assert (granted["tag"], granted["bytes"]) == (2, size)
    with ringwal.connect(running.facts["directory"], lane_bytes=64 * MIB, timeout=WAIT) as client:
        assert client.stream("s").append(bytes(24 * KIB)).result(WAIT).offset == 0


def test_a_large_lane_that_nobody_waits_for_any_more_is_given_up(running: Engine) -> None:
    with raw(running) as fickle:
        for tag in range(8):  # twice as many as there are places
            fickle.send(b'{"op": "lane", "bytes": %d, "tag": %d}' % (128 * MIB, tag))
            answer = fickle.ask(b'{"op": "status", "tag": 99}')
            assert answer is not None
            assert (answer["tag"], answer["clients_attached"]) == (99, 0)
        fickle.send(b'{"op": "lane", "bytes": %d, "tag": 9}' % (128 * MIB))
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(ringwal.connect(running.facts["directory"], timeout=WAIT)) for _ in range(4)]
        assert [client.stream("s").append(b"x").result(WAIT).offset for client in clients] == [0, 1, 2, 3]


def test_a_lane_for_a_client_that_has_given_up_is_not_given_out(running: Engine) -> None:
    with contextlib.closing(Registration(Path(running.facts["directory"]), timeout=0.3)) as late:
        late.timeout = 0.2
        stop_process(running.facts["pid"])
        try:
            with pytest.raises(ringwal.NotRunning, match="did not answer"):
                late.lane(0)
        finally:
            os.kill(running.facts["pid"], signal.SIGCONT)
        late.timeout = WAIT
        until(lambda: running.status()["clients_attached"] == 0, "the place is free again")
        _, fd = late.lane(0)
        os.close(fd)
        assert running.status()["clients_attached"] == 1


def test_a_lane_that_is_not_ready_in_time_is_refused_and_given_up(running: Engine) -> None:
    with raw(running) as hasty:
        answer = hasty.ask(b'{"op": "lane", "bytes": %d, "wait": 0, "tag": 1}' % (256 * MIB))
        assert answer is not None
        assert (answer["ok"], answer["error"]) == (False, "ShmUnavailable")
        assert "not ready in the time" in answer["message"]
        assert running.status()["clients_attached"] == 0


def test_a_lane_is_made_in_bounded_steps() -> None:
    draft = memory.LaneDraft("lane 0", 16 * MIB)
    steps, done, taken = 0, False, 0
    while not done:
        done = draft.step()
        steps += 1
        now = os.fstat(draft._fd).st_blocks * 512
        assert now - taken <= memory.LANE_STEP_BYTES
        taken = now
    assert taken == os.fstat(draft._fd).st_size == lib.rw_lane_object_bytes(16 * MIB)
    assert steps == -(-taken // memory.LANE_STEP_BYTES)
    draft.close()
    draft.close()


def test_a_lane_is_freed_in_bounded_steps() -> None:
    draft = memory.LaneDraft("lane 0", 16 * MIB)
    while not draft.step():
        pass
    fd = draft.take()
    seen = os.dup(fd)
    remains, steps, left = memory.Remains(fd), 1, os.fstat(seen).st_blocks * 512
    while not remains.step():
        now = os.fstat(seen).st_blocks * 512
        assert 0 < left - now <= memory.LANE_STEP_BYTES
        steps, left = steps + 1, now
    assert left <= memory.LANE_STEP_BYTES
    assert steps == 16 * MIB // memory.LANE_STEP_BYTES + 1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    os.close(seen)
    remains.close()


def test_what_was_left_of_large_lanes_is_freed(running: Engine) -> None:
    def lanes() -> int:
        return sum("ringwal lane" in name for name in open_files(running.facts["pid"]))

    with ringwal.connect(running.facts["directory"], lane_bytes=64 * MIB, timeout=WAIT) as client:
        assert client.stream("s").append(b"x").result(WAIT).offset == 0
        assert lanes() == 1
    with raw(running) as fickle:
        fickle.send(b'{"op": "lane", "bytes": %d, "tag": 9}' % (128 * MIB))
        fickle.ask(b'{"op": "status", "tag": 1}')
    wait_until(lambda: running.status()["clients_attached"] == 0 and lanes() == 0)


def test_a_lane_that_the_machine_has_no_memory_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _: "MemAvailable:    8192 kB\nSwapFree:  4096 kB\nDirty:  1 kB\n")
    draft = memory.LaneDraft("lane 0", 16 * MIB)
    with pytest.raises(ringwal.ShmUnavailable, match=r"lane of .* cannot be had: .* 12 MiB of memory left; .*lane_bytes"):
        while not draft.step():
            pass
    draft.close()


def test_a_lane_that_cannot_be_had_half_way_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(fd: int, offset: int, size: int) -> None:
        if offset:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "posix_fallocate", no_space)
    draft = memory.LaneDraft("lane 3", 16 * MIB)
    assert not draft.step()
    with pytest.raises(ringwal.ShmUnavailable, match="lane 3"):
        draft.step()
    draft.close()
    assert len(os.listdir("/proc/self/fd")) == before
