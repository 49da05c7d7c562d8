"""`ringwal.logging.StreamHandler`: what is logged is in the stream, once and in order, or counted."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import logging.config
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import ringwal
from ringwal.logging import StreamHandler
from ringwal.observer import observe
from tests.support import rig
from tests.support.rig import WAIT, Engine, until

Start = Callable[..., Engine]
Configure = Callable[..., StreamHandler]

LOG = logging.getLogger("app")
COUNTS = ("lost", "unknown", "lost_in_all", "unknown_in_all")


class AsJson(logging.Formatter):
    """A formatter as users have them: every field that was given, as JSON."""

    def format(self, record: logging.LogRecord) -> str:
        told = {name: vars(record)[name] for name in COUNTS if hasattr(record, name)}
        return json.dumps({"message": record.getMessage(), "logger": record.name, **told})


def config_of(directory: Path, **options: object) -> dict[str, Any]:
    handler = {"class": "ringwal.logging.StreamHandler", "path": str(directory), "stream": "app", **options}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": AsJson}, "wants": {"format": "%(request)s %(message)s"}},
        "handlers": {"log": handler},
        "loggers": {"app": {"level": "INFO", "handlers": ["log"], "propagate": False}},
    }


@pytest.fixture
def configure(directory: Path) -> Iterator[Configure]:
    """Configures the logger `app`, as programs do; its handler is closed at the end."""
    made: list[StreamHandler] = []

    def one(**options: object) -> StreamHandler:
        logging.config.dictConfig(config_of(directory, **options))
        (handler,) = LOG.handlers
        assert isinstance(handler, StreamHandler)
        made.append(handler)
        return handler

    yield one
    for handler in made:
        LOG.removeHandler(handler)
        handler.flush_timeout = 0.0
        handler.close()


def texts(directory: Path, stream: str = "app") -> list[str]:
    with ringwal.connect(directory, timeout=WAIT) as client:
        return [record.data.decode() for record in rig.read_all(client.stream(stream))]


def messages(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in texts(directory)]


def test_a_logger_that_is_configured_by_a_dict_logs_to_the_stream(
    directory: Path, start: Start, configure: Configure
) -> None:
    start()
    handler = configure(formatter="json", level="WARNING")
    LOG.info("too low")
    before = time.time_ns()
    LOG.warning("grün %d", 1)
    LOG.error("two")
    after = time.time_ns()
    handler.flush()
    with ringwal.connect(directory, timeout=WAIT) as client:
        first, second = client.stream("app").read()
    assert json.loads(first.data) == {"message": "grün 1", "logger": "app"}
    assert json.loads(second.data)["message"] == "two"
    assert first.own_timestamp_ns is not None
    assert before - 1000 <= first.own_timestamp_ns <= after  # a float of seconds is not exact to the nanosecond
    assert (handler.dropped, handler.unknown, handler.buffered) == (0, 0, 0)


def test_a_wrong_setting_is_told_by_the_configuration(directory: Path) -> None:
    wrong: list[tuple[dict[str, object], str]] = [
        ({"on_down": "ignore"}, "buffer, drop, raise"),
        ({"stream": "_own"}, "engine's own"),
        ({"stream": ""}, "stream name"),
        ({"buffer_records": -1}, "buffer_records"),
        ({"max_wait": float("inf")}, "max_wait"),
        ({"encoding": "no-such"}, "no-such"),
    ]
    for options, said in wrong:
        with pytest.raises(ValueError, match="Unable to configure handler") as error:
            logging.config.dictConfig(config_of(directory, **options))
        assert said in str(error.value.__cause__)


def test_threads_share_a_handler_and_each_keeps_its_order(directory: Path, start: Start, configure: Configure) -> None:
    start()
    handler = configure()

    def work(name: int) -> None:
        for number in range(300):
            LOG.info("%d %d", name, number)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handler.flush()
    found = [tuple(map(int, text.split())) for text in texts(directory)]
    assert len(found) == 6 * 300
    for name in range(6):
        assert [number for of, number in found if of == name] == list(range(300))


def in_child(act: Callable[[], None]) -> int:
    """Forks; the child ends without any tidying up, as a worker that is killed does. Returns its pid."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            act()
            os._exit(0)
        os._exit(1)
    return pid


def ended_well(pid: int) -> bool:
    return os.waitpid(pid, 0)[1] == 0


def test_forked_children_log_by_themselves_also_if_they_end_at_once(
    directory: Path, start: Start, configure: Configure
) -> None:
    start()
    handler = configure()
    LOG.info("parent")
    children = [in_child(lambda: LOG.info("child")) for _ in range(4)]
    assert [ended_well(pid) for pid in children] == [True] * 4
    LOG.info("parent again")
    handler.flush()
    until(lambda: len(texts(directory)) == 6, "what the children logged is confirmed")
    found = texts(directory)
    assert found.count("child") == 4
    assert [text for text in found if text != "child"] == ["parent", "parent again"]


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_what_waits_in_the_parent_is_not_appended_by_its_child(directory: Path, start: Start, configure: Configure) -> None:
    handler = configure()
    LOG.info("of the parent")
    ready, go = os.pipe()

    def child() -> None:
        assert handler.buffered == 0
        LOG.info("of the child")
        os.read(ready, 1)
        handler.flush()
        assert handler.buffered == 0

    pid = in_child(child)
    start()
    os.write(go, b"!")
    assert ended_well(pid)
    handler.flush()
    os.close(ready)
    os.close(go)
    assert sorted(texts(directory)) == ["of the child", "of the parent"]


def test_where_there_is_no_other_thread_a_flush_brings_what_waits(
    directory: Path, start: Start, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = configure(flush_timeout=WAIT)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        LOG.info("0")
        assert handler.buffered == 1
        start()
        LOG.info("1")
        handler.flush()
        assert handler.buffered == 0
        LOG.info("2")
    handler.flush()
    assert texts(directory) == ["0", "1", "2"]


def test_a_process_of_multiprocessing_brings_what_waits_before_it_ends(directory: Path, start: Start) -> None:
    program = f"""
import logging.config, multiprocessing, sys
sys.path.insert(0, {str(rig.CHECKOUT)!r})
from tests.integration.test_logging import config_of
from pathlib import Path

def work(logged, go):
    logging.getLogger("app").info("of the worker")
    logged.set()
    assert go.wait(30)

if __name__ == "__main__":
    logging.config.dictConfig(config_of(Path(sys.argv[1])))
    context = multiprocessing.get_context("fork")
    logged, go = context.Event(), context.Event()
    worker = context.Process(target=work, args=(logged, go))
    worker.start()
    assert logged.wait(30)
    print("logged", flush=True)
    sys.stdin.readline()
    go.set()
    worker.join()
    sys.exit(worker.exitcode)
"""
    with running(program, directory) as process:
        say_when_logged(process, start)
        assert process.wait(WAIT) == 0
    assert texts(directory) == ["of the worker"]


def test_the_application_runs_without_an_engine_and_the_first_one_gets_it_all(
    directory: Path, start: Start, configure: Configure
) -> None:
    handler = configure()
    for number in range(20):
        LOG.info("%d", number)
    assert handler.buffered == 20
    start()
    LOG.info("20")
    handler.flush()
    assert handler.buffered == 0
    LOG.info("21")
    handler.flush()
    assert texts(directory) == [str(number) for number in range(22)]
    assert (handler.dropped, handler.unknown) == (0, 0)


def test_what_waits_goes_to_an_engine_though_nobody_logs_or_flushes(
    directory: Path, start: Start, configure: Configure
) -> None:
    handler = configure()
    LOG.info("alone")
    start()
    until(lambda: handler.buffered == 0, "the handler has found the engine")
    until(lambda: texts(directory) == ["alone"], "it is confirmed")
    until(lambda: "ringwal-delivery" not in {thread.name for thread in threading.enumerate()}, "its thread has ended")


class Load:
    """Numbers, logged by a thread until it is told to end."""

    def __init__(self, handler: StreamHandler) -> None:
        self.logged = 0
        self.handler = handler
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.is_set():
            LOG.info("%d", self.logged)
            self.logged += 1
            if self.logged % 64 == 0:
                self._end.wait(0.001)

    def go_on(self, records: int = 2000) -> None:
        want = self.logged + records
        until(lambda: self.logged >= want, "the application goes on")

    def end(self) -> None:
        self._end.set()
        self._thread.join()
        self.handler.flush()


@pytest.mark.parametrize("on_down", ["buffer", "drop"])
def test_an_engine_that_is_killed_and_started_under_load(
    directory: Path, start: Start, configure: Configure, on_down: str
) -> None:
    engine = start()
    handler = configure(on_down=on_down, formatter="json", buffer_records=500, flush_timeout=WAIT)
    load = Load(handler)
    try:
        for _ in range(3):
            load.go_on()
            engine.kill()
            load.go_on()
            engine = start()
            until(lambda: handler.buffered == 0, "the handler has found the engine")
            load.go_on()
    finally:
        load.end()
    until(lambda: "ringwal-delivery" not in {thread.name for thread in threading.enumerate()}, "all is said")
    LOG.info("%d", load.logged)
    handler.flush()
    said = messages(directory)
    numbers = [int(one["message"]) for one in said if "lost" not in one]
    assert numbers == sorted(set(numbers))  # in order, none twice
    assert numbers[-1] == load.logged
    missing = load.logged + 1 - len(numbers)
    assert handler.dropped > 0
    assert handler.dropped <= missing <= handler.dropped + handler.unknown
    notices = [one for one in said if "lost" in one]
    assert sum(one["lost"] for one in notices) == handler.dropped == notices[-1]["lost_in_all"]
    assert sum(one["unknown"] for one in notices) == handler.unknown == notices[-1]["unknown_in_all"]
    # Each stands where they are missing, so between two numbers that do not follow each other.
    for place, one in enumerate(said):
        if one.get("lost"):
            before = [int(other["message"]) for other in said[:place] if "lost" not in other]
            behind = next(int(other["message"]) for other in said[place:] if "lost" not in other)
            assert behind - before[-1] > one["lost"]


def test_a_buffer_that_is_full_loses_what_comes_and_says_so_in_its_place(
    directory: Path, start: Start, configure: Configure
) -> None:
    handler = configure(formatter="json", buffer_records=4)
    for number in range(10):
        LOG.info("%d", number)
    assert (handler.buffered, handler.dropped) == (4, 6)
    start()
    until(lambda: handler.buffered == 0, "the handler has found the engine")
    LOG.info("10")
    handler.flush()
    first, (notice, last) = messages(directory)[:4], messages(directory)[4:]
    assert [one["message"] for one in first] == ["0", "1", "2", "3"]
    assert notice["message"].startswith("6 log records before this one were lost: no engine runs on ")
    assert (notice["lost"], notice["unknown"], notice["lost_in_all"]) == (6, 0, 6)
    assert notice["logger"] == "ringwal.logging"
    assert last["message"] == "10"


def test_a_buffer_is_bounded_by_bytes_too(directory: Path, configure: Configure) -> None:
    handler = configure(buffer_bytes=1000)
    for _ in range(10):
        LOG.info("x" * 300)
    assert (handler.buffered, handler.dropped) == (3, 7)


def test_a_formatter_that_the_notice_does_not_suit_does_not_keep_it_back(
    directory: Path, start: Start, configure: Configure
) -> None:
    handler = configure(on_down="drop", formatter="wants")
    LOG.info("lost", extra={"request": 7})
    assert (handler.buffered, handler.dropped) == (0, 1)
    start()
    until(lambda: "ringwal-delivery" not in {thread.name for thread in threading.enumerate()}, "it is said")
    LOG.info("there", extra={"request": 8})
    handler.flush()
    notice, record = texts(directory)
    assert notice.startswith("1 log records before this one were lost")
    assert record == "8 there"


def test_where_it_is_to_raise_the_logging_call_raises_while_there_is_no_engine(
    directory: Path, start: Start, configure: Configure
) -> None:
    handler = configure(on_down="raise")
    for _ in range(3):
        with pytest.raises(ringwal.NotRunning) as error:
            LOG.info("not there")
        assert error.value.outcome == "not_appended"
    engine = start()

    def logged(text: str) -> bool:
        with contextlib.suppress(ringwal.NotRunning):
            LOG.info(text)
            return True
        return False

    until(lambda: logged("one"), "the handler has found the engine")
    handler.flush()
    LOG.info("two")
    handler.flush()
    engine.kill()
    with pytest.raises(ringwal.NotRunning):
        LOG.info("not there")
    start()
    until(lambda: logged("three"), "the handler has found the engine")
    handler.flush()
    before = handler.dropped
    with pytest.raises(ringwal.RecordTooLarge):
        LOG.info("x" * (1 << 20))
    assert handler.dropped == before + 1
    handler.flush()
    assert texts(directory) == ["one", "two", "three"]  # who was told by an exception is not told by a notice
    assert before >= 4
    assert (handler.unknown, handler.buffered) == (0, 0)


def test_an_engine_that_stands_still_holds_no_logging_call(directory: Path, start: Start, configure: Configure) -> None:
    engine = start()
    handler = configure(buffer_records=1 << 30, buffer_bytes=1 << 40)
    LOG.info("0")
    handler.flush()
    stopped = engine.pid("wal")
    rig.stop_process(stopped)
    try:
        for number in range(1, 5000):
            LOG.info("%d", number)
        assert handler.buffered > 0
        handler.flush_timeout = 0.05
        handler.flush()
        assert handler.buffered > 0
    finally:
        os.kill(stopped, signal.SIGCONT)
    handler.flush_timeout = WAIT
    for number in range(5000, 8000):  # there is room now and then
        LOG.info("%d", number)
    handler.flush()
    assert texts(directory) == [str(number) for number in range(8000)]
    assert (handler.dropped, handler.unknown, handler.buffered) == (0, 0, 0)


def test_what_an_engine_took_and_did_not_confirm_is_counted_said_and_not_appended_again(
    directory: Path, start: Start, configure: Configure
) -> None:
    engine = start()
    handler = configure(formatter="json")
    LOG.info("confirmed")
    handler.flush()
    rig.stop_process(engine.pid("wal"))
    LOG.info("nobody knows")
    LOG.info("nobody knows")
    assert (handler.unknown, handler.buffered) == (0, 0)
    engine.kill()
    LOG.info("waits")
    start()
    handler.flush()
    first, notice, last = messages(directory)
    assert (first["message"], last["message"]) == ("confirmed", "waits")
    assert (notice["lost"], notice["unknown"]) == (0, 2)
    assert notice["message"].startswith("of 2 log records before this one it is not known whether they are there: ")
    assert (handler.dropped, handler.unknown) == (0, 2)


def test_a_flush_sees_the_end_of_its_engine(directory: Path, start: Start, configure: Configure) -> None:
    engine = start()
    handler = configure(flush_timeout=WAIT)
    LOG.info("confirmed")
    handler.flush()
    rig.stop_process(engine.pid("wal"))
    LOG.info("nobody knows")
    engine.kill()
    handler.flush()
    assert handler.unknown == 1
    start()
    LOG.info("there")
    handler.flush()
    assert texts(directory)[::2] == ["confirmed", "there"]


def test_an_engine_that_ends_in_order_costs_no_record(directory: Path, start: Start, configure: Configure) -> None:
    engine = start()
    handler = configure(flush_timeout=WAIT, buffer_records=1 << 30, buffer_bytes=1 << 40)
    load = Load(handler)
    try:
        load.go_on()
        engine.stop()
        load.go_on(500)
        start()
        load.go_on()
    finally:
        load.end()
    assert (handler.dropped, handler.unknown, handler.buffered) == (0, 0, 0)
    assert texts(directory) == [str(number) for number in range(load.logged)]


def test_what_an_engine_took_before_it_was_stopped_is_waited_for(
    directory: Path, start: Start, configure: Configure
) -> None:
    engine = start()
    handler = configure(flush_timeout=WAIT)
    LOG.info("0")
    handler.flush()
    stopped = engine.pid("wal")
    rig.stop_process(stopped)
    try:
        LOG.info("1")
        engine.process.terminate()
        until(lambda: (observe(directory) or {}).get("state") == "stopping", "the engine takes nothing any more")
        LOG.info("2")
        assert handler.buffered == 1
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert engine.wait() == 0
    start()
    handler.flush()
    assert texts(directory) == ["0", "1", "2"]
    assert (handler.dropped, handler.unknown, handler.buffered) == (0, 0, 0)


def test_a_record_that_is_too_large_is_lost_alone(directory: Path, start: Start, configure: Configure) -> None:
    start()
    handler = configure(formatter="json")
    LOG.info("x" * 100_000)
    LOG.info("y")
    handler.flush()
    notice, record = messages(directory)
    assert notice["lost"] == handler.dropped == 1
    assert "larger than this client's limit" in notice["message"]
    assert record["message"] == "y"


def test_a_signal_handler_may_log_in_the_middle_of_a_logging_call(
    directory: Path, start: Start, configure: Configure
) -> None:
    start()
    handler = configure()
    rings = itertools.count()
    rang: list[int] = []

    def ring(number: int, frame: FrameType | None) -> None:
        one = next(rings)  # the next ring may interrupt this one
        LOG.info("handler %d", one)
        rang.append(one)

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        numbers = 0
        while len(rang) < 300:
            LOG.info("main %d", numbers)
            numbers += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    handler.flush()
    found = texts(directory)
    assert [text for text in found if text.startswith("main")] == [f"main {number}" for number in range(numbers)]
    assert sorted(text for text in found if text.startswith("handler")) == sorted(f"handler {one}" for one in rang)


def test_what_an_engine_in_the_program_logs_is_not_its_own_record(
    directory: Path, start: Start, configure: Configure
) -> None:
    start()
    handler = configure()
    handler.handle(logging.makeLogRecord({"name": "ringwal", "msg": "of the engine"}))
    handler.handle(logging.makeLogRecord({"name": "ringwalls", "msg": "of the application"}))
    handler.flush()
    assert texts(directory) == ["of the application"]


def test_it_starts_an_engine_where_it_is_told_to(directory: Path, configure: Configure) -> None:
    handler = configure(autostart=True, flush_timeout=WAIT)
    LOG.info("first")
    handler.flush()
    assert handler.buffered == 0
    LOG.info("second")
    handler.flush()
    assert texts(directory) == ["first", "second"]


# ------------------------------------------------------------------------------------------------ ends of programs


@contextlib.contextmanager
def running(program: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=rig.environment(rig.CHECKOUT),
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def say_when_logged(process: subprocess.Popen[str], start: Start) -> None:
    """Starts an engine when the program has logged, and lets it go on to its end."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "logged\n"
    start()
    process.stdin.write("\n")
    process.stdin.flush()


GREEN = f"""
from gevent import monkey
monkey.patch_all()
import gevent, logging.config, os, sys
sys.path.insert(0, {str(rig.CHECKOUT)!r})
from tests.integration.test_logging import config_of
from pathlib import Path
logging.config.dictConfig(config_of(Path(sys.argv[1]), flush_timeout=30.0))
log = logging.getLogger("app")
for number in range(100):
    log.info("%d", number)
print("logged", flush=True)
os.read(0, 1)
gevent.joinall([gevent.spawn(log.info, str(number)) for number in range(100, 200)])
log.handlers[0].flush()
assert log.handlers[0].buffered == 0
"""


def test_it_works_where_threads_are_greenlets(directory: Path, start: Start) -> None:
    pytest.importorskip("gevent")
    with running(GREEN, directory) as process:
        say_when_logged(process, start)
        _, said = process.communicate(timeout=2 * WAIT)
        assert (process.returncode, said) == (0, "")
    assert sorted(map(int, texts(directory))) == list(range(200))


ENDING = f"""
import logging.config, sys
sys.path.insert(0, {str(rig.CHECKOUT)!r})
from tests.integration.test_logging import config_of
from pathlib import Path
logging.config.dictConfig(config_of(Path(sys.argv[1]), flush_timeout=float(sys.argv[2])))
log = logging.getLogger("app")
for number in range(100):
    log.info("%d", number)
print("logged", flush=True)
sys.stdin.readline()
log.info("100")
"""


def test_a_program_that_ends_has_flushed(directory: Path, start: Start) -> None:
    start()
    with running(ENDING, directory, WAIT) as process:
        _, said = process.communicate("\n", timeout=WAIT)
        assert (process.returncode, said) == (0, "")
    assert texts(directory) == [str(number) for number in range(101)]


def test_a_program_that_ends_brings_what_waits_to_an_engine_that_has_come(directory: Path, start: Start) -> None:
    with running(ENDING, directory, WAIT) as process:
        say_when_logged(process, start)
        _, said = process.communicate(timeout=WAIT)
        assert (process.returncode, said) == (0, "")
    assert texts(directory) == [str(number) for number in range(101)]


def test_a_program_that_ends_without_an_engine_says_what_is_lost(directory: Path) -> None:
    with running(ENDING, directory, 0.1) as process:
        _, said = process.communicate("\n", timeout=WAIT)
        assert process.returncode == 0
    assert said.startswith(f"ringwal.logging: 101 log records for stream 'app' of {directory} were lost")
    assert said.count("\n") == 1


FULL = f"""
import logging.config, sys
sys.path.insert(0, {str(rig.CHECKOUT)!r})
from tests.integration.test_logging import config_of
from pathlib import Path
options = dict(on_down=sys.argv[2], flush_timeout=0.3, max_wait=1.0)
logging.config.dictConfig(config_of(Path(sys.argv[1]), **options))
raised = 0
for number in range(int(sys.argv[3])):
    try:
        logging.getLogger("app").info("%08000d", number)
    except OSError as error:
        raised += 1
handler = logging.getLogger("app").handlers[0]
print(raised, handler.dropped, flush=True)
"""


@pytest.mark.parametrize("on_down", ["buffer", "drop", "raise"])
@pytest.mark.parametrize("records", [3, 12], ids=["in the lane", "and more than a lane has room for"])
def test_what_a_full_disk_costs_at_the_end_is_told_as_that(small_disk: Path, on_down: str, records: int) -> None:
    with contextlib.closing(Engine(small_disk / "log")), ringwal.connect(small_disk / "log", append_timeout=0.3) as client:
        with pytest.raises(ringwal.StorageFull):
            while True:
                client.stream("s").append(bytes(8000))
        with running(FULL, small_disk / "log", on_down, records) as process:
            out, said = process.communicate(timeout=WAIT)
        raised, dropped = map(int, out.split())
        assert "No space left on device" in said, said
        assert said.startswith("ringwal.logging: ")
        assert said.count("\n") == 1
        assert (raised > 0) == (on_down == "raise" and records > 8)
        assert dropped == raised if on_down != "drop" else (dropped > 0) == (records > 8)
        subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)


def test_who_does_not_use_it_does_not_load_it() -> None:
    program = "import ringwal, sys; sys.exit(any(name in sys.modules for name in ('ringwal.logging', 'ringwal.delivery')))"
    subprocess.run([sys.executable, "-c", program], check=True, env=rig.environment(rig.CHECKOUT), timeout=WAIT)
