"""Defects in how the log is trimmed, freed and used again."""

from __future__ import annotations

from tests.faults.mutation import Mutant, row, units

FREEING = "engine/ringwal/log/freeing.py"
SPACE = "engine/ringwal/processes/space.py"

LIFE = [
    Mutant(
        "a segment goes when one copy of the manifest has its checkpoint and says so",
        FREEING,
        "    manifest = manifests.store(directory, raised, fd=manifest_fd)\n    announce(end)",
        "    manifest = dataclasses.replace(raised, counter=raised.counter + 1)\n"
        "    with opened(manifests.NAME, os.O_WRONLY, at=directory.fd) as one:\n"
        "        os.pwrite(one, manifests._encode(manifest), manifests._copy_offset(manifest))\n"
        "        os.fsync(one)\n    announce(end)",
        units("tests/unit/test_freeing.py::test_a_copy_of_the_manifest_may_be_lost_after_a_death"),
    ),
    Mutant(
        "a segment goes before its trims are confirmed",
        SPACE,
        "        if lib.rw_engine_released_end(control) < known.position:",
        "        if lib.rw_engine_released_end(control) < 0:",
        units("tests/native/test_space.py"),
    ),
    Mutant(
        "a file that somebody links is used again",
        FREEING,
        "        if os.fstat(fd).st_nlink > 1:",
        "        if os.fstat(fd).st_nlink > 9:",
        units("tests/unit/test_freeing.py"),
    ),
    Mutant(
        "the header of a segment that is used again is not synced",
        FREEING,
        "        segment.write_header(fd, manifest, new)\n        os.fsync(fd)\n",
        "        segment.write_header(fd, manifest, new)\n",
        row("recorder", "cut at a request, drop_oldest, ext4, direct_io off", "nightly"),
    ),
    Mutant(
        "a new name of a segment is not synced",
        FREEING,
        "    sync_directory(directory.segments)\n    if named_end == manifest.named_end:",
        "    if named_end == manifest.named_end:",
        row("life", "unsynced names, drop_oldest"),
    ),
    Mutant(
        "a start clears what was freed before it has claimed its epoch",
        "engine/ringwal/log/recovery.py",
        "    segment.remove_orphans(directory, manifest)\n    return use_direct",
        "    segment.remove_orphans(directory, manifest)\n    from ringwal.log import freeing\n\n"
        "    freeing.clear(directory, manifest)\n    return use_direct",
        units("tests/unit/test_freeing.py"),
    ),
    Mutant(
        "a control frame has no offset",
        "csrc/wal_take.c",
        "    f->base_offset = p->next_offset;",
        "    f->base_offset = q->kind == RW_FRAME_BATCH ? p->next_offset : 0;",
        units("tests/integration/test_trim.py"),
    ),
    Mutant(
        "a reader does not look at the start offset again",
        "engine/ringwal/read/cursor.py",
        "                self._look()\n                freed = self._log.source.look_again(",
        "                freed = self._log.source.look_again(",
        units("tests/unit/test_reader_freed.py"),
    ),
    Mutant(
        "a stream that is deleted has records",
        "csrc/recover.c",
        "        t->state = RW_RECOVERY_STREAM_DELETED;",
        "        t->start_offset = t->next_offset;",
        row("life", "SIGKILL all among trims and deletes"),
    ),
    Mutant(
        "a trim is forgotten at a start",
        "csrc/recover.c",
        "    if (offset > t->start_offset)\n        t->start_offset = offset;",
        "    if (offset > t->start_offset && offset > UINT64_MAX - 9)\n        t->start_offset = offset;",
        row("life", "SIGKILL all among trims and deletes"),
    ),
]
