"""What the system does not give is said in a sentence, with what to do about it, and the code of the table."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.cli_rig import DEADLINE, SMALL, command, ringwal, serving
from tests.support.mounts import tmpfs


def within(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    """The verb, after that in a shell: "$@" is the verb."""
    line = ["bash", "-c", script, "bash", *command(*arguments)]
    return subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE, check=False)


def elsewhere(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    """`within` mounts of its own. Skips where that cannot be had."""
    private = ["unshare", "--mount", "true"]
    if shutil.which("unshare") is None or subprocess.run(private, check=False, capture_output=True).returncode != 0:
        pytest.skip("namespaces cannot be made here")
    line = ["unshare", "--mount", "bash", "-c", script, "bash", *command(*arguments)]
    return subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE, check=False)


def sentence(done: subprocess.CompletedProcess[bytes], code: int, *words: str) -> None:
    said = done.stderr.decode()
    assert done.returncode == code, said
    assert "Traceback" not in said
    assert all(word in said for word in words), said


# ---------------------------------------------------------------------------------------------------------- places


@pytest.mark.parametrize("arguments", [("run",), ("ls",), ("status",), ("stop",), ("append", "s"), ("tail", "s")])
def test_without_proc_every_verb_says_so(directory: Path, arguments: tuple[str, ...]) -> None:
    done = elsewhere('umount -l /proc && exec "$@"', arguments[0], directory, *arguments[1:])
    sentence(done, 1, "no /proc is mounted", "mount -t proc proc /proc")
    assert not directory.exists()


def test_a_place_that_is_mounted_read_only(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "16m") as place:
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        sentence(ringwal("run", place, *SMALL), os.EX_IOERR, "lock: Read-only file system", str(place), "mounted read-only")
        sentence(ringwal("run", place / "d", *SMALL), os.EX_IOERR, "Read-only file system", str(place / "d"))


NO_DEVICES = 'mount -t tmpfs tmpfs /dev && mkdir /dev/shm && mount -t tmpfs tmpfs /dev/shm && exec "$@" '


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">&- 2>&-"])
def test_closed_descriptors_where_there_are_no_devices(directory: Path, closed: str) -> None:
    done = elsewhere(NO_DEVICES + closed, "ls", directory)
    assert done.returncode == os.EX_UNAVAILABLE, done.stderr
    assert b"Traceback" not in done.stderr
    assert (b"no engine runs" in done.stderr) == ("2>" not in closed)


def test_an_engine_without_devices_serves_and_nothing_else_gets_its_descriptors(directory: Path) -> None:
    probe = elsewhere('true; mount -t tmpfs tmpfs /dev && exec "$@"', "--version")
    assert probe.returncode == 0
    line = ["unshare", "--mount", "bash", "-c", NO_DEVICES + "<&- >&- 2>&-", "bash", *command("run", directory, *SMALL)]
    with subprocess.Popen(line) as host:
        try:
            done = ringwal("append", directory, "s", "--timeout", "30", stdin=b"x")
            while done.returncode == os.EX_UNAVAILABLE:
                assert host.poll() is None
                done = ringwal("append", directory, "s", "--timeout", "30", stdin=b"x")
            assert done.returncode == 0, done.stderr
            assert [os.readlink(f"/proc/{host.pid}/fd/{fd}").split(":")[0] for fd in range(3)] == ["pipe"] * 3
        finally:
            host.terminate()
            assert host.wait(DEADLINE) == 0


# ---------------------------------------------------------------------------------------------------------- limits


def test_a_limit_on_the_size_of_files(directory: Path) -> None:
    done = within('ulimit -f 1000 && exec "$@"', "run", directory, *SMALL)
    sentence(done, os.EX_IOERR, os.strerror(errno.EFBIG), "files of 1024000 bytes", "ulimit -f")


def test_shared_memory_counts_as_a_file(directory: Path) -> None:
    done = within('ulimit -f 5000 && exec "$@"', "run", directory, *SMALL, "--ring-bytes", "8MiB", "--segment-bytes", "16MiB")
    with serving(directory, "--ring-bytes", "8MiB", "--segment-bytes", "16MiB"):
        pass
    again = within('ulimit -f 5000 && exec "$@"', "run", directory)
    sentence(done, os.EX_IOERR, "ulimit -f")
    sentence(again, os.EX_CANTCREAT, "shared memory", "ulimit -f")


def test_a_limit_on_memory_ends_an_engine_with_its_code(directory: Path) -> None:
    """What is missing depends on where the limit meets it: each is said, and none is a fault of the engine's."""
    seen = set()
    for kilobytes in range(34_000, 114_000, 10_000):
        done = within(f'ulimit -v {kilobytes} && exec "$@"', "run", directory, *SMALL, "--blocks-in-flight", "32")
        sentence(done, done.returncode, "ulimit -v")
        assert done.returncode in (os.EX_OSERR, os.EX_CANTCREAT), done.stderr
        seen.add(done.returncode)
    assert os.EX_OSERR in seen


def test_a_limit_on_memory_ends_an_append_with_its_code(directory: Path) -> None:
    with serving(directory):
        for kilobytes in range(16_000, 42_000, 2_000):
            done = within(f'ulimit -v {kilobytes} && exec "$@"', "append", directory, "s")
            sentence(done, done.returncode, "ulimit -v", "nothing of the input was appended")
            assert done.returncode in (os.EX_OSERR, os.EX_CANTCREAT), done.stderr
        assert ringwal("ls", directory).stdout == b""
