"""Under gevent a client that waits lets the other greenlets run: what it waits for happens after hundreds of their steps.

A wait that let them make one step for each of its slices of 0.1 s would meet its own timeout before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.rig import CHECKOUT, Engine, environment

pytest.importorskip("gevent")

HEAD = """
from gevent import monkey; monkey.patch_all()
import os, signal, sys, threading, gevent, ringwal

def others(act):
    def work():
        for _ in range(400):
            gevent.sleep(0.001)
        act()
    return gevent.spawn(work)

def freeze(pid):
    os.kill(pid, signal.SIGSTOP)
    tasks = [f"/proc/{pid}/task/{task}/stat" for task in os.listdir(f"/proc/{pid}/task")]
    while any(open(task).read().rsplit(") ", 1)[1][0] != "T" for task in tasks):
        gevent.sleep(0)

def thaw(pid):
    return lambda: os.kill(pid, signal.SIGCONT)

"""
CONNECT = """
client = ringwal.connect(sys.argv[1], timeout=30.0, append_timeout=30.0)
facts = client.status()
stream = client.create_stream("s")
"""
WAITS = {
    "a tail": """
tail = stream.tail()
others(lambda: stream.append(b"x"))
assert next(tail).data == b"x"
""",
    "a tail of what is not there": """
tail = client.stream("late").tail(missing="wait")
others(lambda: client.stream("late").append(b"x"))
assert next(tail).data == b"x"
""",
    "a result": """
freeze(facts["wal_pid"])
others(thaw(facts["wal_pid"]))
assert stream.append(b"x").result(30.0).offset == 0
""",
    "a future": """
freeze(facts["wal_pid"])
others(thaw(facts["wal_pid"]))
assert stream.append(b"x").future().result(30.0).offset == 0
""",
    "a flush": """
freeze(facts["wal_pid"])
others(thaw(facts["wal_pid"]))
stream.append(b"x")
client.close(30.0)
""",
    "room": """
freeze(facts["wal_pid"])
others(thaw(facts["wal_pid"]))
for _ in range(8):
    stream.append(bytes(16_000))
stream.flush(30.0)
""",
    "numbers": """
freeze(facts["wal_pid"])
others(thaw(facts["wal_pid"]))
receipts = [stream.append(b"x") for _ in range(100)]
assert [receipt.result(30.0).offset for receipt in receipts] == list(range(100))
""",
    "a connection": """
freeze(facts["pid"])
others(thaw(facts["pid"]))
ringwal.connect(sys.argv[1], timeout=30.0).close()
""",
    "many": """
def work(k):
    mine = client.stream(f"s{k}")
    for n in range(20):
        assert mine.append(b"x").result(30.0).offset == n
threads = [threading.Thread(target=work, args=(k,)) for k in range(20)]
for thread in threads: thread.start()
for thread in threads: thread.join()
""",
}


def run(directory: Path, program: str) -> None:
    command = [sys.executable, "-c", program, str(directory)]
    done = subprocess.run(command, env=environment(CHECKOUT), capture_output=True, text=True, check=False, timeout=6)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_a_wait_holds_no_other_greenlet(directory: Path, start: Callable[..., Engine], wait: str) -> None:
    running = start(max_outstanding=16)
    try:
        run(directory, HEAD + CONNECT + wait)
    finally:
        for pid in (running.process.pid, running.facts["wal_pid"]):
            os.kill(pid, signal.SIGCONT)


def test_an_engine_is_started_from_a_greenlet(directory: Path) -> None:
    run(directory, HEAD + CONNECT.replace("timeout", "autostart=True, timeout", 1) + "client.close()\n")


BEFORE = """
import os, sys, ringwal
client = ringwal.connect(sys.argv[1], timeout=30.0, append_timeout=30.0)
client.stream("s").append(b"so that it is in use").result()
if os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
from gevent import monkey; monkey.patch_all()
import gevent

def work(k):
    mine = client.stream(f"s{k}")
    for n in range(20):
        assert mine.append(b"x").result(30.0).offset == n

gevent.joinall([gevent.spawn(work, k) for k in range(20)], raise_error=True)
assert client.status()["clients_attached"] == 2
client.close()
os._exit(0)
"""


def test_a_client_from_before_the_fork_and_the_patch_is_of_greenlets_then(
    directory: Path, start: Callable[..., Engine]
) -> None:
    start()
    run(directory, BEFORE)
