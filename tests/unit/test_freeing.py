"""Segments are freed from the oldest on, in an order that a death at any point cannot hurt, and used again."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ringwal.errors import CorruptionError
from ringwal.log import checkpoint_file, freeing, segment, sidefile
from ringwal.log import manifest as manifests
from ringwal.log.manifest import Manifest
from ringwal.log.recovery import recover
from tests.support.crashes import dies
from tests.support.log_place import log_at, path_of
from tests.support.log_writer import CONFIG, MIB, PAGE, LogWriter, contents


def build(directory: Path) -> tuple[Manifest, dict[str, list[bytes]]]:
    """A log of five segments; the checkpoint is in the last one, and the epoch before it begins in the first. Returns what is
    in the segments from 3 on."""
    log = LogWriter(directory, recover(log_at(directory), CONFIG))
    for n in range(9):
        log.put((n % 2, bytes([n]) * MIB))
    log = LogWriter(directory, recover(log_at(directory), CONFIG))
    log.put((0, b"last"))
    assert log.manifest.checkpoint_position // log.manifest.segment_bytes == 4
    return log.manifest, {"s0": [bytes([6]) * MIB, bytes([8]) * MIB, b"last"], "s1": [bytes([7]) * MIB]}


def files(directory: Path) -> list[int]:
    return segment.numbers(log_at(directory))


def free(directory: Path, manifest: Manifest, end: int, wanted: int) -> tuple[Manifest, list[int]]:
    """Also where `announce` was called: with what, and what files there were then."""
    told: list[int] = []
    log, there = log_at(directory), files(directory)

    def announce(first: int) -> None:
        assert files(directory) == there, "readers are told before a file goes"
        assert manifests.load(log).first_segment == first, "and after nothing brings it back"
        told.append(first)

    return freeing.free(log, manifest, end, wanted=wanted, direct=False, announce=announce), told


def goes_on(directory: Path, want: dict[str, list[bytes]]) -> Manifest:
    """Recovered, nothing is lost, no file is left over, and another record finds its place."""
    recovered = recover(log_at(directory), CONFIG)
    assert recovered.statistics.missing_segments == ()
    log = LogWriter(directory, recovered)
    assert files(directory) == list(range(recovered.manifest.first_segment, recovered.manifest.named_end))
    log.put((1, b"more"))
    now = contents(directory)
    assert {name: records[-len(want[name]) - (name == "s1") :] for name, records in now.items()} == {
        "s0": want["s0"],
        "s1": [*want["s1"], b"more"],
    }
    return recovered.manifest


def test_what_is_freed_is_gone_and_the_rest_is_there(tmp_path: Path) -> None:
    manifest, want = build(tmp_path)
    freed, told = free(tmp_path, manifest, 3, wanted=0)
    assert (freed.first_segment, freed.named_end, told) == (3, manifest.named_end, [3])
    assert files(tmp_path) == [3, 4]
    assert manifests.load(log_at(tmp_path)) == freed
    assert free(tmp_path, freed, 3, wanted=9) == (freed, []), "there is nothing left to free"
    assert goes_on(tmp_path, want).first_segment == 3


def test_side_files_go_with_their_segments_and_are_no_segments(tmp_path: Path) -> None:
    manifest, want = build(tmp_path)
    log = log_at(tmp_path)
    there = files(tmp_path)
    for number in (*there[:-1], 7):  # the last one could not have one yet; nor could one that will be made of a freed file
        (tmp_path / "segments" / sidefile.name_of(number)).write_bytes(b"side")
    assert files(tmp_path) == there
    freed, _ = free(tmp_path, manifest, 3, wanted=7)
    assert files(tmp_path) == [3, 4, 5, 6]
    assert sidefile.numbers(log) == [3, 7]
    assert segment.missing(log, freed, freed.named_end) == []
    goes_on(tmp_path, want)
    assert sidefile.numbers(log) == [3]


def test_what_is_left_of_a_freed_segment_goes_with_its_side_file(tmp_path: Path) -> None:
    manifest, _ = build(tmp_path)
    log = log_at(tmp_path)
    for number in (0, 1):
        (tmp_path / "segments" / sidefile.name_of(number)).write_bytes(b"side")
    raised = manifests.store(log, dataclasses.replace(manifest, first_segment=2))
    assert freeing.clear(log, raised) == [0, 1]
    sidefile.clear(log, raised, kept={1})
    assert sidefile.numbers(log) == [1], "of which the attic has blocks"
    sidefile.clear(log, raised)
    assert sidefile.numbers(log) == []


def test_a_freed_file_becomes_the_next_segment(tmp_path: Path) -> None:
    manifest, want = build(tmp_path)
    old = path_of(tmp_path, 0).stat().st_ino
    freed, _ = free(tmp_path, manifest, 3, wanted=7)
    assert (freed.first_segment, freed.named_end, files(tmp_path)) == (3, 7, [3, 4, 5, 6])
    assert path_of(tmp_path, 5).stat().st_ino == old
    for number in (5, 6):
        os.close(segment.open_for_reading(log_at(tmp_path), freed, number))
    goes_on(tmp_path, want)


def test_what_was_in_a_file_that_is_used_again_is_never_believed(tmp_path: Path) -> None:
    manifest, want = build(tmp_path)
    free(tmp_path, manifest, 3, wanted=7)
    log = LogWriter(tmp_path, recover(log_at(tmp_path), CONFIG))
    for _ in range(4):
        log.put((1, b"x" * MIB))
    assert log.position // log.manifest.segment_bytes == 6, "the log has used the files of two that were freed"
    recovered = recover(log_at(tmp_path), CONFIG)
    assert recovered.statistics.dropped == recovered.statistics.holes == 0
    assert contents(tmp_path)["s1"] == want["s1"] + [b"x" * MIB] * 4


@pytest.mark.parametrize("what", ["linked", "short", "missing"])
def test_a_file_that_others_have_or_that_is_not_whole_is_not_used_again(tmp_path: Path, what: str) -> None:
    directory = tmp_path / "log"
    manifest, want = build(directory)
    backup = tmp_path / "backup.seg"
    if what == "linked":
        os.link(path_of(directory, 0), backup)
        before = backup.read_bytes()
    elif what == "short":
        os.truncate(path_of(directory, 0), PAGE)
    else:
        path_of(directory, 0).unlink()
    freed, _ = free(directory, manifest, 1, wanted=6)
    assert (freed.first_segment, freed.named_end) == (1, manifest.named_end)
    assert files(directory) == [1, 2, 3, 4]
    if what == "linked":
        assert backup.read_bytes() == before
    goes_on(directory, want)


def test_nothing_from_the_checkpoint_on_is_freed(tmp_path: Path) -> None:
    manifest, _ = build(tmp_path)
    with pytest.raises(ValueError, match="not below the checkpoint"):
        free(tmp_path, manifest, 5, wanted=0)
    assert manifests.load(log_at(tmp_path)) == manifest


def test_epochs_that_are_freed_whole_are_forgotten_at_the_next_start(tmp_path: Path) -> None:
    log = LogWriter(tmp_path, recover(log_at(tmp_path), CONFIG))
    log.put((0, b"a" * MIB), (0, b"b" * MIB))
    log = LogWriter(tmp_path, recover(log_at(tmp_path), CONFIG))
    for _ in range(3):
        log.put((0, b"c" * MIB))
    recovered = recover(log_at(tmp_path), CONFIG)
    free(tmp_path, recovered.manifest, 1, wanted=0)
    recovered = recover(log_at(tmp_path), CONFIG)
    epochs = checkpoint_file.load(log_at(tmp_path), recovered.manifest).epochs
    assert [row.epoch for row in epochs] == [2, 3, 4], "the second one reaches into what is left"


def run(directory: Path, hit: int) -> bool:
    """Free in a process of its own that dies at its `hit`th change. False: it came to its end before."""
    log = log_at(directory)
    manifest = manifests.load(log)

    def body() -> None:
        freeing.free(log, manifest, 3, wanted=manifest.named_end + 2, direct=False, announce=lambda _: None)

    return dies(hit, body)


def test_a_death_at_any_call_loses_nothing_and_leaves_nothing_behind(tmp_path: Path) -> None:
    origin, directory = tmp_path / "origin", tmp_path / "log"
    _, want = build(origin)
    hit, crashed = 0, True
    while crashed:
        hit += 1
        shutil.copytree(origin, directory)
        crashed = run(directory, hit)
        assert goes_on(directory, want).first_segment in (0, 3), f"after a death at call {hit}"
        shutil.rmtree(directory)
    assert hit > 14, "the calls that change the disk were not seen"


def without_a_copy(directory: Path, lost: int) -> bool:
    """The manifest loses its copy at `lost`. False: the other one was being written, so there is none."""
    with (directory / manifests.NAME).open("r+b") as file:
        file.seek(lost)
        file.write(bytes(PAGE))
    try:
        manifests.load(log_at(directory))
    except CorruptionError:
        return False
    return True


def survives(origin: Path, directory: Path, dies_at: Callable[[int], bool]) -> None:
    """Whichever copy of the manifest is lost after a death at any call: what the other one names is there."""
    hit, crashed, looked = 0, True, 0
    while crashed:
        hit += 1
        for lost in (0, PAGE):
            shutil.copytree(origin, directory)
            crashed = dies_at(hit)
            if without_a_copy(directory, lost):
                assert recover(log_at(directory), CONFIG).statistics.missing_segments == (), f"after a death at call {hit}"
                looked += 1
            shutil.rmtree(directory)
    assert looked > 2 * hit - 6, "two copies are hardly ever lost at once"


def test_a_copy_of_the_manifest_may_be_lost_after_a_death(tmp_path: Path) -> None:
    build(tmp_path / "origin")
    survives(tmp_path / "origin", tmp_path / "log", lambda hit: run(tmp_path / "log", hit))


def test_a_start_removes_nothing_before_both_copies_of_the_manifest_say_that_it_is_gone(tmp_path: Path) -> None:
    """The engine has died between the two; and so does the start."""
    origin, directory = tmp_path / "origin", tmp_path / "log"
    build(origin)
    assert run(origin, 3)
    survives(origin, directory, lambda hit: dies(hit, lambda: recover(log_at(directory), CONFIG)))
