"""How many files the processes of an engine may have open: a limit that they inherit from the supervisor."""

from __future__ import annotations

import contextlib
import resource


def allow_all_descriptors() -> None:
    """Raise this process's own limit to what the system lets it have: recovery opens every segment of the last epoch."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # an endless one may be more than the kernel takes
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def allow_descriptors(needed: int) -> int:
    """Raise this process's own limit as far as the system lets it. Returns the limit in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        soft = max(soft, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return needed if soft == resource.RLIM_INFINITY else soft
