"""What the kernel has to be asked for: a FUSE file system without a place in the tree, loop devices, mounts, images in memory.

Nothing here has a name that outlives its user: images are memfds, the FUSE mount is a descriptor, a loop device lets go of
its file when its last user does.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.faults.recorder_server import ROOT_MODE
from tests.support.host import PATIENCE, ROOT, Hung, NotRun, until

FSOPEN, FSCONFIG, FSMOUNT = 430, 431, 432  # one number on every architecture; not in every C library
SET_STRING, CREATE = 1, 6
CLOSE_ON_EXEC = 1
CONTROL = Path("/dev/loop-control")
FUSE = Path("/dev/fuse")
LOOP_CONFIGURE, LOOP_GET_FREE = 0x4C0A, 0x4C82
AUTOCLEAR, DIRECT_IO = 4, 16
DETACH = 2
CONFIG = struct.Struct("=II 5QIIII 64s64s32s 2Q 8Q")

libc = ctypes.CDLL(None, use_errno=True)


def needs() -> None:
    """Raises NotRun."""
    if os.geteuid() != 0:
        raise NotRun("needs root, for FUSE and loop devices")
    for path in (FUSE, CONTROL):
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            raise NotRun(f"needs {path}: {error.strerror}") from None


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def image(size: int) -> int:
    """A descriptor of so many zeros."""
    fd = os.memfd_create("ringwal-image")
    os.truncate(fd, size)
    return fd


def clone(source: int) -> int:
    """Another one with the same content."""
    size = os.fstat(source).st_size
    copy = image(size)
    end = 0
    while True:
        try:
            begin = os.lseek(source, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return copy
            raise
        end = os.lseek(source, begin, os.SEEK_HOLE)
        os.lseek(copy, begin, os.SEEK_SET)
        while begin < end:
            begin += os.sendfile(copy, source, begin, end - begin)


def format_image(path: Path, size: int, maker: tuple[str, ...]) -> None:
    """A file with a fresh file system. Raises NotRun."""
    if shutil.which(maker[0]) is None:
        raise NotRun(f"{maker[0]} is not installed")
    with path.open("wb") as file:
        file.truncate(size)
    made = subprocess.run([*maker, str(path)], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise NotRun(f"{maker[0]} says: {made.stderr.strip()}")


def load(path: Path) -> int:
    """An image with this file's content. Zeros that the file holds take no room, nor time in every later copy."""
    size, step = path.stat().st_size, 64 << 10
    fd = image(size)
    with path.open("rb") as file, mmap.mmap(fd, 0) as content:
        for at in range(0, size, step):
            if (part := file.read(step)).strip(b"\0"):
                content[at : at + len(part)] = part
    return fd


@contextlib.contextmanager
def held(fd: int) -> Iterator[int]:
    """A descriptor that is closed at the end."""
    try:
        yield fd
    finally:
        os.close(fd)


class Loop:
    """A loop device on an open file."""

    def __init__(self, backing: int) -> None:
        """Raises NotRun: there is none to be had."""
        self.fd, self.path = self._attach(backing)

    @staticmethod
    def _attach(backing: int) -> tuple[int, Path]:
        words = [0] * 9
        words[8] = AUTOCLEAR | DIRECT_IO  # direct where the file allows: then the disk sees several requests at once
        config = CONFIG.pack(backing, 0, *words, bytes(64), bytes(64), bytes(32), *[0] * 10)
        with CONTROL.open("rb") as control:
            while True:
                path = Path(f"/dev/loop{fcntl.ioctl(control, LOOP_GET_FREE)}")
                try:
                    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                except OSError as error:
                    raise NotRun(f"needs {path}: {error.strerror}") from None
                try:
                    fcntl.ioctl(fd, LOOP_CONFIGURE, config)
                except OSError as error:
                    os.close(fd)
                    if error.errno != errno.EBUSY:  # somebody was quicker
                        raise NotRun(f"{path}: {error.strerror}") from None
                else:
                    return fd, path

    def setting(self, name: str) -> str:
        """As in /sys/block."""
        return (Path("/sys/block") / self.path.name / name).read_text().strip()

    def close(self) -> None:
        os.close(self.fd)


@contextlib.contextmanager
def mounted(loop: Loop, at: Path, kind: str) -> Iterator[None]:
    """The kernel replays the file system's journal. Raises NotRun: it has no such file system; OSError: this one is bad."""
    try:
        _check(libc.mount(bytes(loop.path), bytes(at), kind.encode(), 0, None), f"mount of {kind}")
    except OSError as error:
        if error.errno == errno.ENODEV:
            raise NotRun(f"this kernel has no {kind}") from None
        raise
    try:
        yield
    finally:
        try:  # somebody may have it open for a moment: a writer that looks for its engine
            until(lambda: libc.umount2(bytes(at), 0) == 0, f"{at} to be free", 30)
        except Hung:
            libc.umount2(bytes(at), DETACH)  # it goes when they do
            raise


def sync(path: Path) -> None:
    """Of its whole file system, and of no other."""
    with held(os.open(path, os.O_RDONLY)) as fd:
        _check(libc.syncfs(fd), "syncfs")


@contextlib.contextmanager
def recorded(content: int, log: Path, seed: int) -> Iterator[Loop]:
    """A loop device whose disk is the server's. The log is complete at the end. Raises NotRun."""
    fuse = os.open(FUSE, os.O_RDWR | os.O_CLOEXEC)
    open_fds = [fuse]
    try:
        try:
            mount = _fuse_mount(fuse, open_fds)
        except OSError as error:
            raise NotRun(str(error)) from None
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.recorder_server", str(fuse), str(content), str(log), str(seed)],
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            pass_fds=(fuse, content),
            start_new_session=True,
        )
    except BaseException:
        _close(open_fds)
        raise
    try:
        # From here on the server alone has the connection: if it dies, every request fails and nobody waits for it.
        os.close(fuse)
        open_fds.remove(fuse)
        file = os.open(f"/proc/self/fd/{mount}", os.O_RDWR | os.O_CLOEXEC)
        open_fds.append(file)
        loop = Loop(file)
        open_fds.append(loop.fd)
        yield loop
        _close(open_fds)
        try:
            code = server.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise Hung("the recording disk still has a user") from None
        if code != 0:
            raise RuntimeError(f"the recording disk ended with {code}")
    finally:
        _close(open_fds)
        if server.poll() is None:
            server.kill()
            server.wait()


def _close(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())


def _fuse_mount(fuse: int, open_fds: list[int]) -> int:
    """The mount's descriptor; its root is the file. What is opened is added to ``open_fds``."""
    context = _check(libc.syscall(FSOPEN, b"fuse", CLOSE_ON_EXEC), "fsopen")
    open_fds.append(context)
    options = {"fd": str(fuse), "rootmode": f"{ROOT_MODE:o}", "user_id": "0", "group_id": "0"}
    for key, value in options.items():
        _check(libc.syscall(FSCONFIG, context, SET_STRING, key.encode(), value.encode(), 0), f"fsconfig {key}")
    _check(libc.syscall(FSCONFIG, context, CREATE, None, None, 0), "fsconfig create")
    mount = _check(libc.syscall(FSMOUNT, context, CLOSE_ON_EXEC, 0), "fsmount")
    open_fds.append(mount)
    return mount
