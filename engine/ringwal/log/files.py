"""Durable file primitives: aligned memory, reads that do not believe the page cache, writes that go all the way."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ringwal.errors import ConfigError, CorruptionError, StorageFull
from ringwal.log.directory import SEGMENTS, Directory, give_to_owner

PAGE = 4096
ANY_LENGTH = (1 << 64) - 1
"""Of a block whose header alone is checked (csrc/block.h), and the mask of an area that is no ring (csrc/scan.h)."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
# The file system cannot, or a sandbox does not know the call with that flag, RWF_DSYNC.
_NOT_DIRECT = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM)


def page_buffer(size: int) -> mmap.mmap:
    """`size` zero bytes of private memory, aligned for direct I/O.

    It is freed with its last reference; closing it would fail while a traceback holds a view of it.
    """
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def page_up(size: int) -> int:
    """`size` bytes rounded up to whole pages."""
    return (size + PAGE - 1) // PAGE * PAGE


@contextmanager
def opened(name: str, flags: int, mode: int = 0o600, *, at: int) -> Iterator[int]:
    """A descriptor of `name` in the directory that is open as `at`, closed at the end. Raises OSError.

    It does not wait for anybody: a FIFO is opened at once, and whoever reads at an offset is told that it cannot be.
    """
    fd = os.open(name, flags | os.O_CLOEXEC | os.O_NONBLOCK, mode, dir_fd=at)
    try:
        if flags & os.O_CREAT:
            give_to_owner(fd, at=at)
        yield fd
    finally:
        os.close(fd)


def unlink(name: str, *, at: int) -> None:
    """Remove `name` from the directory that is open as `at`, if it is there. Raises OSError."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=at)


def sync_directory(fd: int) -> None:
    """Make names created in, or removed from, the directory that is open as `fd` durable. Raises OSError."""
    os.fsync(fd)


def replace_file(name: str, data: bytes, *, at: int) -> None:
    """Make `name` a file with these bytes, at once or not at all, durably: for what is small. Raises OSError."""
    draft = name + ".tmp"
    unlink(draft, at=at)
    with opened(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, at=at) as fd:
        write_all(fd, memoryview(data), 0)
        os.fsync(fd)
    os.rename(draft, name, src_dir_fd=at, dst_dir_fd=at)
    sync_directory(at)


def make_directory(directory: Path) -> None:
    """Make `directory`, readable by its owner only, and whatever is missing above it, durably. Raises OSError.

    Each name is durable before the next one is made. So only the last that exists can be in doubt: whoever made it may
    have died before the sync.
    """
    missing = [path for path in (directory, *directory.parents) if not path.is_dir()]
    last = missing[-1].parent if missing else directory
    with suppress(PermissionError):  # what is above it is not ours to read, so its making was not ours either
        _sync_path(last.parent)
    for path in reversed(missing):
        path.mkdir(mode=0o700 if path == directory else 0o777, exist_ok=True)
        _sync_path(path.parent)


def _sync_path(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_directory(fd)
    finally:
        os.close(fd)


@contextmanager
def storage_full(what: str) -> Iterator[None]:
    """Turn "no space" and "quota exceeded" into StorageFull; `what` leads its message."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise StorageFull(f"{what}: {os.strerror(error.errno)}", error.errno) from error


def write_all(fd: int, data: memoryview, offset: int) -> None:
    """Write all of `data` at byte `offset`. Raises OSError; nothing is known about the range then."""
    while len(data) > 0:
        written = os.pwrite(fd, data, offset)
        data = data[written:]
        offset += written


def reserve(fd: int, size: int) -> bool:
    """Ask for all the room at once: it is contiguous then, and its lack shows before the long write. False: cannot be."""
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        return False
    return True


def open_synced(name: str, *, at: int, direct: bool = True) -> int:
    """Open `name`, in the directory open as `at`, for reading what is on the disk, not what the page cache says is there.

    Dirty pages go to the disk first; then reads bypass the cache, or, where that cannot be, start from an empty one.

    Raises:
        CorruptionError: it is something else than a file.
        OSError: the file cannot be opened, or its dirty pages cannot be written.
    """
    check_regular(name, at=at)
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=at)
    try:
        _write_back(fd)
        if direct:
            try:
                fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_DIRECT)
            except OSError:
                direct = False
        if not direct:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    except BaseException:
        os.close(fd)
        raise
    return fd


def check_regular(name: str, *, at: int) -> None:
    """Raises CorruptionError if the name, in the directory open as `at`, leads to something else than a file. To open that
    could take for ever."""
    try:
        mode = os.stat(name, dir_fd=at).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise CorruptionError(f"{name} is not a file of the log, but a directory or a special file: put it elsewhere")


def _write_back(fd: int) -> None:
    try:
        os.fdatasync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EROFS):  # a file system that nobody can write to has nothing to sync
            raise


def read_all(fd: int, into: memoryview, offset: int) -> int:
    """Fill `into` from byte `offset`; returns how many bytes there were. Raises OSError."""
    done = 0
    while done < len(into):
        try:
            count = os.preadv(fd, [into[done:]], offset + done)
        except OSError as error:
            if error.errno != errno.EINVAL or not _stop_direct(fd):
                raise
            continue
        if count == 0:
            break
        done += count
    return done


def _stop_direct(fd: int) -> bool:
    """Some file systems take the flag and then refuse the reads. False if reads were buffered already."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    if not flags & os.O_DIRECT:
        return False
    fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_DIRECT)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def use_direct(directory: Directory, setting: str) -> bool:
    """Whether segments of `directory` are written with O_DIRECT. `setting` is Config.direct_io.

    The answer comes from a real synchronous write and read of one page, not from what the file system says of itself.

    Raises:
        ConfigError: direct I/O is demanded ("on") and refused.
        StorageFull, OSError: the page cannot be written for another reason.
    """
    if setting == "off":
        return False
    refusal = _try_direct(directory)
    if refusal is not None and setting == "on":
        raise ConfigError(
            f"direct_io is 'on', but the file system of {directory.path / SEGMENTS} refuses direct I/O"
            f" ({os.strerror(refusal)}); use 'auto' or 'off'"
        )
    return refusal is None


def _try_direct(directory: Directory) -> int | None:
    """None, or the errno with which the file system refuses."""
    name, at = ".direct", directory.segments  # one name: what a crash left here, the next start removes
    try:
        return _write_directly(name, os.O_CREAT | os.O_TRUNC, at=at)
    except OSError as error:
        with storage_full(f"cannot write to {directory.path / SEGMENTS}"):
            if error.errno not in _NO_ROOM or (found := _some_file(at)) is None:
                raise
            return _write_directly(found, 0, at=at)  # a log on a full disk has to start, so that it can be trimmed
    finally:
        unlink(name, at=at)


def _write_directly(name: str, flags: int, *, at: int) -> int | None:
    """Write the first page of `name` as it is. None, or the errno with which direct I/O is refused. Raises OSError."""
    page = page_buffer(PAGE)
    try:
        with opened(name, os.O_RDWR | os.O_DIRECT | flags, at=at) as fd:
            os.preadv(fd, [page], 0)
            os.pwritev(fd, [page], 0, os.RWF_DSYNC)
            os.preadv(fd, [page], 0)
    except OSError as error:
        if error.errno not in _NOT_DIRECT:
            raise
        return error.errno
    return None


def _some_file(at: int) -> str | None:
    """One that has a page already, in the directory that is open as `at`."""
    with opened(".", os.O_RDONLY | os.O_DIRECTORY, at=at) as fd, os.scandir(fd) as entries:
        return next((one.name for one in entries if one.is_file(follow_symlinks=False) and one.stat().st_size >= PAGE), None)


def free_bytes(fd: int) -> int:
    """What an ordinary user may still use of the file system on which the open file or directory lies. Raises OSError."""
    found = os.fstatvfs(fd)
    return found.f_bavail * found.f_frsize
