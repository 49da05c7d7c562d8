"""What every test stands on: a directory of its own, and proof that it left nothing behind.

A test leaves something behind when, after its fixtures are torn down, a process that descends from it still runs, a
thread that is no daemon still runs, or an engine has left a name in /dev/shm. Such a test fails, and what it left is
removed, so that the next test starts clean.
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support import shm_names

try:
    import ringwal._native  # noqa: F401
except ImportError as error:
    raise pytest.UsageError(
        f"ringwal._native cannot be imported here ({error}); install the checkout with: pip install -e '.[test]'"
    ) from error

PR_SET_CHILD_SUBREAPER = 36
GRACE_SECONDS = 10.0
# Helper processes of multiprocessing live as long as the test process, by design.
OF_MULTIPROCESSING = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # A base of its own: sessions that run at the same time tidy up each other's numbered directories.
    if config.option.basetemp is None:
        config.option.basetemp = tempfile.mkdtemp(prefix="ringwal-tests-")
        config.add_cleanup(partial(shutil.rmtree, config.option.basetemp, ignore_errors=True))
    # An engine that its starter orphans becomes a child of the test process, and so stays in sight.
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def children_of(pid: int) -> set[int]:
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            found |= {int(word) for word in (task / "children").read_text().split()}
        except OSError:
            continue  # the task ended between the listing and the look
    return found


def descendants(pid: int) -> set[int]:
    found: set[int] = set()
    fresh = children_of(pid)
    while fresh:
        found |= fresh
        fresh = set().union(*(children_of(child) for child in fresh)) - found
    return found


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def own_processes() -> set[int]:
    """Descendants of the test process, without the ones that multiprocessing keeps for itself."""
    return {
        pid for pid in descendants(os.getpid()) if not any(word in command_of(pid) for word in OF_MULTIPROCESSING)
    }


def await_death(pids: set[int], seconds: float) -> set[int]:
    """Waits until the kernel says that each of `pids` has ended, `seconds` in all. Returns those that still run."""
    deadline = time.monotonic() + seconds
    left = set()
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        poller = select.poll()
        poller.register(handle, select.POLLIN)
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            left.add(pid)
        os.close(handle)
    return left


def reap(pids: set[int]) -> None:
    for pid in pids:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            continue  # reaped by whoever started it


def remains(processes: set[int], threads: set[threading.Thread]) -> list[str]:
    """Says what is there now beyond `processes` and `threads`, and removes it."""
    said = []
    fresh = own_processes() - processes
    stuck = {pid: command_of(pid).replace(b"\0", b" ").decode(errors="replace") for pid in await_death(fresh, GRACE_SECONDS)}
    for pid in stuck:
        os.kill(pid, signal.SIGKILL)
    await_death(set(stuck), GRACE_SECONDS)
    reap(fresh)
    said += [f"process {pid}: {command}" for pid, command in stuck.items()]

    for name in shm_names.left():
        (shm_names.SHM / name).unlink(missing_ok=True)
        said.append(f"shared memory /{name}")
    said += [f"thread {thread.name}" for thread in set(threading.enumerate()) - threads if not thread.daemon]
    return said


@pytest.fixture(scope="session", autouse=True)
def nothing_left_by_session() -> Iterator[None]:
    """Catches what fixtures of a wider scope leave behind."""
    before = own_processes(), set(threading.enumerate())
    yield
    said = remains(*before)
    if said:
        pytest.fail("the session left behind: " + "; ".join(said))


@pytest.fixture(autouse=True)
def nothing_left(nothing_left_by_session: None) -> Iterator[None]:
    before = own_processes(), set(threading.enumerate())
    yield
    said = remains(*before)
    if said:
        pytest.fail("the test left behind: " + "; ".join(said))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory for one engine. It does not exist yet: `run` and `connect` create it."""
    return tmp_path / "d"
