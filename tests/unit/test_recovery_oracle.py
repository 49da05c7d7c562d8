"""Logs of any layout and damage, against an oracle that knows what was written and never looks at a byte."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ringwal.errors import CorruptionError
from ringwal.log import manifest as manifests
from ringwal.log.recovery import recover
from tests.support.log_place import log_at
from tests.support.log_writer import CONFIG, PAGE, Block, LogWriter, State, contents

KIB = 1 << 10
SEGMENT = CONFIG.segment_bytes
assert SEGMENT is not None


@dataclasses.dataclass(frozen=True)
class Plan:
    """A block to be written: (stream, count, bytes of each record) per batch, and what becomes of it."""

    batches: tuple[tuple[int, int, int], ...]
    state: State
    lag: int
    """Its watermark is the position of the block that many places before it; 0: of itself."""
    ends_segment: bool


@dataclasses.dataclass(frozen=True)
class Written:
    """A block on the disk, or not: `frames` are (stream, offset, payloads), `new` the streams it defines."""

    place: Block
    state: State
    watermark: int
    frames: tuple[tuple[int, int, tuple[bytes, ...]], ...] = ()
    new: tuple[int, ...] = ()


@dataclasses.dataclass
class Verdict:
    """What has to come out: a place to refuse, or streams with their records."""

    refused_at: int | None
    cut: int
    streams: dict[int, list[bytes]]


batch = st.tuples(st.integers(0, 3), st.integers(1, 3), st.sampled_from([0, 1, 100, 5 * KIB, 250 * KIB]))
whole = st.sampled_from(["whole"] * 12 + ["missing", "torn", "header"])
plan = st.builds(
    Plan,
    batches=st.lists(batch, min_size=1, max_size=3).map(tuple),
    state=whole,
    lag=st.sampled_from([9, 9, 9, 9, 6, 3, 1]),
    ends_segment=st.sampled_from([False] * 9 + [True]),
)


def write(log: LogWriter, plans: list[Plan]) -> list[Written]:
    """Carry out the plans."""
    done: list[Written] = []
    places = [log.begin]
    for number, step in enumerate(plans):
        watermark = places[max(0, len(places) - 1 - step.lag)]
        if step.ends_segment:
            done.append(Written(log.end(step.state, watermark), step.state, watermark))
        sent = [(s, tuple(b"%d.%d " % (number, n) + b"." * size for n in range(k))) for s, k, size in step.batches]
        frames, offsets = [], dict(log.next)
        for stream, payloads in sent:
            frames.append((stream, offsets.get(stream, 0), payloads))
            offsets[stream] = offsets.get(stream, 0) + len(payloads)
        new = tuple({stream for stream, _ in sent} - set(log.next))
        before, persisted = log.position, log.persisted
        place = log.put(*sent, state=step.state, watermark=watermark)
        if place.position != before:  # the writer had to put an END block in front
            done.append(Written(Block(before, place.position), "whole", persisted))
        done.append(Written(place, step.state, watermark, tuple(frames), new))
        places.append(place.end)
    return done


def judge(done: list[Written], barrier_end: int, window: int) -> Verdict:
    """The rules of recovery, over what is known to have been written."""
    broken = [block for block in done if block.state != "whole"]
    ends = [block.place.end for block in done]
    hole = broken[0].place.position if broken else max(ends, default=barrier_end)
    # Only the header of a block with frames stays intact when the block is torn.
    said = [block.watermark for block in done if block.state == "whole" or (block.state == "torn" and block.frames)]
    later = [block for block in done if block.state == "whole" and block.place.position > hole]
    # Behind what could be in flight, and all of its segment, one gets over confirmed blocks only: a header is enough.
    limit = ((hole + 2 * window + PAGE - 1) // SEGMENT + 1) * SEGMENT
    headers = [block for block in done if block.state == "whole" or (block.state == "torn" and block.frames)]
    beyond = any(block.place.position >= limit for block in headers)
    far = beyond or (bool(later) and later[-1].place.end - hole > window)
    if max([barrier_end, *said]) > hole or far:
        return Verdict(hole, hole, {})
    streams: dict[int, list[bytes]] = {}
    for block in done:
        if block.state != "whole":
            continue
        for stream in block.new:
            streams[stream] = []
        for stream, offset, payloads in block.frames:
            if stream in streams and offset == len(streams[stream]):
                streams[stream].extend(payloads)
    return Verdict(None, hole, streams)


END_LOST = Plan(batches=((0, 1, 0),), state="missing", lag=9, ends_segment=True)
TORN_AFTER_IT = Plan(batches=((0, 1, 0),), state="torn", lag=9, ends_segment=True)
AFTER_IT = Plan(batches=((0, 1, 0),), state="whole", lag=9, ends_segment=False)


@settings(max_examples=60, deadline=None, database=None)
@example(plans=[END_LOST, AFTER_IT], window=8 * KIB)  # the segment behind the lost END begins with a lost block, too
@example(plans=[TORN_AFTER_IT], window=8 * KIB)  # its header alone says that the log went on far behind the END
@given(plans=st.lists(plan, max_size=14), window=st.sampled_from([8 * KIB, 100 * KIB, 1024 * KIB, 8192 * KIB]))
def test_recovery_agrees_with_the_oracle(plans: list[Plan], window: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch, "log")
        first = recover(log_at(directory), CONFIG)
        log = LogWriter(directory, first)
        log.manifest = manifests.store(log_at(directory), dataclasses.replace(log.manifest, window_bytes=window))
        want = judge(write(log, plans), PAGE, window)
        if want.refused_at is not None:
            with pytest.raises(CorruptionError) as raised:
                recover(log_at(directory), CONFIG)
            assert raised.value.position == want.refused_at
            return
        recovered = recover(log_at(directory), CONFIG)
        named = {f"s{stream}": records for stream, records in want.streams.items()}
        assert recovered.previous_end == want.cut
        assert {stream.name: stream.next_offset for stream in recovered.streams} == {k: len(v) for k, v in named.items()}
        assert contents(directory) == named
        log = LogWriter(directory, recovered)
        for stream in want.streams:
            log.put((stream, b"after"))
            named[f"s{stream}"].append(b"after")
        recover(log_at(directory), CONFIG)
        assert contents(directory) == named
