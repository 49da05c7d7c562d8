"""What an engine is started in and lives beside: descriptors, signals, limits, a full disk, rubbish, forks of its program."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import ringwal
from tests.faults import build
from tests.faults.clients import dial
from tests.faults.disk import disk
from tests.faults.oracle import Verdict, judge
from tests.faults.scene import STREAMS, WINDOW, Scene, held, scene, state
from tests.faults.table import Fault, often
from tests.support.host import PATIENCE, ROOT, SMALL, Engine, children_of, package_of, pause, until, writers

LATE = "late"
FEW = 64
"""Open files: enough for the WAL process."""
FULL = """
import os, sys
reader, writer = os.pipe()
os.set_blocking(writer, False)
for size in (4096, 1):
    try:
        while True:
            os.write(writer, b"x" * size)
    except BlockingIOError:
        pass
os.set_blocking(writer, True)
os.set_inheritable(reader, True)
os.dup2(writer, 2)
os.execvp(sys.argv[1], sys.argv[1:])
"""
"""Runs a command whose stderr is a full pipe. It has the reading end itself, and never reads."""
CLOSED = ("sh", "-c", 'exec "$@" 0<&- 2>&-', "sh")


def replaced(running: Engine, times: int) -> bool:
    return bool(running.status()["restarts"] == times)


def written_beyond(running: Engine, writes: int) -> bool:
    return bool(running.status()["counters"]["wal_writes"] > writes)


def confirmed(client: ringwal.Client, offset: int) -> bool:
    return client.stream(LATE).stat().confirmed_offset == offset


def faults(tier: str) -> list[Fault]:
    def row(name: str, body: Callable[..., Verdict], *counts: int) -> Fault:
        return Fault("surroundings", name, partial(body, often(tier, *counts)))

    return [
        row("rubbish from clients that were greeted", rubbish, 200, 10_000),
        row("a signal to the whole group under load", group, 3, 100),
        row("standard descriptors closed", closed, 2, 20),
        row("stderr is full, and nobody reads", full, 3, 50),
        row("status of an engine whose WAL is stopped", asked, 50, 2000),
        row("supervisor killed while engines are started", starts, 3, 60),
        row("disk full, and the WAL process killed", disk_full, 3, 30),
        row("more segments than open files", few_files, 1, 5),
        row("a program around an engine forks and dies", forks, 2, 20),
        row("a writer's last words at rest", last_words, 1, 20),
    ]


def _deaths(times: int, s: Scene) -> None:
    """WAL and drain die by turns, and are replaced."""
    for n in range(times):
        s.running.strike(("wal", "drain")[n % 2])
        s.await_successor()
        s.await_progress()
    s.verdict.runs += times


def closed(times: int, directory: Path, seed: int) -> Verdict:
    """No file of the log becomes its standard input or error, nor a successor's."""
    with scene(directory, wrapper=CLOSED) as s:
        _deaths(times, s)
        for pid in (s.running.pid("supervisor"), *s.workers()):
            for fd in (0, 2):
                leads = os.readlink(f"/proc/{pid}/fd/{fd}")
                s.verdict.expect(leads == os.devnull, f"descriptor {fd} of process {pid} is {leads}")
    return s.verdict


def full(times: int, directory: Path, seed: int) -> Verdict:
    """What it has to say of deaths and refusals is dropped, and holds up nobody."""
    with scene(directory, wrapper=(sys.executable, "-c", FULL)) as s:
        for _ in range(50):
            with dial(s.running) as peer, contextlib.suppress(OSError):
                peer.send(b"rubbish")
                peer.recv(1 << 16)
        _deaths(times, s)
    return s.verdict


REQUESTS = (
    b'{"op": "status", "tag": "\\ud800"}',
    b'{"op": "stream", "tag": 1, "name": "\\ud800"}',
    b'{"op": "hello", "tag": ' + b"[" * 990 + b"]" * 990 + b"}",
    b"[" * 30_000,
    b'{"op": "status", "tag": "' + b"x" * 65_400 + b'"}',
    b'{"op": "status", "tag": ' + b"9" * 60_000 + b"}",
    b'{"op": "lane", "tag": 1, "wait": 1e999, "bytes": ' + b"9" * 4000 + b"}",
    b'{"op": "lane", "tag": 1, "wait": 0, "bytes": 1073741824}',
    b'{"op": "lane", "tag": 1, "wait": NaN, "bytes": 0}',
    b'{"op": "release", "tag": 1, "slot": 18446744073709551615, "generation": -1}',
    b'{"tag": 1, "op": "' + b"\\u0001" * 10_000 + b'"}',
    b'{"op": "status", "tag": "\xff"}',
    b"",
)


def rubbish(count: int, directory: Path, seed: int) -> Verdict:
    """Each ends its own connection, or is refused; a lane of 1 GiB that nobody waits for is made for nobody."""
    chance = random.Random(f"{seed}/rubbish")
    hello = json.dumps({"op": "hello", "layout": ringwal._native.lib.rw_fingerprint(), "format": 1, "tag": 0}).encode()
    with scene(directory) as s:
        before = s.workers()
        for _ in range(count):
            with dial(s.running) as peer, contextlib.suppress(OSError):
                peer.send(hello)
                _, fds, _, _ = socket.recv_fds(peer, 1 << 16, 8)
                for fd in fds:
                    os.close(fd)
                for _ in range(chance.randrange(1, 4)):
                    peer.send(chance.choice(REQUESTS))
                    if chance.random() < 0.7:
                        peer.recv(1 << 16)
        s.await_progress()
        s.unharmed(*before)
    s.verdict.runs = count
    return s.verdict


def asked(times: int, directory: Path, seed: int) -> Verdict:
    """It is answered, and says who is stopped."""
    with scene(directory) as s:
        before = s.workers()
        with held(before[0]):
            for _ in range(times):
                said = s.running.status()["processes"]
                s.verdict.expect(said["wal"] == "stopped", f"status says that the WAL process is {said['wal']}")
        s.await_progress()
        s.unharmed(*before)
    s.verdict.runs = times
    return s.verdict


def group(times: int, directory: Path, seed: int) -> Verdict:
    """As a terminal and a service manager send them, once or again and again: an orderly stop, nobody is replaced in it."""
    chance, verdict = random.Random(f"{seed}/group"), Verdict()
    engine_dir, log = directory / "engine", directory / "engine.log"
    running = Engine(engine_dir, *SMALL, log=log)
    try:
        with writers(engine_dir, directory, STREAMS, window=WINDOW) as fleet:
            for _ in range(times):
                fleet.await_progress(5)
                pause(chance.random() * 0.05)
                for number in chance.choices((signal.SIGTERM, signal.SIGINT, signal.SIGHUP), k=chance.randrange(1, 4)):
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(running.process.pid, number)
                verdict.expect((code := running.await_exit()) == 0, f"the engine ended with code {code}")
                running = Engine(engine_dir, *SMALL, log=log)
            fleet.await_progress(5)
        verdict.expect((code := running.stop()) == 0, f"the engine ended with code {code}")
    finally:
        running.__exit__(None, None, None)
    verdict.expect("replaced" not in log.read_text(), "a process was replaced")
    verdict.add(judge(engine_dir, fleet.journals))
    verdict.runs = times
    return verdict


STARTER = """
import sys, ringwal
while True:
    try:
        with ringwal.connect(sys.argv[1], autostart=True, timeout=30, append_timeout=30) as client:
            client.stream("late").append(b"").result(30)
            print("in", flush=True)
            sys.stdin.readline()
            break
    except (ringwal.NotRunning, ringwal.EngineFailed):
        continue
"""


def _holder(engine_dir: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int((engine_dir / "lock").read_text().partition("\n")[0])
    return None


def _starter(engine_dir: Path) -> subprocess.Popen[bytes]:
    command, env = [sys.executable, "-c", STARTER, str(engine_dir)], {**os.environ, **package_of(ROOT)}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)


def starts(times: int, directory: Path, seed: int) -> Verdict:
    """Several start an engine at once, and it dies at any moment of that: there is one in the end, and never two."""
    chance, verdict = random.Random(f"{seed}/starts"), Verdict()
    engine_dir = directory / "engine"
    with Engine(engine_dir, *SMALL) as first:
        verdict.expect(first.stop() == 0, "no orderly stop")
    with writers(engine_dir, directory, STREAMS, window=WINDOW) as fleet:
        for _ in range(times):
            starters = [_starter(engine_dir) for _ in range(3)]
            try:
                pause(0.1 + chance.random() * 0.5)
                if (pid := _holder(engine_dir)) is not None and state(pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                starters.append(_starter(engine_dir))  # the others may have been in before
                for each in starters:
                    assert each.stdout is not None
                    verdict.expect(each.stdout.readline() == b"in\n", "somebody did not get in")
                fleet.await_progress(5)
            finally:
                for each in starters:
                    each.communicate(b"\n")
    if (pid := _holder(engine_dir)) is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    with (engine_dir / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
    verdict.add(judge(engine_dir, fleet.journals, strangers=(LATE,)))
    verdict.runs = times
    return verdict


def disk_full(times: int, directory: Path, seed: int) -> Verdict:
    """A successor that finds no room for the next segment writes what it has into this one, and waits for room."""
    with disk(directory, "ext4", 64 << 20) as medium:
        engine_dir, verdict = medium.mount / "engine", Verdict()
        with Engine(engine_dir, *SMALL, "--max-restarts", "1000") as running:
            with writers(engine_dir, directory, STREAMS, window=WINDOW) as fleet:
                fleet.await_progress(5)
                ballast = medium.mount / "ballast"
                with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(4096))
                until(lambda: running.status()["storage_full"] is not None, "the disk to be full")
                for n in range(times):
                    running.strike("wal")
                    until(partial(replaced, running, n + 1), "a dead process to be replaced")
                ballast.unlink()
                fleet.await_progress(5)
            verdict.expect((code := running.stop()) == 0, f"the engine ended with code {code}")
        verdict.add(judge(engine_dir, fleet.journals))
        verdict.runs = times
        return verdict


def few_files(times: int, directory: Path, seed: int) -> Verdict:
    """The soft limit is what the WAL process needs, and recovery needs more: it is raised."""
    with scene(directory, strangers=(LATE,), wrapper=("prlimit", f"--nofile={FEW}:4096")) as s:
        for _ in range(times):
            with ringwal.connect(s.directory, append_timeout=PATIENCE) as client:
                stream = client.stream(LATE)
                while client.status()["segments"]["files"] <= FEW + 6:
                    for _ in range(100):
                        stream.append(bytes(30_000))
                    stream.flush(PATIENCE)
            s.running.kill()
            s.start(("prlimit", f"--nofile={FEW}:4096"))
            s.await_progress()
    s.verdict.runs = times
    return s.verdict


PROGRAM = """
import json, os, sys, threading, ringwal
ready = threading.Event()
config = ringwal.Config(ring_bytes=1 << 20, lane_bytes=64 << 10, block_bytes=64 << 10, segment_bytes=4 << 20, max_streams=256)
engine = ringwal.Supervisor(sys.argv[1], config, on_ready=lambda facts: ready.set())
threading.Thread(target=engine.run, daemon=True).start()
assert ready.wait(60)
print("ready", flush=True)
for line in sys.stdin:
    if os.fork() == 0:
        os.read(int(sys.argv[2]), 1)
        os._exit(0)
    print("forked", flush=True)
"""


def forks(times: int, directory: Path, seed: int) -> Verdict:
    """Its children stay, and keep neither the directory nor its clients."""
    engine_dir, verdict = directory / "engine", Verdict()
    stay, leave = os.pipe()
    orphans: list[int] = []
    try:
        with writers(engine_dir, directory, STREAMS, window=WINDOW) as fleet:
            for _ in range(times):
                program = subprocess.Popen(
                    [sys.executable, "-c", PROGRAM, str(engine_dir), str(stay)],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=[stay],
                    env={**os.environ, **package_of(ROOT)},
                )  # fmt: skip
                try:
                    assert program.stdin is not None
                    assert program.stdout is not None
                    verdict.expect(program.stdout.readline() == b"ready\n", "no engine while an earlier one's children stay")
                    fleet.await_progress(5)
                    before = set(children_of(program.pid))
                    program.stdin.write(b"\n")
                    program.stdin.flush()
                    verdict.expect(program.stdout.readline() == b"forked\n", "no fork")
                    orphans += set(children_of(program.pid)) - before
                    fleet.await_progress(5)
                finally:
                    program.kill()
                    program.wait()
                    for pipe in (program.stdin, program.stdout):  # not to their ends, which the children have, too
                        pipe.close()  # type: ignore[union-attr]
            verdict.expect(all(map(state, orphans)), "a child of the program did not stay")
            with Engine(engine_dir, *SMALL) as last:
                fleet.await_progress(5)
                verdict.expect(last.stop() == 0, "no orderly stop")
    finally:
        os.close(stay)
        os.close(leave)
    verdict.add(judge(engine_dir, fleet.journals))
    verdict.runs = times
    return verdict


WORDS = """
import sys, ringwal
client = ringwal.connect(sys.argv[1])
stream = client.stream("late")
stream.append(b"").result(30)
print("ready", flush=True)
sys.stdin.readline()
stream.append(b"last words")
"""
SOON = 20.0
"""Nothing wakes a WAL process at rest for a minute, by itself."""


def last_words(times: int, directory: Path, seed: int) -> Verdict:
    """A writer is killed between publishing and ringing, and nobody else appends: its record is confirmed all the same."""
    engine_dir, once, root, verdict = directory / "engine", directory / "once", build.with_points(), Verdict()
    with Engine(engine_dir, *SMALL) as running:
        for n in range(times):
            with subprocess.Popen(
                [sys.executable, "-c", WORDS, str(engine_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                env={**os.environ, **package_of(root), **build.at("w.publish.post", 1, "kill", once)},
            ) as writer:  # fmt: skip
                assert writer.stdin is not None
                assert writer.stdout is not None
                verdict.expect(writer.stdout.readline() == b"ready\n", "no writer")
                written = running.status()["counters"]["wal_writes"]
                until(partial(written_beyond, running, written), "the log to be covered", 10)
                pause(0.1)
                once.touch()
                writer.stdin.write(b"\n")
                writer.stdin.flush()
                verdict.expect(writer.wait() == -signal.SIGKILL, "the writer was not killed")
            with ringwal.connect(engine_dir) as client:
                until(
                    partial(confirmed, client, 2 * n + 2),
                    "the last words to be confirmed",
                    SOON,
                )
        verdict.expect((code := running.stop()) == 0, f"the engine ended with code {code}")
    verdict.add(judge(engine_dir, {}, strangers=(LATE,)))
    verdict.runs = times
    return verdict
