"""Limits as a caller meets them: sizes, full lanes and windows, buffers of every kind, a full disk, little shared memory."""

from __future__ import annotations

import array
import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import ringwal
from tests.support import cli_rig, shm_names
from tests.support.rig import CHECKOUT, SMALL, WAIT, Engine, arm, environment, stop_process, until

if TYPE_CHECKING:
    from typing_extensions import Buffer

MIB = 1 << 20


@pytest.fixture
def held(start: Callable[..., Engine]) -> Iterator[Engine]:
    """An engine whose WAL process is stopped: nothing is taken from any lane until it is let go on."""
    running = start(max_outstanding=16)
    stop_process(running.facts["wal_pid"])
    yield running
    os.kill(running.facts["wal_pid"], signal.SIGCONT)


def test_too_few_open_files_are_said_before_anything_is_made(directory: Path) -> None:
    command = [sys.executable, "-m", "ringwal", "run", str(directory), "--blocks-in-flight", "32"]
    limited = ["prlimit", "--nofile=100:100", *command]
    ended = subprocess.run(limited, capture_output=True, text=True, check=False, timeout=WAIT, env=environment(CHECKOUT))
    assert ended.returncode == os.EX_CONFIG
    assert "120 open files" in ended.stderr and "ulimit -n" in ended.stderr
    assert not directory.exists()


def test_a_soft_limit_of_open_files_is_raised_as_far_as_needed(directory: Path, start: Callable[..., Engine]) -> None:
    running = start(wrapper=("prlimit", "--nofile=64:1000"), blocks_in_flight=32)
    with ringwal.connect(directory) as client:
        assert client.stream("s").append(b"kept").result(WAIT).offset == 0
    for name in ("wal_pid", "drain_pid"):
        assert resource.prlimit(running.facts[name], resource.RLIMIT_NOFILE)[0] >= 112


def test_a_full_lane_is_back_pressure_and_writes_nothing(held: Engine, directory: Path) -> None:
    with ringwal.connect(directory, append_timeout=0.05) as client:
        stream = client.stream("s")
        receipts = [stream.append(bytes(16_000)) for _ in range(4)]
        for refused in (partial(stream.append, bytes(16_000)), partial(stream.append_many, [bytes(8_000)] * 2)):
            with pytest.raises(ringwal.BackpressureTimeout) as caught:
                refused()
            assert (caught.value.outcome, caught.value.retriable) == ("not_appended", True)
        os.kill(held.facts["wal_pid"], signal.SIGCONT)
        assert [receipt.result(WAIT).offset for receipt in receipts] == [0, 1, 2, 3]
        assert stream.append(b"next").result(WAIT).offset == 4


def test_a_full_window_is_back_pressure_and_writes_nothing(held: Engine, directory: Path) -> None:
    with ringwal.connect(directory, append_timeout=0.05) as client:
        stream = client.stream("s")
        receipts = [stream.append(b"%d" % n) for n in range(16)]
        with pytest.raises(ringwal.BackpressureTimeout):
            stream.append(b"one too many")
        with pytest.raises(ringwal.AckTimeout) as caught:
            receipts[0].result(0.01)
        assert caught.value.outcome == "unknown"
        os.kill(held.facts["wal_pid"], signal.SIGCONT)
        assert [receipt.result(WAIT).offset for receipt in receipts] == list(range(16))
        assert stream.append(b"next").result(WAIT).offset == 16
        assert [record.data for record in stream.read(15)] == [b"15", b"next"]


def test_without_a_limit_an_append_waits_for_room(held: Engine, directory: Path) -> None:
    with ringwal.connect(directory, append_timeout=None) as client:
        stream = client.stream("s")
        for _ in range(4):
            stream.append(bytes(16_000))
        pid = os.fork()
        if pid == 0:  # lets the WAL process go on when this one waits
            parent = os.getppid()
            until(lambda: Path(f"/proc/{parent}/stat").read_text().rsplit(") ", 1)[1][0] == "S", "the parent waits")
            os.kill(held.facts["wal_pid"], signal.SIGCONT)
            os._exit(0)
        assert stream.append(bytes(16_000)).result(WAIT).offset == 4
        os.waitpid(pid, 0)


def test_a_record_that_is_too_large_is_refused_before_anything_is_written(
    directory: Path, start: Callable[..., Engine]
) -> None:
    start()
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        for refused in (partial(stream.append, bytes(32_769)), partial(stream.append_many, [bytes(16_384)] * 2)):
            with pytest.raises(ringwal.RecordTooLarge) as caught:
                refused()
            assert (caught.value.limit, caught.value.outcome) == (32_768, "not_appended")
        with pytest.raises(ringwal.RecordTooLarge, match="no lane takes more"):  # the system gives its pages when they are used
            stream.append_many([bytes(1 << 32)])
        assert stream.append(bytes(32_768)).result(WAIT).offset == 0
        assert stream.stat().records == 1


def test_records_of_16_mib_through_a_lane_of_64(directory: Path, start: Callable[..., Engine]) -> None:
    running = start(ring_bytes="64MiB", segment_bytes="72MiB")
    big = [os.urandom(4096) * 4096 for _ in range(3)]
    with ringwal.connect(directory, lane_bytes=64 * MIB) as client:
        stream = client.stream("big")
        receipts = [stream.append(data) for data in big]
        receipts.append(stream.append_many([b"small", big[0]]))
        assert [receipt.result(WAIT).offset for receipt in receipts] == [0, 1, 2, 3]
        assert [record.data for record in stream.read(0)] == [*big, b"small", big[0]]
    running.kill()
    start(ring_bytes="64MiB", segment_bytes="72MiB")
    with ringwal.connect(directory) as client:
        assert [record.data for record in client.stream("big").read(0)] == [*big, b"small", big[0]]


def test_buffers_of_every_kind(directory: Path, start: Callable[..., Engine]) -> None:
    start()
    table = memoryview(bytes(range(24))).cast("B", (4, 6))
    numbers = array.array("I", [1, 2])
    kinds: list[Buffer] = [b"", b"bytes", bytearray(b"bytearray"), memoryview(b"view")[1:3], numbers, table, bytearray()]
    flat = [bytes(memoryview(kind).cast("B")) if memoryview(kind).nbytes else b"" for kind in kinds]
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        for kind in kinds:
            stream.append(kind)
        assert stream.append_many(kinds).result(WAIT) == ringwal.Ack("s", len(kinds), len(kinds))
        assert stream.append_many([b"", b""]).result(WAIT).count == 2
        assert [record.data for record in stream.read(0)] == [*flat, *flat, b"", b""]
        wrongs: list[Any] = ["text", 5, None, memoryview(b"abcdef")[::2]]
        for wrong in wrongs:
            with pytest.raises(TypeError, match="encode" if wrong == "text" else "record"):
                stream.append(wrong)
            with pytest.raises(TypeError):
                stream.append_many([b"good", wrong])
        with pytest.raises(ValueError, match="at least one"):
            stream.append_many([])
        assert stream.append(b"after all that").result(WAIT).offset == 2 * len(kinds) + 2


@pytest.mark.parametrize("sizes", [(0, 1, 255, 0, 7), (255, 256, 0, 3), (9, 40_000, 1)], ids=str)
def test_a_batch_of_any_sizes_comes_back_as_it_was(
    sizes: tuple[int, ...], directory: Path, start: Callable[..., Engine]
) -> None:
    start(lane_bytes="256KiB")
    records = [bytes([65 + n]) * size for n, size in enumerate(sizes)]
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        for given in (records, tuple(records), [bytearray(record) for record in records], iter(records)):
            assert stream.append_many(given).result(WAIT).count == len(sizes)
        assert [record.data for record in stream.read(0)] == 4 * records


def test_a_payload_may_be_changed_once_append_has_returned(directory: Path, start: Callable[..., Engine]) -> None:
    start()
    with ringwal.connect(directory) as client:
        stream, data = client.stream("s"), bytearray(b"0" * 1000)
        receipts = []
        for n in range(50):
            data[:] = b"%d" % (n % 10) * 1000
            receipts.append(stream.append(data))
        receipts[-1].result(WAIT)
        assert [record.data for record in stream.read(0)] == [b"%d" % (n % 10) * 1000 for n in range(50)]


# ---------------------------------------------------------------------------------------------------- disk and memory


def test_a_full_disk_is_told_and_the_engine_goes_on_when_there_is_space(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1 * MIB))
    running = Engine(small_disk / "log")
    try:
        with ringwal.connect(small_disk / "log", append_timeout=0.3) as client:
            stream = client.stream("s")
            receipts: list[ringwal.Receipt] = []
            with pytest.raises(ringwal.StorageFull) as caught:
                receipts.extend(stream.append(bytes(8000)) for _ in range(3000))
            assert (caught.value.errno, caught.value.outcome, caught.value.retriable) == (errno.ENOSPC, "not_appended", True)
            assert client.status()["storage_full"] == os.strerror(errno.ENOSPC)
            shown = cli_rig.ringwal("status", small_disk / "log")
            assert (shown.returncode, b"no further segment" in shown.stderr) == (os.EX_TEMPFAIL, True)
            with pytest.raises(ringwal.AckTimeout, match="waits for space"):
                receipts[-1].result(0)
            ballast.unlink()
            subprocess.run(["mount", "-o", "remount,size=40m", str(small_disk)], check=True)
            assert [receipt.result(WAIT).offset for receipt in receipts] == list(range(len(receipts)))
            assert stream.append(b"next").result(WAIT).offset == len(receipts)
            until(lambda: client.status()["storage_full"] is None, "the engine has room again")
        assert running.terminate() == 0
        assert "appends wait until there is room" in running.said()
        assert "there is room for segments again" in running.said()
    finally:
        running.close()


def test_a_full_disk_ends_no_engine_whose_wal_process_dies(small_disk: Path) -> None:
    running = Engine(small_disk / "log")
    try:
        with ringwal.connect(small_disk / "log", append_timeout=WAIT) as client:
            stream = client.stream("s")
            stream.append(b"before").result(WAIT)
            with (small_disk / "ballast").open("wb", buffering=0) as ballast, pytest.raises(OSError, match="No space"):
                while True:
                    ballast.write(bytes(4096))
            os.kill(running.facts["wal_pid"], signal.SIGKILL)
            assert stream.append(b"after").result(WAIT).offset == 1
            assert client.status()["restarts"] == 1
        assert running.terminate() == 0
    finally:
        running.close()


def test_no_room_for_segments_that_are_not_needed_yet_is_no_full_disk(small_disk: Path) -> None:
    running = Engine(small_disk / "log", segments_ahead=8)
    try:
        with ringwal.connect(small_disk / "log") as client:
            stream = client.stream("s")
            receipts = [stream.append(bytes(8000)) for _ in range(600)]  # more than a segment
            assert [receipt.result(WAIT).offset for receipt in receipts] == list(range(600))
            until(lambda: "of 8 segments ahead" in running.said(), "the engine has tried to make another one")
            assert client.status()["segments"]["ahead"] == 1
            assert client.status()["storage_full"] is None
        assert running.terminate() == 0
    finally:
        running.close()


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_failed_write_ends_the_epoch_and_recovery_brings_back_what_was_confirmed(
    number: int, points_build: Path, directory: Path, start: Callable[..., Engine]
) -> None:
    once = directory.parent / "once"
    running = start(points_build, once=once)
    confirmed: dict[int, bytes] = {}
    with ringwal.connect(directory) as one, ringwal.connect(directory) as two:
        streams = [one.stream("s"), two.stream("s")]
        streams[1].append(b"first").result(WAIT)
        arm(once, f"l.write.submitted:20:errno:{number}")
        failed = []
        for stream in streams:
            n = 0
            with pytest.raises(ringwal.Error) as caught:
                while True:
                    data = b"%d of %d" % (n, id(stream))
                    receipt = stream.append(data)
                    confirmed[receipt.result(WAIT).offset] = data
                    n += 1
            failed.append(caught.value)
        assert isinstance(failed[0], ringwal.EngineFailed)
        assert failed[0].outcome == "unknown"
        # The second came too late for the epoch: it is told that nothing was appended.
        assert isinstance(failed[1], ringwal.NotRunning | ringwal.EngineFailed)
    assert running.wait() == os.EX_IOERR
    assert shm_names.left() == []
    assert os.strerror(number) in running.said()
    start()
    with ringwal.connect(directory) as client:
        records = client.stream("s").read(0)
        assert {record.offset: record.data for record in records}.items() >= confirmed.items()
        assert len(confirmed) >= 15
        assert len(records) <= len(confirmed) + 1


def test_too_little_shared_memory_is_said_with_its_size(directory: Path) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a mount namespace with a small /dev/shm needs root and unshare")
    script = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-m", "ringwal", "run", str(directory)]
    done = subprocess.run(
        [*command, *(f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items())],
        capture_output=True, text=True, cwd="/", env=environment(CHECKOUT), check=False, timeout=WAIT,
    )  # fmt: skip
    if "permission denied" in done.stderr.lower() or "not permitted" in done.stderr.lower():
        pytest.skip("this container may not make mount namespaces")
    assert done.returncode not in (0, -signal.SIGBUS)
    assert "bytes free" in done.stderr and "--shm-size" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_size_limit_is_a_full_disk_to_new_segments(directory: Path) -> None:
    limit = 2 * MIB

    def confine() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    running = Engine(directory, preexec=confine)
    try:
        assert running.facts == {}
        assert running.wait() not in (0, -signal.SIGXFSZ)
        assert "Traceback" not in running.said()
    finally:
        running.close()
