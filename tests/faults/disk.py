"""A file system of its own, on a loop device, whose power can be cut: the kernel's shutdown call without a log flush.

What was synced is on the device, what was not is lost, and every later operation fails, as if the cable had been pulled
(without a reboot of the rest of the machine). Journals of the writers live elsewhere.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.host import Hung, NotRun, until

SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN
NO_LOG_FLUSH = 2
FREEZE, THAW = 0xC0045877, 0xC0045878
MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,nodiscard"),
    # Which a failed write does not make read-only: the rest of the page cache stays in use.
    "ext4 without a journal": ("mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard"),
    "xfs": ("mkfs.xfs", "-q", "-f", "-K"),
}
SIZE = 512 << 20


def holders(mount: Path) -> list[str]:
    """Processes that have something of that file system open, and what."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for name in (process / "cwd", *(process / "fd").iterdir()):
                with contextlib.suppress(OSError):
                    if name.readlink().is_relative_to(mount):
                        words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                        found.append(f"{process.name} ({words[:80].strip()}) with {name.name}: {name.readlink()}")
    return found


class Disk:
    """A mounted image. Made by `disk`."""

    def __init__(self, image: Path, mount: Path, kind: str) -> None:
        self.image, self.mount, self.kind = image, mount, kind

    def attach(self) -> None:
        """Mounts it; the file system's own recovery runs."""
        mount = ["mount", "-t", self.kind.partition(" ")[0], "-o", "loop", str(self.image), str(self.mount)]
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NotRun(f"mount says: {done.stderr.strip()}")

    def detach(self) -> None:
        """Unmounts it. Somebody may have it open for a moment: a writer that looks for its engine."""

        def unmounted() -> bool:
            return command("umount", self.mount)

        try:
            until(unmounted, f"{self.mount} to be free", 30)
        except Hung as hung:
            raise Hung(f"{hung}; there are {', '.join(holders(self.mount)) or 'none to be seen'}") from None

    def run_short(self, room: int) -> None:
        """Gives what holds only zeros back to the tmpfs that the image is on, and leaves ``room`` bytes in that. Nobody
        writes meanwhile.

        Each page is a request of its own from now on: a loop device whose file runs out of room in the middle of a request
        answers that all of it was written, and no software can be held to account for that. Raises NotRun where this cannot be.
        """
        number = os.minor(self.mount.stat().st_dev)
        try:
            Path(f"/sys/block/loop{number}/queue/max_sectors_kb").write_text("4")
        except OSError as error:
            raise NotRun(f"a loop device's requests cannot be limited: {error}") from None
        if not command("sync", "-f", self.mount) or not command("fallocate", "--dig-holes", self.image):
            raise NotRun("sync -f or fallocate --dig-holes fails")
        size = self.image.stat().st_blocks * 512 + room
        if not command("mount", "-o", f"remount,size={size}", self.image.parent):
            raise NotRun("a mounted tmpfs cannot be made smaller")

    def cut(self) -> None:
        """Cuts the power."""
        self._ioctl(SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))

    def freeze(self) -> None:
        """Every write hangs, unkillably, until `thaw`."""
        self._ioctl(FREEZE, bytes(4))

    def thaw(self) -> None:
        self._ioctl(THAW, bytes(4))

    def again(self) -> None:
        """Power is back."""
        self.detach()
        self.attach()

    def _ioctl(self, number: int, argument: bytes) -> None:
        fd = os.open(self.mount, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, number, argument)
        finally:
            os.close(fd)


def command(*words: str | Path) -> bool:
    """Whether a command of the system's does what it is told."""
    return subprocess.run(list(map(str, words)), capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def disk(directory: Path, kind: str, size: int = SIZE) -> Iterator[Disk]:
    """A fresh file system below ``directory``. Raises NotRun where there is no root, no tool or no loop device."""
    if os.geteuid() != 0:
        raise NotRun("needs root, for loop devices")
    if shutil.which(MAKE[kind][0]) is None:
        raise NotRun(f"{MAKE[kind][0]} is not installed")
    image, mount = directory / "disk.img", directory / "disk"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(size)
    made = subprocess.run([*MAKE[kind], str(image)], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise NotRun(f"{MAKE[kind][0]} says: {made.stderr.strip()}")
    found = Disk(image, mount, kind)
    found.attach()
    try:
        yield found
    finally:
        with contextlib.suppress(Hung):
            found.detach()
        image.unlink(missing_ok=True)
