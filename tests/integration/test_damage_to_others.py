"""What one process suffers does not touch the others: stopped or killed in the middle of a copy, forked, interrupted."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ringwal
from tests.support.rig import CHECKOUT, WAIT, Engine, Writers, arm, environment, read_all, state_of, stop_process, until, verify

STREAMS = ["hot", "left", "right"]


@pytest.fixture
def child() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts Python programs that use the engine; the program's arguments follow its text."""
    started: list[subprocess.Popen[bytes]] = []

    def start_one(program: str, *arguments: object) -> subprocess.Popen[bytes]:
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", program, *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd="/",
                env=environment(CHECKOUT),
            )
        )
        return started[-1]

    yield start_one
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("action", ["stop", "kill"])
def test_a_writer_that_ends_in_the_middle_of_a_copy_costs_the_others_nothing(
    action: str, points_build: Path, directory: Path, start: Callable[..., Engine], write: Callable[..., Writers]
) -> None:
    running = start()
    once = directory.parent / "once"
    writers = write(points_build, 4, STREAMS, once=[once])
    writers.await_told()
    arm(once, f"w.copy.mid:1:{action}")
    victim = writers.pids[0]
    until(lambda: state_of(victim) in "TZX", "writer 0 has stopped")
    for _ in range(20):
        writers.await_told(1, 2, 3)
    before = {client["pid"]: client for client in running.status()["clients"]}
    if action == "stop":
        assert victim in before  # nothing is taken from a process that lives
        assert before[victim]["requests"] == before[victim]["confirmed"]  # what it had published was not held up
        os.kill(victim, signal.SIGCONT)
        writers.await_told()
    else:
        until(lambda: victim not in {client["pid"] for client in running.status()["clients"]}, "its slot has come back")
    codes = writers.stop()
    assert codes == [0 if action == "stop" else -signal.SIGKILL, 0, 0, 0]
    with ringwal.connect(directory) as client:
        verify(client, writers.journals)
        assert all(writers.settled(k) for k in range(0 if action == "stop" else 1, 4))
    assert running.terminate() == 0


def test_a_forked_child_attaches_afresh_and_its_parent_does_not_notice(
    directory: Path, start: Callable[..., Engine]
) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        orders = client.stream("orders")
        done, pending = orders.append(b"0"), orders.append(b"1")
        assert done.result(WAIT).offset == 0
        stop_process(running.facts["drain_pid"])
        pending = orders.append(b"2")
        asked, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            with contextlib.suppress(BaseException):
                code = _in_the_child(orders, done, pending, tell)
            os._exit(code)
        os.close(tell)
        os.read(asked, 1)  # what is confirmed before the child looks, it may say so
        os.close(asked)
        os.kill(running.facts["drain_pid"], signal.SIGCONT)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert pending.result(WAIT).offset == 2
        assert orders.append(b"parent").result(WAIT).offset == 4
        assert [record.data for record in orders.read(0)] == [b"0", b"1", b"2", b"child", b"parent"]
        until(lambda: len(client.status()["clients"]) == 1, "the child's lane has gone")


def _in_the_child(orders: ringwal.Stream, done: ringwal.Receipt, pending: ringwal.Receipt, tell: int) -> int:
    if done.result(0).offset != 0:
        return 2
    try:
        pending.result(0)
    except ringwal.ForkError:
        pass
    else:
        return 3
    finally:
        os.write(tell, b".")
    return 0 if orders.append(b"child").result(WAIT).offset == 3 else 4


def test_a_fork_after_the_parents_death_keeps_no_lane_alive(
    directory: Path, start: Callable[..., Engine], child: Callable[..., subprocess.Popen[bytes]]
) -> None:
    running = start()
    program = (
        "import ringwal, os, sys, time\n"
        "client = ringwal.connect(sys.argv[1]); client.stream('s').append(b'x').result()\n"
        "if os.fork() == 0:\n"
        "    os.read(0, 1); os._exit(0)\n"
        "os.write(1, b'.'); os._exit(0)\n"
    )
    parent = child(program, directory)
    assert parent.stdout is not None and parent.stdout.read(1) == b"."
    until(lambda: running.status()["clients"] == [], "the lane of the parent has gone, though its child lives")


def test_threads_share_a_client_and_keep_each_its_order(directory: Path, start: Callable[..., Engine]) -> None:
    running = start(max_outstanding=64)
    count, threads = 1500, 8
    acks: list[list[int]] = [[] for _ in range(threads)]

    def work(client: ringwal.Client, k: int) -> None:
        stream = client.stream("shared")
        receipts = [stream.append(b"%d %d" % (k, n)) for n in range(count)]
        acks[k] = [receipt.result(WAIT).offset for receipt in receipts]

    with ringwal.connect(directory) as client:
        workers = [threading.Thread(target=work, args=(client, k)) for k in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(2 * WAIT)
        records = [record.data for record in read_all(client.stream("shared"))]
    assert len(records) == count * threads
    for k in range(threads):
        assert acks[k] == sorted(acks[k])
        assert [records[offset] for offset in acks[k]] == [b"%d %d" % (k, n) for n in range(count)]
    assert running.terminate() == 0


def test_clients_and_streams_pickle_as_where_they_lead(directory: Path, start: Callable[..., Engine]) -> None:
    start()
    with ringwal.connect(directory, lane_bytes=128 << 10, append_timeout=1.5) as client:
        client.stream("orders").append(b"x").result(WAIT)
        stream = pickle.loads(pickle.dumps(client.stream("orders")))
        with stream.client as other:
            assert (other.path, other._options) == (client.path, client._options)
            assert other is not client
            assert stream.append(b"y").result(WAIT).offset == 1


INTERRUPTED = """
import ringwal, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
with ringwal.connect(sys.argv[1], append_timeout=None) as client:
    stream = client.stream("s")
    try:
        os.write(1, b".")
        {wait}
    except KeyboardInterrupt:
        os.write(1, b"!")
        os._exit(0)
"""
WAITS = {
    "result": "stream.append(b'x').result(None)",
    "flush": "stream.append(b'x'); stream.flush(None)",
    "tail": "next(client.create_stream('t').tail())",
    "full lane": "[stream.append(bytes(30_000)) for _ in range(1000)]",
    "full window": "[stream.append(b'') for _ in range(100_000)]",
}


@pytest.mark.parametrize("wait", WAITS)
def test_ctrl_c_ends_every_wait(
    wait: str, directory: Path, start: Callable[..., Engine], child: Callable[..., subprocess.Popen[bytes]]
) -> None:
    running = start(max_outstanding=64)
    stop_process(running.facts["wal_pid"])  # nothing comes to an end by itself
    waiting = child(INTERRUPTED.format(wait=WAITS[wait]), directory)
    assert waiting.stdout is not None
    assert waiting.stdout.read(1) == b"."
    until(lambda: state_of(waiting.pid) == "S", "it waits in the kernel")
    waiting.send_signal(signal.SIGINT)
    assert select.select([waiting.stdout], [], [], WAIT)[0]
    assert waiting.stdout.read(1) == b"!", waiting.stderr and waiting.stderr.read()
    assert waiting.wait(WAIT) == 0
    os.kill(running.facts["wal_pid"], signal.SIGCONT)

