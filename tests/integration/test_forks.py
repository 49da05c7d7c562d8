"""A program that has an engine inside and forks: its children keep nothing of the engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ringwal
from tests.support import rig
from tests.support.rig import WAIT

HOST = """
import json, os, sys, threading, ringwal

def open_here():
    fds = [int(name) for name in os.listdir("/proc/self/fd")]
    found = {}
    for fd in fds:
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            pass
    return found

before = open_here()
ready = threading.Event()
engine = ringwal.Supervisor(sys.argv[1], on_ready=lambda facts: ready.set())
threading.Thread(target=engine.run, daemon=True).start()
assert ready.wait(30)
print("ready", flush=True)
sys.stdin.readline()
pid = os.fork()
if pid == 0:
    more = [to for fd, to in open_here().items() if before.get(fd) != to]
    memory = [line for line in open("/proc/self/maps") if "(deleted)" in line and "ringwal" in line]
    print(json.dumps({"pid": os.getpid(), "more": more, "memory": memory}), flush=True)
    os.read(int(sys.argv[2]), 1)
    os._exit(0)
sys.stdin.readline()
"""


@pytest.fixture
def host(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """An engine in a thread of a program that forks when it is told to; the child stays until the test is over."""
    stay, leave = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", HOST, str(directory), str(stay)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=rig.environment(rig.CHECKOUT), pass_fds=[stay],
    )  # fmt: skip
    os.close(stay)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        os.close(leave)
        process.kill()
        process.communicate()


def forked(host: subprocess.Popen[str]) -> dict[str, Any]:
    """What the child says of itself."""
    assert host.stdin is not None
    assert host.stdout is not None
    host.stdin.write("\n")
    host.stdin.flush()
    said: dict[str, Any] = json.loads(host.stdout.readline())
    return said


def test_a_fork_has_no_descriptor_and_no_memory_of_the_engine(directory: Path, host: subprocess.Popen[str]) -> None:
    with ringwal.connect(directory, timeout=WAIT) as client:
        stream = client.stream("s")
        stream.append(b"a lane is there").result(WAIT)
        child = forked(host)
        assert child["more"] == []
        assert child["memory"] == []
        assert stream.append(b"and it goes on").result(WAIT).offset == 1


def test_a_fork_that_outlives_a_killed_engine_hides_its_end_from_nobody(directory: Path, host: subprocess.Popen[str]) -> None:
    with ringwal.connect(directory, timeout=WAIT) as client:
        client.stream("s").append(b"x").result(WAIT)
        registration = client._attachment().registration
        child = forked(host)
        host.kill()
        host.wait(WAIT)
        assert rig.state_of(child["pid"]) in "RS"
        rig.until(lambda: not registration.alive(), "the client has seen the end")
        with pytest.raises(ringwal.NotRunning, match=r"no engine (runs|answers) on"):  # and not: did not answer in time
            ringwal.connect(directory, timeout=WAIT)
    with ringwal.connect(directory, autostart=True, timeout=WAIT) as client:
        assert client.stream("s").append(b"y").result(WAIT).offset == 1
        pid = client.status()["pid"]
        client._attachment().registration.stop()
    rig.until(lambda: rig.state_of(pid) in "XZ", "the engine has ended")
