"""The descriptors of the clients' lanes and bells, and how WAL and drain come by them.

    supervisor:  Lanes.put ──► a packet with the descriptor to each of the two, then the slot is opened in shared memory
    WAL, drain:  see an open slot ──► Intake.attach

Each of the two has a socket of its own, which the supervisor writes and never waits for: while one of them is stopped and
its socket is full, no lane is given out (`room`), and whoever wants one waits or is refused. The packet comes before the
slot is opened, so who sees the slot has the lane. The supervisor keeps every descriptor until the slot is free again; a
successor inherits them by its fork, and what its predecessor had not read yet goes with the predecessor's socket.

A bell (csrc/wait.h) is the eventfd that the drain rings for a client which asked for one. It belongs to one generation of
a slot, as its lane does, and comes to the drain in the same packet: a fork of a dead client may still listen to it, so the
slot's next owner gets another one. The WAL process never has it, nor has the client: that one listens through an epoll
descriptor, so it can neither fill the eventfd nor make it blocking.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
import struct
from collections.abc import Hashable, Mapping
from typing import NamedTuple

from ringwal import memory
from ringwal.errors import ShmUnavailable

BACKLOG_BYTES = 64 * 1024
"""Asked for as the send buffer of each socket: room for some dozens of packets."""
_PACKET = struct.Struct("=IIQ")


class LaneFile(NamedTuple):
    """A lane's memory: the descriptor, and which generation of its slot it is made for."""

    fd: int
    generation: int
    bytes: int
    bell: int | None = None
    """the eventfd of the same generation's bell; None: its client did not ask for one, or this process does not ring"""

    def descriptors(self) -> list[int]:
        """The lane's, then the bell's if there is one."""
        return [self.fd] if self.bell is None else [self.fd, self.bell]

    def close(self) -> None:
        """Both. Once."""
        for fd in self.descriptors():
            os.close(fd)


def make_bell() -> tuple[int, select.epoll]:
    """A new bell: the eventfd to ring, and what its client listens with (csrc/wait.h, THE BELL). Raises OSError."""
    rung = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    try:
        heard = select.epoll()
        heard.register(rung, select.EPOLLIN | select.EPOLLET)
    except BaseException:
        os.close(rung)
        raise
    return rung, heard


class Lanes:
    """The supervisor's side. `held` is by slot."""

    def __init__(self) -> None:
        self.held: dict[int, LaneFile] = {}
        self._sockets: dict[Hashable, socket.socket] = {}
        self._ringing: set[Hashable] = set()  # who gets bells
        self._remains: list[memory.Remains] = []

    def connect(self, role: Hashable, *, rings: bool) -> socket.socket:
        """The other end of a new socket to that process, which replaces its predecessor's; to be inherited, then closed.
        `rings`: it gets the bells, too."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BACKLOG_BYTES)
        if (before := self._sockets.pop(role, None)) is not None:
            before.close()
        self._sockets[role] = ours
        if rings:
            self._ringing.add(role)
        return theirs

    def inheritance(self, *, rings: bool) -> dict[int, LaneFile]:
        """What a process has from its fork on, by slot; the bells if it rings."""
        return {slot: lane if rings else lane._replace(bell=None) for slot, lane in self.held.items()}

    def room(self) -> bool:
        """Would each of the two take another lane now? One that is dead takes any: its successor inherits them."""
        poller = select.poll()
        for each in self._sockets.values():
            poller.register(each, select.POLLOUT)
        return len(poller.poll(0)) == len(self._sockets)

    def put(self, slot: int, lane: LaneFile) -> None:
        """Keep the lane, and send it. There is `room`. Raises OSError: the kernel has no place for it; it is not kept."""
        packet = _PACKET.pack(slot, lane.generation, lane.bytes)
        for role, each in self._sockets.items():
            fds = lane.descriptors() if role in self._ringing else [lane.fd]
            with contextlib.suppress(BrokenPipeError, ConnectionError):  # dead
                each.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
        self.held[slot] = lane

    def drop(self, slot: int) -> None:
        """The slot is free: nobody needs its lane any more, nor its bell."""
        lane = self.held.pop(slot)
        if lane.bell is not None:
            os.close(lane.bell)
        self.discard(lane.fd)

    def discard(self, fd: int) -> None:
        """Nobody needs that lane's memory any more. Freeing it is left to `free_some`."""
        self._remains.append(memory.Remains(fd))

    def free_some(self) -> bool:
        """Free a bounded part of what was discarded. True: there is more."""
        if self._remains and self._remains[0].step():
            del self._remains[0]
        return bool(self._remains)

    def close(self) -> None:
        """Close everything. The processes are gone."""
        for each in self._sockets.values():
            each.close()
        self._sockets.clear()
        for slot in list(self.held):
            self.drop(slot)
        for remains in self._remains:
            remains.close()
        self._remains.clear()


class Attached(NamedTuple):
    """A lane that is mapped, and its bell, which whoever attached it closes."""

    mapping: memory.Mapping
    bell: int | None


class Intake:
    """The end of WAL or drain: lanes that were inherited or have come, by slot, until they are taken."""

    def __init__(self, source: socket.socket, inherited: Mapping[int, LaneFile]) -> None:
        self._source = source
        self._waiting = dict(inherited)

    def descriptors(self) -> set[int]:
        """What has to stay open over the fork."""
        return {self._source.fileno(), *(fd for lane in self._waiting.values() for fd in lane.descriptors())}

    def attach(self, control: memory.Mapping, slot: int, generation: int) -> Attached:
        """That lane, mapped for reading. Raises Error: it never came, or it cannot be mapped."""
        self._receive()
        lane = self._waiting.pop(slot, None)
        if lane is None:
            raise ShmUnavailable(f"the descriptor of lane {slot} has not come: too many open files?")
        try:
            mapping = memory.attach_lane(control, lane.fd, slot, generation, lane.bytes, writable=False)
        except BaseException:
            lane.close()
            raise
        os.close(lane.fd)
        return Attached(mapping, lane.bell)

    def forget(self, slot: int) -> None:
        """That slot's generation is over; if its client came and went unseen, its lane was never attached."""
        self._receive()
        if (lane := self._waiting.pop(slot, None)) is not None:
            lane.close()

    def _receive(self) -> None:
        fds = array.array("i")
        with contextlib.suppress(BlockingIOError):
            while True:
                packet, ancillary, _, _ = self._source.recvmsg(
                    _PACKET.size, socket.CMSG_SPACE(2 * fds.itemsize), socket.MSG_CMSG_CLOEXEC
                )
                if not packet:
                    return
                slot, generation, size = _PACKET.unpack(packet)
                for _, _, data in ancillary:
                    fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
                if (before := self._waiting.pop(slot, None)) is not None:
                    before.close()  # its generation came and went unseen
                if fds:  # else there was no descriptor left for it in this process; the bell is the last to come
                    self._waiting[slot] = LaneFile(fds[0], generation, size, fds[1] if len(fds) > 1 else None)
                    del fds[:]
