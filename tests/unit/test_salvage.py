"""Salvage makes a log of everything that can be proven: it starts, it is clean but for the holes that it names."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import ringwal
from ringwal._native import ffi, lib
from ringwal.errors import ConfigError, CorruptionError, FileError
from ringwal.log import checkpoint_file, freeing, settings
from ringwal.log import manifest as manifests
from ringwal.log.audit import WHAT
from ringwal.log.recovery import recover
from ringwal.log.salvage import Salvaged, salvage
from ringwal.log.verify import Loss, verify
from tests.support import drafts
from tests.support.log_place import log_at
from tests.support.log_writer import CONFIG, PAGE, Control, LogWriter, blocks, claim, commit, consume, delete, trim

SIZE = CONFIG.segment_bytes
FRAME, HEADER = 88, 128


@pytest.fixture
def log(tmp_path: Path) -> LogWriter:
    return LogWriter(tmp_path / "log", recover(log_at(tmp_path / "log"), CONFIG))


def again(log: LogWriter) -> LogWriter:
    return LogWriter(log.directory, recover(log_at(log.directory), CONFIG))


def files(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def readable(directory: Path) -> dict[str, dict[int, bytes]]:
    """Each stream's records by offset, as far as they can be read."""
    found: dict[str, dict[int, bytes]] = {}
    with ringwal.open_readonly(directory) as at:
        for info in at.streams():
            stream, records = at.stream(info.name), found.setdefault(info.name, {})
            offset = info.start_offset
            while offset < info.confirmed_offset:
                try:
                    some = stream.read(offset)
                except ringwal.CorruptionError as damage:
                    offset = info.confirmed_offset if damage.next_offset is None else max(damage.next_offset, offset + 1)
                    continue
                records.update((record.offset, record.data) for record in some)
                offset = some[-1].offset + 1
    return found


def saved(log: LogWriter) -> tuple[dict[str, dict[int, bytes]], Salvaged]:
    """What the salvaged log has. It starts, and goes on; nothing of the damaged one was changed."""
    before, dest = files(log.directory), log.directory.with_name("saved")
    made = salvage(log_at(log.directory), dest)
    assert files(log.directory) == before
    assert made.made.clean, made.made.places
    found = readable(dest)
    recovered = recover(log_at(dest), CONFIG)
    assert {stream.name: stream.next_offset for stream in recovered.streams} == {
        row.name: row.next_offset for row in made.streams
    }
    more = LogWriter(dest, recovered)
    for stream in recovered.streams:
        more.put((stream.number, b"later"))
    assert {name: records[max(records)] for name, records in readable(dest).items()} == dict.fromkeys(found, b"later")
    return found, made


def lost(made: Salvaged) -> set[tuple[str | None, int, int]]:
    found = [*made.leads, *(loss for place in made.holes for loss in place.losses)]
    return {(loss.name, loss.first_offset, loss.next_offset) for loss in found}


def test_of_a_log_that_is_whole_everything_is_saved(log: LogWriter) -> None:
    log.put((0, b"a"), (1, [b"x", b"", b"yy"]))
    log.end()
    log = again(log)
    log.put((0, b"b" * 9000), (2, b"gone"))
    log.put(trim(1, 2), delete(2))
    log.put((0, b"torn"), state="torn", watermark=PAGE)
    log.put((1, b"in order"), (0, b"dropped"), watermark=PAGE)
    found, made = saved(log)
    assert found == {"s0": {0: b"a", 1: b"b" * 9000}, "s1": {2: b"yy", 3: b"in order"}}
    assert (lost(made), made.found.places) == (set(), [])


def test_a_damaged_header_loses_nothing(log: LogWriter) -> None:
    log.put((0, b"a"))
    bad = log.put((0, b"b"), (1, b"x"))
    log.put((0, b"c"))
    log = again(log)
    log.flip(bad.position + 20)
    found, made = saved(log)
    assert found == {"s0": {0: b"a", 1: b"b", 2: b"c"}, "s1": {0: b"x"}}
    assert [place.position for place in made.found.places] == [bad.position]
    assert lost(made) == set()


def test_a_damaged_payload_loses_its_own_records(log: LogWriter) -> None:
    bad = log.put((0, b"a"), (0, [b"b", b"c"]), (1, b"y"))
    log.put((0, b"d"))
    log = again(log)
    log.flip(bad.position + HEADER + 3 * FRAME + 8 + 8 + 8)
    found, made = saved(log)
    assert found == {"s0": {0: b"a", 3: b"d"}, "s1": {0: b"y"}}
    assert lost(made) == {("s0", 1, 3)}


def test_a_damaged_frame_loses_what_is_behind_it_in_its_block(log: LogWriter) -> None:
    log.put((1, b"x"))
    bad = log.put((0, b"a"), (0, b"b"), (1, b"y"))
    log.put((0, b"c"))
    log = again(log)
    log.flip(bad.position + HEADER + 2 * (FRAME + 8) + 24)
    found, made = saved(log)
    assert found == {"s0": {0: b"a", 2: b"c"}, "s1": {0: b"x"}}
    assert lost(made) == {("s0", 1, 2), ("s1", 1, 2)}


@pytest.mark.parametrize("cut", ["missing", "short", "header", "directory", "fifo"])
def test_a_segment_that_is_gone_becomes_a_hole(log: LogWriter, cut: str) -> None:
    log.put((0, b"a"), (1, b"silent"))
    log.end()
    inner = log.put((0, b"b"))
    log.end()
    log.put((0, b"c"))
    log = again(log)
    if cut in ("missing", "directory", "fifo"):
        log.file(1).unlink()
    if cut == "directory":
        log.file(1).mkdir()
    elif cut == "fifo":
        os.mkfifo(log.file(1))
    elif cut == "short":
        with log.file(1).open("r+b") as file:
            file.truncate(PAGE + inner.position % SIZE)
    elif cut == "header":
        with log.file(1).open("r+b") as file:
            file.write(b"nothing at all")
    found, made = saved(log)
    kept = cut == "header"
    assert found == {"s0": {0: b"a", **({1: b"b"} if kept else {}), 2: b"c"}, "s1": {0: b"silent"}}
    assert lost(made) == (set() if kept else {("s0", 1, 2)})


def times(directory: Path) -> dict[int, int]:
    """Of each block by its log position. They are in order, and none is before that of one of its frames."""
    found: dict[int, int] = {}
    for head, piece in blocks(directory):
        newest, at, seen = max([0, *found.values()]), ffi.new("uint64_t *", HEADER), ffi.new("rw_frame_info *")
        while lib.rw_block_frames(piece, at, seen, 1):
            newest = max(newest, int(seen.timestamp_ns))
        assert head["timestamp_ns"] >= newest
        found[head["position"]] = head["timestamp_ns"]
    return found


def test_a_hole_is_not_younger_than_the_blocks_behind_it(log: LogWriter) -> None:
    damaged = []
    for log.time in (3_000, 4_000, 5_000):
        damaged.append(log.put((0, b"x")).position)
    log.end()
    log.time = 6_000
    log.put((0, b"in the segment that is lost"))
    log.end()
    log.time = 7_000
    log.put((0, b"y"))
    log = again(log)
    log.time = 8_000
    log.put((0, b"z"))
    whole = times(log.directory)
    log.flip(damaged[1] + 20)
    log.flip(log.begin + 20)  # the first block of the second epoch
    log.file(1).unlink()
    assert salvage(log_at(log.directory), log.directory.with_name("saved")).made.clean
    expected = {place: time for place, time in whole.items() if place // SIZE != 1}
    assert times(log.directory.with_name("saved")) == {**expected, damaged[1]: 3_000, SIZE: 5_000, log.begin: 7_000}


def test_a_hole_is_not_older_than_what_is_saved_in_it(log: LogWriter) -> None:
    log.put((0, [b""] * 1500))
    log.time = 3_000
    bad = log.put((0, b"of 2500"))
    log.put((0, b"c"))
    log = again(log)
    log.flip(bad.position + 20)
    assert salvage(log_at(log.directory), log.directory.with_name("saved")).made.clean
    assert times(log.directory.with_name("saved"))[bad.position] == 2_500


def test_times_that_went_back_in_the_damaged_log_do_not_in_the_new_one(log: LogWriter) -> None:
    log.put((0, b"a"), block_time=9_000)
    late = log.put((0, b"b"), block_time=2_100)
    log = again(log)
    found, made = saved(log)
    assert found == {"s0": {0: b"a", 1: b"b"}}
    assert [(place.position, place.what) for place in made.found.places] == [(late.position, WHAT[lib.RW_AUDIT_TIME])]
    assert times(log.directory.with_name("saved"))[late.position] == 9_000
    with ringwal.open_readonly(log.directory.with_name("saved")) as at:
        assert [record.timestamp_ns for record in at.stream("s0").records()][:2] == [1_000, 1_001]


def no_manifest(log: LogWriter) -> None:
    (log.directory / "manifest").unlink()


def manifest_directory(log: LogWriter) -> None:
    no_manifest(log)
    (log.directory / "manifest").mkdir()


def no_checkpoints(log: LogWriter) -> None:
    for number in (0, 1):
        (log.directory / checkpoint_file.name_of(number)).write_bytes(b"nothing")


def named_checkpoint(log: LogWriter) -> None:
    state = manifests.load(log_at(log.directory))
    (log.directory / checkpoint_file.name_of(state.checkpoint_file)).write_bytes(b"nothing")


def neither(log: LogWriter) -> None:
    no_manifest(log)
    no_checkpoints(log)


@pytest.mark.parametrize("damage", [no_manifest, manifest_directory, no_checkpoints, named_checkpoint, neither])
def test_what_the_log_says_of_itself_is_made_out_of_its_blocks(log: LogWriter, damage: Callable[[LogWriter], None]) -> None:
    log.put((0, b"a"), (1, [b"x", b"", b"yy"]), (2, b"gone"))
    log.put(trim(1, 1), delete(2))
    log.put((0, b"torn"), state="torn", watermark=PAGE)
    log.put((0, b"beyond the cut"), (3, b"beyond it, too"), watermark=PAGE)
    log = again(log)
    log.put((0, b"b"), (1, b"z"))
    damage(log)
    found, made = saved(log)
    assert found == {"s0": {0: b"a", 1: b"b"}, "s1": {1: b"", 2: b"yy", 3: b"z"}, "s3": {0: b"beyond it, too"}}
    assert lost(made) == set()
    with pytest.raises(CorruptionError):
        recover(log_at(log.directory), CONFIG)


def test_nothing_beyond_a_cut_is_believed(log: LogWriter) -> None:
    log.put((0, b"a"))
    log.put((0, b"torn"), state="torn", watermark=PAGE)
    log.put((0, b"dropped"), offset=2, watermark=PAGE)
    log = again(log)
    log.put((0, b"b"))
    found, made = saved(log)
    assert (found, lost(made)) == ({"s0": {0: b"a", 1: b"b"}}, set())


def test_nothing_beyond_a_cut_is_believed_though_nobody_states_it(log: LogWriter) -> None:
    log.put((0, b"a"))
    log.put((0, b"torn"), state="torn", watermark=PAGE)
    log.put((0, b"dropped"), offset=2, watermark=PAGE)
    first = again(log)
    first.put((0, b"b"))
    neither(log)
    log.flip(first.begin + 20)  # the block that says where the epoch before ends
    found, _ = saved(log)
    assert found == {"s0": {0: b"a", 1: b"b"}}


def test_the_last_block_of_an_epoch_whose_cut_nobody_states_can_be_lost(log: LogWriter) -> None:
    log.put((0, b"a"))
    bad = log.put((0, b"b"))
    first = again(log)
    first.put((0, b"c"))
    neither(log)
    log.flip(first.begin + 20)
    log.flip(bad.position + HEADER + 24)
    found, made = saved(log)
    assert found == {"s0": {0: b"a", 2: b"c"}}
    assert lost(made) == {("s0", 1, 2)}


def test_damage_before_a_cut_that_nobody_states_ends_nothing(log: LogWriter) -> None:
    bad = log.put((0, b"a"))
    log.put((0, b"b"))
    log.put((0, b"c"))
    log.put((0, b"torn"), state="torn")
    log.put((0, b"dropped"), offset=4, watermark=PAGE)
    first = again(log)
    first.put((0, b"d"))
    neither(log)
    log.flip(first.begin + 20)
    log.flip(bad.position + HEADER + 24)
    found, made = saved(log)
    assert found == {"stream-0": {1: b"b", 2: b"c", 3: b"d"}}
    assert lost(made) == {("stream-0", 0, 1)}


def test_behind_the_last_watermark_only_what_a_start_would_keep_is_saved(log: LogWriter) -> None:
    log.put((0, b"a"), (1, b"x"))
    bad = log.put((0, b"b"), (2, b"u"))
    log.put((1, b"y"))
    log.put((1, b"torn"), state="torn", watermark=PAGE)
    log.put((0, b"c"), (1, b"behind the torn one"), watermark=PAGE)
    log.flip(bad.position + HEADER + 24)
    with pytest.raises(CorruptionError):
        recover(log_at(log.directory), CONFIG)
    found, made = saved(log)
    assert found == {"s0": {0: b"a", 2: b"c"}, "s1": {0: b"x", 1: b"y"}}
    assert lost(made) == {("s0", 1, 2)}


def test_the_name_of_a_stream_can_be_lost(log: LogWriter) -> None:
    bad = log.put((0, b"a"))
    log.put((0, b"b"))
    neither(log)
    log.flip(bad.position + HEADER + FRAME)
    found, made = saved(log)
    assert found == {"stream-0": {0: b"a", 1: b"b"}}
    assert made.nameless == ("stream-0",)


def test_what_was_freed_is_not_missed(log: LogWriter) -> None:
    log.put((0, b"a"), (1, b"x"))
    log.end()
    log.put((0, b"b"), trim(0, 1), trim(1, 1))
    log = again(log)
    at = log_at(log.directory)
    freeing.free(at, manifests.load(at), 1, wanted=0, direct=False, announce=lambda _: None)
    bad = log.put((1, b"y"))
    log.put((1, b"z"))
    log = again(log)
    log.flip(bad.position + HEADER + FRAME)
    found, made = saved(log)
    assert found == {"s0": {1: b"b"}, "s1": {2: b"z"}}
    assert lost(made) == {("s1", 1, 2)}


def test_a_stream_whose_first_records_are_lost_begins_behind_them(log: LogWriter, tmp_path: Path) -> None:
    log.put((0, [b"a", b"b"]), (1, b"x"), (2, b"all of it"))
    log.end()
    log.put((0, b"c"), (1, b"y"), trim(1, 1))
    log = again(log)
    log.file(0).unlink()
    made = salvage(log_at(log.directory), tmp_path / "saved")
    assert lost(made) == {("s0", 0, 2), ("s2", 0, 1)}
    assert {row.name: (row.start_offset, row.next_offset) for row in made.streams} == {"s0": (2, 3), "s1": (1, 2), "s2": (1, 1)}
    with ringwal.open_readonly(tmp_path / "saved") as at:
        assert [record.data for record in at.stream("s0").records()] == [b"c"]
    # The hole's segment is freed, as it has nothing that anybody needs; and nothing is missed afterwards.
    place = log_at(tmp_path / "saved")
    freeing.free(place, manifests.load(place), 1, wanted=0, direct=False, announce=lambda _: None)
    assert verify(place, deep=True).places == []


def test_a_salvaged_log_can_be_damaged_and_salvaged_again(log: LogWriter, tmp_path: Path) -> None:
    bad = log.put((0, b"a"), (0, b"b"))
    log.put((0, b"c"))
    worse = log.put((0, b"d"))
    log.put((0, b"e"))
    log = again(log)
    log.flip(bad.position + HEADER + 2 * (FRAME + 8) + FRAME)
    salvage(log_at(log.directory), tmp_path / "one")
    log.directory = tmp_path / "one"
    log.flip(worse.position + HEADER + 3)
    found, made = saved(log)
    assert found == {"s0": {0: b"a", 2: b"c", 4: b"e"}}
    assert lost(made) == {("s0", 1, 2), ("s0", 3, 4)}


@pytest.mark.parametrize("damage", [None, no_manifest, no_checkpoints, neither])
def test_producers_are_forgotten_and_their_numbers_stay_theirs(
    log: LogWriter, damage: Callable[[LogWriter], None] | None, tmp_path: Path
) -> None:
    log.put(claim(0, b"p"), (0, [b"a", b"b"]), owner=(5, 1, 0))
    log = again(log)
    log.put(claim(0, b"q"), (0, b"c"), owner=(9, 1, 0))
    if damage is not None:
        damage(log)
    last = 9
    for name in ("one", "two"):
        salvage(log_at(log.directory), tmp_path / name)
        log.directory = tmp_path / name
        recovered = recover(log_at(log.directory), CONFIG)
        assert recovered.owners == b"" and recovered.owners_end > last + (1 << 20)
        assert len(readable(log.directory)["s0"]) == recovered.streams[0].next_offset
        log, last = LogWriter(log.directory, recovered), recovered.owners_end
        log.put(claim(0, b"p"), (0, b"more"), owner=(last, 1, 0))
        no_checkpoints(log)


def test_of_a_damaged_joint_append_the_other_parts_are_saved(log: LogWriter) -> None:
    bad = [log.put((n, b"first"), (3, [b"x", b"y"]), (n + 4, b"last"), joined=True) for n in range(3)]
    log.put(*((n, b"b") for n in range(7)))
    log = again(log)
    parts = [block.position + HEADER + (3 - (n > 0)) * (FRAME + 8) for n, block in enumerate(bad)]  # behind definitions
    log.flip(parts[0] + FRAME)  # the payload of the first part
    log.flip(parts[1] + FRAME + 8 + 24)  # the header of the second one
    log.flip(bad[2].position + 20)
    found, made = saved(log)
    assert found == {
        "s0": {1: b"b"}, "s1": {0: b"first", 1: b"b"}, "s2": {0: b"first", 1: b"b"},
        "s3": {0: b"x", 1: b"y", 4: b"x", 5: b"y", 6: b"b"},
        "s4": {0: b"last", 1: b"b"}, "s5": {1: b"b"}, "s6": {0: b"last", 1: b"b"},
    }  # fmt: skip
    assert lost(made) == {("s0", 0, 1), ("s3", 2, 4), ("s5", 0, 1)}


@pytest.mark.parametrize("name", drafts.wrong_joints())
def test_a_joint_append_that_is_none_loses_nothing(name: str, tmp_path: Path) -> None:
    at, position = drafts.with_wrong_joint(tmp_path / "log", name)
    made = salvage(log_at(at), tmp_path / "saved")
    assert [place.position for place in made.found.places] == [position]
    assert (made.made.clean, lost(made), len(made.made.holes)) == (True, set(), 1)
    both = name == "two parts of one stream"
    found = {"one": [b"first", b"a", b"b", b"last"], "two": []} if both else {"one": [b"first", b"a", b"last"], "two": [b"b"]}
    assert {name: [*records.values()] for name, records in readable(at).items()} == found, "each record is proven by itself"
    assert {name: [*records.values()] for name, records in readable(tmp_path / "saved").items()} == found
    recover(log_at(tmp_path / "saved"), CONFIG)


def test_behind_the_last_watermark_a_joint_append_is_saved_whole_or_not_at_all(log: LogWriter) -> None:
    log.put((0, b"a"), (1, b"x"), (2, b"u"), (3, b"k"))
    bad = log.put((0, b"b"))
    log.put((1, b"y"), (2, b"v"))
    log.put((1, b"torn"), state="torn", watermark=PAGE)
    log.put((0, b"c"), (1, b"behind the torn one"), (4, b"new"), joined=True, watermark=PAGE)
    log.put((0, b"d"), (2, b"w"), watermark=PAGE)
    log.put((2, b"t"), (3, b"l"), joined=True, watermark=PAGE)
    log.flip(bad.position + HEADER + 24)
    with pytest.raises(CorruptionError):
        recover(log_at(log.directory), CONFIG)
    found, _ = saved(log)
    assert found["s2"] == {0: b"u", 1: b"v", 2: b"w", 3: b"t"} and found["s3"] == {0: b"k", 1: b"l"}
    assert (found["s0"], found["s1"], found.get("s4", {})) == ({0: b"a"}, {0: b"x", 1: b"y"}, {})
    log.flip(bad.position + HEADER + 24)
    recover(log_at(log.directory), CONFIG)
    assert readable(log.directory) == found | {"s0": {0: b"a", 1: b"b"}}, "as a start would"


@pytest.mark.parametrize("damage", [None, no_manifest, no_checkpoints, neither])
@pytest.mark.parametrize("flipped", [False, True])
def test_consumers_are_forgotten_and_their_numbers_stay_theirs(
    log: LogWriter, damage: Callable[[LogWriter], None] | None, tmp_path: Path, *, flipped: bool
) -> None:
    log.put((0, [b"a", b"b", b"c"]), (1, b"out 0"))
    log.put(consume(0, b"q"), owner=(5, 1, 0))
    log.put(commit(0, 1), owner=(5, 1, 0))
    log = again(log)
    worse = log.put(commit(0, 2), (1, b"out 1"), owner=(5, 1, 1), joined=True)
    log.put(commit(0, 3), owner=(5, 1, 2))
    log.put(consume(0, b"r"), owner=(9, 1, 0))
    if damage is not None:
        damage(log)
    if flipped:
        log.flip(worse.position + HEADER + 90)
    last = 9
    for name in ("one", "two"):
        salvage(log_at(log.directory), tmp_path / name)
        log.directory = tmp_path / name
        assert verify(log_at(log.directory), deep=True).clean
        recovered = recover(log_at(log.directory), CONFIG)
        assert recovered.owners == b"" and recovered.owners_end > last + (1 << 20)
        log, last = LogWriter(log.directory, recovered), recovered.owners_end
        log.put(consume(0, b"q"), owner=(last, 1, 0))
        log.put(commit(0, 3), owner=(last, 1, 0))
        no_checkpoints(log)


def test_an_empty_log_is_saved_as_one(log: LogWriter) -> None:
    found, made = saved(log)
    assert (found, made.streams) == ({}, ())


def test_a_place_that_is_taken_is_refused_and_nothing_is_made(log: LogWriter, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    with pytest.raises(ConfigError, match="not empty"):
        salvage(log_at(log.directory), tmp_path / "full")
    before = files(log.directory)
    for inside in (log.directory, log.directory / "saved"):
        with pytest.raises(ConfigError, match="in the log that is damaged"):
            salvage(log_at(log.directory), inside)
    assert files(log.directory) == before and not (log.directory / "saved").exists()


def test_where_nothing_can_be_proven_nothing_is_made(log: LogWriter, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match="there is no log"):
        salvage(log_at(tmp_path / "empty"), tmp_path / "saved")
    neither(log)
    log.file(0).write_bytes(bytes(PAGE + SIZE))
    with pytest.raises(CorruptionError):
        salvage(log_at(log.directory), tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    assert Loss(0, None, 0, 1).name is None


def test_settings_are_saved_and_checked(log: LogWriter) -> None:
    own = settings.Settings(version=3, age_ns=10**9, retain_until=("reader",)).encode()
    bad = log.put((0, b"a"), Control(lib.RW_FRAME_SETTINGS, own, 0))
    log.put((0, b"b"))
    log = again(log)
    log.flip(bad.position + HEADER + FRAME + 8 + FRAME)
    found, made = saved(log)
    assert found == {"s0": {1: b"b"}}
    assert [settings.decode(row.settings) for row in made.streams] == [settings.decode(own)]
    with ringwal.open_readonly(log.directory) as at:
        assert at.stream("s0").stat().retain_until == ("reader",)
