"""Defects in the bell, on which event loops sleep."""

from __future__ import annotations

from tests.faults.mutation import Mutant, units

NATIVE, ENGINE = "tests/native/test_bell.py", "tests/integration/test_bell.py"
FOLLOWERS = "tests/integration/test_followers.py"

BELL = [
    Mutant(
        "a drain that gets a bell does not ring it",
        "csrc/sequencer_lanes.c",
        "    if (bell_wanted(cl))\n        ring(s, cl);\n    return RW_OK;",
        "    return RW_OK;",
        units(f"{NATIVE}::test_a_successor_rings_for_what_its_predecessor_may_not_have_lived_to_ring_for"),
    ),
    Mutant(
        "a bell is rung for a tail and for a completion of one batch",
        "csrc/sequencer_lanes.c",
        "    if (cl->rung == s->step)\n        return;\n",
        "",
        units(f"{NATIVE}::test_it_rings_once_for_a_batch_whatever_is_in_it"),
    ),
    Mutant(
        "a bell is rung while nobody awaits it",
        "csrc/sequencer_lanes.c",
        "return cl->bell_fd >= 0 && rw_load32_seq(&cl->lane->bell_wanted) != 0;",
        "return cl->bell_fd >= 0;",
        units(f"{NATIVE}::test_a_completion_rings_only_while_it_is_wanted"),
    ),
    Mutant(
        "a client has the eventfd that the drain writes to",
        "engine/ringwal/processes/service.py",
        "[lane, heard.fileno()]",
        "[lane, self._slots._lanes.held[grant.slot].bell]",
        units(f"{ENGINE}::test_its_client_has_nothing_that_could_hold_up_the_drain"),
    ),
    Mutant(
        "a ring that was taken rings on",
        "engine/ringwal/processes/lanes.py",
        "heard.register(rung, select.EPOLLIN | select.EPOLLET)",
        "heard.register(rung, select.EPOLLIN)",
        units(f"{NATIVE}::test_a_ring_stays_until_it_is_taken_whoever_listens_when"),
    ),
    Mutant(
        "a successor of the drain has no bells",
        "engine/ringwal/processes/lanes.py",
        "lane if rings else lane._replace(bell=None)",
        "lane._replace(bell=None)",
        units(f"{ENGINE}::test_the_successor_of_a_killed_drain_rings"),
    ),
    Mutant(
        "the WAL process keeps bells open",
        "engine/ringwal/processes/lanes.py",
        "lane.descriptors() if role in self._ringing else [lane.fd]",
        "lane.descriptors()",
        units(f"{ENGINE}::test_only_supervisor_and_drain_have_it_and_only_as_long_as_the_lane"),
    ),
    Mutant(
        "a place whose bell could not be made stays taken",
        "engine/ringwal/processes/slots.py",
        "        self._free.append(begun.slot)\n",
        "",
        units(f"{ENGINE}::test_a_bell_that_cannot_be_had_is_refused_and_costs_no_place"),
    ),
    Mutant(
        "a look without time sleeps for a timer's slack",
        "csrc/wait.c",
        "    if (timeout_ns == 0)",
        "    if (false)",
        units(f"{FOLLOWERS}::test_a_look_without_time_does_not_give_the_processor_away"),
    ),
    Mutant(
        "what is said to followers between two of their looks is not looked at",
        "engine/ringwal/client/bell.py",
        "        elif self._listening and self._following:\n            self.want()\n",
        "",
        units(f"{FOLLOWERS}::test_what_comes_soon_after_a_look_is_found_without_another_ring"),
        hangs=True,
    ),
]
