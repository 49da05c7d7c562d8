"""Does a copy have what was alive in segments that are freed? Its part of the proof that it is whole (copies.py).

The manifest may have been copied after segments were freed into the attic, and the attic's catalogue before. Then their
records are nowhere, and no segment is missed. So where segments are freed, every record from each stream's start offset on
has to be in a segment or in the attic, which is what `verify` looks at.
"""

from __future__ import annotations

from ringwal.errors import CorruptionError
from ringwal.log import attic
from ringwal.log import manifest as manifests
from ringwal.log.directory import Directory
from ringwal.log.verify import verify


def prove_attic(directory: Directory) -> None:
    """Nothing is changed.

    Raises:
        CorruptionError: records are missing.
        VersionMismatch, OSError: as `verify`.
    """
    try:
        if not manifests.load(directory).first_segment:
            return
    except FileNotFoundError:
        return  # told by recovery
    for place in verify(directory).places:
        if place.losses or place.file == attic.NAME or place.file.endswith(".attic"):
            raise CorruptionError(f"{place.file}: {place.what}", place.segment, place.position)
