"""Every named point at which the tests kill a process, what brings a process there, and what must hold afterwards.

That every confirmed record survives, once and unchanged, holds for all of them and is checked for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Victim(Enum):
    """Whose death it is, and what must hold then."""

    WRITER = "the other writers go on, and the slot of the dead one comes back"
    WAL = "the supervisor replaces it, no writer notices more than a delay, receipts stay valid"
    DRAIN = "as for the WAL process; what is persisted is confirmed once, by the successor"
    SUPERVISOR = "the engine dies whole; writers hear of an unknown outcome, and go on with the next engine"


class Way(Enum):
    """What brings the victim to the point."""

    LOAD = "the writers' appends"
    WAL_DIES = "the WAL process is killed, and its successor comes by"
    WRITER_DIES = "a writer is killed, and its lane is reclaimed"
    CLIENT_COMES = "a client asks for a lane"
    STOP = "an orderly stop"
    START = "the engine has been killed and is started again"
    TRIMS = "streams are trimmed and deleted"
    DROPS = "the log is full, and its oldest segments are dropped and used again"
    SETS = "streams are created, and set anew"
    CLAIMS = "producers are claimed, and append"
    BATCHES = "batches of several streams are appended"


@dataclass(frozen=True)
class Point:
    name: str
    victim: Victim
    way: Way = Way.LOAD
    hits: tuple[int, ...] = (1, 5)
    """At which of its visits the process dies."""


W, L, D, S = Victim.WRITER, Victim.WAL, Victim.DRAIN, Victim.SUPERVISOR

POINTS = [
    Point("w.claim.post", W),
    Point("w.copy.mid", W),
    Point("w.copy.batch", W, hits=(2,)),
    Point("w.publish.pre", W),
    Point("w.publish.post", W),
    Point("l.take.post", L),
    Point("l.block.built", L),
    Point("l.seal.entry", L),
    Point("l.seal.end", L),
    Point("l.block.sealed", L),
    Point("l.heads.pre", L, hits=(3,)),
    Point("l.heads.mid", L),
    Point("l.write.submitted", L),
    Point("l.write.done", L),
    Point("l.sync.done_unpublished", L),
    Point("l.publish.mid", L),
    Point("l.publish.post", L),
    Point("l.restore.post", L, Way.WAL_DIES, hits=(1,)),
    Point("l.rewrite.mid", L, Way.WAL_DIES, hits=(1,)),
    Point("seg.reserved", L, hits=(1,)),
    Point("seg.filled", L, hits=(2,)),
    Point("seg.made", L, hits=(1,)),
    Point("seg.named", L, hits=(2,)),
    Point("ckpt.taken", L, hits=(1,)),
    Point("ckpt.written", L, hits=(1,)),
    Point("ckpt.named", L, hits=(1,)),
    Point("l.detach.mid", L, Way.WRITER_DIES, hits=(1,)),
    Point("d.register.mid", D),
    Point("d.cursor.pre", D),
    Point("d.cursor.post", D),
    Point("d.wake.pre", D),
    Point("d.release.pre", D),
    Point("d.release.mid", D, hits=(3,)),
    Point("d.release.post", D),
    Point("d.detach.mid", D, Way.WRITER_DIES, hits=(1,)),
    Point("s.lane.created", S, Way.CLIENT_COMES, hits=(1,)),
    Point("s.reclaim.mid", S, Way.WRITER_DIES, hits=(1,)),
    Point("s.replace.pre", S, Way.WAL_DIES, hits=(1,)),
    Point("s.stop.asked", S, Way.STOP, hits=(1,)),
    Point("s.stop.written", S, Way.STOP, hits=(1,)),
    Point("rec.walked", S, Way.START, hits=(1,)),
    Point("rec.decided", S, Way.START, hits=(1,)),
    Point("rec.claimed", S, Way.START, hits=(1,)),
    Point("rec.carried", S, Way.START, hits=(1,)),
    Point("rec.epoch", S, Way.START, hits=(1,)),
    Point("rec.checkpoint", S, Way.START, hits=(1,)),
    Point("rec.synced", S, Way.START, hits=(1,)),
    Point("rec.switched", S, Way.START, hits=(1,)),
    Point("s.recovered", S, Way.START, hits=(1,)),
    Point("s.shm.created", S, Way.START, hits=(1,)),
    Point("s.started", S, Way.START, hits=(1,)),
]

LIFE = [
    Point("l.cut.composed", L, Way.TRIMS),
    Point("d.trim.confirmed", D, Way.TRIMS),
    Point("d.delete.confirmed", D, Way.TRIMS),
    Point("l.drop.composed", L, Way.DROPS),
    Point("d.drop.released", D, Way.DROPS),
    Point("ckpt.taken", L, Way.DROPS),
    Point("ckpt.written", L, Way.DROPS),
    Point("ckpt.named", L, Way.DROPS),
    Point("seg.first_raised", L, Way.DROPS),
    Point("seg.renamed", L, Way.DROPS),
    Point("seg.header", L, Way.DROPS),
    Point("seg.named", L, Way.DROPS),
]
"""What only a log comes by that is trimmed or full."""

SETTINGS = [
    Point("l.settings.published", L, Way.SETS),
    Point("d.settings.confirmed", D, Way.SETS),
]
"""What only a log comes by whose streams are created with settings."""

OWNERS = [
    Point("l.owner.mid", L, Way.CLAIMS),
    Point("l.owner.published", L, Way.CLAIMS),
]
"""What only a log comes by that has producers."""

BATCHES = [
    Point("w.part.put", W, Way.BATCHES),
    Point("l.part.put", L, Way.BATCHES),
    Point("d.part.confirmed", D, Way.BATCHES),
]
"""What only a log comes by that has batches of several streams."""
