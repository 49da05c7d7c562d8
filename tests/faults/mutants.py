"""Defects put into a copy of the engine, one at a time: a campaign that stays green over one of them proves nothing.

Each names the quickest row or test that has to go red; tests/project/test_mutants.py says when its place in the code is gone.
"""

from __future__ import annotations

from functools import partial

from tests.faults.mutants_backups import BACKUPS
from tests.faults.mutants_batching import BATCHING
from tests.faults.mutants_bell import BELL
from tests.faults.mutants_expecting import EXPECTING
from tests.faults.mutants_following import FOLLOWING
from tests.faults.mutants_keeper import KEEPER
from tests.faults.mutants_life import LIFE
from tests.faults.mutants_logging import LOGGING
from tests.faults.mutants_offline import OFFLINE
from tests.faults.mutants_owners import OWNERS
from tests.faults.mutants_processes import PROCESSES
from tests.faults.mutants_reading import READING
from tests.faults.mutants_retention import RETENTION
from tests.faults.mutants_times import TIMES
from tests.faults.mutation import Mutant, control, row, run, units
from tests.faults.table import Fault

TOO_EARLY = (
    *("csrc/wal_threads.c", "    int error =\n        rw_block_write(job->fd,"),
    "    rw_persist_block(job->block);\n    rw_store32(&rw_block_entry_of(w->c, job->number)->state, RW_BLOCK_PERSISTED);\n"
    "    rw_tell_drain(w);\n    int error =\n        rw_block_write(job->fd,",
)

WRITING = [
    Mutant(
        "persisted before it is written",
        *TOO_EARLY,
        row("points", "kill at l.write.submitted", "nightly"),
    ),
    Mutant(
        "a sync counts for a write still in flight",
        "csrc/wal_threads.c",
        '    (void)RW_POINT("l.sync.done_unpublished");',
        "    rw_block_entry *before = rw_block_entry_of(w->c, job->number - 1);\n"
        "    if (before->number == job->number - 1 && before->state == RW_BLOCK_SEALED) {\n"
        "        rw_persist_block(rw_log_ring_at(&w->ring, before->position));\n"
        "        rw_store32(&before->state, RW_BLOCK_PERSISTED);\n"
        "    }",
        units("tests/integration/test_order.py::test_what_comes_after_a_stuck_write_does_not_wait_for_it"),
    ),
    Mutant(
        "no sync after a buffered write",
        "csrc/block_io.c",
        "if (!direct && fdatasync(fd) != 0)",
        "if (!direct && fd < 0)",
        row("power", "power cut, ext4, direct_io off"),
    ),
    Mutant(
        "the WAL threads share a segment's descriptor",
        "csrc/wal_compose.c",
        "s->number == number ? s->fds[thread] : -1",
        "s->number == number ? s->fds[thread * 0] : -1",
        row("io", "blocks that cannot be written back"),
    ),
    Mutant(
        "the block ahead is left to itself",
        "csrc/ahead.h",
        "if (!rw_ahead_there(a) ||",
        "if (true ||",
        units("tests/integration/test_order.py::test_a_backlog_through_many_segments_is_confirmed_to_its_end"),
    ),
    Mutant(
        "direct writes are not synced",
        "csrc/block_io.c",
        "(off_t)file_offset, RWF_DSYNC)",
        "(off_t)file_offset, 0)",
        row("recorder", "cut at a request, ext4, direct_io auto"),
    ),
    Mutant(
        "a sync that had begun before the write counts",
        "csrc/block_io.c",
        "    if (!direct && fdatasync(fd) != 0)\n        return errno;\n",
        "    static int busy;\n    if (!direct) {\n        if (__atomic_exchange_n(&busy, 1, __ATOMIC_SEQ_CST)) {\n"
        "            while (__atomic_load_n(&busy, __ATOMIC_SEQ_CST))\n                continue;\n            return 0;\n"
        "        }\n        int error = fdatasync(fd);\n        __atomic_store_n(&busy, 0, __ATOMIC_SEQ_CST);\n"
        "        if (error != 0)\n            return errno;\n    }\n",
        row("recorder", "cut at a request, xfs, direct_io off", "nightly"),
    ),
    Mutant(
        "a manifest is not synced",
        "engine/ringwal/log/manifest.py",
        "os.fdatasync(file)\n    return manifest",
        "os.fstat(file)\n    return manifest",
        row("recorder", "cut at a request, ext4, direct_io auto", "nightly"),
    ),
    Mutant(
        "a segment is named before it is synced",
        "engine/ringwal/log/segment.py",
        'point("seg.filled")\n                os.fsync(fd)\n',
        'point("seg.filled")\n',
        row("recorder", "cut at a request, ext4, direct_io off", "nightly"),
    ),
    Mutant(
        "an epoch is named before its first block is synced",
        "engine/ringwal/log/epoch.py",
        "self._write_epoch_block()\n            self._sync()\n",
        "self._write_epoch_block()\n",
        row("recorder", "cut at a request, ext4, direct_io off", "nightly"),
    ),
    Mutant(
        "a checkpoint is named before it is synced",
        "engine/ringwal/log/checkpoint_file.py",
        "offset)\n            os.fdatasync(fd)\n",
        "offset)\n",
        row("recorder", "cut at a request, ext4, direct_io auto", "nightly"),
    ),
    Mutant(
        "a failed sync is forgotten",
        "csrc/block_io.c",
        "if (!direct && fdatasync(fd) != 0)",
        "if (!direct && fdatasync(fd) > 0)",
        row("io", "sync fails once"),
    ),
    Mutant(
        "a failed write is tried again",
        "csrc/block_io.c",
        "if (n < 0 && errno == EINTR)",
        "if (n < 0 && (errno == EINTR || errno == EIO))",
        row("io", "write fails once, EIO"),
    ),
    Mutant(
        "a short write counts as a whole one",
        "csrc/block_io.c",
        "length -= (uint64_t)n;",
        "length = 0;",
        row("io", "short writes"),
    ),
    Mutant(
        "no directory is synced",
        "engine/ringwal/log/files.py",
        'durable. Raises OSError."""\n    os.fsync(fd)\n',
        'durable. Raises OSError."""\n    os.fstat(fd)\n',
        row("power", "names whose directory was not synced"),
    ),
]

CONFIRMING = [
    Mutant(
        "confirmed without a look at the persisted byte",
        "csrc/sequencer.c",
        "!rw_is_persisted(r) || ",
        "",
        units("tests/native/test_sequencer.py"),
    ),
    Mutant(
        "ring space given back before its block is known to be written",
        "csrc/sequencer.c",
        "state_of(s, n)->completed && ",
        "",
        units("tests/native/test_sequencer.py"),
    ),
    Mutant(
        "a result goes to whoever has the slot now",
        "csrc/sequencer.c",
        "if (cl->generation != rw_frame_generation(r))\n        return; /* the writer is gone",
        "if (cl->generation == 0)\n        return; /* the writer is gone",
        units("tests/native/test_sequencer.py"),
    ),
    # Of the next two the window is a few instructions wide, so a load passes through it by luck only. It is held open for
    # as long as a process may be off its processor at any time; with the look in place that costs only the time.
    Mutant(
        "the drain sleeps without a second look",
        "csrc/sequencer_loop.c",
        "    uint32_t seen = rw_load32_seq(&c->completions);\n    int rc = rw_sequencer_step(s);",
        "    for (uint64_t end = rw_now_ns() + 2000000; rw_now_ns() < end;)\n        ;\n"
        "    uint32_t seen = rw_load32_seq(&c->completions);\n    int rc = 0;",
        row("io", "lone appends"),
    ),
    Mutant(
        "a WAL thread stops watching without a second look",
        "csrc/wal_threads.c",
        "    rw_doorbell_change(&w->c->doorbell, -1, 0);\n    if (watched(w) && !ended(w) && !left_behind(w))",
        "    usleep(2000);\n    rw_doorbell_change(&w->c->doorbell, -1, 0);\n    if (watched(w) && !ended(w))",
        row("io", "lone appends"),
    ),
    Mutant(
        "a log at rest gets no watermark",
        "csrc/wal_threads.c",
        "due ? w->o.idle_watermark_ns : RW_NAP_NS",
        "due && w->o.idle_watermark_ns == 0 ? 0 : RW_NAP_NS",
        row("media", "log at rest"),
    ),
    Mutant(
        "a full segment gets no watermark",
        "csrc/wal_compose.c",
        "    else if (rc == RW_TOO_LARGE && rw_log_ring_begin_end(r) == RW_OK)",
        "    else if (rc == RW_TOO_LARGE && rc == RW_OK)",
        units("tests/native/test_wal.py::test_a_full_segment_gets_a_watermark_too"),
    ),
]

REPLACING = [
    Mutant(
        "a successor does not write again what was in flight",
        "csrc/wal_restore.c",
        "if (e->state != RW_BLOCK_SEALED)",
        "if (e->state != 99)",
        row("points", "kill at l.write.submitted", "nightly"),
    ),
    Mutant(
        "a successor writes a block again of which a record is persisted",
        "csrc/wal_restore.c",
        "        if (rw_is_persisted(r))\n",
        "        if (rw_is_persisted(r) && frames.left == UINT32_MAX)\n",
        units("tests/native/test_wal.py::test_a_block_with_a_persisted_record_is_not_written_again"),
    ),
    Mutant(
        "a successor takes sealed requests again",
        "csrc/wal_restore.c",
        "e->cursor = end;",
        "(void)end;",
        row("points", "kill at l.heads.pre", "nightly"),
    ),
    Mutant(
        "the children do not keep the lock",
        "engine/ringwal/processes/children.py",
        "    keep = {0, 1, 2, say, *role.descriptors",
        "    for fd in (context.directory.fd, context.ownership.lock_fd):\n"
        "        again = os.open(f'/proc/self/fd/{fd}', os.O_RDONLY)\n"
        "        os.dup2(again, fd)\n        os.close(again)\n"
        "    keep = {0, 1, 2, say, *role.descriptors",
        row("time", "supervisor killed, file system frozen"),
    ),
    Mutant(
        "a slot is free before everybody has let go",
        "csrc/memory.c",
        "rw_load32(&slot->wal_done) == generation && rw_load32(&slot->drain_done) == generation;",
        "generation != 0;",
        units("tests/unit/test_memory.py::test_a_slot_is_released_when_both_wal_and_drain_let_its_generation_go"),
    ),
]

TIME_AND_IDENTITY = [
    Mutant(
        "a stopped process counts as a dead one",
        "engine/ringwal/processes/process_group.py",
        "        if self._deadline is None:\n            return self._replace_expendable()\n",
        "        wal = self._children.get(ROLES[0])\n"
        "        if wal and open(f'/proc/{wal.pid}/stat').read().rpartition(')')[2].split()[0] == 'T':\n"
        "            self._start(ROLES[0], replacement=True)\n"
        "        if self._deadline is None:\n            return self._replace_expendable()\n",
        row("time", "SIGSTOP wal"),
    ),
    Mutant(
        "a client lives while somebody has its pid",
        "engine/ringwal/processes/service.py",
        "        self._slots.close(slots)\n",
        "        import os\n\n        if not os.path.exists(f'/proc/{connection.pid}'):\n         self._slots.close(slots)\n",
        row("time", "pid of a dead writer"),
    ),
    Mutant(
        "the lock goes by the pid in its file",
        "engine/ringwal/processes/ownership.py",
        "                if self._lock_directory() and",
        "                said = lock_file.read(self.directory.fd)\n"
        "                if said and os.path.exists(f'/proc/{said.pid}'):\n"
        "                    raise Locked('in use', said.pid)\n"
        "                if self._lock_directory() and",
        row("time", "pid of a dead supervisor"),
    ),
    Mutant(
        "the child of a fork keeps its parent's connection",
        "engine/ringwal/client/core.py",
        "            attachment.forked()\n",
        "            self._kept = attachment\n",
        row("time", "outlives"),
    ),
    Mutant(
        "times follow the wall clock",
        "csrc/wal_compose.c",
        "    if (now > w->last_timestamp_ns)\n",
        "",
        row("time", "clock steps under load"),
    ),
    Mutant(
        "limits are measured by the wall clock",
        "engine/ringwal/client/lane.py",
        "import time\n",
        "import types\nfrom time import time as _wall\n\ntime = types.SimpleNamespace(monotonic=_wall)\n",
        row("time", "clock steps while callers wait"),
    ),
    Mutant(
        "confirmed while its write hangs",
        *TOO_EARLY,
        row("time", "frozen file system"),
    ),
]

CLIENTS = [
    Mutant(
        "a claim without a look at the room",
        "csrc/lane.c",
        "if (!rw_writer_has_room(w, p, frame))",
        "if (!rw_writer_has_room(w, p, frame) && frame == 0)",
        row("io", "no space for a segment"),
    ),
    Mutant(
        "payloads are not checked when they are taken",
        "csrc/wal_take.c",
        "if (rw_xxh3(copy, q->payload_bytes) != q->digest)",
        "if (q->digest == 0 && rw_xxh3(copy, q->payload_bytes) == 1)",
        row("clients", "payloads changed"),
    ),
    Mutant(
        "lengths of a batch are not added up",
        "csrc/lane.c",
        "    if (count == 0 || rw_lengths_sum(lengths, count) != bytes)\n        return RW_BAD;\n    if (terms",
        "    if (terms",
        units("tests/integration/test_numbers.py::test_lengths_that_do_not_add_up_are_refused_by_the_core"),
    ),
    Mutant(
        "lengths in a lane are believed",
        "csrc/lane_take.c",
        "if (out->payload_bytes > limit || rw_request_bytes(out->payload_bytes) > e->bytes ||\n",
        "if ((out->payload_bytes > limit && limit == 0) ||\n",
        units("tests/native/test_lane.py::test_a_forged_header_refuses_the_lane_and_no_other"),
        hangs=True,
    ),
    Mutant(
        "a block that was opened for a large request takes any number of small ones",
        "csrc/log_ring.h",
        "r->used && r->requests + requests <= r->most;",
        "r->used;",
        row("fuzz", "a lane"),
    ),
    Mutant(
        "the drain believes which streams a lane says that it tails",
        "csrc/sequencer_lanes.c",
        "if (place < s->c->max_streams && s->advanced[place] == s->step)",
        "place &= 4095; if (s->advanced[place] == s->step && place < s->c->max_streams)",
        row("clients", "forgeries; ASan", "nightly"),
    ),
    Mutant(
        "garbage and a hang-up end the supervisor",
        "engine/ringwal/processes/service.py",
        "                self._refuse(connection, {}, error)\n",
        "                try:\n                    self._refuse(connection, {}, error)\n"
        "                except EOFError:\n                    raise SystemExit(1) from error\n",
        row("clients", "garbage"),
    ),
    Mutant(
        "shared memory is made without its room",
        "engine/ringwal/memory.py",
        "os.posix_fallocate(fd, at, part)",
        "os.ftruncate(fd, size)",
        units("tests/unit/test_memory.py::test_full_shared_memory_names_the_size_and_leaves_nothing"),
    ),
]

RECOVERING = [
    Mutant(
        "recovery believes the page cache",
        "engine/ringwal/log/files.py",
        "        _write_back(fd)\n",
        "        _write_back(fd)\n        return fd\n",
        row("io", "thin device runs out, cache stays"),
    ),
    Mutant(
        "blocks of any epoch are believed",
        "csrc/block.c",
        " || h->epoch != epoch",
        " || (h->epoch != epoch && epoch == 0)",
        row("media", "stale content"),
    ),
    Mutant(
        "blocks are believed in any place",
        "csrc/block.c",
        " || h->position != position)",
        " || (h->position != position && position == 0))",
        row("media", "stale content"),
    ),
    Mutant(
        "a record may end behind its block",
        "csrc/block.c",
        " && rw_frame_bytes(r->payload_bytes) <= used - at",
        "",
        row("fuzz", "bytes of segment files"),
    ),
    Mutant(
        "a block may lead back to where the walk has been",
        "csrc/block.c",
        "h->span > UINT64_MAX - position ||\n",
        "\n",
        row("fuzz", "bytes of segment files"),
    ),
    Mutant(
        "payloads are not checked when they are recovered",
        "csrc/block.c",
        "if (r.digest != rw_xxh3(payload, r.payload_bytes))",
        "if (r.digest == 0 && rw_xxh3(payload, r.payload_bytes) == 1)",
        row("media", "payloads"),
    ),
    Mutant(
        "watermarks are not heeded",
        "engine/ringwal/log/recovery.py",
        "covered=scan.watermark > cut,",
        "covered=False,",
        row("media", "bits of a block header"),
    ),
    Mutant(
        "valid blocks are believed however far behind a hole",
        "engine/ringwal/log/recovery.py",
        "in_window=not later or",
        "in_window=True or",
        units("tests/unit/test_recovery_refusal.py::test_a_hole_is_tolerated_up_to_the_window_and_not_beyond"),
    ),
    Mutant(
        "records beyond a hole are not carried over",
        "engine/ringwal/log/epoch.py",
        "if self._walk.scan.largest_frame:",
        "if self._walk.scan.largest_frame < 0:",
        units("tests/unit/test_recovery.py"),
    ),
    Mutant(
        "records behind a gap of their stream are carried over",
        "csrc/recover.c",
        "            return stop(s, RW_RECOVERY_GAP, r->stream);\n        t->state = RW_RECOVERY_STREAM_BROKEN;",
        "            return stop(s, RW_RECOVERY_GAP, r->stream);\n        t->next_offset = r->base_offset;",
        units("tests/unit/test_recovery.py"),
    ),
    Mutant(
        "what was dropped is believed again: the cut is not where it was decided",
        "engine/ringwal/log/epoch.py",
        "row._replace(end=self._cut)",
        "row._replace(end=self._walk.scan.valid_end)",
        units("tests/unit/test_recovery.py"),
    ),
    Mutant(
        "an epoch number is used again",
        "engine/ringwal/log/epoch.py",
        "claimed=self.manifest.claimed + 1, end=0)",
        "claimed=self.manifest.epoch + 1, end=0)",
        units("tests/unit/test_recovery.py::test_stale_blocks_of_an_unfinished_attempt_never_show"),
    ),
    Mutant(
        "an epoch begins at the cut, over what lies behind it",
        "engine/ringwal/log/epoch.py",
        "begin_of(directory, manifest, walk.scan.taken_end)",
        "begin_of(directory, manifest, cut)",
        units("tests/unit/test_recovery_crash.py"),
    ),
    Mutant(
        "an epoch is walked without its limit",
        "engine/ringwal/read/segments.py",
        "rows = [row for row in self.files.epochs() if row.epoch < self._epoch]",
        "rows = [row._replace(end=self._epoch_begin) for row in self.files.epochs() if row.epoch < self._epoch]",
        units("tests/unit/test_reader_damage.py"),
    ),
    Mutant(
        "a checkpoint is named before everything below it is persisted",
        "engine/ringwal/processes/checkpoints.py",
        "lib.rw_wal_persisted_end(self._wal) >= self._taken.position",
        "lib.rw_wal_persisted_end(self._wal) >= 0",
        units("tests/native/test_checkpoints.py::test_a_checkpoint_waits_for_what_is_still_being_written"),
    ),
    Mutant(
        "a segment that damage hides ends the search",
        "engine/ringwal/read/index.py",
        "            suspects[extent.segment] = index.damages[0 if span and offset < span.first else -1]\n",
        "            raise index.damages[-1]\n",
        units("tests/unit/test_reader_damage.py"),
    ),
    Mutant(
        "a successor goes on behind an end that is marked",
        "engine/ringwal/processes/wal.py",
        "if self.state.manifest.end:",
        "if self.state.manifest.end < 0:",
        units("tests/integration/test_starts.py::test_an_end_that_is_marked_is_cleared_before_anybody_writes_on"),
    ),
    Mutant(
        "the checkpoint that is named is written over",
        "engine/ringwal/log/checkpoint_file.py",
        "number = 1 - manifest.checkpoint_file if manifest.checkpoint_bytes else 0",
        "number = 0",
        units("tests/unit/test_checkpoint.py"),
    ),
    Mutant(
        "the manifest is written once, not twice",
        "engine/ringwal/log/manifest.py",
        "for _ in range(2):",
        "for _ in range(1):",
        units("tests/unit/test_manifest.py"),
    ),
]

OWNERSHIP = [
    Mutant(
        "the directory is not locked",
        "engine/ringwal/processes/ownership.py",
        "        locked = _locked(self.directory.fd)\n",
        "        locked = True\n",
        row("ownership", "lock file removed"),
    ),
    Mutant(
        "nobody looks where the path leads",
        "engine/ringwal/processes/ownership.py",
        "        if not directory.leads_here():\n",
        "        if directory.fd < 0:\n",
        row("ownership", "directory renamed"),
    ),
    Mutant(
        "nobody looks for the segments in use",
        "engine/ringwal/processes/ownership.py",
        "            if (here is None or seen.get(number, here) != here) and number >= first():\n",
        "            if here is None and number < 0:\n",
        row("ownership", "names that are lost"),
    ),
    Mutant(
        "nobody looks for the manifest",
        "engine/ringwal/processes/ownership.py",
        "        if not _is(directory.fd, manifest.NAME, self._manifest):\n",
        "        if self._manifest < 0:\n",
        row("ownership", "names that are lost"),
    ),
    Mutant(
        "an engine that ends removes whatever socket is there",
        "engine/ringwal/protocol/server.py",
        "            if self.state() is None:\n",
        "            if self.state() != 'missing':\n",
        row("ownership", "names that are lost"),
    ),
    Mutant(
        "what was removed is not made again",
        "engine/ringwal/processes/watch.py",
        "        for name in missing & self._missed:\n",
        "        for name in missing & set():\n",
        row("ownership", "socket removed"),
    ),
    Mutant(
        "a copy keeps the home of its original",
        "engine/ringwal/log/home.py",
        "    if found is not None and {key: found.get(key) for key in here} == here:\n",
        "    if found is not None:\n",
        row("ownership", "copies of a live directory"),
    ),
    Mutant(
        "a stream's handle is kept over the lives of engines",
        "engine/ringwal/client/attachment.py",
        "        self._handles: dict[str, int] = {}\n",
        "        self._handles: dict[str, int] = Attachment.__init__.__dict__.setdefault('handles', {})\n",
        row("ownership", "restarts under threads"),
    ),
]

MUTANTS = [
    *(*WRITING, *CONFIRMING, *REPLACING, *TIME_AND_IDENTITY, *CLIENTS, *RECOVERING, *OWNERSHIP),
    *(*PROCESSES, *LIFE, *KEEPER, *TIMES, *OFFLINE, *RETENTION, *BACKUPS, *BELL, *READING, *LOGGING, *FOLLOWING),
    *(*EXPECTING, *OWNERS, *BATCHING),
]


def faults(tier: str) -> list[Fault]:
    """Not for every change: each is a build and a run."""
    if tier == "change":
        return []
    rows = [Fault("mutants", mutant.name, partial(run, mutant)) for mutant in MUTANTS]
    return [Fault("mutants", "no defect, and nothing is red", partial(control, MUTANTS)), *rows]
