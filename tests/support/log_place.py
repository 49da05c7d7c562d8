"""What tests do with the directory of a log beside the product: hold one that may not exist yet, and reach into its files."""

from __future__ import annotations

from pathlib import Path

from ringwal.log import segment
from ringwal.log.directory import SEGMENTS, Directory
from ringwal.log.files import make_directory


def log_at(path: Path) -> Directory:
    """The directory, made if it is missing, held as long as somebody has the result."""
    make_directory(path)
    return Directory(path)


def path_of(directory: Path, number: int) -> Path:
    """The file of segment `number`."""
    return directory / SEGMENTS / segment.name_of(number)
