"""The supervisor with real processes: one engine per directory, replacement, reclaiming, orderly and other ends."""

from __future__ import annotations

import contextlib
import json
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
from ringwal._native import lib
from ringwal.config import KIB, MIB
from ringwal.processes.children import RestartBudget, reap_strangers
from ringwal.protocol.client import Registration
from ringwal.protocol.messages import SOCKET_NAME
from ringwal.steps import park
from tests.support import shm_names
from tests.support.rig import Embedded, stop_process

SMALL = {"ring_bytes": MIB, "lane_bytes": 64 * KIB, "segment_bytes": 4 * MIB, "max_streams": 16, "max_clients": 4}
WAIT = 20.0


class Engine(Embedded):
    def __init__(self, directory: Path, **settings: Any) -> None:
        super().__init__(directory, **{**SMALL, **settings})


@pytest.fixture
def start(directory: Path) -> Iterator[Callable[..., Engine]]:
    engines: list[Engine] = []

    def started(**settings: Any) -> Engine:
        engines.append(Engine(directory, **settings))
        return engines[-1]

    yield started
    for each in engines:
        each.close()


def kill_and_wait(pid: int) -> None:
    """SIGKILL, and wait until the process is dead: its supervisor's business is reaping it."""
    fd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        assert select.select([fd], [], [], WAIT)[0]
    finally:
        os.close(fd)


def gone(pid: int) -> bool:
    """Dead, now or within the patience of the test."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], WAIT)[0])
    finally:
        os.close(fd)


def wait_until(condition: Callable[[], bool]) -> None:
    """Ask again and again; each question is a round trip to the engine, so this is no busy loop."""
    for _ in range(100_000):
        if condition():
            return
    pytest.fail("it never came true")


def open_files(pid: int) -> list[str]:
    """What the descriptors of the process lead to."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it opens and closes files meanwhile
            found.append(str(link.readlink()))
    return found


def lanes_of(pid: int) -> list[str]:
    """The lanes that the process holds open or has mapped, each as often as it does."""
    mapped = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [entry for entry in (*open_files(pid), *mapped) if "/memfd:ringwal lane" in entry]


# ------------------------------------------------------------------------------------------------- start and end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_in_order_and_nothing_is_left(
    start: Callable[..., Engine], directory: Path, number: signal.Signals
) -> None:
    running = start()
    assert (running.facts["pid"], running.facts["state"]) == (running.process.pid, "running")
    assert directory.stat().st_mode & 0o777 == 0o700
    with ringwal.connect(directory) as client:
        receipts = [client.stream("orders").append(b"x" * 100) for _ in range(500)]
        running.process.send_signal(number)
        assert running.wait() == 0
        assert [receipt.result(0).offset for receipt in receipts] == list(range(500))
    assert shm_names.left() == []
    assert not (directory / SOCKET_NAME).exists()
    assert gone(running.facts["wal_pid"])
    assert gone(running.facts["drain_pid"])


def test_more_signals_during_a_stop_change_nothing(start: Callable[..., Engine]) -> None:
    running = start()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        running.process.send_signal(number)
    assert running.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_whole_group_stops_it_in_order(
    start: Callable[..., Engine], directory: Path, number: signal.Signals
) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        receipts = [client.stream("orders").append(b"x" * 100) for _ in range(500)]
        os.killpg(running.process.pid, number)
        assert running.wait() == 0
        assert [receipt.result(0).offset for receipt in receipts] == list(range(500))
    assert shm_names.left() == []
    assert "replaced" not in running.log.read_text()
    assert json.loads((directory / "last-status.json").read_text())["restarts"] == 0


def test_wal_and_drain_leave_the_stop_to_the_supervisor(start: Callable[..., Engine], directory: Path) -> None:
    running = start()
    for role in ("wal_pid", "drain_pid"):
        os.kill(running.facts[role], signal.SIGTERM)
    with ringwal.connect(directory) as client:
        client.stream("s").append(b"x").result(WAIT)
        facts = client.status()
        assert [facts[role] for role in ("wal_pid", "drain_pid")] == [running.facts[role] for role in ("wal_pid", "drain_pid")]
    assert running.terminate() == 0


def test_a_client_can_ask_for_the_stop(start: Callable[..., Engine], directory: Path) -> None:
    running = start()
    with contextlib.closing(Registration(directory, WAIT)) as registration:
        registration.stop()
        assert running.wait() == 0
        assert not registration.alive()


def test_a_stop_that_takes_too_long_ends_by_force(start: Callable[..., Engine]) -> None:
    running = start(stop_timeout=0.3)
    os.kill(running.facts["wal_pid"], signal.SIGSTOP)
    assert running.terminate() == os.EX_SOFTWARE
    assert gone(running.facts["wal_pid"])
    assert shm_names.left() == []
    assert "did not finish within 0.3 s" in running.log.read_text()


def test_a_second_engine_is_told_who_holds_the_directory(start: Callable[..., Engine]) -> None:
    running = start()
    second = start()
    assert second.facts["error"] == "Locked"
    assert second.facts["pid"] == running.process.pid
    assert second.wait() == 1
    assert running.status()["state"] == "running"


def test_the_lock_is_held_down_to_the_last_process(start: Callable[..., Engine], directory: Path) -> None:
    running = start()
    for role in ("pid", "wal_pid", "drain_pid"):
        assert {str(directory), str(directory / "lock")} <= set(open_files(running.facts[role]))


def test_children_keep_no_descriptor_they_do_not_need(start: Callable[..., Engine], directory: Path) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        client.stream("orders").append(b"x").result(WAIT)
        kill_and_wait(running.facts["drain_pid"])
        client.stream("orders").append(b"x").result(WAIT)
        sockets = [file for file in open_files(running.status()["drain_pid"]) if file.startswith("socket:")]
        assert len(sockets) == 1  # its own, on which lanes come


# --------------------------------------------------------------------------------------------------- replacement


@pytest.mark.parametrize("role", ["wal_pid", "drain_pid"])
def test_a_killed_process_is_replaced_and_appends_go_on(
    start: Callable[..., Engine], directory: Path, role: str
) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        orders = client.stream("orders")
        pids = [running.facts[role]]
        for i in range(3):
            receipts = [orders.append(b"before") for _ in range(100)]
            kill_and_wait(pids[-1])
            receipts.append(orders.append(b"after"))
            assert [receipt.result(WAIT).offset for receipt in receipts] == list(range(101 * i, 101 * (i + 1)))
            pids.append(client.status()[role])
        assert len(set(pids)) == 4
        assert client.status()["restarts"] == 3
        assert client.status()["pid"] == running.process.pid
    assert f"replaced {role.removesuffix('_pid').replace('wal', 'WAL')} process {pids[0]} (SIGKILL) with {pids[1]}" in (
        running.log.read_text()
    )
    assert running.terminate() == 0


@pytest.mark.parametrize("role", ["wal_pid", "drain_pid"])
def test_a_process_that_ends_itself_over_a_broken_invariant_is_replaced_as_a_killed_one(
    start: Callable[..., Engine], directory: Path, role: str
) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        orders = client.stream("orders")
        assert orders.append(b"before").result(WAIT).offset == 0
        os.kill(running.facts[role], signal.SIGABRT)  # what rw_broken ends with
        wait_until(lambda: client.status()["restarts"] == 1)
        assert orders.append(b"after").result(WAIT).offset == 1
    assert f"process {running.facts[role]} (SIGABRT) with" in running.log.read_text()
    assert running.terminate() == 0


def test_too_many_replacements_end_in_a_clear_stop(start: Callable[..., Engine], directory: Path) -> None:
    running = start(max_restarts=1)
    with contextlib.closing(Registration(directory, WAIT)) as registration:
        hello = registration.hello
        handed = registration.hand_over()
        for fd in (handed.directory, handed.ring):
            os.close(fd)
        with memory.attach_control(handed.control, hello.control_bytes, hello.uuid, hello.epoch) as control:
            os.close(handed.control)
            kill_and_wait(running.facts["wal_pid"])
            wait_until(lambda: registration.status()["restarts"] == 1)
            kill_and_wait(registration.status()["wal_pid"])
            assert running.wait() == os.EX_SOFTWARE
            assert control.pointer.state == lib.RW_FAILED
        assert not registration.alive()
    assert shm_names.left() == []
    assert "giving up" in running.log.read_text()


def test_a_failed_write_ends_the_epoch_and_the_next_start_recovers(
    start: Callable[..., Engine], directory: Path
) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        orders = client.stream("orders")
        assert orders.append(b"kept").result(WAIT).offset == 0
        # From now on the kernel refuses every write of the WAL process beyond the first page of a file.
        resource.prlimit(running.facts["wal_pid"], resource.RLIMIT_FSIZE, (4096, 4096))
        lost = orders.append(b"lost")
        with pytest.raises(ringwal.EngineFailed) as caught:
            lost.result(WAIT)
        assert caught.value.outcome == "unknown"
        with contextlib.suppress(ringwal.Error):
            client.close()
    assert running.wait() == os.EX_IOERR
    assert shm_names.left() == []
    assert "a write to the log failed (File too large)" in running.log.read_text()
    start()
    with ringwal.connect(directory) as client:
        assert [record.data for record in client.stream("orders").read(0)] == [b"kept"]


def test_a_killed_engine_leaves_no_memory_and_the_next_one_goes_on(start: Callable[..., Engine], directory: Path) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        client.stream("orders").append(b"kept").result(WAIT)
        running.process.kill()
        running.wait()
        assert gone(running.facts["wal_pid"])
        assert gone(running.facts["drain_pid"])
    assert shm_names.left() == []
    again = start()
    assert again.facts["epoch"] == running.facts["epoch"] + 1
    with ringwal.connect(directory) as client:
        assert client.stream("orders").append(b"next").result(WAIT).offset == 1
    assert again.terminate() == 0
    assert shm_names.left() == []


def test_damage_is_refused_and_nothing_is_left(start: Callable[..., Engine], directory: Path) -> None:
    assert start().terminate() == 0
    (directory / "manifest").write_bytes(bytes(8192))
    refused = start()
    assert refused.facts["error"] == "CorruptionError"
    assert refused.wait() == 1
    assert not (directory / SOCKET_NAME).exists()


# ------------------------------------------------------------------------------------------------------- clients


def test_the_lane_of_a_dead_client_is_reclaimed_and_its_slot_used_again(
    start: Callable[..., Engine], directory: Path
) -> None:
    running = start()
    first = Registration(directory, WAIT)
    grants = []
    for size in (64 * KIB, 0):
        grant, fd = first.lane(size)
        grants.append(grant)
        os.close(fd)
    assert [(grant.generation, grant.bytes) for grant in grants] == [(1, 64 * KIB), (1, 4096)]
    assert len(lanes_of(running.process.pid)) == 2
    assert [client["pid"] for client in running.status()["clients"]] == [os.getpid()] * 2
    first.close()
    wait_until(lambda: running.status()["clients"] == [])
    for role in ("pid", "wal_pid", "drain_pid"):
        wait_until(lambda role=role: lanes_of(running.facts[role]) == [])  # type: ignore[misc]
    with contextlib.closing(Registration(directory, WAIT)) as second:
        again, fd = second.lane(64 * KIB)
        os.close(fd)
        assert again.slot in [grant.slot for grant in grants]
        assert again.generation == 2


def test_a_full_client_table_names_the_setting_and_recovers(start: Callable[..., Engine], directory: Path) -> None:
    running = start()
    with contextlib.closing(Registration(directory, WAIT)) as greedy:
        for _ in range(4):
            os.close(greedy.lane(0)[1])
        late = Registration(directory, WAIT)
        with pytest.raises(ringwal.ShmUnavailable, match=r"all 4 places .* larger max_clients"):
            late.lane(0)
        late.close()
    wait_until(lambda: running.status()["clients"] == [])
    with contextlib.closing(Registration(directory, WAIT)) as later:
        os.close(later.lane(0)[1])


def fill_with_lanes_that_cannot_close(running: Engine) -> None:
    """Every place is closing, and stays so until the WAL process, which would have to let go, is continued."""
    stop_process(running.facts["wal_pid"])
    with contextlib.closing(Registration(running.facts["directory"], WAIT)) as client:
        for _ in range(4):
            os.close(client.lane(0)[1])


def test_who_comes_while_places_close_waits_and_gets_one_in_turn(start: Callable[..., Engine], directory: Path) -> None:
    running = start()
    fill_with_lanes_that_cannot_close(running)
    with contextlib.ExitStack() as stack:
        hasty, *waiting, leaver = (stack.enter_context(contextlib.closing(Registration(directory, WAIT))) for _ in range(7))
        for client in (leaver, *waiting):
            client._socket.send(b'{"op": "lane", "bytes": 0, "wait": %d, "tag": 2}' % WAIT)
        leaver.close()
        hasty.timeout = 0.5
        with pytest.raises(ringwal.ShmUnavailable, match=r"all 4 places .* \(4 of them are closing\)"):
            hasty.lane(0)
        for wait in ("-1", "NaN", '"long"'):
            hasty._socket.send(b'{"op": "lane", "bytes": 0, "wait": %s, "tag": 2}' % wait.encode())
            assert json.loads(hasty._socket.recv(4096))["error"] == "ConfigError"
        assert running.status()["state"] == "running"  # others are served meanwhile
        assert select.select(waiting, [], [], 0)[0] == []
        os.kill(running.facts["wal_pid"], signal.SIGCONT)
        replies = [json.loads(client._socket.recv(4096)) for client in waiting[:4]]
        assert sorted(reply["slot"] for reply in replies) == [0, 1, 2, 3]
        refused = json.loads(waiting[4]._socket.recv(4096))  # nothing is closing any more: there is nothing to wait for
        assert (refused["error"], "closing" in refused["message"]) == ("ShmUnavailable", False)


def test_who_waits_for_a_place_is_told_that_the_engine_stops(start: Callable[..., Engine], directory: Path) -> None:
    running = start(stop_timeout=0.3)
    fill_with_lanes_that_cannot_close(running)
    with contextlib.closing(Registration(directory, None)) as patient:
        patient._socket.send(b'{"op": "lane", "bytes": 0, "tag": 2}')
        running.process.send_signal(signal.SIGTERM)
        assert json.loads(patient._socket.recv(4096))["error"] == "NotRunning"
    assert running.wait() == os.EX_SOFTWARE


def test_a_lane_that_is_too_large_is_refused_and_costs_no_slot(start: Callable[..., Engine], directory: Path) -> None:
    running = start()
    with contextlib.closing(Registration(directory, WAIT)) as client:
        with pytest.raises(ringwal.ConfigError, match="lane_bytes"):
            client.lane(2 << 30)
        assert running.status()["clients"] == []


def test_stream_ids_are_stable_and_the_table_is_bounded(start: Callable[..., Engine], directory: Path) -> None:
    running = start()
    with contextlib.closing(Registration(directory, WAIT)) as client:
        ids = {name: client.stream(name) for name in ("a", "b", "c")}
        assert sorted(map(lib.rw_handle_number, ids.values())) == [0, 1, 2]
        assert client.stream("b") == ids["b"]
        for i in range(13):
            client.stream(f"more-{i}")
        with pytest.raises(ringwal.ShmUnavailable, match=r"at most 16 streams.*larger max_streams"):
            client.stream("one too many")
        with pytest.raises(ringwal.ConfigError):
            client.stream("bad\nname")
        assert client.stream("a") == ids["a"]
    assert running.status()["streams"] == 16


def test_streams_go_on_after_a_restart(start: Callable[..., Engine], directory: Path) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        client.create_stream("never appended to")
        client.stream("orders").append_many([b"a", b"b", b"c"]).result(WAIT)
    assert running.terminate() == 0
    again = start()
    assert again.facts["epoch"] == 2
    with ringwal.connect(directory) as client:
        assert client.stream("orders").append(b"d").result(WAIT).offset == 3
        assert [record.data for record in client.stream("orders").read(0)] == [b"a", b"b", b"c", b"d"]


def test_an_unknown_request_is_refused_and_the_connection_lives(start: Callable[..., Engine], directory: Path) -> None:
    start()
    with contextlib.closing(Registration(directory, WAIT)) as client:
        for request in ({"op": "fly"}, {"op": "lane"}, {"op": "lane", "bytes": "many"}, {"op": None}, {"op": "hello"}):
            with pytest.raises(ringwal.ConfigError, match="does not know the request"):
                park(client._request(request))
        assert client.status()["state"] == "running"


def test_a_started_engine_ends_with_its_last_client(start: Callable[..., Engine], directory: Path) -> None:
    running = start(autostart=WAIT)
    with ringwal.connect(directory) as client:
        client.stream("orders").append(b"x").result(WAIT)
    assert running.wait() == 0
    assert shm_names.left() == []


def test_a_started_engine_whose_client_never_comes_ends(start: Callable[..., Engine]) -> None:
    assert start(autostart=0.05).wait() == 0


# ----------------------------------------------------------------------------------------------------- the pieces


def test_the_restart_budget_counts_within_its_window() -> None:
    budget = RestartBudget(2, 3600)
    assert [budget.take() for _ in range(3)] == [True, True, False]
    assert budget.total == 2
    forgetful = RestartBudget(1, 0)
    assert [forgetful.take() for _ in range(3)] == [True, True, True]


def test_pid_1_reaps_strangers_and_leaves_its_own_to_their_watcher() -> None:
    children = []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        children.append(pid)
    ours, stranger = children
    reap_strangers({ours})
    with contextlib.suppress(ChildProcessError):
        os.waitpid(ours, 0)
    reap_strangers(set())
    with pytest.raises(ChildProcessError):
        os.waitpid(stranger, 0)
