"""POSIX shared memory of an engine: create, attach, unlink. Sizes, layout and mapping are asked of C.

An object is complete before anyone can find it useful: created exclusively, allocated to its last byte (a full /dev/shm
is an error here, never a SIGBUS later), mapped, and only then given its header, whose magic comes last.
"""

from __future__ import annotations

import contextlib
import errno
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import posix_ipc

from ringwal._native import ffi, lib
from ringwal.config import LANE_BYTES_MAX, LANE_BYTES_MIN, PAGE, Config, format_size, next_power_of_two
from ringwal.errors import ConfigError, Error, NotRunning, ShmUnavailable, VersionMismatch, raise_for

SHM_DIRECTORY = "/dev/shm"
# A lane that carries only wait flags, for clients that read and tail. Nothing fits into it.
WAITING_LANE_BYTES = PAGE


class Mapping:
    """One shared object in this process's memory. Unmapped by `close()`, or when the last reference goes.

    `pointer` is a cffi pointer of the object's own type; it must not be used after that.
    """

    __slots__ = ("__weakref__", "_unmap", "data", "header", "name", "pointer", "writable")

    def __init__(self, name: str, fd: int, header: int, data: int, ctype: str, *, writable: bool) -> None:
        base = lib.rw_map(fd, header, data, writable)
        if base == ffi.NULL:
            size = header + data
            raise ShmUnavailable(f"cannot map {format_size(size)} of {name}: {os.strerror(ffi.errno)}", size)
        self.name = name
        self.header = header
        self.data = data
        self.writable = writable
        self.pointer: Any = ffi.cast(ctype, base)
        self._unmap = weakref.finalize(self, lib.rw_unmap, base, header, data)
        self._unmap.atexit = False  # the kernel does it, and threads may still be waiting in C

    @property
    def bytes(self) -> int:
        """Size of the object, in bytes."""
        return self.header + self.data

    def close(self) -> None:
        """Remove the mapping. Calling it again does nothing."""
        self._unmap()
        self.pointer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# ------------------------------------------------------------------------------------------------------ names


def prefix(uuid: bytes) -> str:
    """What the names of all objects of the engine with this uuid begin with, whatever the epoch."""
    return f"/ringwal-{uuid.hex()[:16]}-"


def object_name(uuid: bytes, epoch: int, part: str) -> str:
    """Name of one object; `part` is `control`, `log` or what `lane_part` gives."""
    return f"{prefix(uuid)}{epoch}-{part}"


def lane_part(slot: int, generation: int) -> str:
    """`part` of the lane of one generation of a slot."""
    return f"lane{slot}g{generation}"


def leftovers(uuid: bytes) -> list[str]:
    """Names of the objects that exist for this uuid: after the engine's death, what it left behind."""
    start = prefix(uuid)[1:]
    try:
        return sorted("/" + name for name in os.listdir(SHM_DIRECTORY) if name.startswith(start))
    except FileNotFoundError:
        return []


def unlink(name: str) -> None:
    """Remove the name; mappings stay valid until they are closed. Nothing happens if there is no such object."""
    with contextlib.suppress(posix_ipc.ExistentialError):
        posix_ipc.unlink_shared_memory(name)


def declare_dead(name: str) -> None:
    """Store in the control area of an engine that was killed that it has failed, so that a client's next append is refused
    instead of going into a lane that nobody reads. For the holder of the directory's lock; another build's memory is left."""
    try:
        size = Path(SHM_DIRECTORY + name).stat().st_size
        control = _attach(name, size, 0, writable=True, ctype="rw_control *")
    except (Error, OSError):
        return
    with control:
        found = control.pointer
        ours = control.bytes >= ffi.sizeof("rw_control") and found.fingerprint == lib.rw_fingerprint()
        if ours and found.state not in (lib.RW_STOPPED, lib.RW_FAILED):
            lib.rw_set_state(found, lib.RW_FAILED, 0)


def lane_size(requested: int) -> int:
    """Bytes of the lane that a client gets who asks for `requested`: the next power of two; 0 asks for flags only.

    Raises:
        ConfigError: more than a lane may have.
    """
    if requested == 0:
        return WAITING_LANE_BYTES
    if not 0 < requested <= LANE_BYTES_MAX:
        raise ConfigError(f"lane_bytes is {requested}; it must be between {LANE_BYTES_MIN} and {LANE_BYTES_MAX}")
    return max(next_power_of_two(requested), LANE_BYTES_MIN)


# ---------------------------------------------------------------------------------------------- the three kinds


def create_control(
    config: Config, uuid: bytes, epoch: int, *, epoch_begin: int, position: int, block_number: int
) -> Mapping:
    """The control area of a new epoch, writable, header complete. Raises ShmUnavailable."""
    geometry = ffi.new(
        "rw_geometry *",
        {
            "max_clients": config.max_clients,
            "completions_per_client": config.max_outstanding,
            "max_streams": config.max_streams,
            "confirm_order": 1 if config.confirm_order == "log" else 0,
            "ring_bytes": config.ring_bytes,
            "segment_bytes": config.segment_bytes,
        },
    )
    size = lib.rw_control_bytes(geometry)
    control = _create(object_name(uuid, epoch, "control"), size, 0, "rw_control *")
    lib.rw_control_create(control.pointer, geometry, uuid, epoch, epoch_begin, position, block_number)
    return control


def attach_control(name: str, size: int, uuid: bytes, epoch: int, *, writable: bool = False) -> Mapping:
    """The control area `name` of `size` bytes. Raises NotRunning if it is gone, VersionMismatch if it does not fit."""
    control = _attach(name, size, 0, writable, "rw_control *")
    _check(control, lib.rw_control_attach(control.pointer, size, uuid, epoch))
    return control


def create_log(config: Config, uuid: bytes, epoch: int) -> Mapping:
    """The log ring of a new epoch, writable. Raises ShmUnavailable."""
    return _create(object_name(uuid, epoch, "log"), 0, config.ring_bytes, "uint8_t *")


def attach_log(name: str, ring_bytes: int, *, writable: bool = False) -> Mapping:
    """The log ring `name`. It has no header: the control area that named it vouches for it. Raises NotRunning."""
    return _attach(name, 0, ring_bytes, writable, "uint8_t *")


def create_lane(control: Mapping, uuid: bytes, epoch: int, slot: int, generation: int, lane_bytes: int) -> Mapping:
    """The lane of one generation of a slot, writable, header complete. Raises ShmUnavailable."""
    header = lib.rw_lane_object_bytes(lane_bytes) - lane_bytes
    lane = _create(object_name(uuid, epoch, lane_part(slot, generation)), header, lane_bytes, "rw_lane *")
    lib.rw_lane_create(lane.pointer, control.pointer, slot, generation, lane_bytes)
    return lane


def attach_lane(
    control: Mapping, name: str, slot: int, generation: int, lane_bytes: int, *, writable: bool = True
) -> Mapping:
    """The lane `name` with `lane_bytes` of data. Raises NotRunning: gone, VersionMismatch: does not fit."""
    size = lib.rw_lane_object_bytes(lane_bytes)
    lane = _attach(name, size - lane_bytes, lane_bytes, writable, "rw_lane *")
    _check(lane, lib.rw_lane_attach(lane.pointer, control.pointer, size, slot, generation))
    return lane


# ------------------------------------------------------------------------------------------------------ objects


@contextlib.contextmanager
def _closing(shm: posix_ipc.SharedMemory) -> Iterator[int]:
    try:
        yield shm.fd
    finally:
        shm.close_fd()  # the mapping keeps the object


def _create(name: str, header: int, data: int, ctype: str) -> Mapping:
    size = header + data
    try:
        shm = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600)
    except (posix_ipc.Error, OSError) as error:
        raise ShmUnavailable(f"cannot create shared memory {name} ({format_size(size)}): {error}", size) from error
    try:
        with _closing(shm) as fd:
            os.fchmod(fd, 0o600)  # the umask may have taken the owner's own bits away
            _allocate(name, fd, size)
            mapping = Mapping(name, fd, header, data, ctype, writable=True)
        lib.rw_gather_pages(ffi.cast("uint8_t *", mapping.pointer) + header, data)
        return mapping
    except BaseException:
        unlink(name)
        raise


def _allocate(name: str, fd: int, size: int) -> None:
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.ENOMEM, errno.EFBIG):
            raise
        usage = os.statvfs(SHM_DIRECTORY)
        free = usage.f_bavail * usage.f_frsize
        raise ShmUnavailable(
            f"shared memory {name} needs {size} bytes ({format_size(size)}), and {SHM_DIRECTORY} has {free} bytes free;"
            " enlarge it (docker run --shm-size=256m, or mount -o remount,size=256m /dev/shm),"
            " or lower ring_bytes, lane_bytes, max_streams or max_clients",
            size,
        ) from error


def _attach(name: str, header: int, data: int, writable: bool, ctype: str) -> Mapping:
    try:
        shm = posix_ipc.SharedMemory(name, read_only=not writable)
    except posix_ipc.ExistentialError as error:
        raise NotRunning(f"shared memory {name} is gone: its engine has ended") from error
    except posix_ipc.PermissionsError as error:
        raise ShmUnavailable(f"no permission for shared memory {name}: it belongs to another user") from error
    with _closing(shm) as fd:
        facts = os.fstat(fd)
        if os.geteuid() not in (facts.st_uid, 0) or facts.st_mode & 0o077:
            raise ShmUnavailable(f"shared memory {name} belongs to another user or is open to others; it is not used")
        if facts.st_size != header + data:
            raise VersionMismatch(f"shared memory {name} has {facts.st_size} bytes instead of {header + data}")
        return Mapping(name, fd, header, data, ctype, writable=writable)


def _check(mapping: Mapping, code: int) -> None:
    try:
        raise_for(code, mapping.name)
    except VersionMismatch:
        mapping.close()
        raise
