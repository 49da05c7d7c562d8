"""The command line as a user meets it: what its tests start, and how they wait for it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ringwal._native import ffi

SMALL = ("--ring-bytes", "1MiB", "--segment-bytes", "4MiB", "--max-streams", "256", "--block-bytes", "64KiB")
DEADLINE = 60.0


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "ringwal", *map(str, arguments)]


def ringwal(*arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command(*arguments), input=stdin, capture_output=True, timeout=DEADLINE, check=False)


def start(*arguments: str | Path, **options: Any) -> subprocess.Popen[bytes]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command(*arguments), **{**pipes, **options})


def line_of(process: subprocess.Popen[bytes]) -> bytes:
    """The next line of its stdout; fails instead of waiting for ever."""
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], DEADLINE)[0], "no line came"
    return process.stdout.readline()


def end(process: subprocess.Popen[bytes], signum: int = signal.SIGTERM) -> tuple[int, bytes, bytes]:
    """Signals the process and gives exit code, stdout and stderr."""
    process.send_signal(signum)
    try:
        out, err = process.communicate(timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, out, err


@contextlib.contextmanager
def serving(directory: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """An engine that runs on the directory."""
    host = start("run", directory, *SMALL, *options)
    try:
        assert line_of(host).startswith((b"ready", b"{"))
        yield host
    finally:
        if host.poll() is None:
            end(host)
        else:
            host.communicate()


def freeze(pid: int) -> None:
    """Returns when every thread of the process stands still."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + DEADLINE
    while any(b") T " not in (task / "stat").read_bytes() for task in Path(f"/proc/{pid}/task").iterdir()):
        assert time.monotonic() < deadline
        os.sched_yield()


def feeding(directory: Path, data: bytes, *options: str) -> subprocess.Popen[bytes]:
    """`append --lines` to the stream s that has read `data`, the first line of which is confirmed."""
    feeder = start("append", "--lines", directory, "s", *options)
    write(feeder, data)
    follower = start("tail", "-F", directory, "s", "--start", "0", "--max-records", "1")
    assert line_of(follower) == data.partition(b"\n")[0] + b"\n"
    follower.communicate(timeout=DEADLINE)
    return feeder


def write(feeder: subprocess.Popen[bytes], data: bytes) -> None:
    assert feeder.stdin is not None
    feeder.stdin.write(data)
    feeder.stdin.flush()


def publish(feeder: subprocess.Popen[bytes], report: dict[str, Any], data: bytes) -> None:
    """More lines: returns when they have been claimed room for, which a frozen engine neither writes nor confirms."""
    before = claimed(report)
    write(feeder, data)
    deadline = time.monotonic() + DEADLINE
    while claimed(report) == before:
        assert time.monotonic() < deadline
        os.sched_yield()


def claimed(report: dict[str, Any]) -> int:
    """Lane position up to which the one writer of this engine has claimed room."""
    links = Path(f"/proc/{report['pid']}/fd").iterdir()
    lanes = [link for link in links if link.is_symlink() and str(link.readlink()).startswith("/memfd:ringwal lane")]
    with max(lanes, key=lambda path: path.stat().st_size).open("rb") as lane:
        lane.seek(ffi.offsetof("rw_lane", "claim") - ffi.sizeof("rw_lane"), os.SEEK_END)  # the header is behind the data
        return int.from_bytes(lane.read(8), sys.byteorder)
