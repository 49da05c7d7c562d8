"""The window over blocks: what it shows is what the disk has, one segment after the other, with one descriptor."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringwal.errors import CorruptionError
from ringwal.log import manifest as manifests
from ringwal.log import segment, window
from ringwal.log.directory import SEGMENTS
from ringwal.log.manifest import Manifest
from ringwal.log.window import Window
from tests.support.log_place import log_at, path_of

PAGE = 4096
SIZE = 16 * PAGE
SEGMENTS_MADE = 5


class Made:
    """A log of random bytes, and a window over it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / SEGMENTS).mkdir()
        log = log_at(directory)
        state = Manifest(uuid=bytes(16), segment_bytes=SIZE, window_bytes=PAGE)
        self.data = random.Random(1).randbytes(SEGMENTS_MADE * SIZE)
        for number in range(SEGMENTS_MADE):
            state = manifests.create(log, state) if number == 0 else state
            state = segment.prepare(log, state, number, direct=False)
            with path_of(directory, number).open("r+b") as file:
                file.seek(PAGE)
                file.write(self.data[number * SIZE :][:SIZE])
        self.window = Window(log, state, direct=True)

    def check(self, position: int, wanted: int) -> None:
        skip, held = self.window.show(position, wanted)
        assert held >= wanted
        assert self.window.memory[skip : skip + held] == self.data[position : position + held]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    monkeypatch.setattr(window, "WINDOW_BYTES", 4 * PAGE)
    made = Made(tmp_path)
    yield made
    made.window.close()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_it_shows_what_is_on_the_disk_wherever_it_is_moved(made: Made) -> None:
    chance = random.Random(2)
    for position in range(0, SEGMENTS_MADE * SIZE, PAGE):
        made.check(position, PAGE)
    for _ in range(300):
        position = chance.randrange(SEGMENTS_MADE * SIZE // PAGE) * PAGE
        made.check(position, chance.randint(1, (SIZE - position % SIZE) // PAGE) * PAGE)


def test_it_grows_for_a_block_that_is_larger(made: Made) -> None:
    made.check(PAGE, 2 * PAGE)
    made.check(2 * PAGE, 13 * PAGE)
    made.check(SIZE, SIZE)


def test_one_segment_is_open_at_a_time(made: Made) -> None:
    before = open_files()
    for number in range(SEGMENTS_MADE):
        made.check(number * SIZE, PAGE)
        assert open_files() == before + 1
    made.window.close()
    made.window.close()
    assert open_files() == before


def test_a_segment_that_is_missing_or_short_is_named(made: Made) -> None:
    path_of(made.directory, 2).unlink()
    made.check(2 * SIZE - PAGE, PAGE)
    with pytest.raises(CorruptionError, match="missing") as caught:
        made.window.show(2 * SIZE, PAGE)
    assert (caught.value.segment, caught.value.position) == (2, 2 * SIZE)
