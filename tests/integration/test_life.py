"""Lives of engines: started by clients, idle, killed, stopped; what they leave and what they refuse."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ringwal
from ringwal.log import manifest as manifests
from tests.support import shm_names
from tests.support.log_place import log_at
from tests.support.rig import CHECKOUT, WAIT, Engine, append_and_hold, children_of, environment, read_all, state_of, until

AUTOSTART = """
import ringwal, sys
sys.stdin.read(1)
with ringwal.connect(sys.argv[1], autostart=True, timeout=30.0) as client:
    receipts = [client.stream("s").append(b"%s %d" % (sys.argv[2].encode(), n)) for n in range(100)]
    offsets = [receipt.result().offset for receipt in receipts]
    print(client.status()["pid"], flush=True)
    sys.stdin.read(1)
"""


def test_two_clients_start_one_engine_and_it_ends_after_the_last(directory: Path) -> None:
    clients = [
        subprocess.Popen(
            [sys.executable, "-c", AUTOSTART, str(directory), str(k)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            env=environment(CHECKOUT),
        )
        for k in range(2)
    ]
    for client in clients:
        assert client.stdin is not None
        client.stdin.write(b"!")
        client.stdin.flush()
    pids = {int(client.stdout.readline()) for client in clients if client.stdout}
    assert len(pids) == 1
    pid = pids.pop()
    ended = os.pidfd_open(pid)
    try:
        clients[0].communicate(b"!", timeout=WAIT)
        with ringwal.connect(directory) as reader:
            records = [record.data for record in read_all(reader.stream("s"))]
            for k in range(2):
                assert [data for data in records if data.startswith(b"%d " % k)] == [b"%d %d" % (k, n) for n in range(100)]
        clients[1].communicate(b"!", timeout=WAIT)
        assert [client.returncode for client in clients] == [0, 0]
        # Its parent has gone, so the kernel's word about it is a descriptor of its own.
        until(lambda: state_of(pid) in "ZX", "the engine has ended with its last client")
    finally:
        os.close(ended)
    assert shm_names.left() == []
    with pytest.raises(ringwal.NotRunning):
        ringwal.connect(directory)


def test_status_says_when_something_was_last_confirmed(directory: Path, start: Callable[..., Engine]) -> None:
    running = start(directory)
    assert running.status()["since_confirmed"] is None
    with ringwal.connect(directory) as client:
        began = time.monotonic()
        client.stream("s").append(b"x").result()
        assert 0 < running.status()["write_us"] < (time.monotonic() - began) * 1e6

        def since() -> Any:
            return running.status()["since_confirmed"]

        until(lambda: since() is not None, "the drain has noted the time")  # it does so moments after the result
        assert 0 <= since() <= time.monotonic() - began + 0.001  # rounded to a millisecond


def test_an_idle_engine_sleeps(directory: Path, start: Callable[..., Engine]) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        tail = client.create_stream("s").tail()
        client.stream("s").append(b"x").result(WAIT)
        next(tail)
    pids = {running.process.pid, *children_of(running.process.pid)}
    assert len(pids) == 4
    until(lambda: not running.status()["clients"], "the last client has gone")
    first = 4096  # behind the first block of the epoch
    until(lambda: manifests.load(log_at(directory)).checkpoint_position > first, "the log at rest has its checkpoint")
    before = switches(pids)
    # Three seconds in which nothing happens, and the engine has nothing to say.
    assert running.process.stdout is not None
    assert not select.select([running.process.stdout], [], [], 3.0)[0]
    after = switches(pids)
    assert after.keys() == before.keys()
    # The two threads of the keeper hand over to each other once a second, which takes some switches.
    keeper = f"/proc/{running.facts['keeper_pid']}/"
    often = {task: after[task] - before[task] for task in after}
    assert {task: count for task, count in often.items() if count > (24 if task.startswith(keeper) else 4)} == {}


def switches(pids: set[int]) -> dict[str, int]:
    """How often each thread of the processes went to sleep so far."""
    found = {}
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            lines = dict(line.split(":\t") for line in (task / "status").read_text().splitlines() if ":\t" in line)
            found[str(task)] = int(lines["voluntary_ctxt_switches"])
    return found


def test_neither_a_killed_engine_nor_a_stopped_one_leaves_memory(directory: Path, start: Callable[..., Engine]) -> None:
    running = start()
    assert shm_names.left() == []  # not even while it runs
    with ringwal.connect(directory) as client:
        client.stream("s").append(b"x").result(WAIT)
        assert shm_names.left() == []
        running.kill()
    assert shm_names.left() == []
    running = start()
    client = ringwal.connect(directory)
    stream = client.stream("s")
    assert stream.append(b"y").result(WAIT).offset == 1
    assert running.terminate() == 0
    assert shm_names.left() == []
    found = sorted(path.name for path in directory.iterdir())
    assert found == ["checkpoint-0", "checkpoint-1", "home", "last-status.json", "lock", "manifest", "segments"]
    with pytest.raises(ringwal.NotRunning) as caught:
        stream.append(b"z")
    assert caught.value.outcome in (None, "not_appended")
    client.close()


def test_an_append_after_the_engine_was_killed_is_refused(directory: Path, start: Callable[..., Engine]) -> None:
    running = start()
    client = ringwal.connect(directory)
    stream = client.stream("s")
    stream.append(b"x").result(WAIT)
    running.process.kill()
    running.wait()
    # Its processes may be about to die, and nobody has told the client: the first append knows.
    with pytest.raises(ringwal.NotRunning) as caught:
        stream.append(b"lost")
    assert (caught.value.outcome, caught.value.retriable) == ("not_appended", True)
    start()
    assert stream.append(b"y").result(WAIT).offset == 1
    assert [record.data for record in stream.read(0)] == [b"x", b"y"]
    client.close()


def test_an_engine_that_is_killed_fails_every_receipt_with_an_unknown_outcome(
    points_build: Path, directory: Path, start: Callable[..., Engine]
) -> None:
    once = directory.parent / "once"
    running = start(points_build, once=once)
    client = ringwal.connect(directory)
    stream = client.stream("s")
    stream.append(b"known").result(WAIT)
    receipts = append_and_hold(stream, once, [b"unknown %d" % n for n in range(10)])
    running.kill()
    for receipt in receipts:
        with pytest.raises(ringwal.EngineFailed) as caught:
            receipt.result(WAIT)
        assert caught.value.outcome == "unknown"
    client.close()  # every receipt was asked: there is nothing left to tell
    start()
    with ringwal.connect(directory) as reader:
        records = [record.data for record in reader.stream("s").read(0)]
        assert records[0] == b"known"
        assert records[1:] == [b"unknown %d" % n for n in range(len(records) - 1)]
        assert len(records) >= 2  # the block was whole, so recovery keeps it


def test_clients_come_and_go_and_places_come_back(directory: Path, start: Callable[..., Engine]) -> None:
    running = start(max_clients=4)
    clients = [ringwal.connect(directory) for _ in range(4)]
    for client in clients:
        client.stream("s").append(b"x").result(WAIT)
    with ringwal.connect(directory) as late:  # looking needs no place
        assert len(late.stream("s").read(0)) == 4
        with pytest.raises(ringwal.ShmUnavailable, match="max_clients"):
            late.stream("s").append(b"no place")
        clients.pop().close()
        until(lambda: len(running.status()["clients"]) == 3, "a place has come back")
        assert late.stream("s").append(b"a place").result(WAIT).offset == 4
    for client in clients:
        client.close()
    for n in range(30):
        with ringwal.connect(directory) as client:
            assert client.stream("s").append(b"x").result(WAIT).offset == 5 + n
        until(lambda: not running.status()["clients"], "the place has come back")
    descriptors = [str(link.readlink()) for link in Path(f"/proc/{running.process.pid}/fd").iterdir() if link.is_symlink()]
    assert [link for link in descriptors if "ringwal lane" in link] == []  # the memory has gone with the places
    assert running.terminate() == 0


def test_sigterm_confirms_what_was_appended(directory: Path, start: Callable[..., Engine]) -> None:
    running = start()
    client = ringwal.connect(directory)
    stream = client.stream("s")
    receipts = [stream.append(b"%d" % n) for n in range(2000)]
    running.process.send_signal(signal.SIGTERM)
    assert [receipt.result(WAIT).offset for receipt in receipts] == list(range(2000))
    assert running.wait() == 0
    client.close()


def test_segments_are_filled_ahead_and_the_next_engine_uses_them(directory: Path, start: Callable[..., Engine]) -> None:
    running = start(segments_ahead=4)
    until(lambda: running.status()["segments"]["ahead"] == 4, "an idle engine has made what it was asked for")
    made = sorted((directory / "segments").glob("*.seg"))
    for path in made:
        size = path.stat().st_size
        with path.open("rb") as file:
            assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == size, "no part of it is only reserved"
    assert running.terminate() == 0
    running = start(segments_ahead=4)
    with ringwal.connect(directory) as client:
        assert client.stream("s").append(b"first").result(WAIT).offset == 0
    until(lambda: running.status()["segments"]["ahead"] == 4, "the segments are with the next engine")
    assert sorted((directory / "segments").glob("*.seg")) == made, "it goes on in the one that the last engine was in"
    # Those of the log: the directory, which may have a great many, is not listed for every question.
    (directory / "segments" / f"{10**6:020d}.seg").touch()
    assert running.status()["segments"]["files"] == len(made)


def test_a_client_that_comes_does_not_wait_until_a_segment_is_filled(
    directory: Path, start: Callable[..., Engine], points_build: Path
) -> None:
    slow_disk = ("env", "RINGWAL_POINT=seg.filling:*:delay:20")
    running = start(points_build, wrapper=slow_disk, segment_bytes="32MiB", segments_ahead=6)

    def made() -> int:
        return int(running.status()["segments"]["ahead"]) + 1

    for _ in range(4):
        until(lambda: len(list((directory / "segments").glob("*.seg"))) > made(), "a segment is being filled")
        before = made()
        with ringwal.connect(directory) as client:
            client.stream("s").append(b"x").result(WAIT)
            if made() == before:
                break  # it may have been the last moment of that one; so there are others
    else:
        pytest.fail("every client was served when a segment had been filled, and not before")
