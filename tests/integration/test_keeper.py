"""The keeper: what it keeps, and that nobody waits for it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import ringwal
from ringwal.log import sidefile
from tests.faults import decode, decode_side
from tests.support.log_place import log_at
from tests.support.rig import WAIT, Engine, state_of, stop_process, until

RECORD = 16_000
PER_SEGMENT = 256  # records, about


def fill(stream: ringwal.Stream, segments: float) -> int:
    receipts = [stream.append(bytes(RECORD)) for _ in range(int(segments * PER_SEGMENT))]
    return receipts[-1].result(WAIT).offset


def side_files(directory: Path) -> list[int]:
    return sidefile.numbers(log_at(directory))


def below_checkpoint(directory: Path) -> int:
    state = decode.manifest(directory)
    return state.position // state.segment_bytes


def await_all(running: Engine, directory: Path, least: int) -> None:
    """Until each segment that can has a side file, `least` of them."""

    def there() -> bool:
        facts = running.status()
        end = below_checkpoint(directory)
        return bool(facts["side_files"]["end"] >= end >= least and facts["side_files"]["behind"] == 0)

    until(there, "side files", WAIT)


def test_every_segment_below_the_checkpoint_gets_a_side_file(start: Callable[..., Engine], directory: Path) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        quiet, busy = client.stream("quiet"), client.stream("busy")
        quiet.append(b"once").result(WAIT)
        fill(busy, 4.5)
        await_all(running, directory, 4)
        assert running.status()["counters"]["side_files"] >= 4
    assert running.terminate() == 0
    checked = decode_side.check_all(directory)
    assert checked[:4] == [0, 1, 2, 3]
    number = next(number for number, row in decode.checkpoint(directory, decode.manifest(directory)).streams.items()
                  if row.name == "quiet")  # fmt: skip
    assert [decode_side.check(directory, segment).ends[number] for segment in checked] == [1] * len(checked)


def test_it_goes_on_in_the_next_life_of_the_engine(start: Callable[..., Engine], directory: Path) -> None:
    """Segments of earlier epochs are read; a side file that is damaged or gone is made again."""
    running = start()
    with ringwal.connect(directory) as client:
        fill(client.stream("s"), 3.5)
        await_all(running, directory, 3)
    assert running.terminate() == 0
    path = directory / "segments" / sidefile.name_of(1)
    good = path.read_bytes()
    path.write_bytes(good[:-1] + b"\xff")
    (directory / "segments" / sidefile.name_of(2)).unlink()
    (directory / "segments" / (sidefile.name_of(0) + sidefile.DRAFT_SUFFIX)).write_bytes(b"torn")
    running = start()
    with ringwal.connect(directory) as client:
        fill(client.stream("s"), 2.0)
        await_all(running, directory, 5)
    assert path.read_bytes() == good
    assert running.terminate() == 0
    assert decode_side.check_all(directory)[:5] == [0, 1, 2, 3, 4]
    assert not list((directory / "segments").glob("*" + sidefile.DRAFT_SUFFIX))


def test_side_files_go_with_freed_segments(start: Callable[..., Engine], directory: Path) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        last = fill(stream, 4.5)
        await_all(running, directory, 4)
        stream.trim(last)
        until(lambda: not any(number < 4 for number in side_files(directory)), "side files have gone", WAIT)
        fill(stream, 2.0)
        await_all(running, directory, 6)
    assert running.terminate() == 0
    decode_side.check_all(directory)


def test_a_killed_keeper_is_replaced_and_costs_no_restart(start: Callable[..., Engine], directory: Path) -> None:
    running = start(max_restarts=0)
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        pids = [client.status()["keeper_pid"]]
        for _ in range(4):
            fill(stream, 0.5)
            os.kill(pids[-1], signal.SIGKILL)
            until(lambda: client.status()["keeper_pid"] not in (None, *pids), "another keeper", WAIT)
            pids.append(client.status()["keeper_pid"])
        fill(stream, 1.0)
        await_all(running, directory, 2)
        assert client.status()["restarts"] == 0
    assert running.terminate() == 0
    assert len(set(pids)) == 5


def test_a_stopped_keeper_costs_nobody_anything(start: Callable[..., Engine], directory: Path) -> None:
    """Neither appends nor trims, freed segments, newcomers, the stop, or the next start wait for it."""
    running = start()
    with ringwal.connect(directory) as client:
        until(lambda: client.status()["processes"].get("keeper") == "running", "the keeper works", WAIT)
        keeper = client.status()["keeper_pid"]
        stop_process(keeper)
        stream = client.stream("s")
        last = fill(stream, 5.0)
        stream.trim(last)
        until(lambda: client.status()["space"]["freed"] > 0, "segments are freed", WAIT)
        assert client.status()["processes"]["keeper"] == "stopped"
        with ringwal.connect(directory) as other:
            other.stream("t").append(b"x").result(WAIT)
    began = time.monotonic()
    assert running.terminate() == 0
    assert time.monotonic() - began < WAIT / 2
    assert state_of(keeper) == "X"
    again = start()
    with ringwal.connect(directory) as client:
        assert client.stream("s").stat().start_offset == last
    assert again.terminate() == 0


def test_it_holds_none_of_the_directorys_locks(start: Callable[..., Engine], directory: Path) -> None:
    running = start()
    # It says that it is there when it has let go of what was its parent's.
    until(lambda: running.status()["processes"].get("keeper") == "running", "the keeper works", WAIT)
    keeper = running.status()["keeper_pid"]

    def files() -> set[str]:
        return {os.readlink(entry) for entry in Path(f"/proc/{keeper}/fd").iterdir() if entry.is_symlink()}

    assert str(directory) in files()
    assert str(directory / "lock") not in files()
    until(lambda: str(directory / "manifest") not in files(), "it has read the manifest, by an open of its own", WAIT)

    def locks(pid: int) -> int:
        found = 0
        for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
            with contextlib.suppress(FileNotFoundError):  # of a file that it has just closed
                found += "lock:" in entry.read_text()
        return found

    assert locks(keeper) == 0
    assert locks(running.process.pid) > 0


def test_no_room_for_a_side_file_is_said_and_hinders_nobody(start: Callable[..., Engine], directory: Path) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        fill(stream, 0.5)
        blocked = directory / "segments" / (sidefile.name_of(0) + sidefile.DRAFT_SUFFIX)
        blocked.mkdir()
        fill(stream, 3.0)
        until(lambda: client.status()["side_files"]["hindered"] is not None, "it says so", WAIT)
        fill(stream, 1.0)
        blocked.rmdir()
        await_all(running, directory, 4)
        assert client.status()["side_files"]["hindered"] is None
    assert running.terminate() == 0


@pytest.mark.parametrize("trims", [1, 100])
def test_what_it_asks_for_is_done_or_asked_again(trims: int) -> None:
    """The line between keeper and supervisor: nobody waits, and what does not fit is lost, and said to be."""
    import selectors

    from ringwal.processes.keeper_line import AskedTrim, KeeperEnd, SupervisorEnd

    with selectors.DefaultSelector() as selector:
        end = SupervisorEnd(selector)
        with end.connect() as theirs:
            keeper = KeeperEnd(theirs)
            sent = [AskedTrim(n, n + 1, n << 40) for n in range(trims)]
            taken = [ask for ask in sent if keeper.ask_trim(*ask)]
            while any(key.data is end for key, _ in selector.select(0)):
                found = end.asked()
                assert found == taken[: len(found)]
                taken = taken[len(found) :]
            assert taken == []
            while keeper.ask_trim(1, 2, 3):
                pass  # until there is no room
            assert len(end.asked()) > 1
            assert keeper.ask_trim(1, 2, 3)
        while end.asked():
            pass
        assert not selector.get_map(), "a keeper that is gone is not listened to"
        end.close()
