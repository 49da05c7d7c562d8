"""The bell that an engine gives with a lane: who has it, who rings it, and what becomes of it (csrc/wait.h, THE BELL)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import select
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ringwal
from ringwal import memory
from ringwal._native import ffi, lib
from ringwal.protocol.client import Registration
from ringwal.steps import park
from tests.support.rig import WAIT, Engine, until

EVENTFD, EPOLL = "anon_inode:[eventfd]", "anon_inode:[eventpoll]"


def rung(bell: int) -> bool:
    """Was it, since this was asked last?"""
    return bool(lib.rw_take_bell(bell))


class Loop:
    """A client that sleeps on its bell only, as an event loop does."""

    def __init__(self, directory: Path, lane_bytes: int = 64 << 10) -> None:
        with contextlib.ExitStack() as stack:
            self.registration = stack.enter_context(contextlib.closing(Registration(directory, WAIT)))
            hello, handed = self.registration.hello, self.registration.hand_over()
            for fd in (handed.directory, handed.control, handed.ring):
                stack.callback(os.close, fd)
            self.control = stack.enter_context(
                memory.attach_control(handed.control, hello.control_bytes, hello.uuid, hello.epoch)
            )
            self.grant, self.arrival = park(self.registration.lane_steps(lane_bytes, bell=True))
            stack.callback(self.arrival.close)
            self.lane = stack.enter_context(
                memory.attach_lane(self.control, self.arrival[0], self.grant.slot, self.grant.generation, self.grant.bytes)
            )
            self.bell = self.arrival[1]
            doorbell = self.registration.doorbell_fd
            self.writer: Any = ffi.gc(
                lib.rw_writer_open(self.control.pointer, self.lane.pointer, doorbell), lib.rw_writer_close
            )
            stack.callback(ffi.release, self.writer)
            lib.rw_writer_grant(self.writer, lib.rw_writer_next(self.writer) + 1000)  # one at a time is out
            self._stack = stack.pop_all()

    def __enter__(self) -> Loop:
        return self

    def __exit__(self, *unused: object) -> None:
        self._stack.close()

    def submit(self, stream: str, data: bytes) -> int:
        number = int(lib.rw_submit(self.writer, self.registration.stream(stream), data, len(data)))
        assert number >= 0
        return number

    def sleep_until(self, found: Callable[[], bool]) -> None:
        """Awaits it as csrc/wait.h says."""
        lib.rw_bell_want(self.writer, 1)
        while not found():
            assert select.select([self.bell], [], [], WAIT)[0], "nobody rang"
            assert rung(self.bell)
        lib.rw_bell_want(self.writer, 0)

    def completed(self, number: int) -> bool:
        return int(lib.rw_completion_poll(self.writer, number)) >= 0


@pytest.fixture
def loop(start: Callable[..., Engine], directory: Path) -> Iterator[Loop]:
    start()
    with Loop(directory) as made:
        yield made


def descriptors(pid: int, kind: str) -> list[int]:
    """Those of that kind that the process has open."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it opens and closes files meanwhile
            if str(link.readlink()) == kind:
                found.append(int(link.name))
    return sorted(found)


def bells_of(pid: int) -> int:
    """How many ends of bells the process has open, and other eventfds; and epoll descriptors, of which it has one."""
    return len(descriptors(pid, EVENTFD)) + len(descriptors(pid, EPOLL))


def fdinfo(pid: int, fd: int) -> dict[str, str]:
    """What the kernel says of that open file."""
    return dict(line.split(maxsplit=1) for line in Path(f"/proc/{pid}/fdinfo/{fd}").read_text().splitlines())


def test_an_append_is_awaited_without_a_thread_and_without_a_timer(loop: Loop) -> None:
    for _ in range(100):
        number = loop.submit("s", b"x")
        loop.sleep_until(lambda number=number: loop.completed(number))  # type: ignore[misc]


def test_what_others_append_is_awaited_too(loop: Loop, directory: Path) -> None:
    handle = loop.registration.stream("s")
    stream = lib.rw_stream_of(loop.control.pointer, lib.rw_handle_place(handle))
    place = lib.rw_tail_watch(loop.writer, handle)
    lib.rw_bell_want(loop.writer, 1)
    with ringwal.connect(directory) as other:
        for offset in range(20):
            receipt = other.stream("s").append(b"x")
            loop.sleep_until(lambda offset=offset: stream.confirmed_offset > offset)  # type: ignore[misc]
            receipt.result(WAIT)
    lib.rw_tail_unwatch(loop.writer, place)


def test_it_is_quiet_while_nobody_awaits(loop: Loop) -> None:
    number = loop.submit("s", b"x")
    until(lambda: loop.completed(number), "the append is confirmed")
    assert not rung(loop.bell)
    assert not os.get_inheritable(loop.bell)


def test_its_client_has_nothing_that_could_hold_up_the_drain(loop: Loop) -> None:
    """Were it the eventfd, a look of the drain's before its write would be no help: it can be filled in between."""
    supervisor = loop.registration.status()["pid"]
    flags = [fdinfo(supervisor, fd) for fd in descriptors(supervisor, EVENTFD)]
    fcntl.fcntl(loop.bell, fcntl.F_SETFL, 0)  # blocking, if it were an eventfd
    with pytest.raises(OSError, match="Invalid argument"):
        os.write(loop.bell, ((1 << 64) - 2).to_bytes(8, "little"))
    with pytest.raises(OSError, match="Invalid argument"):
        os.read(loop.bell, 8)
    assert [fdinfo(supervisor, fd) for fd in descriptors(supervisor, EVENTFD)] == flags
    assert all(int(words["flags:"], 8) & os.O_NONBLOCK for words in flags)
    number = loop.submit("s", b"x")
    loop.sleep_until(lambda: loop.completed(number))


def test_the_successor_of_a_killed_drain_rings(loop: Loop) -> None:
    lib.rw_bell_want(loop.writer, 1)
    for life in range(3):
        os.kill(loop.registration.status()["drain_pid"], signal.SIGKILL)
        for _ in range(20):
            number = loop.submit("s", b"x")
            loop.sleep_until(lambda number=number: loop.completed(number))  # type: ignore[misc]
        assert loop.registration.status()["restarts"] == life + 1


def test_the_next_owner_of_a_place_has_another_bell(start: Callable[..., Engine], directory: Path) -> None:
    running = start(max_clients=1)
    with contextlib.ExitStack() as stack:
        with Loop(directory) as first:
            kept = os.dup(first.bell)  # as a fork of it has it
            stack.callback(os.close, kept)
            slot = first.grant.slot
            lib.rw_bell_want(first.writer, 1)
        with Loop(directory) as second:
            assert second.grant.slot == slot
            rung(kept)  # that it was wanted when its lane came is the first one's
            number = second.submit("s", b"x")
            second.sleep_until(lambda: second.completed(number))
            assert not rung(kept)
    assert running.process.poll() is None


def test_only_supervisor_and_drain_have_it_and_only_as_long_as_the_lane(
    start: Callable[..., Engine], directory: Path
) -> None:
    running = start()
    with contextlib.closing(Registration(directory, WAIT)) as watcher:
        def counts() -> list[int]:
            status = watcher.status()
            return [bells_of(status[name]) for name in ("pid", "drain_pid", "wal_pid")]

        before = counts()
        with ringwal.connect(directory) as client:  # does not ask for one
            client.stream("s").append(b"x").result(WAIT)
            assert counts() == before
        with Loop(directory) as loop:
            number = loop.submit("s", b"x")
            loop.sleep_until(lambda: loop.completed(number))
            assert counts() == [before[0] + 1, before[1] + 1, before[2]]
            for role in ("drain_pid", "wal_pid"):
                os.kill(watcher.status()[role], signal.SIGKILL)
            number = loop.submit("s", b"x")
            loop.sleep_until(lambda: loop.completed(number))
            assert counts() == [before[0] + 1, before[1] + 1, before[2]]
        until(lambda: counts() == before, "the bells of a client that has gone are closed")
    assert running.process.poll() is None


def test_a_bell_that_cannot_be_had_is_refused_and_costs_no_place(start: Callable[..., Engine], directory: Path) -> None:
    running = start(max_clients=1)
    supervisor = running.process.pid
    with contextlib.closing(Registration(directory, WAIT)) as client:
        before = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
        used = {int(entry.name) for entry in Path(f"/proc/{supervisor}/fd").iterdir()}
        free = next(number for number in range(len(used) + 1) if number not in used)
        for more in (1, 2):  # the lane, and no more; with one end of the bell
            resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (free + more, before[1]))
            with pytest.raises(ringwal.Error, match=r"cannot answer: .*Too many open files"):
                park(client.lane_steps(64 << 10, bell=True))
        resource.prlimit(supervisor, resource.RLIMIT_NOFILE, before)
        with Loop(directory):
            pass
