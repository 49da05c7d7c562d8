"""The shared memory of an engine has no names: nothing to remove or to forget, and whoever needs it is given it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ringwal
from ringwal.steps import park
from tests.support.meddling import append_to_successor, places, spoil
from tests.support.rig import WAIT, Engine, state_of, stop_process, until


def named() -> set[str]:
    return {name for name in os.listdir("/dev/shm") if "ringwal" in name}


def test_nothing_has_a_name_while_an_engine_runs_nor_after_it(directory: Path, start: Callable[..., Engine]) -> None:
    before = named()
    running = start()
    with ringwal.connect(directory) as client, ringwal.connect(directory) as other:
        for each in (client, other):
            each.stream("s").append(b"x").result(WAIT)
        # Other engines of this machine give theirs a name for a moment while they start.
        until(lambda: named() <= before, "no name is there while the engine runs")
        mapped = Path("/proc/self/maps").read_text()
        assert "ringwal" in mapped  # it is mapped here
        running.kill()
        until(lambda: named() <= before, "no name is left by an engine that was killed")
        running = start()
        assert append_to_successor(client.stream("s"), b"y").offset == 2
        assert running.terminate() == 0
    until(lambda: named() <= before, "no name is left by an engine that was stopped")


@pytest.mark.parametrize("role", ["wal_pid", "drain_pid"])
def test_a_replaced_process_finds_the_lanes_of_all_clients(role: str, directory: Path, start: Callable[..., Engine]) -> None:
    running = start()
    clients = [ringwal.connect(directory) for _ in range(3)]
    try:
        for n, client in enumerate(clients):
            assert client.stream("s").append(b"x").result(WAIT).offset == n
        clients.pop(0).close()  # its place is free, and comes back as another generation
        offset = 3
        for _ in range(3):
            victim = running.status()[role]
            stop_process(victim)
            late = ringwal.connect(directory, timeout=WAIT)
            clients.append(late)
            receipts = [client.stream("s").append(b"y") for client in clients]  # the late one's lane has been seen by nobody
            os.kill(victim, signal.SIGKILL)
            offsets = sorted(receipt.result(WAIT).offset for receipt in receipts)
            assert offsets == list(range(offset, offset + len(clients)))
            offset += len(clients)
            until(lambda victim=victim: running.status()[role] not in (victim, None), "replaced")  # type: ignore[misc]
            for client in clients:
                tail: Any = client.create_stream("s").tail(offset)
                assert client.stream("s").append(b"z").result(WAIT).offset == offset
                assert next(tail).offset == offset
                tail.close()
                offset += 1
        status = running.status()
        assert status["restarts"] == 3
        assert len(status["clients"]) >= len(clients)
        assert "refused" not in running.said() and "cannot be watched" not in running.said()
    finally:
        for client in clients:
            client.close()
    until(lambda: not running.status()["clients"], "every place has come back")
    assert running.terminate() == 0


def test_a_client_cannot_cut_off_what_it_was_given(directory: Path, start: Callable[..., Engine]) -> None:
    running = start()
    with ringwal.connect(directory) as client, ringwal.connect(directory) as bystander:
        assert bystander.stream("s").append(b"0").result(WAIT).offset == 0
        registration = client._attachment().registration
        granted, fd = registration.lane(65536)
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        size = os.fstat(fd).st_size
        assert size > granted.bytes
        try:
            for lane in (fd, again):
                for length in (0, 4096, size - 1, size + 4096):
                    with pytest.raises(PermissionError):
                        os.ftruncate(lane, length)
            assert os.fstat(fd).st_size == size
        finally:
            os.close(again)
            os.close(fd)
        registration.release(granted.slot, granted.generation)
        assert client.stream("s").append(b"1").result(WAIT).offset == 1
        assert bystander.stream("s").append(b"2").result(WAIT).offset == 2
        assert running.status()["restarts"] == 0


def test_descriptors_of_clients_that_have_gone_are_closed(directory: Path, start: Callable[..., Engine]) -> None:
    running = start(max_clients=4)

    def open_files() -> dict[str, int]:
        status = running.status()
        return {role: len(os.listdir(f"/proc/{status[role]}/fd")) for role in ("pid", "wal_pid")}

    def come_and_go() -> None:
        with ringwal.connect(directory, timeout=WAIT) as client:
            tail: Any = client.create_stream("s").tail(0)
            client.stream("s").append(b"x").result(WAIT)
            next(tail)
            tail.close()

    come_and_go()
    until(lambda: running.status()["segments"]["ahead"] == 1, "the segments are open")
    until(lambda: not running.status()["clients"], "the client has gone")
    before = open_files()
    for _ in range(30):
        come_and_go()
    until(lambda: not running.status()["clients"], "the clients have gone")
    until(lambda: open_files() == before, "the lanes are closed")
    assert len(lanes_of(running.facts["drain_pid"])) <= 4  # one a place at the most, whether it has seen them or not


def lanes_of(pid: int) -> list[str]:
    """The lanes that the process has open."""
    found = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    return [path for path in found if "ringwal lane" in path]


def test_a_lane_that_came_and_went_unseen_is_let_go(directory: Path, start: Callable[..., Engine]) -> None:
    """Its memory, which may be a gigabyte, is not the engine's for the rest of its life."""
    running = start()
    watched = [running.facts[role] for role in ("wal_pid", "drain_pid")]
    for pid in watched:
        stop_process(pid)
    with ringwal.connect(directory) as client:
        park(client._bind_steps("s"))
        with ringwal.connect(directory) as short:
            park(short._bind_steps("s"))
        assert [len(lanes_of(pid)) for pid in (running.process.pid, *watched)] == [2, 0, 0]
        for pid in watched:
            os.kill(pid, signal.SIGCONT)
        until(lambda: len(running.status()["clients"]) == 1, "the place of the second one has come back")
        assert client.stream("s").append(b"x").result(WAIT).offset == 0
        assert len(lanes_of(running.process.pid)) == 1
    until(lambda: not running.status()["clients"], "both places have come back")
    assert [lanes_of(pid) for pid in (running.process.pid, *watched)] == [[], [], []]


# ----------------------------------------------------------------------------------------------- refused waiters


class Follower:
    """A tail in a thread of its own."""

    def __init__(self, stream: ringwal.Stream) -> None:
        self.seen: list[bytes] = []
        self.error: ringwal.Error | None = None
        self._tail = stream.tail(0, missing="wait")
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def _follow(self) -> None:
        try:
            for record in self._tail:
                self.seen.append(record.data)
                if record.data == b"end":
                    return
        except ringwal.Error as error:
            self.error = error

    def join(self) -> None:
        self._thread.join(WAIT)
        assert not self._thread.is_alive()


def test_a_tail_whose_waiting_lane_is_refused_waits_in_another_one(directory: Path, start: Callable[..., Engine]) -> None:
    running = start(max_clients=4)
    with ringwal.connect(directory, timeout=WAIT) as client, ringwal.connect(directory, timeout=WAIT) as other:
        stream, theirs = client.stream("s"), other.stream("s")
        followers = [Follower(stream) for _ in range(2)]
        try:
            assert theirs.append(b"0").result(WAIT).offset == 0
            until(lambda: all(each.seen == [b"0"] for each in followers), "both have followed")
            waiting = client._attachment().waiter()
            assert len(places(client)) == 2
            spoil(client, waiting)

            def elsewhere() -> bool:
                """There is another lane beside the other client's, and the refused one has gone."""
                found = {(place["slot"]) for place in places(client) if not place["closing"]}
                return len(places(client)) == len(found) == 2 and client._attachment().waiter() is not waiting

            until(elsewhere, "they have taken another lane, in which they can sleep")
            for n in range(1, 20):
                assert theirs.append(b"%d" % n).result(WAIT).offset == n
                until(lambda n=n: all(len(each.seen) == n + 1 for each in followers), "both have followed")  # type: ignore[misc]
            assert running.status()["restarts"] == 0
        finally:
            theirs.append(b"end").result(WAIT)
            for each in followers:
                each.join()
        assert [each.error for each in followers] == [None, None]
        assert followers[0].seen == followers[1].seen == [*(b"%d" % n for n in range(20)), b"end"]


def test_a_tail_whose_waiting_lanes_are_all_refused_gives_up(directory: Path, start: Callable[..., Engine]) -> None:
    start(max_clients=4)
    with ringwal.connect(directory, timeout=WAIT) as client, ringwal.connect(directory, timeout=WAIT) as other:
        stream, theirs = client.stream("s"), other.stream("s")
        follower = Follower(stream)
        try:
            for n in range(4):
                assert theirs.append(b"%d" % n).result(WAIT).offset == n
                until(lambda n=n: len(follower.seen) == n + 1, "it has followed")  # type: ignore[misc]
                waiting = client._attachment().waiter()
                spoil(client, waiting)
                until(
                    lambda waiting=waiting: (  # type: ignore[misc]
                        follower.error is not None or client._attachment().waiter() is not waiting
                    ),
                    "it has seen the refusal",
                )
        finally:
            theirs.append(b"end").result(WAIT)
            follower.join()
        assert isinstance(follower.error, ringwal.EngineFailed)
        assert follower.seen == [b"0", b"1", b"2", b"3"]
        assert theirs.append(b"x").result(WAIT).offset == 5


def test_a_waiting_lane_whose_header_is_overwritten_is_refused_by_the_next_wal_process_only(
    directory: Path, start: Callable[..., Engine]
) -> None:
    """As the memory of a lane is given to a successor, which looks at its header and not at who asks."""
    running = start()
    with ringwal.connect(directory) as client, ringwal.connect(directory) as other:
        stream, theirs = client.stream("s"), other.stream("s")
        follower = Follower(stream)
        try:
            assert theirs.append(b"0").result(WAIT).offset == 0
            until(lambda: follower.seen == [b"0"], "it has followed")
            waiting = client._attachment().waiter()
            mapping: Any = waiting._keep[1]
            mapping.pointer.magic = 0
            victim = running.facts["wal_pid"]
            os.kill(victim, signal.SIGKILL)
            until(lambda: client._attachment().waiter() is not waiting, "it waits elsewhere")
            assert state_of(victim) in "ZX"
            assert theirs.append(b"1").result(WAIT).offset == 1
            until(lambda: follower.seen == [b"0", b"1"], "it has followed")
        finally:
            theirs.append(b"end").result(WAIT)
            follower.join()
        assert follower.error is None
        assert running.status()["restarts"] == 1
