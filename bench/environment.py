"""Where a number was measured. A number without this block means nothing."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import device
from bench.subject import CHECKOUT

CALM_STEP = 2.0
"""Seconds between two looks; the kernel takes its load average every five."""


def calm(
    limit: float,
    patience: float,
    say: Callable[[str], None],
    load: Callable[[], float] = lambda: os.getloadavg()[0],
    sleep: Callable[[float], None] = time.sleep,
) -> float:
    """Waits until the load average is at most `limit`, for at most `patience` seconds; returns what it was at first."""
    found = load()
    if found > limit and patience > 0:
        say(f"load average {found:.2f}: waiting up to {patience:g} s for it to fall to {limit:g}")
        waited = 0.0
        while waited < patience and load() > limit:
            sleep(CALM_STEP)
            waited += CALM_STEP
    return found


def describe(directory: Path) -> dict[str, Any]:
    """CPU, kernel, file system and device of `directory`, a sync probe, versions and commit."""
    mount, kind, options = _mount(directory)
    load = os.getloadavg()[0]  # before the probe adds its own
    return {
        "load_before": load,
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "virtualization": _hypervisor(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "libc": " ".join(platform.libc_ver()),
        "file_system": kind,
        "mount_options": options,
        "device": _device(mount),
        "sync_probe": device.sync_probe(directory),
        "commit": _commit(),
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _hypervisor() -> str:
    flags = Path("/proc/cpuinfo").read_text()
    return "virtual machine" if " hypervisor" in flags else "none seen"


def _mount(directory: Path) -> tuple[str, str, str]:
    """Source, type and options of the mount that holds the directory."""
    found = ("", "unknown", "")
    best = -1
    place = str(directory.resolve())
    for line in Path("/proc/self/mounts").read_text().splitlines():
        source, point, kind, options, *_ = line.split()
        if len(point) > best and (place + "/").startswith(point.rstrip("/") + "/"):
            found, best = (source, kind, options), len(point)
    return found


def _device(source: str) -> dict[str, str]:
    """What the kernel knows of the block device; write cache tells whether a sync has to flush it."""
    facts = {"name": Path(source).name}
    name = Path(source).resolve().name
    for candidate in (Path("/sys/class/block") / name, (Path("/sys/class/block") / name).resolve().parent):
        queue = candidate / "queue"
        if queue.is_dir():
            for key in ("scheduler", "rotational", "write_cache", "fua", "logical_block_size", "nr_requests"):
                with contextlib.suppress(OSError):
                    facts[key] = (queue / key).read_text().strip()
            break
    return facts


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(CHECKOUT), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = "+changes" if git("status", "--porcelain", "--untracked-files=no", "--", "engine", "csrc", "bench") else ""
        return git("rev-parse", "--short=12", "HEAD") + changed
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
