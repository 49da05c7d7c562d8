"""Defects in how streams are followed."""

from __future__ import annotations

from tests.faults.mutation import Mutant, units

MODEL = "tests/unit/test_merged.py::test_it_gives_what_is_confirmed_without_a_gap_in_log_order"
TAILS = "tests/integration/test_tails.py"
MERGED = "tests/integration/test_merged_tails.py"

FOLLOWING = [
    Mutant(
        "a merged tail goes on beyond a gap in what is confirmed",
        "csrc/merged.c",
        "uint64_t end = rw_log_disk_end(c); /* first: see merged.h */",
        "uint64_t end = rw_load64(&c->sealed_end);",
        units("tests/unit/test_merged.py::test_a_walk_that_is_placed_stands_before_the_gap"),
    ),
    Mutant(
        "a merged walk is not ended at the place that is asked for",
        "engine/ringwal/read/merged.py",
        "        window.end_at(limit)\n",
        "",
        units(MODEL),
    ),
    Mutant(
        "a merged walk begins at the place of one of its streams",
        "engine/ringwal/read/merged.py",
        "min([*found, Place(self._reach, 0)], key=_position)",
        "[Place(self._reach, 0), *found][-1]",
        units(MODEL),
    ),
    Mutant(
        "what a merged walk has passed over in vain is not put back",
        "engine/ringwal/read/merged.py",
        "            self._copy(self._wants, self._known)\n",
        "",
        units("tests/unit/test_merged.py::test_what_the_ring_loses_meanwhile_is_read_from_the_files"),
    ),
    Mutant(
        "a merged tail is woken before its place has moved",
        "csrc/sequencer.c",
        "if (s->confirmed != 0 || released != 0) {",
        "if (s->confirmed != 0 && released == 0) {",
        units("tests/native/test_sequencer.py::test_who_follows_the_log_is_woken_by_the_release_alone"),
    ),
    Mutant(
        "a tail begins anew in the next engine",
        "engine/ringwal/client/following.py",
        "        self.stand(attachment, handle, offset)\n\n\ndef follow_steps",
        "        self.stand(attachment, handle, 0)\n\n\ndef follow_steps",
        units(f"{TAILS}::test_a_tail_goes_on_over_the_ends_of_engines"),
    ),
    Mutant(
        "a tail goes on in another stream of its name",
        "engine/ringwal/client/following.py",
        "if confirmed and lib.rw_handle_number(handle) != number:",
        "if not confirmed and lib.rw_handle_number(handle) != number:",
        units(f"{TAILS}::test_a_tail_does_not_go_on_in_another_stream_of_its_name"),
    ),
    Mutant(
        "a merged tail goes on in another stream of its name",
        "engine/ringwal/client/merging.py",
        "if confirmed and lib.rw_handle_number(handle) != number:",
        "if not confirmed and lib.rw_handle_number(handle) != number:",
        units(f"{MERGED}::test_it_does_not_go_on_in_another_stream_of_a_name"),
    ),
    Mutant(
        "a read does not wait",
        "engine/ringwal/client/following.py",
        "if records or limit == 0 or not most:",
        "if records or limit != 0 or not most:",
        units(f"{TAILS}::test_a_read_waits_for_the_first_record_and_no_longer"),
    ),
    Mutant(
        "a tail holds whatever a thousand records take",
        "engine/ringwal/client/following.py",
        "cursor.next(self._max_records, self._max_bytes)",
        "cursor.next(self._max_records, None)",
        units(f"{TAILS}::test_a_tail_holds_a_few_megabytes_however_large_its_records_are"),
    ),
]
