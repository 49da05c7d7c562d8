"""Files that a backup is being made of have names that end in `.part`; each is a link to the log's file, or a copy."""

from __future__ import annotations

import errno
import os

from ringwal.log.directory import Directory
from ringwal.log.files import unlink

PART = ".part"
"""Ends the names of files that are being made."""
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES)


def has_link(name: str, source: Directory, dest: Directory) -> bool:
    """Give the segment, or what stands beside it, its name with `PART` in `dest`, too. False: the file system has no links, or
    not between the two, or not of this file: it has to be copied. Raises OSError."""
    unlink(name + PART, at=dest.segments)
    try:
        os.link(name, name + PART, src_dir_fd=source.segments, dst_dir_fd=dest.segments)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        return False
    return True
