"""The supervisor: one engine on one directory, from its lock to its last process.

    lock -> recovery -> shared memory -> WAL and drain -> serve clients, replace the dead -> stop in order -> clean up

It sleeps until a client, a child or a signal wants something. Its rooms: ownership.py and watch.py (the directory),
children.py and process_group.py (the processes), slots.py, lanes.py, streams.py and service.py (the clients),
descriptors.py, report.py.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn

from ringwal import limits, memory
from ringwal._native import lib
from ringwal.config import Config
from ringwal.errors import ConfigError, Error
from ringwal.file_errors import FileErrors, check_proc, file_error
from ringwal.log import backup_note, copies
from ringwal.log import home as homes
from ringwal.log.copied_attic import prove_attic
from ringwal.log.directory import Directory
from ringwal.log.files import unlink
from ringwal.log.home import Home
from ringwal.log.recovery import Recovered, fitted, recover
from ringwal.observer import LAST_STATUS_NAME
from ringwal.points import point
from ringwal.processes.children import Child, check_pidfd, reap_strangers
from ringwal.processes.claims import Claims, restore_owners, with_room
from ringwal.processes.consumers import Consumers
from ringwal.processes.context import LOG, EngineContext
from ringwal.processes.control_lane import ControlLane
from ringwal.processes.descriptors import allow_all_descriptors, allow_descriptors
from ringwal.processes.keeper_line import SupervisorEnd
from ringwal.processes.lanes import Lanes
from ringwal.processes.last_status import Refusals, leave_status
from ringwal.processes.ownership import Ownership
from ringwal.processes.process_group import ProcessGroup
from ringwal.processes.report import report
from ringwal.processes.service import Service
from ringwal.processes.slots import SlotTable
from ringwal.processes.stream_changes import StreamChanges
from ringwal.processes.streams import StreamTable
from ringwal.processes.watch import DirectoryWatch
from ringwal.protocol.server import Connection, Listener
from ringwal.standard import hold_descriptors

DOING = "run an engine on"
AUTOSTART_FIRST_SECONDS = 10.0
"""How long an engine that was started for a client waits for that client."""
AUTOSTART_GRACE_SECONDS = 2.0
"""How long it stays without any client afterwards."""
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What ends an engine in order."""
WAL_OTHER_DESCRIPTORS = 24
"""What the WAL process has open besides segments."""


class Supervisor:
    """An engine in the foreground of this process.

    In the main thread SIGTERM, SIGINT and SIGHUP stop it in order, also where they were blocked; SIGHUP does not where it was
    ignored (nohup), or for an engine that was started for a client. Elsewhere, and from signal handlers, `stop()` does.

    A program around it may fork: its children have nothing of the engine (forks.py), except its memory where the engine's own
    thread forked them.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        config: Config | None = None,
        *,
        on_ready: Callable[[dict[str, Any]], None] | None = None,
        autostart: bool = False,
    ) -> None:
        """
        Args:
            directory: of the log; made if it is missing.
            config: the settings; None for the defaults.
            on_ready: called once, with the report (`pid`, `epoch`, ...), when clients are served.
            autostart: end when the last client has gone.

        Raises ConfigError: a path that no file can have.
        """
        given = limits.path(directory, error=ConfigError)
        hold_descriptors()  # before the first descriptor of ours could become a standard one
        self.config = Config() if config is None else config
        self._on_ready = on_ready
        self._of_callback: Exception | None = None
        self._autostart = autostart
        self._unused = threading.Lock()
        with FileErrors(given, DOING):  # the current directory may be gone, or no descriptor be left
            self.directory = given.absolute()
            self._wake, self._woken = socket.socketpair()
        for end in (self._wake, self._woken):
            end.settimeout(0)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Supervisor is neither pickled nor copied: its engine runs in the process that made it. Pass on its directory"
            " and its config"
        )

    def stop(self) -> None:
        """Begin an orderly stop; `run` returns when it is over. Safe from any thread, and more than once."""
        with contextlib.suppress(OSError):  # already stopped, or woken up often enough
            self._wake.send(bytes([signal.SIGTERM]))

    def run(self) -> int:
        """Run the engine to its end, once. Returns the exit code of the process: 0 after an orderly stop, 74 after a
        failed write, 72 when its directory was moved, replaced or deleted, 70 after too many replacements or an unfinished
        stop.

        Raises:
            Locked: another engine holds the directory.
            CorruptionError, ConfigError, VersionMismatch, StorageFull: see `ringwal.log.recovery.recover`.
            ConfigError: the limit of open files is too low for the settings.
            ShmUnavailable: not enough shared memory.
            FileError: the directory cannot be used; or the system gives no other process, or no memory.
            Error: the system lacks what no engine can do without.
            RuntimeError: it was run before.
            What `on_ready` raises ends the engine, and is raised as it is.
        """
        if not self._unused.acquire(blocking=False):
            raise RuntimeError("an engine is run once: make another Supervisor to run one again")
        try:
            return self._start()
        except Exception as error:
            told = self._translated(error)
            if told is error:
                raise
            raise told from error

    def _translated(self, error: Exception) -> Exception:
        """What the caller is told of it."""
        if error is self._of_callback or isinstance(error, Error):
            return error
        if isinstance(error, MemoryError):
            return file_error(OSError(errno.ENOMEM, ""), self.directory, DOING)
        if isinstance(error, OSError):
            named = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else None
            return file_error(error, self.directory, DOING, named=named)
        return error

    def _start(self) -> int:
        with contextlib.ExitStack() as stack:
            stack.callback(self._woken.close)
            stack.callback(self._wake.close)
            check_proc()
            check_pidfd()
            allow_all_descriptors()
            backup_note.refuse_engine(self.directory)
            if not self.directory.exists():  # else the refusal can be left there
                _check_descriptors(self.config)
            ownership = Ownership(self.directory)
            stack.callback(ownership.release)
            stack.enter_context(Refusals(ownership.directory, self._translated))
            _check_descriptors(self.config)
            for end in (self._wake, self._woken):
                stack.enter_context(ownership.private.held(end.close))
            stack.enter_context(_signals(self._wake, autostart=self._autostart))
            # From here on clients may knock; they are answered when recovery is done.
            listener = Listener(ownership.directory.fd)
            stack.callback(listener.close)
            stack.enter_context(ownership.private.held(listener.leave))
            home = homes.look(ownership.directory)
            progress, copied = stack.enter_context(_progress(ownership)), home.copied_from is not None
            tell = partial(lib.rw_progress_tell, progress.pointer)
            with copies.refused(ownership.directory, copied=copied):
                config = fitted(ownership.directory, self.config)
                if copied:
                    prove_attic(ownership.directory)
                recovered = recover(ownership.directory, config, tell, copied=copied)
            config = with_room(config, recovered.owners)
            homes.keep(ownership.directory, home)
            _log_home(ownership.directory, home)
            ownership.hold_manifest()  # if the log was made just now
            unlink(LAST_STATUS_NAME, at=ownership.directory.fd)
            _log_recovery(recovered)
            point("s.recovered")
            context = stack.enter_context(_shared_memory(ownership, config, recovered))
            progress.close()  # from here on the control area says what there is to say
            return self._run(context, listener, recovered, home)

    def _run(self, context: EngineContext, listener: Listener, recovered: Recovered, home: Home) -> int:
        control, held = context.control.pointer, context.ownership.private.held
        streams = StreamTable(control, recovered.streams, recovered.next_number)
        restore_owners(control, recovered.owners, recovered.owners_end)
        with (
            selectors.DefaultSelector() as selector,
            contextlib.closing(Lanes()) as lanes,
            held(selector.close),
            held(lanes.close),
            contextlib.ExitStack() as stack,
        ):
            control_lane = stack.enter_context(contextlib.closing(ControlLane(context, lanes)))
            stack.enter_context(held(lambda: control_lane.leave(unmap=not context.ownership.private.here())))
            slots = SlotTable(context, lanes)
            line = SupervisorEnd(selector)
            group = ProcessGroup(context, selector, lanes, line)
            stack.enter_context(held(group.leave))

            def facts() -> dict[str, Any]:
                return report(context, group, recovered, home)

            changes = StreamChanges(control, streams, control_lane)
            claims = Claims(control, context.config, streams, control_lane)
            service = Service(
                context,
                selector,
                listener,
                streams,
                slots,
                changes,
                claims,
                Consumers(streams, claims),
                report=facts,
                stop=group.stop,
            )
            stack.enter_context(held(service.leave))
            watch = DirectoryWatch(context, group, service, listener)
            try:
                selector.register(self._woken, selectors.EVENT_READ, None)
                group.start()
                point("s.started")
                lib.rw_set_state(control, lib.RW_RUNNING, 0)
                ready = facts()
                LOG.info(
                    "serving %s, epoch %d, WAL process %d, drain process %d, %s writes",
                    *(ready[key] for key in ("directory", "epoch", "wal_pid", "drain_pid", "io")),
                )
                self._tell_ready(ready)
                code = watch.last_look(self._loop(selector, group, service, slots, watch, control_lane, changes))
                if not group.directory_lost:
                    leave_status(context.directory, facts, code, group.reason)
                LOG.info("ended with code %d", code)
                return code
            finally:
                if group.verdict is None:
                    lib.rw_set_state(control, lib.RW_FAILED, 0)
                group.kill()
                stack.close()
                service.close()

    def _tell_ready(self, ready: dict[str, Any]) -> None:
        if self._on_ready is not None:
            try:
                self._on_ready(ready)
            except Exception as error:
                self._of_callback = error
                raise

    def _loop(
        self,
        selector: selectors.BaseSelector,
        group: ProcessGroup,
        service: Service,
        slots: SlotTable,
        watch: DirectoryWatch,
        control_lane: ControlLane,
        changes: StreamChanges,
    ) -> int:
        idle_since = time.monotonic()
        grace = AUTOSTART_FIRST_SECONDS
        while True:
            timeouts = [slots.collect(), control_lane.tick(), service.tick(), watch.tick(), group.tick()]
            if group.verdict is not None:  # also by the tick: then there is nobody left to wait for
                return group.verdict
            if self._autostart and not group.stopping and not len(service):
                left = idle_since + grace - time.monotonic()
                if left <= 0:
                    LOG.info("no client is left")
                    group.stop()
                timeouts.append(max(left, 0))
            due = [timeout for timeout in timeouts if timeout is not None]
            for key, _ in selector.select(min(due) if due else None):
                self._dispatch(key, group, service, changes)
            if len(service):
                idle_since, grace = time.monotonic(), AUTOSTART_GRACE_SECONDS

    def _dispatch(
        self, key: selectors.SelectorKey, group: ProcessGroup, service: Service, changes: StreamChanges
    ) -> None:
        match key.data:
            case Connection():
                service.serve(key.data)
            case Listener():
                service.accept()
            case SupervisorEnd():
                for asked in key.data.asked():
                    changes.trim_place(*asked)
            case Child():
                if key.data.pid in group.pids().values():  # not killed by an earlier event of the same round
                    group.died(key.data)
                self._reap(group)
            case None:
                self._signalled(group)

    def _signalled(self, group: ProcessGroup) -> None:
        for number in self._woken.recv(4096):
            if number in STOPS and not group.stopping:
                LOG.info("stopping in order (%s)", signal.Signals(number).name)
                group.stop()
        self._reap(group)

    def _reap(self, group: ProcessGroup) -> None:
        # Elsewhere, children that are not ours are somebody else's: a program that runs an engine may have its own.
        if os.getpid() == 1:
            reap_strangers(set(group.pids().values()))


def _check_descriptors(config: Config) -> None:
    """The WAL process opens each segment once for each of its threads: the one in use, the one before, those ahead. There are
    no more: what is in flight fits into the ring and so into a segment, and what is over is closed before one is opened."""
    needed = config.blocks_in_flight * (config.segments_ahead + 2) + WAL_OTHER_DESCRIPTORS
    limit = allow_descriptors(needed)
    if limit < needed:
        raise ConfigError(
            f"blocks_in_flight ({config.blocks_in_flight}) and segments_ahead ({config.segments_ahead}) need {needed} open"
            f" files, and this process may have {limit}; raise the limit (ulimit -n), or lower one of the two"
        )


def _log_home(directory: Directory, home: Home) -> None:
    if home.copied_from is not None:
        LOG.warning("%s is a copy of the directory %s, or was restored; it is %s from now on",
                    directory.path, home.copied_from, home.id)  # fmt: skip


def _log_recovery(recovered: Recovered) -> None:
    s = recovered.statistics
    LOG.info(
        "recovered epoch %d: %d streams, %d blocks, %d records, %d holes, %d carried over, %d dropped, in %.3f s",
        recovered.epoch, len(recovered.streams), s.blocks, s.records, s.holes, s.carried, s.dropped, s.seconds,
    )  # fmt: skip


@contextlib.contextmanager
def _progress(ownership: Ownership) -> Iterator[memory.Mapping]:
    """Where recovery says how far it is, for those who wait for it."""
    with memory.create_progress() as progress:

        def leave() -> None:
            progress.leave(unmap=not ownership.private.here())

        with ownership.private.held(leave):
            ownership.describe(progress=progress.fd)
            yield progress


@contextlib.contextmanager
def _shared_memory(ownership: Ownership, config: Config, recovered: Recovered) -> Iterator[EngineContext]:
    """Control area, log ring and the eventfds of the new epoch; nothing of this engine is left afterwards."""
    with contextlib.ExitStack() as stack:
        control = stack.enter_context(
            memory.create_control(
                config,
                recovered.uuid,
                recovered.epoch,
                epoch_begin=recovered.epoch_begin,
                position=recovered.position,
                block_number=recovered.block_number,
            )
        )
        # Times never go back, not even if the clock was put back since the newest record was written.
        lib.rw_set_not_before(control.pointer, recovered.timestamp_ns)
        if lib.rw_supervisor_hold(control.pointer) != lib.RW_OK:
            LOG.warning("this system has no robust mutexes: a killed engine is noticed by its clients' next wait only")
        stack.callback(lib.rw_supervisor_let_go, control.pointer)
        ring = stack.enter_context(memory.create_log(config))
        point("s.shm.created")
        eventfds = []
        for _ in range(3):
            eventfds.append(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
            stack.callback(os.close, eventfds[-1])

        def leave() -> None:
            for fd in eventfds:
                os.close(fd)
            for each in (control, ring):
                each.leave(unmap=not ownership.private.here())

        stack.enter_context(ownership.private.held(leave))
        ownership.describe(control.fd, ring.fd)
        yield EngineContext(
            ownership=ownership,
            config=config,
            uuid=recovered.uuid,
            epoch=recovered.epoch,
            control=control,
            ring=ring,
            direct=recovered.direct,
            doorbell_fd=eventfds[0],
            inner_fd=eventfds[1],
            maintenance_fd=eventfds[2],
        )


@contextlib.contextmanager
def _signals(wake: socket.socket, *, autostart: bool) -> Iterator[None]:
    """Signals write their number to `wake` and do nothing else. Nothing is changed outside the main thread.

    What a parent leaves behind goes over an exec: ignored signals and blocked ones. Children must not be reaped by the kernel
    itself (SIGCHLD ignored).
    """

    def noted(number: int, frame: object) -> None:
        """The byte in `wake` is what counts."""

    wanted: dict[signal.Signals, Any] = {signal.SIGTERM: noted, signal.SIGINT: noted}
    if autostart:
        wanted[signal.SIGHUP] = signal.SIG_IGN
    elif signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        wanted[signal.SIGHUP] = noted
    if os.getpid() == 1:
        wanted[signal.SIGCHLD] = noted
    elif signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        wanted[signal.SIGCHLD] = signal.SIG_DFL
    try:
        before = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    except ValueError:
        yield
        return
    handlers = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, wanted.keys())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(before)
