"""Backups of a log without an engine, byte for byte: whole or refused, whatever becomes of the one who makes them."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from ringwal.backups import backup, restore
from ringwal.errors import ConfigError, CorruptionError, Error, Locked
from ringwal.log import backup_note, segment
from ringwal.log import home as homes
from ringwal.log import manifest as manifests
from ringwal.log.directory import Directory
from ringwal.log.recovery import recover
from ringwal.log.salvage import salvage
from ringwal.log.verify import verify
from tests.faults.decode import manifest
from tests.support.crashes import dies
from tests.support.log_history import SMALL, History, Moment, payload
from tests.support.log_place import log_at, path_of
from tests.support.log_writer import PAGE, contents


@pytest.fixture
def log(tmp_path: Path) -> History:
    """Of one segment and a part of the next; trimmed, freed and used again, over a restart."""
    made = History(tmp_path / "log")
    at_home(tmp_path / "log")
    made.write(14)
    made.trim()
    made.checkpoint()
    made.write(4)
    made.free(wanted=made.log.manifest.named_end + 1)
    made.restart()
    made.write(9)
    return made


def at_home(directory: Path) -> None:
    with log_at(directory) as held:
        homes.keep(held, homes.look(held))


def clean(held: Directory) -> bool:
    try:
        return verify(held, deep=True).clean
    except CorruptionError:
        return False


def restored(source: Path, to: Path, *, looks: bool = True) -> Path:
    """A backup is a log, stopped in order, and so is what is made of it."""
    restore(source, to)
    for each in (source, to) if looks else ():
        with log_at(each) as held:
            found = verify(held, deep=True)
        assert found.clean, (each, found.places)
    return to


def holds(directory: Path, moment: Moment) -> None:
    """What recovery finds in a restored log is what was there then, and all of it can be read."""
    backup_note.refuse_engine(directory)
    with log_at(directory) as held:
        assert homes.look(held).stored
        recovered = recover(held, SMALL)
    assert recovered.statistics.missing_segments == ()
    assert {stream.name: stream.next_offset for stream in recovered.streams} == moment.ends
    assert {stream.name: stream.start_offset for stream in recovered.streams} == moment.starts
    found = contents(directory)
    for stream in recovered.streams:
        records = found[stream.name]
        first = stream.next_offset - len(records)
        assert first <= stream.start_offset
        assert records == [payload(stream.number, first + k) for k in range(len(records))]


@pytest.mark.parametrize("end", ["killed", "in order"])
@pytest.mark.parametrize("copies", [False, True])
def test_a_restored_log_is_the_one_that_was_backed_up(log: History, tmp_path: Path, end: str, copies: bool) -> None:
    if end == "in order":
        log.checkpoint(end=True)
    moment = log.moment("")
    made = backup(log.directory, tmp_path / "backup", copies=copies)
    assert (made.streams, made.segments) == (2, made.linked + made.copied)
    assert made.linked == 0 if copies else made.copied <= 1
    assert log.moment("").files == moment.files, "a backup changes nothing in the log"
    shutil.rmtree(log.directory)
    holds(restored(tmp_path / "backup", tmp_path / "restored"), moment)


def test_a_restored_log_is_another_one(log: History, tmp_path: Path) -> None:
    made = backup(log.directory, tmp_path / "backup")
    new = restore(tmp_path / "backup", tmp_path / "restored")
    assert made.uuid == log.log.manifest.uuid.hex() != new.uuid
    with log_at(tmp_path / "restored") as held, log_at(log.directory) as original:
        assert manifests.load(held).uuid.hex() == new.uuid
        assert homes.look(held).id != homes.look(original).id
        for number in segment.numbers(held):
            assert path_of(tmp_path / "restored", number).stat().st_nlink == 1
    for name in os.listdir(tmp_path / "restored" / "segments"):
        data = (tmp_path / "restored" / "segments" / name).read_bytes()
        assert log.log.manifest.uuid not in data


def test_the_segment_in_use_is_copied_and_those_that_are_full_are_linked(log: History, tmp_path: Path) -> None:
    backup(log.directory, tmp_path / "backup")
    used = log.log.position // log.log.manifest.segment_bytes
    names = {number: path_of(tmp_path / "backup", number) for number in range(log.log.manifest.first_segment, used + 1)}
    links = {number: path.stat().st_nlink for number, path in names.items()}
    assert links == {number: 1 if number == used else 2 for number in names}
    assert names[used].stat().st_size == PAGE + log.log.manifest.segment_bytes
    behind = names[used].read_bytes()[PAGE + log.log.position % log.log.manifest.segment_bytes :]
    assert behind == bytes(len(behind)), "nothing from behind the end comes along"


def test_incremental_brings_what_is_new_and_removes_what_was_freed(log: History, tmp_path: Path) -> None:
    first = backup(log.directory, tmp_path / "backup", incremental=True)
    log.write(30)
    log.trim()
    log.checkpoint()
    log.free(wanted=0)
    log.write(2)
    moment = log.moment("")
    second = backup(log.directory, tmp_path / "backup", incremental=True)
    assert second.position > first.position
    with log_at(tmp_path / "backup") as held:
        manifest = manifests.load(held)
        assert segment.numbers(held) == list(range(manifest.first_segment, manifest.named_end))
    assert backup(log.directory, tmp_path / "backup", incremental=True).linked == 0
    holds(restored(tmp_path / "backup", tmp_path / "restored"), moment)


@pytest.mark.parametrize("copies", [False, True])
def test_a_death_at_any_change_leaves_the_old_backup_or_the_new_one(log: History, tmp_path: Path, copies: bool) -> None:
    before = log.moment("before")
    backup(log.directory, tmp_path / "old", copies=copies)
    log.write(14)
    log.trim()
    log.checkpoint()
    log.free(wanted=0)
    log.write(2)
    after, hit, seen = log.moment("after"), 1, set()
    while True:
        place, out = tmp_path / "backup", tmp_path / "restored"
        shutil.copytree(tmp_path / "old", place, copy_function=os.link)  # a replaced file stays what it was in `old`
        died = dies(hit, lambda: backup(log.directory, place, incremental=True, copies=copies))  # noqa: B023
        restore(place, out)
        with log_at(out) as held:
            recovered = recover(held, SMALL)
        ends = {stream.name: stream.next_offset for stream in recovered.streams}
        which = next(moment for moment in (before, after) if moment.ends == ends)
        seen.add(which.name)
        shutil.rmtree(out)
        holds(restored(place, out, looks=hit % 4 == 0), which)
        if hit % 9 == 1 or not died:  # and the next one finishes it
            backup(log.directory, place, incremental=True, copies=copies)
            shutil.rmtree(out)
            holds(restored(place, out), after)
        for each in (place, out):
            shutil.rmtree(each)
        if not died:
            break
        hit += 1
    assert seen == {"before", "after"} and hit > 10


def test_a_death_in_the_first_backup_leaves_one_that_is_refused_as_unfinished(log: History, tmp_path: Path) -> None:
    moment, hit, place = log.moment(""), 1, tmp_path / "backup"
    while dies(hit, lambda: backup(log.directory, place)):
        if (place / "manifest").exists():
            holds(restored(place, tmp_path / "restored", looks=False), moment)
            shutil.rmtree(tmp_path / "restored")
        else:
            with pytest.raises(Error, match=r"no backup|not finished|No such file"):
                restore(place, tmp_path / "restored")
            assert not (tmp_path / "restored").exists()
            if (place / "backup").exists():
                with pytest.raises(ConfigError, match="`ringwal restore"):
                    backup_note.refuse_engine(place)
                with pytest.raises(ConfigError, match="not finished: finish it with `--incremental`"):
                    backup(log.directory, place)
            if hit % 5 == 1:
                backup(log.directory, place, incremental=True)
                holds(restored(place, tmp_path / "restored"), moment)
                shutil.rmtree(tmp_path / "restored")
        shutil.rmtree(place, ignore_errors=True)
        hit += 1
    assert hit > 10


@pytest.mark.parametrize("left", [None, b"", b"null", b'{"what": "backup"}'], ids=repr)
def test_a_backup_whose_file_is_lost_is_none_that_an_engine_may_run_on(
    log: History, tmp_path: Path, left: bytes | None
) -> None:
    moment, place = log.moment(""), tmp_path / "backup"
    backup(log.directory, place)
    assert manifest(place).backup and not manifest(log.directory).backup
    (place / "backup").unlink()
    if left is not None:
        (place / "backup").write_bytes(left)
    with pytest.raises(ConfigError, match="is a backup, and shares files with its log: `ringwal restore"):
        backup_note.refuse_engine(place)
    with pytest.raises(CorruptionError, match=r"'backup', which says of what it is, is lost.*`ringwal salvage"):
        restore(place, tmp_path / "restored")
    with pytest.raises(ConfigError, match="is a backup"):
        backup(place, tmp_path / "another")
    with log_at(place) as held:
        assert [found.file for found in verify(held).places] == ["backup"]
    salvage(log_at(place), tmp_path / "saved")
    backup_note.refuse_engine(tmp_path / "saved")
    with log_at(tmp_path / "saved") as held:
        assert verify(held, deep=True).clean
        assert {stream.name: stream.next_offset for stream in recover(held, SMALL).streams} == moment.ends


def test_a_restore_that_is_cut_short_is_no_log(log: History, tmp_path: Path) -> None:
    moment, hit, out = log.moment(""), 1, tmp_path / "restored"
    backup(log.directory, tmp_path / "backup")
    while dies(hit, lambda: restore(tmp_path / "backup", out)):
        if (out / "backup").exists():
            with pytest.raises(ConfigError, match="cut short"):
                backup_note.refuse_engine(out)
            with pytest.raises(ConfigError, match="cut short: remove it, and run `ringwal restore` again"):
                restore(tmp_path / "backup", out)
        elif (out / "manifest").exists():
            holds(out, moment)
        else:
            assert not (out / "segments").exists(), "it is empty"
        shutil.rmtree(out, ignore_errors=True)
        hit += 1
    assert hit > 10
    holds(out, moment)


def test_damage_anywhere_in_what_counts_is_refused(log: History, tmp_path: Path) -> None:
    log.checkpoint(end=True)
    moment = log.moment("")
    made = backup(log.directory, tmp_path / "backup", copies=True)
    chance = random.Random(17)
    whole = {path: path.read_bytes() for path in (tmp_path / "backup").rglob("*") if path.is_file()}
    size = log.log.manifest.segment_bytes
    for turn in range(60):
        path = chance.choice([path for path in whole if path.name != "manifest"])
        data, most = bytearray(whole[path]), len(whole[path])
        if path.name == f"{made.position // size:020d}.seg":
            most = PAGE + made.position % size
        at = chance.randrange(most)
        data[at] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        out = tmp_path / f"out-{turn}"
        try:
            restore(tmp_path / "backup", out)
        except (CorruptionError, ConfigError):
            with log_at(tmp_path / "backup") as held:
                assert not clean(held), path
            assert not out.exists()
        else:  # it was in what does not count: padding, or what lies between epochs
            holds(out, moment)
        shutil.rmtree(out, ignore_errors=True)
        path.write_bytes(whole[path])
    holds(restored(tmp_path / "backup", tmp_path / "restored"), moment)


def test_a_segment_that_is_missing_or_another_is_refused(log: History, tmp_path: Path) -> None:
    backup(log.directory, tmp_path / "backup", copies=True)
    numbers = segment.numbers(log_at(tmp_path / "backup"))
    first, last = (path_of(tmp_path / "backup", numbers[k]) for k in (0, -1))
    content = first.read_bytes()
    for damage in (first.unlink, lambda: first.write_bytes(last.read_bytes())):
        damage()
        with pytest.raises(CorruptionError, match=r"`ringwal verify .*/backup` says .* `ringwal salvage .*/backup DIR`"):
            restore(tmp_path / "backup", tmp_path / "restored")
        assert not (tmp_path / "restored").exists()
        first.write_bytes(content)


@pytest.mark.parametrize("name", ["first segment", "restore.segment", "restore.checkpoint", "restore.named"])
@pytest.mark.parametrize("there", [False, True])
def test_a_restore_that_fails_leaves_nothing(
    log: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, there: bool
) -> None:
    moment, out = log.moment(""), tmp_path / "restored"
    backup(log.directory, tmp_path / "backup")
    if there:
        (out / "lost+found").mkdir(parents=True)

    def fails(point: str) -> None:
        if point == name:
            raise OSError(28, "no room")

    with monkeypatch.context() as inside:
        inside.setattr("ringwal.log.restore.point", fails)
        if name == "first segment":
            inside.setattr("ringwal.log.segment.create", lambda *_, **__: fails(name))
        with pytest.raises(Error):
            restore(tmp_path / "backup", out)
    assert os.listdir(out) == ["lost+found"] if there else not out.exists()
    holds(restored(tmp_path / "backup", out), moment)


@pytest.mark.parametrize("kind", ["fifo", "directory", "short"])
@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("which", [0, -1])
def test_what_is_no_segment_is_not_taken_for_one(
    log: History, tmp_path: Path, kind: str, copies: bool, which: int
) -> None:
    used = log.log.position // log.log.manifest.segment_bytes
    path = path_of(log.directory, log.log.manifest.first_segment if which == 0 else used)
    log.checkpoint(end=True)  # else the segment in use is looked at for what follows the checkpoint
    content = path.read_bytes()
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.write_bytes(content[:-PAGE])
    with pytest.raises(CorruptionError):
        backup(log.directory, tmp_path / "backup", copies=copies)


def test_places_in_the_log_or_in_the_backup_are_refused(log: History, tmp_path: Path) -> None:
    for place in (log.directory, log.directory / "backup", log.directory / "segments" / "backup"):
        with pytest.raises(ConfigError, match="is in the log that is to be backed up"):
            backup(log.directory, place)
        assert place == log.directory or not place.exists()
    backup(log.directory, tmp_path / "backup")
    with pytest.raises(ConfigError, match="is in the backup"):
        restore(tmp_path / "backup", tmp_path / "backup" / "restored")


def test_what_is_no_backup_of_this_log_is_left_alone(log: History, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    with pytest.raises(ConfigError, match="neither empty nor a backup"):
        backup(log.directory, tmp_path / "other", incremental=True)
    backup(log.directory, tmp_path / "backup")
    with pytest.raises(ConfigError, match="--incremental"):
        backup(log.directory, tmp_path / "backup")
    with pytest.raises(ConfigError, match="is not empty"):
        restore(tmp_path / "backup", tmp_path / "other")
    with pytest.raises(ConfigError, match="is no backup"):
        restore(log.directory, tmp_path / "restored")
    with pytest.raises(ConfigError, match="and no log"):
        backup(tmp_path / "backup", tmp_path / "again")
    another = History(tmp_path / "another")
    at_home(another.directory)
    another.write(1)
    with pytest.raises(ConfigError, match="another directory"):
        backup(another.directory, tmp_path / "backup", incremental=True)
    shutil.copytree(log.directory, tmp_path / "copied")
    with pytest.raises(ConfigError, match="is a copy"):
        backup(tmp_path / "copied", tmp_path / "backup", incremental=True)


def test_a_log_that_was_put_back_does_not_go_on_in_its_backup(log: History, tmp_path: Path) -> None:
    earlier = log.moment("")
    log.write(3)
    backup(log.directory, tmp_path / "backup")
    for name, content in earlier.files.items():
        (log.directory / name).write_bytes(content)
    with pytest.raises(ConfigError, match="has records that"):
        backup(log.directory, tmp_path / "backup", incremental=True)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("copies", [False, True])
def test_a_log_that_went_on_once_more_from_a_snapshot_is_not_mixed_with_its_backup(
    log: History, tmp_path: Path, copies: bool, in_place: bool
) -> None:
    """Its epochs and positions are the same numbers, its segments have the same headers, and other records."""

    def goes_on(what: bytes, blocks: int) -> None:
        log.restart()
        for _ in range(blocks):
            log.log.put((0, what * 300_000))

    log.checkpoint(end=True)
    snapshot = log.moment("")
    goes_on(b"old", 20)
    backup(log.directory, tmp_path / "backup", copies=copies)
    old = {path: path.read_bytes() for path in (tmp_path / "backup").rglob("*") if path.is_file()}
    if not in_place:
        for path in [path for path in log.directory.rglob("*") if path.is_file()]:
            path.unlink()
    for name, content in snapshot.files.items():
        (log.directory / name).write_bytes(content)
    for path in [path for path in log.directory.rglob("*.seg") if str(path.relative_to(log.directory)) not in snapshot.files]:
        path.unlink()
    goes_on(b"new", 30)
    with pytest.raises(ConfigError, match="has records that"):
        backup(log.directory, tmp_path / "backup", incremental=True, copies=copies)
    if copies or not in_place:
        assert {path: path.read_bytes() for path in old} == old, "the backup before is what it was"
        restore(tmp_path / "backup", tmp_path / "restored")
    backup(log.directory, tmp_path / "anew")
    restore(tmp_path / "anew", tmp_path / "restored-anew")


def test_records_behind_a_gap_wait_for_a_start(log: History, tmp_path: Path) -> None:
    """They may have been confirmed, and the place where the log ends does not have them."""
    log.log.put((0, b"lost"), state="missing")
    log.log.next[0] -= 1
    log.log.put((1, payload(1, log.log.next[1])), watermark=log.log.persisted)
    with pytest.raises(ConfigError, match="start an engine there first"):
        backup(log.directory, tmp_path / "backup")
    log.restart()
    moment = log.moment("")
    backup(log.directory, tmp_path / "backup", incremental=True)
    holds(restored(tmp_path / "backup", tmp_path / "restored"), moment)


def test_a_damaged_log_is_not_backed_up_as_if_it_were_whole(log: History, tmp_path: Path) -> None:
    path_of(log.directory, log.log.manifest.first_segment).unlink()
    with pytest.raises(CorruptionError, match="missing"):
        backup(log.directory, tmp_path / "backup")


def test_one_at_a_time(log: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def second(name: str) -> None:
        if name == "bak.held":
            with pytest.raises(Locked, match="another backup"):
                backup(log.directory, tmp_path / "backup", incremental=True)
            with pytest.raises(Locked, match="being written"):
                restore(tmp_path / "backup", tmp_path / "restored")

    monkeypatch.setattr("ringwal.log.backup.point", second)
    backup(log.directory, tmp_path / "backup")


def test_segments_that_are_freed_meanwhile_are_not_missed(
    log: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the first segment is being linked, the log is trimmed, and its oldest files are used again."""
    log.write(20)
    moments: list[Any] = []

    def meanwhile(name: str) -> None:
        if name == "bak.linked" and not moments:
            moments.append(log.moment("before"))
            log.trim()
            log.checkpoint()
            log.free(wanted=log.log.manifest.named_end + 2)
            log.write(6)
            moments.append(log.moment("after"))

    monkeypatch.setattr("ringwal.log.backup.point", meanwhile)
    backup(log.directory, tmp_path / "backup")
    before, after = moments
    assert set(before.files) != set(after.files)
    holds(restored(tmp_path / "backup", tmp_path / "restored"), after)


class Syncs:
    """What was written, or named, and not synced yet, as this process sees it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, last: tuple[str, str]) -> None:
        """`last` is the call that may only be made when nothing is left, and the name that it ends with."""
        self.dirty: set[tuple[int, int]] = set()
        self.seen = 0
        self._last = last
        for name in ("pwrite", "ftruncate", "posix_fallocate", "fsync", "fdatasync", "rename", "link", "unlink", "mkdir"):
            monkeypatch.setattr(os, name, self._watched(name, getattr(os, name)))

    @staticmethod
    def _of(fd: int) -> tuple[int, int]:
        found = os.fstat(fd)
        return found.st_dev, found.st_ino

    def _watched(self, name: str, real: Any) -> Any:
        def call(*args: Any, **keywords: Any) -> Any:
            at = keywords.get("dst_dir_fd", keywords.get("dir_fd"))
            if name == self._last[0] and str(args[-1]) == self._last[1]:
                assert not self.dirty
                self.seen += 1
            if name in ("fsync", "fdatasync"):
                self.dirty.discard(self._of(args[0]))
            result = real(*args, **keywords)
            if name in ("pwrite", "ftruncate", "posix_fallocate"):
                self.dirty.add(self._of(args[0]))
            elif at is not None and name != "unlink":
                self.dirty.add(self._of(at))
            return result

        return call


@pytest.mark.parametrize("copies", [False, True])
def test_nothing_is_named_before_it_is_durable(
    log: History, tmp_path: Path, copies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for last, work in (
        (("rename", "manifest"), lambda: backup(log.directory, tmp_path / "backup", incremental=True, copies=copies)),
        (("unlink", "backup"), lambda: restore(tmp_path / "backup", tmp_path / "restored")),
    ):
        with monkeypatch.context() as inside:
            watch = Syncs(inside, last)
            work()
            assert watch.seen == 1
