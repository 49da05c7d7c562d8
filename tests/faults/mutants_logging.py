"""Defects in the handler of `logging` and in the fixtures for pytest."""

from __future__ import annotations

from tests.faults.mutation import Mutant, units

DELIVERY = "engine/ringwal/delivery.py"
TESTS = "tests/integration/test_logging.py"

LOGGING = [
    Mutant(
        "the child of a fork has what waits in its parent",
        "engine/ringwal/logging.py",
        "        self._delivery = self._new_delivery()\n        self._delivery.closed = closed",
        "        self._delivery.closed = closed",
        units(f"{TESTS}::test_what_waits_in_the_parent_is_not_appended_by_its_child"),
    ),
    Mutant(
        "what is logged goes before what waits",
        DELIVERY,
        "if self._stream is None or self._worker is not None or self._waiting or not self._append_now(entry):",
        "if self._stream is None or not self._append_now(entry):",
        units(f"{TESTS}::test_an_engine_that_stands_still_holds_no_logging_call"),
    ),
    Mutant(
        "a full buffer takes more",
        DELIVERY,
        "        full = records > ",
        "        full = False and records > ",
        units(f"{TESTS}::test_a_buffer_that_is_full_loses_what_comes_and_says_so_in_its_place"),
    ),
    Mutant(
        "a loss is not said",
        DELIVERY,
        "            self._send(self._notice())\n            self._said()",
        "            self._said()",
        units(f"{TESTS}::test_a_record_that_is_too_large_is_lost_alone"),
    ),
    Mutant(
        "an unknown outcome is not counted",
        DELIVERY,
        "self._count(not unknown, unknown, error)",
        "self._count(not unknown, 0, error)",
        units(f"{TESTS}::test_what_an_engine_took_and_did_not_confirm_is_counted_said_and_not_appended_again"),
    ),
    Mutant(
        "an engine that stops has no time to confirm",
        DELIVERY,
        "                self._settle(min(SETTLING, left))",
        "                self._settle(0.0)",
        units(f"{TESTS}::test_what_an_engine_took_before_it_was_stopped_is_waited_for"),
    ),
    Mutant(
        "the first record of a process waits",
        DELIVERY,
        "                self._attach(self._settings.max_wait / 4, ROOM)\n",
        "                pass\n",
        units(f"{TESTS}::test_forked_children_log_by_themselves_also_if_they_end_at_once"),
    ),
    Mutant(
        "a worker of multiprocessing ends with what waits",
        DELIVERY,
        "        util.Finalize(None, _flush, args=(weakref.ref(delivery),), exitpriority=0)",
        "        return",
        units(f"{TESTS}::test_a_process_of_multiprocessing_brings_what_waits_before_it_ends"),
    ),
    Mutant(
        "what waits is left to a thread that there is not",
        DELIVERY,
        "                        self._work(deadline)",
        "                        pass",
        units(f"{TESTS}::test_where_there_is_no_other_thread_a_flush_brings_what_waits"),
    ),
    Mutant(
        "an engine of a test outlives its pytest",
        "engine/ringwal_pytest.py",
        ", autostart=True).run()",
        ").run()",
        units("tests/integration/test_pytest_plugin.py::test_an_engine_leaves_when_its_pytest_is_killed"),
    ),
]
