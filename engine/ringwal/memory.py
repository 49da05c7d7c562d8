"""The shared memory of an engine: made, handed over as descriptors, mapped. Sizes, layout and mapping are asked of C.

No object has a name that anybody could collide with, remove or forget: control area and log ring are POSIX objects that
are unlinked as soon as they exist, lanes are memfds. The supervisor keeps the descriptors and hands them out, those of
control area and log ring for reading only. A lane belongs to a client, who may write all of it; its size is sealed, so
that cutting it off harms nobody. The kernel frees it all with the last process that has it mapped.

An object is complete before anyone else has it: allocated to its last byte (a full /dev/shm is an error here, never a
SIGBUS later), mapped, and given its header, whose magic comes last.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import resource
import secrets
import weakref
from pathlib import Path
from typing import Any, Self

from ringwal import views
from ringwal._native import ffi, lib
from ringwal.config import KIB, LANE_BYTES_MAX, LANE_BYTES_MIN, MIB, Config, format_size, next_power_of_two
from ringwal.errors import ConfigError, ShmUnavailable, VersionMismatch, of_code
from ringwal.file_errors import advice

try:
    import posix_ipc
except ImportError:  # no wheel for this Python: memfds serve for all
    posix_ipc = None

SHM_DIRECTORY = "/dev/shm"
LANE_HEADER_BYTES = ffi.sizeof("rw_lane")
LANE_STEP_BYTES = 4 << 20
"""How much of a lane is made at a time: some milliseconds' work. Whole huge pages."""
ENGINE_SLOTS = 1
"""Lanes of the engine's own, behind those of clients: the supervisor's."""
_NOEXEC_SEAL = 0x8
"""MFD_NOEXEC_SEAL; it allows sealing, too. Kernels before 6.3 do not know it, later ones may demand it."""
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Mapping:
    """One shared object in this process's memory. Unmapped by `close()`, or when the last reference goes.

    `pointer` is a cffi pointer of the object's own type; it must not be used after that. `fd` is what its maker hands out
    to others, closed with it; None elsewhere.
    """

    __slots__ = ("__weakref__", "_unmap", "data", "fd", "header", "name", "pointer", "writable")

    def __init__(self, name: str, fd: int, header: int, data: int, ctype: str, *, writable: bool) -> None:
        base = lib.rw_map(fd, header, data, writable)
        if base == ffi.NULL:
            size = header + data
            number = ffi.errno
            raise ShmUnavailable(f"cannot map {format_size(size)} of {name}: {os.strerror(number)}{advice(number)}", size)
        self.name = name
        self.header = header
        self.data = data
        self.writable = writable
        self.fd: int | None = None
        self.pointer: Any = ffi.cast(ctype, base)
        self._unmap = weakref.finalize(self, lib.rw_unmap, base, header, data)
        self._unmap.atexit = False  # the kernel does it, and threads may still be waiting in C

    @property
    def bytes(self) -> int:
        """Size of the object, in bytes."""
        return self.header + self.data

    def close(self) -> None:
        """Remove the mapping and close `fd`. Calling it again does nothing."""
        self._unmap()
        self.pointer = None
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def leave(self, *, unmap: bool) -> None:
        """Close `fd`; what has `pointer` may still read unless it is to be unmapped, too."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None
        if unmap:
            self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def lane_size(requested: int) -> int:
    """Bytes of the lane that a client gets who asks for `requested`: the next power of two; 0 asks for wait flags only, for
    clients that read and tail.

    Raises:
        ConfigError: more than a lane may have, or less.
    """
    if requested == 0:
        return int(lib.rw_system_page())
    if not LANE_BYTES_MIN <= requested <= LANE_BYTES_MAX:
        raise ConfigError(f"lane_bytes is {requested}; it must be between {LANE_BYTES_MIN} and {LANE_BYTES_MAX}")
    return next_power_of_two(requested)


# -------------------------------------------------------------------------------------------------- the kinds


def create_control(
    config: Config, uuid: bytes, epoch: int, *, epoch_begin: int, position: int, block_number: int
) -> Mapping:
    """The control area of a new epoch, writable, header complete. Raises ShmUnavailable."""
    geometry = ffi.new(
        "rw_geometry *",
        {
            "max_clients": config.max_clients + ENGINE_SLOTS,
            "engine_slots": ENGINE_SLOTS,
            "completions_per_client": config.max_outstanding,
            "max_streams": config.max_streams,
            "confirm_order": 1 if config.confirm_order == "log" else 0,
            "ring_bytes": config.ring_bytes,
            "segment_bytes": config.segment_bytes,
            "max_owners": config.max_producers,
        },
    )
    control = _create("control area", lib.rw_control_bytes(geometry), 0, "rw_control *")
    lib.rw_control_create(control.pointer, geometry, uuid, epoch, epoch_begin, position, block_number)
    return control


def attach_control(fd: int, size: int, uuid: bytes, epoch: int) -> Mapping:
    """The control area of `size` bytes behind `fd`, for reading. Raises VersionMismatch if it does not fit."""
    control = _attach("control area", fd, size, 0, "rw_control *", writable=False)
    _check(control, lib.rw_control_attach(control.pointer, size, uuid, epoch))
    return control


def observe_control(fd: int) -> Mapping:
    """The control area behind `fd`, whichever log's and epoch's it is, for reading. Raises VersionMismatch: another build's."""
    size = os.fstat(fd).st_size
    control = _attach("control area", fd, size, 0, "rw_control *", writable=False)
    seen = views.engine(control.pointer)
    _check(control, lib.rw_control_attach(control.pointer, size, seen.uuid, seen.epoch))
    return control


def create_progress() -> Mapping:
    """How far recovery is, writable, header complete. Raises ShmUnavailable."""
    progress = _create("recovery's progress", lib.rw_system_page(), 0, "rw_progress *")
    lib.rw_progress_create(progress.pointer)
    return progress


def observe_progress(fd: int) -> Mapping:
    """The same, behind `fd`, for reading. Raises VersionMismatch: another build's, or something else."""
    size = os.fstat(fd).st_size
    progress = _attach("recovery's progress", fd, size, 0, "rw_progress *", writable=False)
    _check(progress, lib.rw_progress_attach(progress.pointer, size))
    return progress


def create_log(config: Config) -> Mapping:
    """The log ring of a new epoch, writable. Raises ShmUnavailable."""
    return _create("log ring", 0, config.ring_bytes, "uint8_t *")


def attach_log(fd: int, ring_bytes: int) -> Mapping:
    """The log ring behind `fd`, for reading. It has no header: the control area that came with it vouches for it.

    Raises VersionMismatch: another size.
    """
    return _attach("log ring", fd, 0, ring_bytes, "uint8_t *", writable=False)


class LaneDraft:
    """A lane with `bytes` of data that is being made, LANE_STEP_BYTES at a time: its maker has others to serve meanwhile."""

    def __init__(self, name: str, lane_bytes: int) -> None:
        """Raises ShmUnavailable."""
        self._name = name
        self.bytes = lane_bytes
        self._done = 0
        self._size = lib.rw_lane_object_bytes(lane_bytes)
        self._fd = _sealable(name, self._size)
        try:
            os.ftruncate(self._fd, self._size)
            self._mapping = Mapping(name, self._fd, LANE_HEADER_BYTES, lane_bytes, "rw_lane *", writable=True)
        except BaseException:
            os.close(self._fd)
            raise

    def step(self) -> bool:
        """Allocate a bounded part. True: that was the last one. Raises ShmUnavailable: not all of it can be had."""
        begin, self._done = self._done, min(self._done + LANE_STEP_BYTES, self._size)
        if self._size > LANE_STEP_BYTES:
            _check_available(self._size - begin, self._size)
        _allocate(self._name, self._fd, self._done - begin, self._size, at=begin)
        # In the object the data comes first.
        part = max(min(self._done, self.bytes) - begin, 0)
        lib.rw_gather_pages(ffi.cast("uint8_t *", self._mapping.pointer) + self._mapping.header + begin, part)
        return self._done == self._size

    def finish(self, control: Mapping, slot: int, generation: int) -> int:
        """A descriptor of the whole lane for one generation of a slot: header complete, size sealed. The caller closes it."""
        lib.rw_lane_create(self._mapping.pointer, control.pointer, slot, generation, self.bytes)
        fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, _SEALS)
        return self.take()

    def take(self) -> int:
        """The descriptor of what there is of it, which the caller closes; this end is closed."""
        fd, self._fd = self._fd, -1
        self.close()
        return fd

    def close(self) -> None:
        """Give up what was not finished. Calling it again does nothing."""
        self._mapping.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Remains:
    """A lane that nobody needs any more, freed LANE_STEP_BYTES at a time: its end in one go takes as long as its making."""

    def __init__(self, fd: int) -> None:
        """The descriptor is closed with the last step; no process of the engine has the lane mapped."""
        self._fd = fd
        self._size = os.fstat(fd).st_size
        self._done = 0

    def step(self) -> bool:
        """Free a bounded part. True: that was the last one."""
        if self._size - self._done > LANE_STEP_BYTES:
            with (
                contextlib.suppress(OSError),  # what cannot be freed here is freed with the rest
                mmap.mmap(self._fd, LANE_STEP_BYTES, offset=self._done) as part,
            ):
                part.madvise(mmap.MADV_REMOVE)
            self._done += LANE_STEP_BYTES
            return False
        self.close()
        return True

    def close(self) -> None:
        """Free all of it. Calling it again does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def create_lane(control: Mapping, slot: int, generation: int, lane_bytes: int, *, name: str | None = None) -> int:
    """`LaneDraft.finish` of a lane that is made in one go. Raises ShmUnavailable."""
    draft = LaneDraft(f"lane {slot}" if name is None else name, lane_bytes)
    try:
        while not draft.step():
            pass
        return draft.finish(control, slot, generation)
    finally:
        draft.close()


def attach_lane(
    control: Mapping, fd: int, slot: int, generation: int, lane_bytes: int, *, writable: bool = True
) -> Mapping:
    """The lane behind `fd`, with `lane_bytes` of data. Raises VersionMismatch: it is of another size, slot or epoch."""
    size = lib.rw_lane_object_bytes(lane_bytes)
    lane = _attach(f"lane {slot}", fd, LANE_HEADER_BYTES, lane_bytes, "rw_lane *", size=size, writable=writable)
    _check(lane, lib.rw_lane_attach(lane.pointer, control.pointer, size, slot, generation))
    return lane


# ------------------------------------------------------------------------------------------------------ objects


def _create(name: str, header: int, data: int, ctype: str) -> Mapping:
    """A new object that others may only read; the mapping's `fd` is for them."""
    fd, reader = _unnamed(name, header + data)
    try:
        mapping = _fill(name, fd, header, data, ctype)
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(fd)  # the mapping keeps the object
    mapping.fd = reader
    return mapping


def _unnamed(name: str, size: int) -> tuple[int, int]:
    """Two descriptors of a new object: for writing and for reading only."""
    if posix_ipc is None:
        fd = _sealable(name, size)
        try:
            return fd, os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        except BaseException:
            os.close(fd)
            raise
    passing = f"/ringwal-{secrets.token_hex(8)}"
    try:
        shm = posix_ipc.SharedMemory(passing, posix_ipc.O_CREX, mode=0o600)
        try:
            os.fchmod(shm.fd, 0o600)  # the umask may have taken the owner's own bits away
            reader = posix_ipc.SharedMemory(passing, read_only=True)
        except BaseException:
            shm.close_fd()
            raise
        finally:
            with contextlib.suppress(posix_ipc.ExistentialError):  # somebody sweeps there
                posix_ipc.unlink_shared_memory(passing)
    except (posix_ipc.Error, OSError) as error:
        raise ShmUnavailable(f"cannot create shared memory, {name} ({format_size(size)}): {error}", size) from error
    return shm.fd, reader.fd


def _sealable(name: str, size: int) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        try:
            return os.memfd_create(f"ringwal {name}", flags | _NOEXEC_SEAL)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return os.memfd_create(f"ringwal {name}", flags)
    except OSError as error:
        raise ShmUnavailable(f"cannot create shared memory, {name} ({format_size(size)}): {error}", size) from error


def _fill(name: str, fd: int, header: int, data: int, ctype: str) -> Mapping:
    _allocate(name, fd, header + data, header + data)
    mapping = Mapping(name, fd, header, data, ctype, writable=True)
    lib.rw_gather_pages(ffi.cast("uint8_t *", mapping.pointer) + header, data)
    return mapping


def _check_available(needed: int, size: int) -> None:
    """Raises ShmUnavailable if the machine has not that much memory left: nothing refuses it a memfd until it kills."""
    try:
        facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        left = sum(int(facts[name].split()[0]) for name in ("MemAvailable", "SwapFree")) * KIB
    except (OSError, KeyError, ValueError):
        return
    if needed > left:
        raise ShmUnavailable(
            f"a lane of {format_size(size)} cannot be had: this machine has {left // MIB} MiB of memory left;"
            " ask for a smaller one (lane_bytes)",
            size,
        )


def _allocate(name: str, fd: int, part: int, size: int, *, at: int = 0) -> None:
    """`part` bytes of an object of `size` bytes."""
    try:
        os.posix_fallocate(fd, at, part)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.ENOMEM, errno.EFBIG):
            raise
        if error.errno == errno.EFBIG and resource.getrlimit(resource.RLIMIT_FSIZE)[0] < size:
            limited = f"shared memory, {name}, needs {format_size(size)}, and counts as a file{advice(error.errno)}"
            raise ShmUnavailable(limited, size) from error
        usage = os.fstatvfs(fd)  # a memfd's file system has no size of its own
        where = f", and {SHM_DIRECTORY} has {usage.f_bavail * usage.f_frsize} bytes free" if usage.f_blocks else ""
        raise ShmUnavailable(
            f"shared memory, {name}, needs {size} bytes ({format_size(size)}){where};"
            " enlarge it (docker run --shm-size=256m, or mount -o remount,size=256m /dev/shm),"
            " or lower ring_bytes, lane_bytes, max_streams or max_clients",
            size,
        ) from error


def _attach(
    name: str, fd: int, header: int, data: int, ctype: str, *, writable: bool, size: int | None = None
) -> Mapping:
    """`size` is that of the object, where it is more than header and data."""
    wanted = header + data if size is None else size
    if (found := os.fstat(fd).st_size) != wanted:
        raise VersionMismatch(f"shared memory, {name}, has {found} bytes instead of {wanted}")
    return Mapping(name, fd, header, data, ctype, writable=writable)


def _check(mapping: Mapping, code: int) -> None:
    if code != lib.RW_OK:
        mapping.close()
        raise of_code(code, mapping.name)
