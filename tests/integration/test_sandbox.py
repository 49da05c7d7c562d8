"""Engines that a sandbox refuses something, and clients that see the host through namespaces of their own."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import ringwal
from tests.support import rig, sandbox
from tests.support.rig import WAIT, until

SANDBOX = Path(sandbox.__file__)


def refusing(error: int, *names: str) -> tuple[str, ...]:
    """In front of a command. Skips where that cannot be had."""
    command = (sys.executable, str(SANDBOX), str(error), ",".join(names))
    if subprocess.run([*command, "true"], check=False, timeout=WAIT).returncode == sandbox.CANNOT:
        pytest.skip("this machine has no seccomp filters, or its system calls have other numbers")
    return command


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS], ids=errno.errorcode.get)
def test_without_pidfd_open_an_engine_says_what_is_missing(directory: Path, error: int) -> None:
    command = [*refusing(error, "pidfd_open"), sys.executable, "-m", "ringwal", "run", str(directory)]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=WAIT, env=rig.environment(rig.CHECKOUT)
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "pidfd_open" in line
    assert os.strerror(error) in line
    assert "seccomp" in line
    assert not directory.exists()


@pytest.mark.parametrize(
    ("error", "names", "io"),
    [
        (errno.EPERM, ("pidfd_send_signal",), None),
        (errno.ENOSYS, ("pidfd_send_signal",), None),
        (errno.EPERM, ("pwritev2",), "buffered"),
        (errno.ENOSYS, ("pwritev2", "preadv2"), "buffered"),
        (errno.EOPNOTSUPP, ("pwritev2",), "buffered"),
    ],
    ids=lambda value: errno.errorcode.get(value, "") if isinstance(value, int) else None,
)
def test_what_can_be_done_without_is_done_without(
    start: Callable[..., rig.Engine], error: int, names: tuple[str, ...], io: str | None
) -> None:
    engine = start(wrapper=refusing(error, *names))
    with ringwal.connect(engine.directory, timeout=WAIT, append_timeout=WAIT) as client:
        stream = client.stream("s")
        stream.append(b"before").result(WAIT)
        assert io in (None, client.status()["io"])
        os.kill(client.status()["wal_pid"], signal.SIGKILL)
        stream.append(b"after").result(WAIT)
        until(lambda: client.status()["restarts"] == 1, "the WAL process is replaced")
    assert engine.terminate() == 0
    again = start()
    with ringwal.connect(again.directory, timeout=WAIT) as client:
        assert [record.data for record in client.stream("s").read(0)] == [b"before", b"after"]


def test_direct_writes_that_are_demanded_and_refused_are_a_wrong_setting(directory: Path) -> None:
    command = [*refusing(errno.EPERM, "pwritev2"), sys.executable, "-m", "ringwal", "run", str(directory), "--direct-io=on"]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=WAIT, env=rig.environment(rig.CHECKOUT)
    )
    assert done.returncode == os.EX_CONFIG
    assert "refuses direct I/O" in done.stderr
    assert "Traceback" not in done.stderr


# ----------------------------------------------------------------------------------------------------- namespaces

CLIENT = """
import os, sys, threading, ringwal
with ringwal.connect(sys.argv[1], timeout=30, append_timeout=30) as client:
    stream = client.create_stream("s")
    tail = stream.tail(start=0)
    stream.append(b"from inside").result(30)
    print(next(tail).data.decode(), client.status()["state"], flush=True)
    sys.stdin.readline()
    try:
        stream.append(b"x").result(30)
    except ringwal.Error as error:
        print(type(error).__name__)
"""
NAMESPACES = {
    "ipc and /dev/shm": (("--ipc", "--mount"), "mount -t tmpfs tmpfs /dev/shm && "),
    "processes": (("--pid", "--fork", "--mount-proc"), ""),
    "everything but the file system": (("--ipc", "--mount", "--pid", "--fork", "--mount-proc", "--net", "--uts"), ""),
}


@pytest.mark.parametrize(("flags", "first"), NAMESPACES.values(), ids=NAMESPACES)
def test_a_client_in_namespaces_of_its_own_is_a_client(
    start: Callable[..., rig.Engine], flags: tuple[str, ...], first: str
) -> None:
    unshare = ["unshare", *flags, "sh", "-c", f'{first}exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("namespaces cannot be made here")
    engine = start()
    with subprocess.Popen(
        [*unshare, sys.executable, "-c", CLIENT, str(engine.directory)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=rig.environment(rig.CHECKOUT),
    ) as client:  # fmt: skip
        assert client.stdin is not None
        assert client.stdout is not None
        assert client.stdout.readline() == "from inside running\n"
        engine.kill()
        said, _ = client.communicate("\n", timeout=WAIT)
        assert said in ("NotRunning\n", "EngineFailed\n")
