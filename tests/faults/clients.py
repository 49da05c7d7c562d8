"""Hostile and broken clients beside three ordinary ones, who must not notice."""

from __future__ import annotations

import contextlib
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
from tests.faults.oracle import Verdict, judge
from tests.faults.table import Fault, often
from tests.support.host import ROOT, SMALL, Engine, Writers, pause, until, writers

SLOTS = 8
LANE_MARK = "memfd:ringwal lane"
STRANGERS = ("scribble", "mutate", "vanish", "late")
Act = Callable[[Engine, Writers, int, Verdict], None]


def faults(tier: str) -> list[Fault]:
    seconds = often(tier, 4, 120, 600)

    def row(name: str, act: Act) -> Fault:
        return Fault("clients", name, partial(beside, act))

    def checked(name: str, act: Act) -> Fault:
        return Fault("clients", f"{name}; ASan build", partial(beside, act, sanitized=True))

    # Memory that is touched where it must not be, and nothing comes of it: only sanitizers see that. Making their build
    # takes longer than a change has time for; that one runs tests/fuzz with them.
    with_sanitizers = [
        checked("random bytes and forgeries", partial(hostile, "scribble", seconds)),
        checked("changed payloads", partial(hostile, "mutate", seconds)),
        checked("clients that vanish", partial(hostile, "vanish", often(tier, 0, 1000, 10_000))),
        checked("more clients than slots", too_many),
        checked("garbage on the socket", partial(garbage, often(tier, 0, 5000, 20_000))),
        checked("a peer that never reads", never_reads),
    ]
    return [
        row("random bytes and forgeries in the lane", partial(hostile, "scribble", seconds)),
        row("payloads changed after publishing", partial(hostile, "mutate", seconds)),
        row("a store into the control area", partial(stores, "store-control")),
        row("a store into the log ring", partial(stores, "store-ring")),
        row("clients that register and vanish", partial(hostile, "vanish", often(tier, 300, 10_000))),
        row("more clients than slots", too_many),
        row("garbage on the socket", partial(garbage, often(tier, 300, 20_000))),
        row("a peer that never reads", never_reads),
        *(with_sanitizers if tier != "change" else []),
    ]


def beside(act: Act, directory: Path, seed: int, *, sanitized: bool = False) -> Verdict:
    """Three writers at work, somebody else misbehaves; then everything must be as if he had never been. With ``sanitized``
    the engine's processes are those of a build that ends them for the first byte out of bounds."""
    engine_dir, verdict = directory / "engine", Verdict()
    root, env = build.with_sanitizers() if sanitized else (ROOT, {})
    wrapper = build.fixed_addresses() if sanitized else ()
    with Engine(engine_dir, *SMALL, "--max-clients", str(SLOTS), root=root, env=env, wrapper=wrapper) as running:
        with writers(engine_dir, directory, [["hot", f"own-{i}"] for i in range(3)]) as fleet:
            fleet.await_progress()
            act(running, fleet, seed, verdict)
            fleet.await_progress()
            status = running.status()
            verdict.expect(status["restarts"] == 0, f"{status['restarts']} processes had to be replaced")
        until(lambda: running.status()["clients_attached"] == 0, "all slots to be free again")
        until(lambda: not _lanes(running), "all lanes to be given up")
        verdict.expect((code := running.stop()) == 0, f"the engine ended with code {code}")
        found = [line for line in running.log.read_text().splitlines() if "ERROR: Add" in line or "runtime error:" in line]
        verdict.expect(not found, f"{found[:1]}")
    verdict.add(judge(engine_dir, fleet.journals, strangers=STRANGERS))
    verdict.runs = verdict.runs or 1
    return verdict


def _lanes(running: Engine) -> int:
    """How many the engine's processes hold or have mapped."""
    held = 0
    for role in ("supervisor", "wal", "drain"):
        process = Path(f"/proc/{running.pid(role)}")
        held += process.joinpath("maps").read_text().count(LANE_MARK)
        for file in (process / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                held += LANE_MARK in str(file.readlink())
    return held


def run_hostile(running: Engine, kind: str, amount: int, seed: int) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "tests.faults.hostile", str(running.directory), kind, str(amount), str(seed)]
    return subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, check=False, timeout=1800)


def hostile(kind: str, amount: int, running: Engine, fleet: Writers, seed: int, verdict: Verdict) -> None:
    verdict.runs = amount if kind == "vanish" else 1
    done = run_hostile(running, kind, amount, seed)
    verdict.expect(done.returncode == 0, f"{kind} ended with {done.returncode}: {done.stderr.decode()[-300:]}")


def stores(kind: str, running: Engine, fleet: Writers, seed: int, verdict: Verdict) -> None:
    done = run_hostile(running, kind, 1, seed)
    verdict.expect(done.returncode == -signal.SIGSEGV, f"{kind} ended with {done.returncode} and not of the store")


def too_many(running: Engine, fleet: Writers, seed: int, verdict: Verdict) -> None:
    with contextlib.ExitStack() as stack:
        refused = 0
        for _ in range(3 * SLOTS):
            client = stack.enter_context(ringwal.connect(running.directory))
            try:
                client.stream("late").append(b"").result()
            except ringwal.ShmUnavailable:
                refused += 1
        verdict.expect(refused == 2 * SLOTS + 3, f"{refused} of {3 * SLOTS} clients were refused, {SLOTS - 3} slots were free")
        fleet.await_progress()
    with ringwal.connect(running.directory) as late:

        def attached() -> bool:
            try:
                late.stream("late").append(b"").result()
            except ringwal.ShmUnavailable:
                return False  # those who left are being cleared away
            return True

        until(attached, "a slot of those who left")


def dial(running: Engine) -> socket.socket:
    """A raw connection to the engine."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(5.0)
    directory = os.open(running.directory, os.O_PATH | os.O_DIRECTORY)
    try:
        connection.connect(f"/proc/self/fd/{directory}/engine.sock")
    finally:
        os.close(directory)
    return connection


def packet(chance: random.Random) -> bytes:
    hello = {"op": "hello", "tag": 1, "layout": chance.getrandbits(64), "format": 1, "pid": 1, "role": "client"}
    request: dict[str, object] = {
        "op": chance.choice(("lane", "stream", "status", "stop", "", None, [], 5)),
        "tag": chance.choice((1, "x", None, {})),
    }
    broken = {
        **request,
        "bytes": chance.choice((-1, 0, 1 << 80, "many", None)),
        "name": chance.choice(("", "\0", "x" * 500, 5, [])),
    }
    return chance.choice(
        (
            chance.randbytes(chance.randrange(1, 300)),
            b"[" * 20_000,
            b"{" * 100,
            b"null",
            b'"' + b"x" * 60_000 + b'"',
            b"\xff\xfe",
            b"1e999",
            json.dumps(hello).encode(),
            json.dumps(request).encode(),
            json.dumps(broken).encode(),
        )
    )


def garbage(count: int, running: Engine, fleet: Writers, seed: int, verdict: Verdict) -> None:
    """Nothing that was not greeted gets anything done; `stop` from a stranger without hello neither."""
    chance = random.Random(f"{seed}/garbage")
    verdict.runs = count
    fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
    for number in range(count):
        with dial(running) as peer, contextlib.suppress(OSError):
            for _ in range(chance.randrange(1, 4)):
                if number % 5 == 0:
                    socket.send_fds(peer, [packet(chance)], fds)
                else:
                    peer.send(packet(chance))
                if number % 7 != 0:
                    peer.recv(1 << 16)
    for fd in fds:
        os.close(fd)
    greeted = ringwal.connect(running.directory)
    raw = greeted._attachment().registration._socket
    for _ in range(20):
        message = packet(chance)
        if b'"stop"' not in message:
            with contextlib.suppress(OSError):
                raw.send(message)
    greeted.close()


def never_reads(running: Engine, fleet: Writers, seed: int, verdict: Verdict) -> None:
    """Asks and asks and takes no answer: it is dropped, sooner or later, and meanwhile holds up nobody."""
    client = ringwal.connect(running.directory)
    raw = client._attachment().registration._socket
    raw.settimeout(0.2)
    question = json.dumps({"op": "status", "tag": 1}).encode()
    sent = 0
    with contextlib.suppress(OSError):
        while sent < 20_000:
            raw.send(question)
            sent += 1
    verdict.expect(sent < 20_000, "it was never dropped")
    pause(0.1)
    fleet.await_progress()
    client.close()
