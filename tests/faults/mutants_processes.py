"""Defects in what the engine's processes must survive: requests, surroundings, files and forks."""

from __future__ import annotations

from tests.faults.mutation import Mutant, row, units

REQUESTS = "tests/integration/test_requests.py"
REFUSALS = "tests/integration/test_refusals.py"
SURROUNDINGS = "tests/integration/test_surroundings.py"
SANDBOX = "tests/integration/test_sandbox.py"
TROUBLE = "tests/integration/test_trouble.py"

ASKED = [
    Mutant(
        "requests are taken as they come",
        "engine/ringwal/protocol/server.py",
        "return check_request(decode(packet, flags))",
        "return decode(packet, flags) if check_request else {}",
        units(f"{REQUESTS}::test_a_broken_request_ends_its_own_connection_only"),
    ),
    Mutant(
        "a reset is the end of what the engine has said",
        "engine/ringwal/protocol/client.py",
        "except ConnectionResetError:  # the engine hung up",
        "except ZeroDivisionError:  # the engine hung up",
        units(f"{REFUSALS}::test_what_was_said_before_an_end_is_read"),
    ),
    Mutant(
        "recovery says that it has read nothing",
        "engine/ringwal/log/walk.py",
        "self._tell(self.scan.position - self.begin, ",
        "self._tell(self.end - self.end, ",
        units("tests/unit/test_recovery.py::test_recovery_tells_how_far_it_is"),
    ),
    Mutant(
        "a fault in serving one client is everybody's",
        "engine/ringwal/processes/service.py",
        '            LOG.exception("a request of process %d cannot',
        '            raise\n            LOG.exception("a request of process %d cannot',
        units(f"{REQUESTS}::test_a_fault_in_serving_one_client_ends_its_connection_only"),
    ),
    Mutant(
        "replies are UTF-8",
        "engine/ringwal/protocol/messages.py",
        'separators=(",", ":")).encode()',
        'separators=(",", ":"), ensure_ascii=False).encode()',
        units(f"{SURROUNDINGS}::test_the_directory_may_have_any_name"),
    ),
    Mutant(
        "a lane is made in one go",
        "engine/ringwal/memory.py",
        "LANE_STEP_BYTES = 4 << 20",
        "LANE_STEP_BYTES = 4 << 40",
        units(f"{REQUESTS}::test_while_a_large_lane_is_made_others_are_served"),
    ),
    Mutant(
        "a lane is freed in one go",
        "engine/ringwal/memory.py",
        "        if self._size - self._done > LANE_STEP_BYTES:\n",
        "        if self._size - self._done > 1 << 40:\n",
        units(f"{REQUESTS}::test_a_lane_is_freed_in_bounded_steps"),
    ),
    Mutant(
        "a lane is made until the machine has no memory",
        "engine/ringwal/memory.py",
        "    if needed > left:\n",
        "    if needed > left + (1 << 62):\n",
        units(f"{REQUESTS}::test_a_lane_that_the_machine_has_no_memory_for_is_refused"),
    ),
    Mutant(
        "a stop does not look for lanes that have just come",
        "engine/ringwal/processes/wal.py",
        "        self.stopping = True\n",
        "        self.stopping = self.finishing = True\n        lib.rw_wal_finish(self.wal)\n",
        units("tests/integration/test_client_fates.py::test_a_stop_confirms_what_a_client_has_appended_that_has_just_come"),
    ),
    Mutant(
        "a lane is given to who has given up",
        "engine/ringwal/processes/service.py",
        "                if connection.granted is not None and connection.granted[0] == tag:\n",
        "                if connection.granted is not None and connection.granted[0] == -tag:\n",
        units(f"{REQUESTS}::test_a_lane_for_a_client_that_has_given_up_is_not_given_out"),
    ),
]

STARTED = [
    Mutant(
        "sizes are not taken from the log",
        "engine/ringwal/config.py",
        'if "segment_bytes" in said or segment_bytes == usual.segment_bytes:',
        'if "segment_bytes" in said or segment_bytes:',
        units(f"{SURROUNDINGS}::test_a_restart_that_says_no_sizes_takes_those_of_the_log"),
    ),
    Mutant(
        "closed standard descriptors become any file",
        "engine/ringwal/standard.py",
        "return os.open(os.devnull, os.O_RDWR)",
        'return os.open("/proc/self/stat", os.O_RDONLY)',
        row("surroundings", "standard descriptors closed"),
    ),
    Mutant(
        "log lines wait for their reader",
        "engine/ringwal/standard.py",
        "os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY",
        "os.O_WRONLY | os.O_NOCTTY",
        row("surroundings", "stderr is full"),
    ),
    Mutant(
        "blocked signals stay blocked",
        "engine/ringwal/processes/supervisor.py",
        "signal.pthread_sigmask(signal.SIG_UNBLOCK, wanted.keys())",
        "signal.pthread_sigmask(signal.SIG_UNBLOCK, ())",
        units(f"{SURROUNDINGS}::test_ignored_and_blocked_signals_of_the_parent_change_nothing"),
    ),
    Mutant(
        "exit codes are had from the kernel only",
        "engine/ringwal/processes/children.py",
        "            os.write(say, bytes([code]))\n",
        "            os.fstat(say)\n",
        units(f"{SURROUNDINGS}::test_a_host_that_waits_for_all_its_children_takes_no_exit_code_from_the_engine"),
    ),
    Mutant(
        "WAL and drain end at a signal to everybody",
        "engine/ringwal/processes/context.py",
        "FINISH = signal.SIGUSR2",
        "FINISH = signal.SIGTERM",
        units("tests/integration/test_supervisor.py::test_wal_and_drain_leave_the_stop_to_the_supervisor"),
    ),
    Mutant(
        "a started engine stays in its starter's session",
        "engine/ringwal/client/autostart.py",
        "start_new_session=True",
        "start_new_session=False",
        units(f"{SURROUNDINGS}::test_a_started_engine_is_nobodys_child_and_takes_nothing_along"),
    ),
    Mutant(
        "a frozen program is taken for a Python",
        "engine/ringwal/client/autostart.py",
        'if getattr(sys, "frozen", False):',
        'if getattr(sys, "thawed", False):',
        units(f"{SURROUNDINGS}::test_what_is_no_python_starts_no_engine"),
    ),
    Mutant(
        "nobody asks whether there are pidfds",
        "engine/ringwal/processes/supervisor.py",
        "            check_pidfd()\n",
        "",
        units(f"{SANDBOX}::test_without_pidfd_open_an_engine_says_what_is_missing"),
    ),
    Mutant(
        "a signal goes through a pidfd or not at all",
        "engine/ringwal/processes/children.py",
        "if error.errno not in (errno.EPERM, errno.ENOSYS):",
        "if error.errno not in ():",
        units(f"{SANDBOX}::test_what_can_be_done_without_is_done_without"),
    ),
    Mutant(
        "a refused direct write is a failed one",
        "engine/ringwal/log/files.py",
        "_NOT_DIRECT = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM)",
        "_NOT_DIRECT = (errno.EINVAL,)",
        units(f"{SANDBOX}::test_what_can_be_done_without_is_done_without"),
    ),
    Mutant(
        "a lane's header has a page of 4 KiB",
        "csrc/memory.c",
        "    return (header + page - 1) & ~(page - 1);\n",
        "    return page != 0 ? header : 0;\n",
        units("tests/integration/test_page_size.py"),
    ),
]

FILES = [
    Mutant(
        "segments that are over are closed after others are opened",
        "engine/ringwal/processes/segment_supply.py",
        "            self.drop()  # first,",
        "            # first,",
        units(f"{TROUBLE}::test_an_engine_opens_no_more_files_than_it_has_reckoned"),
    ),
    Mutant(
        "the soft limit of open files stays what it was",
        "engine/ringwal/processes/supervisor.py",
        "            allow_all_descriptors()\n",
        "",
        row("surroundings", "more segments than open files"),
    ),
    Mutant(
        "blocks of requests that cannot be counted are allowed",
        "engine/ringwal/config.py",
        "        if self.block_limit > BLOCK_LIMIT_MAX:\n",
        "        if self.block_limit > 1 << 60:\n",
        units("tests/unit/test_config.py"),
    ),
    Mutant(
        "the drain keeps a failed write to itself",
        "engine/ringwal/processes/drain.py",
        "            elif code == lib.RW_IO:\n",
        "            elif code == lib.RW_IO and self.stopping:\n",
        units(f"{TROUBLE}::test_a_failed_write_is_told_while_a_segment_is_being_filled"),
    ),
    Mutant(
        "a segment that cannot be made is a fault of the program",
        "engine/ringwal/processes/wal.py",
        "        lib.rw_set_wal_error(context.control.pointer, error.errno or errno.EIO)\n        return os.EX_IOERR\n",
        "        return os.EX_SOFTWARE\n",
        units(f"{TROUBLE}::test_a_segment_that_cannot_be_made_is_a_failed_write"),
    ),
    Mutant(
        "a successor needs room on the disk to begin",
        "engine/ringwal/processes/wal.py",
        "        self.state = LogState(context)\n",
        "        self.state = LogState(context)\n        if context.replacement:\n"
        "            from ringwal.log.files import use_direct\n\n"
        "            use_direct(context.directory, self.config.direct_io)\n",
        row("surroundings", "disk full"),
    ),
    Mutant(
        "nobody looks for a dead writer's last words",
        "engine/ringwal/processes/wal.py",
        "            os.eventfd_write(self.context.inner_fd, 1)  # it may have been killed between publishing and ringing\n",
        "",
        row("surroundings", "last words"),
    ),
    Mutant(
        "what root's engine makes is root's",
        "engine/ringwal/log/directory.py",
        "    if os.geteuid() == 0 and os.fstat(fd).st_uid != owner.st_uid:\n",
        "    if os.geteuid() < 0 and os.fstat(fd).st_uid != owner.st_uid:\n",
        units(f"{SURROUNDINGS}::test_what_roots_engine_makes_belongs_to_the_owner_of_the_directory"),
    ),
    Mutant(
        "a stranger's fork keeps what is the engine's",
        "engine/ringwal/processes/forks.py",
        "        if self._forking and self.here():\n",
        "        if self._held:\n",
        row("surroundings", "forks and dies"),
    ),
    Mutant(
        "a stranger's fork keeps the listener",
        "engine/ringwal/processes/supervisor.py",
        "            stack.enter_context(ownership.private.held(listener.leave))\n",
        "",
        units("tests/integration/test_forks.py"),
    ),
]

PROCESSES = ASKED + STARTED + FILES
