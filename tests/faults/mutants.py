"""Defects put into a copy of the engine, one at a time: a campaign that stays green over one of them proves nothing."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

from tests.faults import build
from tests.faults.oracle import Verdict
from tests.faults.table import Fault

LIMIT_SECONDS = 600


@dataclasses.dataclass(frozen=True)
class Mutant:
    """``old``, which must be in ``file`` exactly once, becomes ``new``; ``caught_by`` has to go red."""

    name: str
    file: str
    old: str
    new: str
    caught_by: tuple[str, ...]


def rows(group: str, row: str, tier: str = "change") -> tuple[str, ...]:
    """A part of this campaign."""
    return ("-m", "tests.faults", "--seed", "1", "--only", group, "--row", row, "--tier", tier)


def units(path: str) -> tuple[str, ...]:
    """A part of the unit tests."""
    return ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", path)


MUTANTS = [
    Mutant(
        "persisted before it is written",
        "csrc/wal.c",
        "    int error = rw_block_write(job->fd,",
        "    rw_persist_block(job->block);\n    rw_store32(&rw_block_entry_of(w->c, job->number)->state, RW_BLOCK_PERSISTED);\n"
        "    rw_tell_drain(w);\n    int error = rw_block_write(job->fd,",
        rows("points", "kill at l.write.submitted", "nightly"),
    ),
    Mutant(
        "no sync after a buffered write",
        "csrc/block_io.c",
        "    if (!direct && fdatasync(fd) != 0)\n        return errno;\n",
        "",
        rows("power", "direct_io off"),
    ),
    Mutant(
        "a failed sync is forgotten",
        "csrc/block_io.c",
        "    if (!direct && fdatasync(fd) != 0)\n        return errno;\n",
        "    if (!direct)\n        (void)!fdatasync(fd);\n",
        rows("io", "sync fails once"),
    ),
    Mutant(
        "a failed write is tried again",
        "csrc/block_io.c",
        "        if (n < 0 && errno == EINTR)",
        "        if (n < 0 && (errno == EINTR || errno == EIO))",
        rows("io", "write fails once, EIO"),
    ),
    Mutant(
        "a short write counts as a whole one",
        "csrc/block_io.c",
        "        length -= (uint64_t)n;",
        "        length = 0;",
        rows("io", "short writes"),
    ),
    Mutant(
        "confirmed without a look at the persisted byte",
        "csrc/sequencer.c",
        "if (!rw_is_persisted(r) || (s->c->confirm_order == 1",
        "if ((s->c->confirm_order == 1",
        units("tests/csrc/test_sequencer.py"),
    ),
    Mutant(
        "ring space given back before its block is known to be written",
        "csrc/sequencer.c",
        "state_of(s, n)->completed && state_of(s, n)->remaining == 0; n++)",
        "state_of(s, n)->remaining == 0; n++)",
        units("tests/csrc/test_sequencer.py"),
    ),
    Mutant(
        "a result goes to whoever has the slot now",
        "csrc/sequencer.c",
        "    if (cl->generation != r->generation)\n        return; /* the writer",
        "    if (0)\n        return; /* the writer",
        units("tests/csrc/test_sequencer.py"),
    ),
    Mutant(
        "a successor does not write again what was in flight",
        "csrc/restore.c",
        "        if (e->state != RW_BLOCK_SEALED)\n            continue;",
        "        if (e->state != 99)\n            continue;",
        rows("points", "kill at l.write.submitted", "nightly"),
    ),
    Mutant(
        "a successor takes sealed requests again",
        "csrc/restore.c",
        "            e->cursor = end;",
        "            (void)end;",
        rows("points", "kill at l.heads.pre", "nightly"),
    ),
    Mutant(
        "a claim without a look at the room",
        "csrc/lane.c",
        "        if (!has_room(w, p, frame))\n            return RW_FULL;",
        "        if (!has_room(w, p, frame) && frame == 0)\n            return RW_FULL;",
        rows("io", "no space for a segment"),
    ),
    Mutant(
        "payloads are not checked when they are taken",
        "csrc/compose.c",
        "if (rw_xxh3(copy, q->payload_bytes) != q->digest || ",
        "if (",
        rows("clients", "payloads changed"),
    ),
    Mutant(
        "lengths in a lane are believed",
        "csrc/lane.c",
        "    if (out->payload_bytes > limit || rw_request_frame(out->payload_bytes) > e->bytes || out->count == 0)\n"
        "        return RW_BAD;\n",
        "    (void)limit;\n",
        rows("clients", "random bytes"),
    ),
    Mutant(
        "a block that was opened for a large request takes any number of small ones",
        "csrc/log_ring.h",
        "r->used && r->requests < r->most;",
        "r->used;",
        rows("fuzz", "a lane"),
    ),
    Mutant(
        "a record may end behind its block",
        "csrc/record.c",
        " || rw_record_frame(r.payload_bytes) > h.used - at)",
        ")",
        rows("fuzz", "bytes of segment files"),
    ),
    Mutant(
        "a block may lead back to where the walk has been",
        "csrc/record.c",
        "h->span > UINT64_MAX - position || ",
        "",
        rows("fuzz", "bytes of segment files"),
    ),
    Mutant(
        "the drain believes which streams a lane says that it tails",
        "csrc/sequencer.c",
        "if (stream < s->c->max_streams && s->advanced[stream] == s->step)",
        "stream &= 4095; if (s->advanced[stream] == s->step && stream < s->c->max_streams)",
        rows("clients", "forgeries; ASan", "nightly"),
    ),
    Mutant(
        "a slot is free before everybody has let go",
        "csrc/memory.c",
        "rw_load32(&slot->wal_done) == generation && rw_load32(&slot->drain_done) == generation;",
        "generation != 0;",
        rows("clients", "vanish"),
    ),
    Mutant(
        "garbage and a hang-up end the supervisor",
        "engine/processes/service.py",
        "            with contextlib.suppress(EOFError):  # it has gone already\n"
        "                self._refuse(connection, {}, error)",
        "            self._refuse(connection, {}, error)",
        rows("clients", "garbage"),
    ),
    Mutant(
        "the children do not keep the lock",
        "engine/processes/children.py",
        "keep = {0, 1, 2, context.lock_fd,",
        "keep = {0, 1, 2,",
        rows("time", "supervisor killed, file system frozen"),
    ),
    Mutant(
        "a stopped process counts as a dead one",
        "engine/processes/crew.py",
        "        if self._deadline is None or self.verdict is not None:\n            return None\n",
        "        wal = self._children.get(Role.WAL)\n"
        "        if wal and open(f'/proc/{wal.pid}/stat').read().rpartition(')')[2].split()[0] == 'T':\n"
        "            self._start(Role.WAL, replacement=True)\n"
        "        if self._deadline is None or self.verdict is not None:\n            return None\n",
        rows("time", "SIGSTOP wal"),
    ),
    Mutant(
        "a client lives while somebody has its pid",
        "engine/processes/service.py",
        "        self._slots.close(slots)\n",
        "        from pathlib import Path\n\n"
        "        if not Path(f'/proc/{connection.pid}').exists():\n            self._slots.close(slots)\n",
        rows("time", "pid of a dead writer"),
    ),
    Mutant(
        "the lock goes by the pid in its file",
        "engine/processes/lock.py",
        "        deadline = time.monotonic() + DYING_SECONDS\n",
        "        deadline = time.monotonic() + DYING_SECONDS\n"
        "        if (named := _holder(path)) and _alive(named):\n            raise Locked('in use', named)\n",
        rows("time", "pid of a dead supervisor"),
    ),
    Mutant(
        "the child of a fork keeps its parent's connection",
        "engine/client.py",
        "            lane.forked()\n        if attachment is not None:\n            attachment.close()\n",
        "            lane.forked()\n        self._kept = attachment\n",
        rows("time", "outlives"),
    ),
    Mutant(
        "times follow the wall clock",
        "csrc/compose.c",
        "    if (now > w->last_timestamp_ns)\n",
        "",
        rows("time", "clock steps under load"),
    ),
    Mutant(
        "limits are measured by the wall clock",
        "engine/lane.py",
        "import time\n",
        "import types\nfrom time import time as _wall\n\ntime = types.SimpleNamespace(monotonic=_wall)\n",
        rows("time", "clock steps while callers wait"),
    ),
    Mutant(
        "confirmed while its write hangs",
        "csrc/wal.c",
        "    int error = rw_block_write(job->fd,",
        "    rw_persist_block(job->block);\n    rw_store32(&rw_block_entry_of(w->c, job->number)->state, RW_BLOCK_PERSISTED);\n"
        "    rw_tell_drain(w);\n    int error = rw_block_write(job->fd,",
        rows("time", "frozen file system"),
    ),
    Mutant(
        "blocks are believed in any place",
        "csrc/record.c",
        " || h->position != position)",
        " || (h->position != position && position == 0))",
        rows("media", "stale content"),
    ),
    Mutant(
        "payloads are not checked when they are recovered",
        "csrc/record.c",
        "        if (r.digest != rw_xxh3(payload, r.payload_bytes))",
        "        if (r.digest == 0 && rw_xxh3(payload, r.payload_bytes) == 1)",
        rows("media", "payloads"),
    ),
    Mutant(
        "watermarks are not heeded",
        "engine/log/recovery.py",
        "covered=scan.watermark > cut,",
        "covered=False,",
        rows("media", "bits of a block header"),
    ),
    Mutant(
        "the manifest is written once, not twice",
        "engine/log/manifest.py",
        "        for _ in range(2):\n            manifest = dataclasses.replace",
        "        for _ in range(1):\n            manifest = dataclasses.replace",
        units("tests/log/test_manifest.py"),
    ),
    Mutant(
        "records beyond a hole are not carried over",
        "engine/log/barrier.py",
        "            if self._walk.scan.kept:",
        "            if self._walk.scan.kept < 0:",
        units("tests/log/test_recovery.py"),
    ),
    Mutant(
        "what a crashed recovery wrote is not washed away",
        "engine/log/barrier.py",
        "            self._wash()\n            self._open_segment",
        "            self._open_segment",
        units("tests/log"),
    ),
]


def faults(tier: str) -> list[Fault]:
    """Not for every change: each is a build and a run."""
    return [] if tier == "change" else [Fault("mutants", mutant.name, partial(run, mutant)) for mutant in MUTANTS]


def run(mutant: Mutant, directory: Path, seed: int) -> Verdict:
    """Kept means: caught."""
    root, verdict = build.copy(directory / "copy"), Verdict(runs=1)
    path = root / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        verdict.notes.append(f"{mutant.file} has the place {text.count(mutant.old)} times: bring the mutant up to date")
        return verdict
    path.write_text(text.replace(mutant.old, mutant.new))
    build.build(root, points=False)
    scratch = directory / "tmp"
    scratch.mkdir()
    try:
        done = subprocess.run(
            [sys.executable, *mutant.caught_by],
            cwd=root,
            env={**os.environ, "TMPDIR": str(scratch), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return verdict  # it hangs: caught
    said = (done.stdout + done.stderr).strip().splitlines()
    verdict.expect(done.returncode == 1, f"not caught by {' '.join(mutant.caught_by[1:])}: code {done.returncode}, {said[-1:]}")
    verdict.expect(not any("NOT RUN" in line for line in said), "its row was not run")
    shutil.rmtree(root, ignore_errors=True)
    return verdict
