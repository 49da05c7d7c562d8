"""Verification finds every damaged byte of a log below its end, says what it takes, and nothing else."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringwal._native import lib
from ringwal.errors import CorruptionError, FileError, VersionMismatch
from ringwal.log import checkpoint_file, segment, sidefile
from ringwal.log import manifest as manifests
from ringwal.log.audit import WHAT
from ringwal.log.checkpoint import pack_owners
from ringwal.log.recovery import recover
from ringwal.log.verify import Loss, Report, verify
from tests.support import drafts
from tests.support.log_place import log_at, path_of
from tests.support.log_writer import CONFIG, PAGE, LogWriter, claim, commit, consume, delete, trim

SIZE = CONFIG.segment_bytes
FRAME, HEADER = 88, 128


@pytest.fixture
def log(tmp_path: Path) -> LogWriter:
    return LogWriter(tmp_path / "log", recover(log_at(tmp_path / "log"), CONFIG))


def checked(log: LogWriter, *, deep: bool = True) -> Report:
    return verify(log_at(log.directory), deep=deep)


def again(log: LogWriter) -> LogWriter:
    """The next life of the log, whose checkpoint is behind all that there was."""
    return LogWriter(log.directory, recover(log_at(log.directory), CONFIG))


def flip(file: Path, byte: int, bit: int) -> None:
    with file.open("r+b") as found:
        found.seek(byte)
        old = found.read(1)[0]
        found.seek(byte)
        found.write(bytes([old ^ 1 << bit]))


def small_log(log: LogWriter) -> tuple[LogWriter, int]:
    """Two epochs, each kind of block and frame, and what comes behind in the third, whose checkpoint has all before the end."""
    log.put((0, b"a"), (1, [b"x", b"", b"yy"]))
    log.put((0, b"b" * 300), trim(0, 1))
    log.put(claim(1, b"till"), (1, b"w"), owner=(1, 1, 0))
    log = again(log)
    log.put((2, b"brief"))
    log.put(delete(2), (1, b"z"))
    log = again(log)
    log.put((0, b"behind"))
    return log, log.begin


def meaningful(log: LogWriter, end: int) -> Iterator[tuple[Path, int]]:
    """Every byte below the end that means something: all but the persisted bytes of frames, and what pads a whole page."""
    state = manifests.load(log_at(log.directory))
    for copy in (0, 1):
        yield from ((log.directory / "manifest", copy * PAGE + at) for at in range(144))
    ends = [*range(108), *range(PAGE, state.checkpoint_bytes)]
    yield from ((log.directory / checkpoint_file.name_of(state.checkpoint_file), at) for at in ends)
    yield from ((path_of(log.directory, 0), at) for at in range(64))
    data = path_of(log.directory, 0).read_bytes()[PAGE : PAGE + end]
    for position in range(0, end, PAGE):
        used = int.from_bytes(data[position + 52 : position + 56], "little")
        frames, at = int.from_bytes(data[position + 56 : position + 60], "little"), position + HEADER
        persisted = set()
        for _ in range(frames):
            persisted.add(at + 5)
            at += FRAME + (int.from_bytes(data[at + 8 : at + 12], "little") + 7) // 8 * 8
        assert at == position + used
        zeros = [position + used + 1, position + PAGE - 1]
        yield from ((path_of(log.directory, 0), PAGE + one) for one in [*range(position, at), *zeros] if one not in persisted)


def test_every_byte_of_a_log_that_means_something_is_looked_at(log: LogWriter) -> None:
    log, end = small_log(log)
    assert checked(log).clean
    chance = random.Random(5)
    for file, byte in chance.sample(list(meaningful(log, end)), 300):
        bit = chance.randrange(8)
        flip(file, byte, bit)
        report = checked(log)
        flip(file, byte, bit)
        assert not report.clean, f"byte {byte} of {file.name}"
        assert report.places[0].file == str(file.relative_to(log.directory))
        assert report.places[0].offset <= byte
    assert checked(log).clean


def test_bytes_that_mean_nothing_are_no_damage(log: LogWriter) -> None:
    log, end = small_log(log)
    state = manifests.load(log_at(log.directory))
    flip(log.directory / "manifest", 200, 1)
    flip(log.directory / checkpoint_file.name_of(1 - state.checkpoint_file), 8, 1)
    flip(log.directory / checkpoint_file.name_of(state.checkpoint_file), state.checkpoint_bytes + 8, 1)
    flip(path_of(log.directory, 0), 100, 1)
    flip(path_of(log.directory, 0), PAGE + PAGE + HEADER + 5, 1)  # persisted
    flip(path_of(log.directory, 0), PAGE + log.position + 17, 1)  # behind the end
    report = checked(log)
    assert report.clean
    assert report.end == log.position > end


def test_a_damaged_block_takes_what_later_blocks_do_not_continue(log: LogWriter) -> None:
    log.put((0, b"a"), (1, b"x"))
    bad = log.put((0, [b"b", b"c"]), (1, b"y"))
    log.put((1, b"z"))
    log.put((0, b"d"))
    log = again(log)
    log.flip(bad.position + 20)
    (place,) = checked(log).places
    assert (place.segment, place.position, place.until) == (0, bad.position, bad.end)
    assert (place.file, place.offset) == (f"segments/{segment.name_of(0)}", PAGE + bad.position)
    assert place.losses == [Loss(1, "s1", 1, 2), Loss(0, "s0", 1, 3)]


def test_a_damaged_payload_takes_its_own_records_only(log: LogWriter) -> None:
    log.put((0, b"a"))
    bad = log.put((0, [b"b", b"c"]), (1, b"y"), (0, b"d"))
    log = again(log)
    at = bad.position + HEADER + FRAME  # of the first frame's payload: two lengths, two bytes
    log.flip(at + 8)
    (place,) = checked(log).places
    assert (place.position, place.losses) == (at, [Loss(0, "s0", 1, 3)])
    assert checked(log, deep=False).clean, "the payloads of records are what a look that is not deep leaves out"


def test_a_damaged_frame_takes_those_behind_it_in_its_block(log: LogWriter) -> None:
    log.put((1, b"x"))
    bad = log.put((0, b"a"), (0, b"b"), (1, b"y"))
    log.put((0, b"c"))
    log = again(log)
    second = bad.position + HEADER + 2 * (FRAME + 8)  # behind the definition and the first record
    log.flip(second + 24)
    for deep in (False, True):
        (place,) = checked(log, deep=deep).places
        assert (place.position, place.until) == (second, bad.end)
        assert place.losses == [Loss(0, "s0", 1, 2), Loss(1, "s1", 1, 2)]


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("name", drafts.wrong_joints())
def test_a_joint_append_that_is_none_is_told_and_takes_nothing(name: str, deep: bool, tmp_path: Path) -> None:
    at, position = drafts.with_wrong_joint(tmp_path / "log", name)
    found = verify(log_at(at), deep=deep)
    (place,) = found.places
    assert (place.position, place.what, place.losses) == (position, WHAT[lib.RW_AUDIT_JOINED], [])
    assert (found.records, place.until) == (4, 3 * PAGE)


def test_a_joint_append_is_clean_and_loses_a_part_as_any_batch_is_lost(log: LogWriter) -> None:
    bad = log.put((0, b"a"), (1, [b"x", b"y"]), (2, b"u"), joined=True)
    log.put((0, b"b"), (1, b"z"), (2, b"v"))
    log = again(log)
    assert checked(log).clean
    second = bad.position + HEADER + 3 * (FRAME + 8) + FRAME + 8  # behind three definitions and the first part
    log.flip(second + FRAME + 8)
    (place,) = checked(log).places
    assert (place.position, place.losses) == (second + FRAME, [Loss(1, "s1", 0, 2)])
    log.flip(second + 24)
    (place,) = checked(log).places
    assert (place.position, place.losses) == (second, [Loss(1, "s1", 0, 2), Loss(2, "s2", 0, 1)])


def test_what_is_trimmed_or_deleted_is_not_taken(log: LogWriter) -> None:
    bad = log.put((0, b"a"), (1, b"x"), (2, b"u"))
    log.put((0, b"b"), trim(0, 2), delete(1), (2, b"v"))
    log = again(log)
    log.flip(bad.position + 20)
    (place,) = checked(log).places
    assert place.losses == [Loss(2, "s2", 0, 1)]


def test_what_is_trimmed_or_deleted_behind_the_checkpoint_is_not_taken(log: LogWriter) -> None:
    log.put((0, b"a"), (1, b"x"), (2, b"deleted"))
    bad = log.put((0, [b"b", b"c"]), (1, b"y"), (2, b"deleted, too"))
    log.put((0, b"d"), (1, b"z"), (2, b"and this"))
    log = again(log)
    log.put(trim(0, 2), trim(1, 2), delete(2))
    log.flip(bad.position + 12)
    (place,) = checked(log).places
    assert place.losses == [Loss(0, "s0", 2, 3)]


def test_a_place_of_which_nothing_is_kept_says_so(log: LogWriter) -> None:
    bad = log.put((0, [b"a", b"b"]))
    log.put((0, b"c"))
    log = again(log)
    log.put(trim(0, 2))
    log.flip(bad.position + HEADER + FRAME + 8)
    (place,) = checked(log).places
    assert (place.losses, place.idle) == ([], True)


def test_a_missing_segment_takes_what_is_in_it(log: LogWriter) -> None:
    log.put((0, b"a"), (1, b"silent"))
    log.end()
    log.put((0, b"b"))
    log.end()
    log.put((0, b"c"))
    log = again(log)
    log.file(1).unlink()
    (place,) = checked(log).places
    assert (place.what, place.offset, place.until) == ("a segment that the manifest names is missing", 0, 2 * SIZE)
    assert place.losses == [Loss(0, "s0", 1, 2)]
    log.file(0).unlink()
    first, second = checked(log).places
    assert first.segment == 0 and Loss(1, "s1", 0, 1) in first.losses
    assert second.segment == 1 and Loss(0, "s0", 0, 2) in second.losses


def test_a_file_that_ends_early_takes_the_rest(log: LogWriter) -> None:
    log.put((0, b"a"))
    bad = log.put((0, b"b" * 9000), (1, b"x"))
    log.put((1, b"y"))
    log.end()
    log.put((0, b"c"), (1, b"z"))
    log = again(log)
    with log.file(0).open("r+b") as file:
        file.truncate(PAGE + bad.position + PAGE)
    (place,) = checked(log).places
    assert place.offset == PAGE + bad.position + PAGE
    assert place.losses == [Loss(0, "s0", 1, 2), Loss(1, "s1", 0, 2)]
    assert checked(log, deep=False).places[0].losses == [Loss(1, "s1", 0, 2)]


def test_a_checkpoint_and_a_log_that_contradict_each_other(log: LogWriter) -> None:
    log.put((0, b"a"))
    log.put((0, b"b"))
    log = again(log)
    at, state = log_at(log.directory), manifests.load(log_at(log.directory))
    known = checkpoint_file.load(at, state)
    (row,) = known.rows()
    from ringwal.log.checkpoint import pack

    other = dataclasses.replace(known, streams=pack([row._replace(next_offset=1)]))
    manifests.store(at, checkpoint_file.put(at, state, other, 64))
    (place,) = checked(log).places
    assert "stream 0 's0' is another one in the log than in the checkpoint" in place.what


def test_consumers_and_their_commits_are_no_damage(log: LogWriter) -> None:
    log.put((0, [b"a", b"b"]), (1, b"out"))
    log.put(consume(0, b"c"), owner=(1, 1, 0))
    log.put(commit(0, 2), (1, b"more"), owner=(1, 1, 0), joined=True)
    log.put(commit(0, 1), owner=(1, 1, 2))
    assert checked(log).clean
    log = again(log)
    log.put(commit(0, 2), owner=(1, 1, 1))
    assert checked(log).clean


def test_rows_of_producers_that_make_no_sense_are_damage(log: LogWriter) -> None:
    log.put(claim(0, b"till"), (0, b"a"), owner=(1, 1, 0))
    log = again(log)
    at, state = log_at(log.directory), manifests.load(log_at(log.directory))
    known = checkpoint_file.load(at, state)
    (row,) = known.owner_rows()
    for rows in ([row._replace(last_sequence=2)], [row._replace(number=2)], [row, row]):
        manifests.store(at, checkpoint_file.put(at, state, dataclasses.replace(known, owners=pack_owners(rows)), 64, 64))
        assert "row of owner" in checked(log).places[0].what
    manifests.store(at, checkpoint_file.put(at, state, known, 64, 64))
    assert checked(log).clean


def test_a_block_that_is_older_than_one_in_front_of_it_is_told_and_takes_nothing(log: LogWriter) -> None:
    log.put((0, b"a"))
    log.put((0, b"b"), block_time=9_000)
    older = log.put((0, b"c"), block_time=8_999)
    log.put((0, b"d"), block_time=9_000)
    again(log)
    (place,) = checked(log).places
    assert (place.position, place.losses) == (older.position, [])
    assert "time is before" in place.what


def test_a_log_that_a_crash_has_torn_is_clean(log: LogWriter) -> None:
    log.put((0, b"a"))
    log.put((0, b"torn"), state="torn")
    log.put((0, b"behind a hole"), watermark=PAGE)
    log.put((1, b"in order"), watermark=PAGE)
    report = checked(log)
    assert report.clean and report.end == 2 * PAGE
    assert (report.records, report.streams) == (1, 1)
    assert checked(again(log)).clean


def test_a_block_that_is_lost_although_it_was_persisted_is_damage(log: LogWriter) -> None:
    log.put((0, b"a"))
    bad = log.put((0, b"b"))
    log.put((0, b"c"))
    log.flip(bad.position + 20)
    (place,) = checked(log).places
    assert (place.position, place.losses) == (bad.position, [Loss(0, "s0", 1, 2)])
    with pytest.raises(CorruptionError):
        recover(log_at(log.directory), CONFIG)


def test_a_watermark_without_what_it_vouches_for_is_damage(log: LogWriter) -> None:
    log.put((0, b"a"))
    bad = log.put((0, b"b"))
    log.put((0, b"c"), state="torn")
    log.flip(bad.position + 20)
    (place,) = checked(log).places
    assert place.position == bad.position


@pytest.mark.parametrize("kept", [0, 1, None])
def test_without_a_manifest_the_rest_is_still_looked_at(log: LogWriter, kept: int | None) -> None:
    log.put((0, b"a"))
    bad = log.put((0, b"b"))
    log.put((0, b"c"))
    log = again(log)
    log.put((0, b"d"))
    log.flip(bad.position + 20)
    if kept is None:
        (log.directory / "manifest").unlink()
    for copy in {0, 1} - {kept}:
        if kept is not None:
            flip(log.directory / "manifest", copy * PAGE + 50, 3)
    report = checked(log)
    *others, place = report.places
    assert {one.file for one in others} == {"manifest"}
    assert (place.position, place.losses) == (bad.position, [Loss(0, "s0", 1, 2)])


def test_without_a_checkpoint_the_blocks_tell_the_epochs(log: LogWriter) -> None:
    log.put((0, b"a"))
    log.put((0, b"torn"), state="torn")
    log.put((0, b"beyond the cut, and valid"), watermark=PAGE)
    log = again(log)
    log.put((0, b"b"))
    log.put((0, b"c"))
    for number in (0, 1):
        flip(log.directory / checkpoint_file.name_of(number), 20, 1)
    report = checked(log)
    assert [place.file for place in report.places] == ["checkpoint-1"]
    assert (report.records, report.end) == (3, log.position)


def test_an_older_manifest_is_told(log: LogWriter) -> None:
    log.put((0, b"a"))
    older = (log.directory / "manifest").read_bytes()
    log.end()
    log.put((0, b"b"))
    again(log)
    (log.directory / "manifest").write_bytes(older)
    assert any("older" in place.what for place in checked(log).places)


def test_nothing_is_changed(log: LogWriter) -> None:
    log, _ = small_log(log)
    log.flip(PAGE + 20)
    (log.directory / segment.name_of(9)).write_bytes(b"left over")
    before = {path: path.read_bytes() for path in log.directory.rglob("*") if path.is_file()}
    assert not checked(log).clean
    assert {path: path.read_bytes() for path in log.directory.rglob("*") if path.is_file()} == before


def test_no_log_and_another_format(tmp_path: Path, log: LogWriter) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match="there is no log"):
        verify(log_at(tmp_path / "empty"))
    raw = bytearray((log.directory / "manifest").read_bytes())
    for copy in (0, PAGE):
        raw[copy + 8] = 9
    (log.directory / "manifest").write_bytes(raw)
    with pytest.raises(VersionMismatch):
        checked(log)


def test_an_empty_log_is_clean(log: LogWriter) -> None:
    assert checked(log).clean
    assert lib.RW_BLOCK_HOLE not in (lib.RW_BLOCK_DATA, lib.RW_BLOCK_EPOCH, lib.RW_BLOCK_END)


def test_side_files_are_looked_at_and_take_nothing(log: LogWriter) -> None:
    log.put((0, b"a"))
    log.end()
    log.put((0, b"b"))
    log = again(log)
    at, state = log_at(log.directory), manifests.load(log_at(log.directory))
    known = checkpoint_file.load(at, state)
    maker = sidefile.gather(at, state, sidefile.extents_of(known, SIZE, 0), 0, direct=False)
    sidefile.write(at, state, known, 0, maker, b"")
    assert checked(log).clean
    side = log.directory / "segments" / sidefile.name_of(0)
    for byte in [*range(0, 112, 9), *range(PAGE, side.stat().st_size, 512)]:
        flip(side, byte, 3)
        (place,) = checked(log).places
        flip(side, byte, 3)
        assert place.file == f"segments/{side.name}" and place.offset <= byte
        assert place.losses == [] and "nothing is lost" in place.what
    side.rename(side.with_name(sidefile.name_of(1)))
    assert checked(log).clean, "no side file of a segment that is not below the checkpoint is of the log"
