"""Defects in readers: in how records are found, what is made of them, and what is said of those that are gone."""

from __future__ import annotations

from tests.faults.mutation import Mutant, units

INDEX = "engine/ringwal/read/index.py"
CURSOR = "engine/ringwal/read/cursor.py"

READING = [
    Mutant(
        "text that was overwritten in the ring is printed",
        "engine/ringwal/read/lines.py",
        "        self._lines.used, self._lines.records_left = self._mark\n",
        "        pass\n",
        units("tests/unit/test_lines.py"),
    ),
    Mutant(
        "a surrogate is taken for UTF-8",
        "csrc/lines.c",
        "lead == 0xed ? 0x9f :",
        "lead == 0xed ? 0xbf :",
        units("tests/unit/test_lines.py"),
    ),
    Mutant(
        "a control character is printed as it is",
        "csrc/lines.c",
        "(w - ones * 32)",
        "(w - ones * 31)",
        units("tests/unit/test_lines.py"),
    ),
    Mutant(
        "what lies before the area is taken from somewhere",
        "csrc/scan.c",
        "position < area->origin || position >= area->end",
        "position >= area->end",
        units("tests/native/test_scan.py"),
    ),
    Mutant(
        "a walk is led past a record",
        INDEX,
        "(side.end(stream) or 0) <= offset, otherwise=False)",
        "(side.end(stream) or 0) <= offset + 1, otherwise=False)",
        units("tests/unit/test_reader_sides.py"),
    ),
    Mutant(
        "of a silent stream nobody is asked where it is",
        INDEX,
        "    end = side.end(stream) or 0\n    return Span(end, end)",
        "    return None",
        units("tests/unit/test_reader_sides.py"),
    ),
    Mutant(
        "a side file that led to nothing is believed",
        CURSOR,
        "return self._log.source.disbelieve(before.position // self._log.source.segment_bytes)",
        "return False",
        units("tests/unit/test_reader_sides.py"),
    ),
    Mutant(
        "side files that contradict each other are believed",
        INDEX,
        "if not isinstance(found, Place) and not sum(map(self._source.disbelieve, found)):",
        "if not isinstance(found, Place):",
        units("tests/unit/test_reader_sides.py"),
    ),
    Mutant(
        "damage hides what lies behind it",
        INDEX,
        "                self.stuck = not self._get_over(chunk, limit)",
        "                self.stuck = True",
        units("tests/unit/test_reader_damage.py"),
    ),
    Mutant(
        "damage that a walk comes upon ends it",
        CURSOR,
        "            self._met.add(place)\n            return False",
        "            raise",
        units("tests/unit/test_reader_damage.py"),
    ),
    Mutant(
        "a gap ends at the next block, good or not",
        INDEX,
        "                found = begin.offset if begin.place is None else self._goes_on(begin.place, stream, begin.offset)",
        "                found = begin.offset",
        units("tests/unit/test_reader_damage.py"),
    ),
    Mutant(
        "a damaged payload denies the rest of its block",
        INDEX,
        "            for place in self._here(segment, stream, offset):",
        "            for place in list[Place]():",
        units("tests/unit/test_reader_gaps.py"),
    ),
    Mutant(
        "a block of which a frame's header is damaged is not indexed",
        INDEX,
        "                self._take_part(chunk, scratch)\n",
        "",
        units("tests/unit/test_reader_gaps.py"),
    ),
    Mutant(
        "what is missing before a damaged payload is not told",
        "csrc/audit.c",
        "    int rc = bad ? lose_before(a, &r, place) : RW_OK;",
        "    int rc = bad && r.kind == 0 ? lose_before(a, &r, place) : RW_OK;",
        units("tests/unit/test_reader_gaps.py"),
    ),
    Mutant(
        "a gap is longer than it is said to be",
        "engine/ringwal/read/range.py",
        "cursor.seek(self._handle, damage.next_offset)",
        "cursor.seek(self._handle, damage.next_offset + 1)",
        units("tests/integration/test_cli_gaps.py"),
    ),
    Mutant(
        "the end of an epoch is not one by side files",
        "engine/ringwal/read/segments.py",
        "                    return Extent(segment, *row)",
        "                    return Extent(segment, row.epoch, row.begin, self.files.start_of(segment + 1))",
        units("tests/unit/test_reader_sides.py"),
    ),
    Mutant(
        "a side file's word about a time is final",
        "engine/ringwal/read/moments.py",
        "ages.is_older(offset - 1)\n",
        "True\n",
        units("tests/unit/test_reader_moments.py"),
    ),
    Mutant(
        "what a side file has in front of a moment is believed unseen",
        "engine/ringwal/read/moments.py",
        "            return bool(stop == lib.RW_WALK_AHEAD)",
        "            return True",
        units("tests/unit/test_reader_moments.py"),
    ),
    Mutant(
        "a record that damage denies is not older than any moment",
        "engine/ringwal/read/moments.py",
        "                    offset = damage.next_offset\n                    continue\n",
        "                    pass\n",
        units("tests/unit/test_reader_moments.py"),
    ),
]
