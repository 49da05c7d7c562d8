"""What recovery does with what it found: a table, one row for every case, the impossible ones included.

A crash leaves the log valid up to a first hole (the cut), and behind it at most what was in flight: blocks that are
whole beside blocks that are not. Everything else is damage, and damage is refused: nothing on the disk has been touched
by then.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Final


class Outcome(enum.Enum):
    """What recovery does."""

    START = "there is no epoch yet: begin the first one"
    ACCEPT = "the epoch ends at the cut"
    CARRY = "the epoch ends at the cut; what is still in order behind it goes into the next epoch"
    CORRUPT = "refuse, and change nothing"
    IMPOSSIBLE = "the scan contradicts itself: a defect of this program"


@dataclasses.dataclass(frozen=True, slots=True)
class Evidence:
    """What the scan found, reduced to what decides."""

    segments_whole: bool
    """Every segment from the checkpoint's on that the manifest names is there, of the right size, and ours."""
    has_epoch: bool
    """The manifest names an epoch."""
    consistent: bool
    """No valid block contradicts the blocks before it."""
    hole: bool
    """There is a place without a valid block (False: valid blocks fill all named segments)."""
    covered: bool
    """An intact header says that everything up to beyond the first hole was persisted."""
    later: bool
    """There is a valid block beyond the first hole."""
    in_window: bool
    """From the first hole to the end of the last valid block it is no further than could be in flight."""


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One case. `pattern` has a character per field of Evidence: 1 holds, 0 does not, - either."""

    label: str
    pattern: str
    outcome: Outcome
    message: str = ""

    def matches(self, evidence: Evidence) -> bool:
        """Whether this row is about `evidence`."""
        values = (getattr(evidence, field.name) for field in dataclasses.fields(Evidence))
        return all(want in ("-", "1" if value else "0") for want, value in zip(self.pattern, values, strict=True))


ROWS: Final[tuple[Row, ...]] = (
    # segments_whole, has_epoch, consistent, hole, covered, later, in_window
    Row("SEGMENT", "0------", Outcome.CORRUPT, "a segment that the manifest names is missing or damaged"),
    Row("NO_EPOCH", "10-----", Outcome.START),
    Row("CONTRADICTION", "110----", Outcome.CORRUPT, "a valid block contradicts the blocks before it"),
    # Everything below a watermark was on the disk.
    Row("LOST", "11111--", Outcome.CORRUPT, "a block that was on the disk is damaged"),
    Row("UNNAMED", "11101--", Outcome.CORRUPT, "blocks were persisted beyond the last named segment"),
    Row("FULL", "1110001", Outcome.ACCEPT),
    Row("FULL_YET_FAR", "1110000", Outcome.IMPOSSIBLE),
    Row("FULL_YET_LATER", "111001-", Outcome.IMPOSSIBLE),
    Row("END", "1111001", Outcome.ACCEPT),
    Row("END_YET_FAR", "1111000", Outcome.IMPOSSIBLE),
    Row("HOLE", "1111011", Outcome.CARRY),
    Row("FAR", "1111010", Outcome.CORRUPT, "blocks are missing, and valid ones follow further on than was in flight"),
)


def decide(evidence: Evidence) -> Row:
    """The one row about `evidence`."""
    (row,) = (row for row in ROWS if row.matches(evidence))
    assert row.outcome is not Outcome.IMPOSSIBLE, (row.label, evidence)
    return row
