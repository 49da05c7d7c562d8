"""What is found instead of an offset where an append was refused alone (csrc/layout.h: rw_verdict)."""

from __future__ import annotations

from ringwal._native import lib
from ringwal.errors import ANSWERED, ConsumerFenced, Error, OffsetMismatch, ProducerFenced, SequenceGap, of_code, verdict_of

DELETED = int(lib.RW_DELETED)


def is_refused(found: int) -> bool:
    """Was the append with that result refused alone, and certainly not made?"""
    return found == DELETED or found < ANSWERED


def repeated_at(found: int) -> int | None:
    """The offset of the records that a producer has appended before; -1: the engine does not remember it; None: it is no
    repeat."""
    reason, offset = verdict_of(found)
    if reason != lib.RW_VERDICT_REPEAT:
        return None
    return -1 if offset == lib.RW_OFFSET_UNKNOWN else offset


def is_refusal(found: int) -> bool:
    """Was nothing appended, and is that not what was wanted? A repeat is there already."""
    return is_refused(found) and repeated_at(found) is None


def gap_before(found: int) -> int | None:
    """The sequence that was to come, where records are missing; None: it is no gap."""
    reason, expected = verdict_of(found)
    return expected if reason == lib.RW_VERDICT_GAP else None


def is_joined(found: int) -> bool:
    """Is it refused for no reason of its own, but with another part of its batch?"""
    return verdict_of(found)[0] == lib.RW_VERDICT_JOINED


def is_fenced(found: int) -> bool:
    """Is it no longer the producer's turn to append?"""
    return verdict_of(found)[0] == lib.RW_VERDICT_FENCED


def consumer_error_of(found: int, name: str, stream: str) -> Error:
    """What is told of a commit."""
    if not is_fenced(found):
        return error_of(found, stream)
    since = verdict_of(found)[1]
    why = "another process has claimed it since" if since else "it was deleted"
    return ConsumerFenced(f"nothing was committed in {stream!r}: consumer {name!r} is fenced: {why}")


def error_of(found: int, stream: str | None) -> Error:
    """What its caller is told."""
    if found == DELETED:
        return of_code(DELETED, "" if stream is None else repr(stream))
    name, (reason, actual) = "the stream" if stream is None else repr(stream), verdict_of(found)
    if reason == lib.RW_VERDICT_GAP:
        return SequenceGap(
            f"nothing was appended to {name}: this producer's next sequence there is {actual}; append what is missing first",
            actual,
        )
    if reason == lib.RW_VERDICT_FENCED:
        why = "another process has claimed it since" if actual else "the engine has forgotten it"
        if stream is None:  # nobody has asked: it may be a commit, too
            return ProducerFenced(f"nothing was appended, or committed, by a producer or consumer that is fenced: {why}")
        return ProducerFenced(f"nothing was appended to {name}: this producer is fenced: {why}")
    if reason == lib.RW_VERDICT_JOINED:
        return Error(
            f"nothing was appended to {name}: another part of its batch was refused, and so all of them are",
            outcome="not_appended",
        )
    return OffsetMismatch(
        f"{name} goes on at offset {actual}, and this append was to be made at another one; nothing was appended: read what is"
        f" there by now, then append with expected_offset={actual}",
        actual,
    )
