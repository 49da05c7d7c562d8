"""Each rule finds what breaks it, and nothing in what does not."""

from __future__ import annotations

import pytest

from tests.support import house_rules

WORDS = frozenset({"state", "sealed_end"})


@pytest.mark.parametrize(
    "source",
    [
        "x = control.state",
        "x = self.control.state",
        "x = mapping.pointer.sealed_end",
        "context.control.pointer.state = 4",
        "c = self._control\nx = c.state",
        "slot = lib.rw_slot_of(control, 1)\nx = slot.state",
        "x = lib.rw_stream_of(control, 1).state",
        "x = [getattr(control, name) for name in NAMES]",
    ],
)
def test_a_read_of_a_shared_word_is_found(source: str) -> None:
    assert len(list(house_rules.shared_reads(source, WORDS))) == 1


@pytest.mark.parametrize(
    "source",
    ["x = views.engine(control).state", "seen = views.slot(control, 1)\nx = seen.state", "x = lib.rw_engine_state(control)"],
)
def test_a_read_through_c_is_not(source: str) -> None:
    assert list(house_rules.shared_reads(source, WORDS)) == []
