"""Both ends of the socket between clients and the supervisor, without an engine behind it."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import queue
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringwal._native import lib
from ringwal.errors import ConfigError, NotRunning, ShmUnavailable, VersionMismatch
from ringwal.protocol.client import Registration
from ringwal.protocol.messages import MESSAGE_BYTES_MAX, SOCKET_NAME, Message, check_stream_name
from ringwal.protocol.server import Connection, Listener, check_hello
from ringwal.steps import park

HELLO: Message = {
    "uuid": "00" * 16,
    "epoch": 3,
    "control_bytes": 4096,
    "ring_bytes": 8192,
    "directory": "/d",
    "config": {"lane_bytes": 65536},
}
WAIT = 10.0


class Desk(threading.Thread):
    """A supervisor's end that answers with what the test wants. `requests` are all that came, answered or not."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.listener = Listener(self.directory)
        self.doorbell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.control, self.ring, self.lane = (os.memfd_create(name) for name in ("control", "ring", "lane"))
        self.handed_out = [self.doorbell, self.directory, self.control, self.ring]
        self.lanes = [self.lane]
        self.requests: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.end, self.ended = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.mute = threading.Event()
        self.gone = threading.Event()
        self.connections: list[Connection] = []

    def run(self) -> None:
        poller = select.poll()
        poller.register(self.listener, select.POLLIN)
        poller.register(self.end, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poller.poll()}
            if self.end in ready:
                return
            if self.listener.fileno() in ready and (accepted := self.listener.accept()) is not None:
                self.connections.append(accepted)
                poller.register(accepted, select.POLLIN)
            for connection in [c for c in self.connections if c.fileno() in ready]:
                self.serve(connection, poller)

    def serve(self, connection: Connection, poller: select.poll) -> None:
        try:
            request = connection.receive()
            if request is not None:
                self.requests.put(request)
                if not self.mute.is_set():
                    self.answer(connection, request)
        except EOFError:
            poller.unregister(connection)
            self.connections.remove(connection)
            connection.close()
            self.gone.set()
        except ConfigError as error:
            poller.unregister(connection)
            self.connections.remove(connection)
            connection.hang_up(error)

    def answer(self, connection: Connection, request: Message) -> None:
        if request["op"] == "hello":
            connection.reply(request, HELLO, self.handed_out)
        elif request["op"] == "lane":
            connection.reply(request, {"slot": 1, "generation": 2, "bytes": request["bytes"] * 2}, self.lanes)
        elif request["op"] in ("release", "withdraw"):
            connection.reply(request, {})
        elif request["op"] == "stream":
            connection.refuse(request, ShmUnavailable("the table is full", 77))
        else:
            connection.reply(request, {"state": "running"})

    def close(self) -> None:
        os.write(self.ended, b"x")
        self.join(WAIT)
        for connection in self.connections:
            connection.close()
        self.listener.close()
        for fd in (self.doorbell, self.directory, self.control, self.ring, self.lane, self.end, self.ended):
            os.close(fd)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    made.start()
    yield made
    made.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[int]:
    """A descriptor of the directory, as the engine has it."""
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    yield fd
    os.close(fd)


def same(one: int, other: int) -> bool:
    """Are the two descriptors open on the same file?"""
    return os.path.samestat(os.fstat(one), os.fstat(other))


def opens_of(fd: int) -> int:
    """How many descriptors of this process lead to the same file."""
    found = 0
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed meanwhile
            found += same(fd, int(entry))
    return found


def raw_connection(directory: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(WAIT)
    try:
        connection.connect(str(directory / SOCKET_NAME))
    except BaseException:
        connection.close()
        raise
    return connection


def test_hello_brings_the_facts_and_four_descriptors(desk: Desk, tmp_path: Path) -> None:
    with contextlib.closing(Registration(tmp_path, WAIT)) as client:
        assert client.hello.uuid == bytes(16)
        assert (client.hello.epoch, client.hello.config) == (3, {"lane_bytes": 65536})
        os.eventfd_write(client.doorbell_fd, 5)
        assert os.eventfd_read(desk.doorbell) == 5
        brought = client.hand_over()
        assert brought.doorbell == client.doorbell_fd
        for fd, meant in zip(brought, desk.handed_out, strict=True):
            assert fd != meant
            assert same(fd, meant)
            assert not os.get_inheritable(fd)
        for fd in (brought.directory, brought.control, brought.ring):
            os.close(fd)


@pytest.mark.usefixtures("desk")
def test_the_doorbell_outlives_close_and_goes_with_the_last_reference(tmp_path: Path) -> None:
    client = Registration(tmp_path, WAIT)
    doorbell = client.doorbell_fd
    client.close()
    os.eventfd_write(doorbell, 1)
    del client
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(doorbell)


def test_descriptors_go_with_the_registration_unless_they_were_handed_over(desk: Desk, tmp_path: Path) -> None:
    handed_out = (desk.doorbell, desk.directory, desk.control, desk.ring)
    gc.collect()  # all eventfds of a process are the same file: those that another test has left behind count, too
    before = [opens_of(fd) for fd in handed_out]
    client = Registration(tmp_path, WAIT)
    client.close()
    assert [opens_of(fd) for fd in handed_out] == [number + 1 for number in before]
    del client
    assert [opens_of(fd) for fd in handed_out] == before
    client = Registration(tmp_path, WAIT)
    ours = client.hand_over()
    client.close()
    del client
    assert [opens_of(fd) for fd in handed_out] == [before[0], *(number + 1 for number in before[1:])]
    for fd in ours[1:]:
        os.close(fd)


@pytest.mark.parametrize("number", [0, 3])
def test_a_hello_that_lacks_descriptors_is_an_error_and_leaves_none(desk: Desk, tmp_path: Path, number: int) -> None:
    desk.handed_out = desk.handed_out[:number]
    with pytest.raises(ShmUnavailable, match=f"{number} of 4 descriptors came"):
        Registration(tmp_path, WAIT)
    assert desk.gone.wait(WAIT)


def test_a_lane_that_comes_without_its_memory_is_an_error_and_gives_its_place_back(desk: Desk, tmp_path: Path) -> None:
    with contextlib.closing(Registration(tmp_path, WAIT)) as client:
        desk.lanes = []
        with pytest.raises(ShmUnavailable, match="0 of 1 descriptors came"):
            client.lane(4096)
        assert client.status() == {"state": "running"}
        told = [desk.requests.get(timeout=WAIT) for _ in range(4)]
        assert [request["op"] for request in told] == ["hello", "lane", "release", "status"]
        assert (told[2]["slot"], told[2]["generation"]) == (1, 2)


def test_a_bell_comes_with_the_lane_if_it_is_asked_for(desk: Desk, tmp_path: Path) -> None:
    with contextlib.closing(Registration(tmp_path, WAIT)) as client:
        desk.lanes = [desk.lane, desk.doorbell]
        grant, arrival = park(client.lane_steps(4096, bell=True))
        assert (grant, len(arrival)) == ((1, 2, 8192), 2)
        assert same(arrival[0], desk.lane)
        os.eventfd_write(arrival[1], 3)
        assert os.eventfd_read(desk.doorbell) == 3
        assert not os.get_inheritable(arrival[1])
        arrival.close()
        asked = [desk.requests.get(timeout=WAIT) for _ in range(2)][1]
        assert asked["bell"] is True
        desk.lanes = [desk.lane]
        os.close(client.lane(4096)[1])
        assert "bell" not in desk.requests.get(timeout=WAIT)


def test_a_bell_that_does_not_come_is_an_error_and_gives_the_place_back(desk: Desk, tmp_path: Path) -> None:
    with contextlib.closing(Registration(tmp_path, WAIT)) as client:
        with pytest.raises(ShmUnavailable, match="1 of 2 descriptors came"):
            park(client.lane_steps(4096, bell=True))
        assert client.status() == {"state": "running"}
        told = [desk.requests.get(timeout=WAIT) for _ in range(4)]
        assert [request["op"] for request in told] == ["hello", "lane", "release", "status"]


def test_requests_and_refusals(desk: Desk, tmp_path: Path) -> None:
    with contextlib.closing(Registration(tmp_path, WAIT)) as client:
        grant, fd = client.lane(4096)
        assert grant == (1, 2, 8192)
        assert same(fd, desk.lane)
        assert not os.get_inheritable(fd)
        os.close(fd)
        client.release(grant.slot, grant.generation)
        assert client.status() == {"state": "running"}
        with pytest.raises(ShmUnavailable, match="the table is full") as caught:
            client.stream("orders")
        assert caught.value.size == 77
        client.stop()


def test_the_engine_sees_who_the_client_is_and_when_it_is_gone(desk: Desk, tmp_path: Path) -> None:
    client = Registration(tmp_path, WAIT)
    assert (desk.connections[0].pid, desk.connections[0].uid) == (os.getpid(), os.geteuid())
    client.close()
    client.close()
    assert desk.gone.wait(WAIT)


def test_a_killed_client_is_gone_by_the_kernels_word(desk: Desk, tmp_path: Path) -> None:
    code = "import sys, ringwal.protocol.client as r; kept = r.Registration(sys.argv[1]); print(flush=True); input()"
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        try:
            assert client.stdout.readline() == b"\n"
            assert not desk.gone.is_set()
        finally:
            client.kill()
    assert desk.gone.wait(WAIT)


def test_alive_until_the_engine_hangs_up_even_with_an_answer_unread(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.start()
    try:
        client = Registration(tmp_path, WAIT)
        assert client.alive()
        desk.connections[0].reply({"tag": 99}, {})
        assert client.alive()
    finally:
        desk.close()
    assert not client.alive()
    with pytest.raises(NotRunning, match="has ended"):
        client.status()
    client.close()
    assert not client.alive()


def test_an_engine_that_does_not_answer_is_reported_and_a_late_answer_is_nobodys(desk: Desk, tmp_path: Path) -> None:
    with contextlib.closing(Registration(tmp_path, 0.05)) as client:
        desk.mute.set()
        with pytest.raises(NotRunning, match=r"did not answer within 0\.05 s"):
            client.lane(1)
        late, reader = os.pipe()
        desk.connections[0].reply({"tag": 2}, {"slot": 9, "generation": 7, "bytes": 9}, [reader])
        os.close(reader)
        desk.mute.clear()
        client.timeout = WAIT
        grant, fd = client.lane(4096)
        assert grant == (1, 2, 8192)
        assert same(fd, desk.lane)
        os.close(fd)
        assert os.read(late, 1) == b""  # nobody has that lane any more
        os.close(late)
        # Nor its place: it was given back, without being asked for.
        told = [desk.requests.get(timeout=WAIT) for _ in range(5)]
        assert (told[2]["op"], told[2]["request"]) == ("withdraw", told[1]["tag"])
        assert sorted((each["op"], each.get("slot"), each.get("generation")) for each in told[3:]) == [
            ("lane", None, None),
            ("release", 9, 7),
        ]


@pytest.mark.parametrize("missing", ["directory", "socket", "listener"])
def test_nobody_there_says_how_to_start_an_engine(tmp_path: Path, missing: str) -> None:
    directory = tmp_path / "log"
    if missing != "directory":
        directory.mkdir()
    if missing == "listener":  # what a killed engine leaves
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
            dead.bind(str(directory / SOCKET_NAME))
    with pytest.raises(NotRunning, match=r"`ringwal run .*/log`$") as caught:
        Registration(directory, WAIT)
    assert caught.value.why == "absent"


def test_a_directory_path_may_be_longer_than_a_socket_address(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 200)
    directory.mkdir()
    desk = Desk(directory)
    desk.start()
    try:
        Registration(directory, WAIT).close()
    finally:
        desk.close()
    assert list(directory.iterdir()) == []


def test_a_listener_replaces_what_a_killed_engine_left_and_is_private(tmp_path: Path, place: int) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(tmp_path / SOCKET_NAME))
    with contextlib.closing(Listener(place)) as listener:
        assert (tmp_path / SOCKET_NAME).stat().st_mode & 0o777 == 0o600
        assert listener.state() is None
    assert not (tmp_path / SOCKET_NAME).exists()


def test_a_listener_follows_its_directory(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    place = os.open(before, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with contextlib.closing(Listener(place)) as listener:
        before.rename(after)
        before.mkdir()
        assert listener.state() is None
        with raw_connection(after):
            accepted = listener.accept()
            assert accepted is not None
            accepted.close()
    assert list(after.iterdir()) == []
    os.close(place)


def test_a_listener_whose_name_was_removed_says_so_and_is_made_again(tmp_path: Path, place: int) -> None:
    with contextlib.closing(Listener(place)) as listener:
        (tmp_path / SOCKET_NAME).unlink()
        assert listener.state() == "missing"
        with pytest.raises(FileNotFoundError):
            raw_connection(tmp_path)
        listener.make_again()
        assert listener.state() is None
        assert (tmp_path / SOCKET_NAME).stat().st_mode & 0o777 == 0o600
        with raw_connection(tmp_path):
            accepted = listener.accept()
            assert accepted is not None
            accepted.close()
    assert not (tmp_path / SOCKET_NAME).exists()


def test_a_socket_of_somebody_else_is_seen_and_never_removed(tmp_path: Path, place: int) -> None:
    with contextlib.closing(Listener(place)) as listener:
        (tmp_path / SOCKET_NAME).rename(tmp_path / "aside")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as foreign:
            foreign.bind(str(tmp_path / SOCKET_NAME))
            foreign.listen()
            assert listener.state() == "foreign"
            with pytest.raises(OSError, match="Address already in use"):
                listener.make_again()
            assert listener.state() == "foreign"
            listener.close()
            raw_connection(tmp_path).close()


@pytest.mark.parametrize("packet", [b"no json", b"[1]", b"\xff\xfe", b"[" * 60000, b"x" * (MESSAGE_BYTES_MAX + 1)])
@pytest.mark.usefixtures("desk")
def test_what_is_no_message_is_refused_with_a_reason(tmp_path: Path, packet: bytes) -> None:
    with raw_connection(tmp_path) as peer:
        peer.send(packet)
        answer = json.loads(peer.recv(MESSAGE_BYTES_MAX))
    assert (answer["ok"], answer["error"]) == (False, "ConfigError")


@pytest.mark.usefixtures("desk")
def test_descriptors_that_a_client_sends_end_its_connection_and_are_closed(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    with raw_connection(tmp_path) as peer:
        socket.send_fds(peer, [json.dumps({"op": "status", "tag": 1}).encode()], [theirs])
        heard = [b""]
        while not heard[0]:
            with contextlib.suppress(ConnectionResetError):  # said once, before or behind the rest
                heard.insert(0, peer.recv(MESSAGE_BYTES_MAX))
        answer = json.loads(heard[0])
        assert (answer["error"], answer["message"]) == ("ConfigError", "a request carries no descriptors")
        os.close(theirs)
        assert os.read(ours, 1) == b""  # the last writer is gone
    os.close(ours)


def reply_until_dropped(connection: Connection) -> None:
    for _ in range(100_000):
        connection.reply({"tag": 1}, {"filler": "x" * 60000})


def test_a_peer_that_never_reads_is_dropped_and_blocks_nobody(tmp_path: Path, place: int) -> None:
    with contextlib.closing(Listener(place)) as listener, raw_connection(tmp_path):
        accepted = listener.accept()
        assert accepted is not None
        with contextlib.closing(accepted), pytest.raises(EOFError):
            reply_until_dropped(accepted)


def test_a_client_of_another_build_is_told_so() -> None:
    good = {"op": "hello", "layout": lib.rw_fingerprint(), "format": lib.RW_FORMAT_VERSION}
    check_hello(good)
    for changed in ({"layout": 1}, {"format": 99}, {"layout": None}):
        with pytest.raises(VersionMismatch):
            check_hello({**good, **changed})
    with pytest.raises(ConfigError):
        check_hello({"op": "status"})


@pytest.mark.parametrize("name", ["a", "orders", "é" * 60, "with space", "日本語", "x" * 120, "a/b:c"])
def test_legal_stream_names(name: str) -> None:
    assert check_stream_name(name) == name.encode()


@pytest.mark.parametrize("name", ["", "x" * 121, "é" * 61, "a\nb", "a\0b", "\x7f", "\x9b", "\ud800", b"orders", None, 7])
def test_illegal_stream_names(name: object) -> None:
    with pytest.raises(ConfigError, match="stream name"):
        check_stream_name(name)
