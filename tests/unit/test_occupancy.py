"""What a segment holds, read from the segment; and whether somebody may still read it."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from ringwal.log import checkpoint_file, occupancy, sidefile
from ringwal.log import manifest as manifests
from ringwal.log.checkpoint import Checkpoint, StreamRow, pack
from ringwal.log.recovery import recover
from tests.support.log_place import log_at, path_of
from tests.support.log_writer import CONFIG, MIB, LogWriter

ROW = struct.Struct("<IIQ")


def rows_of(directory: Path, number: int) -> dict[int, int]:
    recovered = recover(log_at(directory), CONFIG)
    known = checkpoint_file.load(log_at(directory), recovered.manifest)
    epochs = known.epochs_up_to(known.position)
    found = occupancy.read(log_at(directory), recovered.manifest, epochs, number, direct=False)
    rows = list(ROW.iter_unpack(found))
    assert rows == sorted(rows)
    return {stream: end for stream, _, end in rows}


def test_the_end_of_every_stream_that_occurs(tmp_path: Path) -> None:
    log = LogWriter(tmp_path, recover(log_at(tmp_path), CONFIG))
    log.put((0, b"a"), (1, [b"x", b"y", b"z"]), (0, b"b"))
    for n in range(700):  # more than one window, more than one piece of an index
        log.put((2 + n % 40, bytes(8000)))
    log.put((63, b"in the next segment"))
    log.end()
    log.put((0, b"in the last one"))
    first = rows_of(tmp_path, 0)
    assert first[0] == 2 and first[1] == 3 and 63 not in first
    last = rows_of(tmp_path, log.position // log.manifest.segment_bytes - 1)
    assert last[63] == 1 and 0 not in last
    assert all(end <= 18 for stream, end in last.items())
    assert max(last.values()) == 18


def test_a_segment_with_parts_of_several_epochs(tmp_path: Path) -> None:
    """Beyond a cut nothing counts, also where it was carried over: then it stands in the next epoch."""
    log = LogWriter(tmp_path, recover(log_at(tmp_path), CONFIG))
    log.put((0, b"a"), (1, b"x"))
    hole = log.put((0, b"lost"), state="missing")
    log.put((0, b"dropped"), (1, b"kept"), watermark=hole.position)
    log = LogWriter(tmp_path, recover(log_at(tmp_path), CONFIG))
    log.put((2, b"new"))
    log.end()
    log.put((3, b"further on"))
    assert rows_of(tmp_path, 0) == {0: 1, 1: 2, 2: 1}


def test_a_side_file_says_the_same_and_spares_the_segment(tmp_path: Path) -> None:
    log = LogWriter(tmp_path, recover(log_at(tmp_path), CONFIG))
    log.put((0, b"a"), (1, [b"x", b"y", b"z"]), (5, b"b"))
    log.end()
    log.put((0, b"further on"))
    read = rows_of(tmp_path, 0)
    at = log_at(tmp_path)
    manifest = manifests.load(at)
    known = checkpoint_file.load(at, manifest)
    epochs = sidefile.extents_of(known, manifest.segment_bytes, 0)
    sidefile.write(at, manifest, known, 0, sidefile.gather(at, manifest, epochs, 0, direct=False), b"")
    with path_of(tmp_path, 0).open("r+b") as file:
        file.seek(4096)
        file.write(bytes(8192))  # so it is not the segment that is read
    assert rows_of(tmp_path, 0) == read == {0: 1, 1: 3, 5: 1}
    with (tmp_path / "segments" / sidefile.name_of(0)).open("r+b") as file:
        file.seek(3 * 4096 + 8)  # behind header, digests and epochs
        file.write(b"x")
    assert rows_of(tmp_path, 0) != read, "a damaged one counts as missing"


def test_damage_denies_its_own_records_only(tmp_path: Path) -> None:
    log = LogWriter(tmp_path, recover(log_at(tmp_path), CONFIG))
    log.put((0, b"a"))
    torn, header = log.put((1, b"x" * 9000)), log.put((2, b"y" * 9000))
    log.put((0, b"b"))
    log.end()
    log.put((3, b"further on"))
    recover(log_at(tmp_path), CONFIG)  # below the checkpoint from now on
    log.flip(torn.position + 128 + 24)
    log.flip(header.position + 48)
    assert rows_of(tmp_path, 0) == {0: 2}
    path_of(tmp_path, 0).unlink()
    assert rows_of(tmp_path, 0) == {}


def checkpoint(*rows: tuple[int, str, int]) -> Checkpoint:
    streams = pack([StreamRow(number, name, 1000, start, 0, 0) for number, name, start in rows])
    where: dict[str, Any] = {"epoch": 1, "position": MIB, "block_number": 1, "timestamp_ns": 0, "next_number": 100}
    return Checkpoint(uuid=bytes(16), streams=streams, epochs=(), **where)


def test_what_is_live(tmp_path: Path) -> None:
    rows = b"".join(ROW.pack(stream, 0, end) for stream, end in ((1, 10), (4, 20), (7, 30), (9, 40)))

    def live(known: Checkpoint) -> list[tuple[int, int]]:
        found = occupancy.live(rows, known.streams)
        assert found.count == len(found.rows) // ROW.size
        return [(stream, end) for stream, _, end in ROW.iter_unpack(found.rows)]

    assert live(checkpoint()) == [], "all streams have been deleted"
    assert live(checkpoint((1, "a", 10), (4, "b", 20), (7, "c", 31), (9, "d", 999))) == [], "all is trimmed"
    assert live(checkpoint((1, "a", 9), (2, "b", 0), (4, "c", 20), (9, "d", 39), (11, "e", 0))) == [(1, 10), (9, 40)]
    assert live(checkpoint((7, "a", 0))) == [(7, 30)]


def test_a_stream_of_the_engines_own_is_named() -> None:
    rows = b"".join(ROW.pack(stream, 0, 10) for stream in (1, 4, 7))
    mine = checkpoint((1, "a", 0), (4, "_positions", 3), (7, "b", 0))
    assert occupancy.live(rows, mine.streams).reserved == 4
    assert occupancy.live(rows, checkpoint((1, "a", 0), (4, "_positions", 10), (7, "b_", 0)).streams).reserved is None
    assert occupancy.live(rows, b"") == occupancy.Live(b"", 0, None)


def test_several_segments_together() -> None:
    pieces = [[(1, 10), (4, 20)], [(0, 5), (4, 30)], [(4, 31), (9, 1)]]
    rows = [b"".join(ROW.pack(stream, 0, end) for stream, end in piece) for piece in pieces]
    assert [(stream, end) for stream, _, end in ROW.iter_unpack(occupancy.merged(rows))] == [(0, 5), (1, 10), (4, 31), (9, 1)]
    assert occupancy.merged(rows[:1]) == rows[0]
    assert occupancy.merged([b"", b""]) == b""
