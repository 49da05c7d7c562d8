"""Copies that mix moments of a log's life: refused, or all there is of the earliest one, readable, and nothing else."""

from __future__ import annotations

import itertools
import random
import shutil
from pathlib import Path

import pytest

from ringwal.errors import CorruptionError
from ringwal.log.copied_attic import prove_attic
from ringwal.log.recovery import recover
from tests.support.log_history import SMALL, Files, History, Moment, moments, payload, put_files
from tests.support.log_place import log_at
from tests.support.log_writer import PAGE, contents

TRIES = 60


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> list[Moment]:
    return list(moments(tmp_path_factory.mktemp("history") / "log"))


def name_of(number: int) -> str:
    return f"segments/{number:020d}.seg"


def is_whole(directory: Path, files: Files, since: Moment) -> bool:
    """Is a copy with these files accepted? Then it has to have all that was confirmed at that moment."""
    put_files(directory, files)
    try:
        recovered = recover(log_at(directory), SMALL, copied=True)
        found = contents(directory)
    except CorruptionError:
        return False
    finally:
        shutil.rmtree(directory)
    for stream in recovered.streams:
        records, number = found.get(stream.name, []), stream.number
        first = stream.next_offset - len(records)
        assert stream.next_offset >= since.ends[stream.name], "what was confirmed is there"
        assert first <= stream.start_offset, "and can be read"
        assert records == [payload(number, first + k) for k in range(len(records))], "as it was appended"
    assert {stream.name for stream in recovered.streams} >= set(since.ends)
    return True


def mixed(chosen: dict[str, Moment]) -> Files:
    return {name: moment.files[name] for name, moment in chosen.items() if name in moment.files}


def names(life: list[Moment]) -> list[str]:
    return sorted({name for moment in life for name in moment.files})


def test_each_moment_alone_is_whole(life: list[Moment], tmp_path: Path) -> None:
    assert all(is_whole(tmp_path / moment.name, moment.files, moment) for moment in life)


def test_no_mix_of_files_loses_what_was_confirmed_before_the_first(life: list[Moment], tmp_path: Path) -> None:
    choice = random.Random(17)
    seen = set()
    for turn in range(TRIES):
        low = choice.randrange(len(life) - 1)
        high = min(len(life), low + choice.choice((2, 2, 3, len(life))))
        chosen = {name: life[choice.randrange(low, high)] for name in names(life)}
        seen.add(is_whole(tmp_path / str(turn), mixed(chosen), life[low]))
    assert seen == {True, False}


def test_each_pair_of_moments_one_file_from_the_other(life: list[Moment], tmp_path: Path) -> None:
    for turn, ((a, b), name) in enumerate(itertools.product(itertools.pairwise(life), names(life))):
        for which, (one, rest) in enumerate(((a, b), (b, a))):
            chosen = {**dict.fromkeys(names(life), rest), name: one}
            is_whole(tmp_path / f"{turn}-{which}", mixed(chosen), a)


@pytest.mark.parametrize("order", ["front first", "back first"])
def test_a_file_that_changes_while_it_is_copied(order: str, life: list[Moment], tmp_path: Path) -> None:
    """Its front is of one moment, and what is behind of the next."""
    for turn, (a, b) in enumerate(itertools.pairwise(life)):
        for name in (name for name in names(life) if name in a.files and name in b.files):
            size = len(b.files[name])
            for place in {PAGE, size // 3 // PAGE * PAGE}:
                halves = (a, b) if order == "front first" else (b, a)
                torn = halves[0].files[name][:place] + halves[1].files[name][place:]
                rest = halves[1]
                is_whole(tmp_path / f"{turn}-{Path(name).stem}-{place}", {**rest.files, name: torn}, a)


def by_name(life: list[Moment], name: str) -> Moment:
    return next(moment for moment in life if moment.name == name)


def refused(tmp_path: Path, files: Files, why: str) -> None:
    put_files(tmp_path / "copy", files)
    with pytest.raises(CorruptionError, match=why):
        recover(log_at(tmp_path / "copy"), SMALL, copied=True)


def test_a_segment_that_was_used_again_while_it_was_read_is_found(life: list[Moment], tmp_path: Path) -> None:
    """cp has it open under its old number, and has read its header; then it gets a new number and new blocks."""
    before, after = by_name(life, "checkpoint"), by_name(life, "freed, used again")
    new = max(after.files)
    assert new not in before.files and name_of(0) not in after.files
    torn = before.files[name_of(0)][: 40 * PAGE] + after.files[new][40 * PAGE :]
    refused(tmp_path, {**before.files, name_of(0): torn}, "a block of epoch 1 is missing or damaged")


def test_segments_that_were_freed_before_they_were_copied_are_missed(life: list[Moment], tmp_path: Path) -> None:
    before = by_name(life, "checkpoint")
    refused(tmp_path, {name: data for name, data in before.files.items() if name != name_of(0)}, "segment .* is missing")


def test_segments_that_are_older_than_the_checkpoint_are_found(life: list[Moment], tmp_path: Path) -> None:
    old, new = by_name(life, "grown"), by_name(life, "checkpoint")
    last = max(name for name in old.files if "segments" in name)
    older = {name: data for name, data in by_name(life, "begun").files.items() if "segments" in name}
    refused(tmp_path, {**new.files, last: bytes(PAGE + SMALL.segment_bytes), **older}, "damaged")


def test_a_checkpoint_beyond_the_end_of_the_log_is_found(tmp_path: Path) -> None:
    """The manifest and the log were copied before it was written."""
    history = History(tmp_path / "log")
    history.write(3)
    before = history.moment("before")
    history.write(2)
    history.checkpoint(name=False)
    after = history.moment("after")
    spare = next(name for name in after.files if "checkpoint" in name and after.files[name] != before.files[name])
    assert is_whole(tmp_path / "as it was", after.files, after), "it need not be named"
    refused(tmp_path, {**before.files, spare: after.files[spare]}, "the log ends at position .* is about position")


def test_blocks_of_a_later_start_are_found_wherever_they_are(tmp_path: Path) -> None:
    """The first block of its epoch had not been written when it was copied: recovery would write its own there, of the same
    number, and the blocks behind would be its own."""
    history = History(tmp_path / "log")
    history.write(3)
    before = history.moment("before")
    history.restart()
    begin = history.log.begin
    history.write(3)
    after = history.moment("after")
    torn = bytearray(after.files[name_of(0)])
    torn[PAGE + begin : PAGE + begin + PAGE] = bytes(PAGE)
    refused(tmp_path, {**before.files, name_of(0): bytes(torn)}, "knows no epoch 2")


def test_blocks_in_a_file_that_the_manifest_does_not_name_are_found(life: list[Moment], tmp_path: Path) -> None:
    before, after = by_name(life, "begun"), by_name(life, "grown")
    added = max(name for name in after.files if after.files[name].find(b"RWBLOCK1") > 0 and name not in before.files)
    torn = bytearray(after.files[added])
    torn[PAGE : 2 * PAGE] = bytes(PAGE)  # the first block was in flight
    refused(tmp_path, {**before.files, added: bytes(torn)}, "the log ends before")


def test_a_copy_without_a_manifest_is_no_new_log(life: list[Moment], tmp_path: Path) -> None:
    refused(tmp_path, {}, "no manifest")


def test_what_was_alive_in_freed_segments_is_missed_where_the_attic_has_it_not(life: list[Moment], tmp_path: Path) -> None:
    """Its catalogue was copied before, or not at all."""
    for moment in life:
        put_files(tmp_path / moment.name, moment.files)
        prove_attic(log_at(tmp_path / moment.name))
    history = History(tmp_path / "log")
    history.write(20)
    history.checkpoint()
    history.free(wanted=0)
    with pytest.raises(CorruptionError, match="missing"):
        prove_attic(log_at(tmp_path / "log"))
