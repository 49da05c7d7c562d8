"""What is done to the directory of a running engine: removed names, moves, replacements, deletion, and what is said of it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

import ringwal
from tests.support.meddling import command, copy, serving
from tests.support.rig import WAIT, Engine, read_all, state_of, stop_process, until

SEGMENT_IN_USE = "segments/00000000000000000000.seg"


def move(directory: Path) -> None:
    directory.rename(directory.with_name("elsewhere"))


def replace_by_a_copy(directory: Path) -> None:
    copy(directory, directory.with_name("copy"))
    move(directory)
    directory.with_name("copy").rename(directory)


def replace_by_a_file(directory: Path) -> None:
    move(directory)
    directory.write_bytes(b"")


def delete(directory: Path) -> None:
    shutil.rmtree(directory)


def delete_and_make_again(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.mkdir()


def remove_manifest(directory: Path) -> None:
    (directory / "manifest").unlink()


def replace_manifest(directory: Path) -> None:
    """By a file of the same content, as a restored backup may have."""
    copy(directory / "manifest", directory / "draft")
    (directory / "draft").rename(directory / "manifest")


def take_segments_away(directory: Path) -> None:
    (directory / "segments").rename(directory / "old")


def replace_segments(directory: Path) -> None:
    copy(directory / "segments", directory / "new")
    take_segments_away(directory)
    (directory / "new").rename(directory / "segments")


def replace_the_segment_in_use(directory: Path) -> None:
    copy(directory / SEGMENT_IN_USE, directory / "new")
    (directory / "new").rename(directory / SEGMENT_IN_USE)


def remove_the_segment_in_use(directory: Path) -> None:
    (directory / SEGMENT_IN_USE).unlink()


def put_another_lock_file(directory: Path) -> None:
    (directory / "draft").write_bytes(b"1\n")
    (directory / "draft").rename(directory / "lock")


def put_another_socket(directory: Path) -> None:
    (directory / "engine.sock").unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        other.bind(str(directory / "engine.sock"))


LOSSES = [
    (move, "is not where it was"),
    (replace_by_a_copy, "is not where it was"),
    (replace_by_a_file, "is not where it was"),
    (delete, "was deleted"),
    (delete_and_make_again, "was deleted"),
    (remove_manifest, "has lost its manifest"),
    (replace_manifest, "has got another"),
    (take_segments_away, "has lost its segments"),
    (replace_segments, "has got others"),
    (remove_the_segment_in_use, "has lost segment 0, which is in use"),
    (replace_the_segment_in_use, "has lost segment 0, which is in use"),
    (put_another_lock_file, "has got the lock file of somebody else"),
    (put_another_socket, "has got the engine.sock of somebody else"),
]


@pytest.mark.parametrize(("disturb", "said"), LOSSES, ids=[disturb.__name__ for disturb, _ in LOSSES])
def test_an_engine_whose_directory_is_lost_ends_and_says_why(
    disturb: Callable[[Path], None], said: str, directory: Path, start: Callable[..., Engine]
) -> None:
    running = start()
    client = ringwal.connect(directory)
    stream = client.stream("s")
    assert stream.append(b"before").result(WAIT).offset == 0
    until(lambda: running.status()["uptime"] > 2, "the engine has looked at its segments")
    stop_process(running.facts["wal_pid"])  # so the next append cannot be confirmed before the end
    pending = stream.append(b"under way")
    disturb(directory)
    assert running.wait() == os.EX_OSFILE
    assert said in running.said()
    with pytest.raises(ringwal.EngineFailed, match="moved, replaced or deleted") as failed:
        pending.result(WAIT)
    assert (failed.value.errno, failed.value.outcome) == (errno.ESTALE, "unknown")
    with pytest.raises(ringwal.NotRunning) as refused:
        stream.append(b"after").result(0)
    assert refused.value.outcome in (None, "not_appended")
    client.close()
    if disturb is put_another_socket:
        assert (directory / "engine.sock").is_socket()  # it is somebody's
    for place in (directory, directory.with_name("elsewhere")):  # the directory is no longer this engine's to write to
        assert not (place / "last-status.json").exists()


@pytest.mark.parametrize("autostart", [False, True])
def test_a_client_does_not_go_on_in_another_log(autostart: bool, directory: Path, start: Callable[..., Engine]) -> None:
    running = start()
    client = ringwal.connect(directory, autostart=autostart, timeout=2.0 if autostart else WAIT)
    stream = client.stream("s")
    assert stream.append(b"here").result(WAIT).offset == 0
    directory.rename(directory.with_name("elsewhere"))
    assert running.wait() == os.EX_OSFILE
    for _ in range(3):  # the first one meets the end of the engine, the others an empty place
        with pytest.raises(ringwal.NotRunning) as refused:
            stream.append(b"nowhere")
        assert refused.value.outcome in (None, "not_appended")
    assert not directory.exists()  # nobody has begun another log
    other = start()
    with pytest.raises(ringwal.NotRunning, match="holds another log") as refused:
        stream.append(b"nowhere")
    assert (refused.value.outcome, refused.value.retriable) == ("not_appended", False)
    with ringwal.connect(directory) as fresh:  # who asks for what is there now, gets it
        assert fresh.stream("s").append(b"anew").result(WAIT).offset == 0
    assert other.terminate() == 0
    client.close()


def test_the_table_of_exit_codes_has_the_one_of_a_lost_directory() -> None:
    assert re.search(r"^ *72 +the engine ended because its directory was moved", command("--help").stdout, re.MULTILINE)


def test_what_was_confirmed_while_the_directory_was_moved_is_where_it_went(
    directory: Path, start: Callable[..., Engine]
) -> None:
    running = start()
    confirmed = []
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        confirmed.append(stream.append(b"0").result(WAIT))
        moved = directory.with_name("moved")
        directory.rename(moved)
        with pytest.raises((ringwal.NotRunning, ringwal.EngineFailed)):
            while True:
                confirmed.append(stream.append(b"%d" % len(confirmed)).result(WAIT))
    assert running.wait() == os.EX_OSFILE
    assert [ack.offset for ack in confirmed] == list(range(len(confirmed)))
    with serving(moved) as successor, ringwal.connect(moved) as client:
        found = [int(record.data) for record in read_all(client.stream("s"))]
        assert found[: len(confirmed)] == list(range(len(confirmed)))
        assert len(found) <= len(confirmed) + 1  # the one that was under way
        assert successor.status()["home"] == running.facts["home"]
    assert not directory.exists()


def test_no_segment_is_begun_in_a_directory_that_was_moved(directory: Path, start: Callable[..., Engine]) -> None:
    """The WAL process looks for itself: the supervisor, which looks once a second, is stopped here."""
    running = start(segment_bytes="4MiB", segments_ahead=1)
    until(lambda: running.status()["segments"]["ahead"] == 1, "the segment ahead is there")
    with ringwal.connect(directory, append_timeout=0.1) as client:
        stream = client.stream("s")
        receipts = [stream.append(bytes(30_000))]
        receipts[0].result(WAIT)
        stop_process(running.process.pid)
        moved = directory.with_name("moved")
        directory.rename(moved)
        made = sorted(path.name for path in (moved / "segments").glob("*.seg"))

        def ended() -> bool:
            if state_of(running.facts["wal_pid"]) in "ZX":
                return True
            with contextlib.suppress(ringwal.BackpressureTimeout):  # the WAL process has ended meanwhile, and takes nothing
                receipts.append(stream.append(bytes(30_000)))
            return False

        until(ended, "the WAL process has seen it")
        with contextlib.suppress(ringwal.BackpressureTimeout):  # or the lane is full of what nobody took
            receipts.append(stream.append(b"one more"))
        assert sorted(path.name for path in (moved / "segments").glob("*.seg")) == made
        running.process.send_signal(signal.SIGCONT)
        assert running.wait() == os.EX_OSFILE
        errors = [receipt.exception(WAIT) for receipt in receipts]
    confirmed = errors.count(None)
    assert 0 < confirmed < len(receipts)
    assert errors[:confirmed] == [None] * confirmed
    assert {getattr(error, "errno", None) for error in errors[confirmed:]} == {errno.ESTALE}
    assert not (moved / "last-status.json").exists()
    with serving(moved), ringwal.connect(moved) as client:
        assert client.stream("s").stat().confirmed_offset >= confirmed


def test_a_link_to_the_directory_may_not_be_switched_under_an_engine(directory: Path) -> None:
    directory.mkdir()
    releases = [directory / "1", directory / "2"]
    for release in releases:
        release.mkdir()
    current = directory / "current"
    current.symlink_to("1")
    with serving(current) as running, ringwal.connect(current) as client:
        stream = client.stream("s")
        assert stream.append(b"to the first").result(WAIT).offset == 0
        stop_process(running.facts["wal_pid"])
        pending = stream.append(b"under way")
        (directory / "draft").symlink_to("2")
        (directory / "draft").rename(current)
        assert running.wait() == os.EX_OSFILE
        assert "is not where it was" in running.said()
        with pytest.raises(ringwal.EngineFailed) as failed:
            pending.result(WAIT)
        assert failed.value.errno == errno.ESTALE
        with serving(current) as successor:
            assert successor.facts["home"] != running.facts["home"]
            with pytest.raises(ringwal.NotRunning, match="holds another log"):
                stream.append(b"to the first, too")
            with ringwal.connect(current) as fresh:
                assert fresh.stream("s").append(b"to the second").result(WAIT).offset == 0
                assert [record.data for record in fresh.stream("s").read(0)] == [b"to the second"]
        with serving(releases[0]), ringwal.connect(releases[0]) as reader:
            assert reader.stream("s").read(0)[0].data == b"to the first"


def test_a_directory_that_was_deleted_and_made_again_is_the_next_engines(directory: Path, start: Callable[..., Engine]) -> None:
    old = start()
    with ringwal.connect(directory) as client:
        assert client.stream("s").append(b"old").result(WAIT).offset == 0
        for pid in (old.process.pid, old.facts["wal_pid"]):
            stop_process(pid)  # it sees nothing of what follows until the next one serves
        delete_and_make_again(directory)
        new = start()
        assert new.facts["uuid"] != old.facts["uuid"]
        for pid in (old.facts["wal_pid"], old.process.pid):
            os.kill(pid, signal.SIGCONT)
        assert old.wait() == os.EX_OSFILE
    with ringwal.connect(directory) as client:  # the end of the old one took nothing of the new one's away
        assert client.status()["pid"] == new.process.pid
        assert client.stream("s").append(b"new").result(WAIT).offset == 0
        assert [record.data for record in client.stream("s").read(0)] == [b"new"]
    assert new.terminate() == 0


# ------------------------------------------------------------------------------------------------- lock and socket


def test_a_removed_lock_file_opens_no_door(directory: Path, start: Callable[..., Engine]) -> None:
    running = start()
    client = ringwal.connect(directory)
    stream = client.stream("s")
    assert stream.append(b"0").result(WAIT).offset == 0
    stop_process(running.process.pid)  # it cannot put the file back yet
    (directory / "lock").unlink()
    second = start()
    assert (second.facts, second.wait()) == ({}, os.EX_TEMPFAIL)
    running.process.send_signal(signal.SIGCONT)
    assert stream.append(b"1").result(WAIT).offset == 1
    assert running.process.poll() is None
    client.close()
    assert running.terminate() == 0
    start()
    with ringwal.connect(directory) as reader:
        assert [record.data for record in reader.stream("s").read(0)] == [b"0", b"1"]


def test_a_removed_lock_file_is_made_again(directory: Path, start: Callable[..., Engine]) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        before = (directory / "lock").read_text()
        (directory / "lock").unlink()
        until(lambda: (directory / "lock").exists() and bool((directory / "lock").read_text()), "there is a lock file again")
        assert "somebody removed" in running.said()
        after = (directory / "lock").read_text()
        assert after.splitlines()[0] == before.splitlines()[0] == str(running.process.pid)
        refused = command("run", directory)
        assert refused.returncode == os.EX_TEMPFAIL
        assert f"process {running.process.pid}" in refused.stderr
        (directory / "engine.sock").unlink()  # the new file vouches for its engine as the first one did
        stop_process(running.process.pid)
        with pytest.raises(ringwal.NotRunning, match=f"process {running.process.pid}"):
            ringwal.connect(directory, timeout=0.05)
        running.process.send_signal(signal.SIGCONT)
        assert client.stream("s").append(b"x").result(WAIT).offset == 0


def test_a_removed_socket_is_made_again_and_until_then_the_engine_is_named(
    directory: Path, start: Callable[..., Engine]
) -> None:
    running = start()
    client = ringwal.connect(directory)
    assert client.stream("s").append(b"0").result(WAIT).offset == 0
    stop_process(running.process.pid)
    (directory / "engine.sock").unlink()
    with pytest.raises(ringwal.NotRunning, match=rf"process {running.process.pid}\) runs and cannot be reached"):
        ringwal.connect(directory)
    running.process.send_signal(signal.SIGCONT)
    assert command("run", directory).returncode == os.EX_TEMPFAIL
    with ringwal.connect(directory, autostart=True, timeout=WAIT) as late:  # it waits for the socket, and starts no other
        assert late.status()["pid"] == running.process.pid
        assert late.stream("s").append(b"1").result(WAIT).offset == 1
    assert client.stream("s").append(b"2").result(WAIT).offset == 2
    assert stat.S_IMODE((directory / "engine.sock").stat().st_mode) == 0o600
    client.close()
    assert command("stop", directory).returncode == 0
    assert running.wait() == 0
    assert not (directory / "engine.sock").exists()


def test_an_engine_that_does_not_answer_is_named(directory: Path, start: Callable[..., Engine]) -> None:
    running = start()
    stop_process(running.process.pid)
    with pytest.raises(ringwal.NotRunning, match=rf"process {running.process.pid}\) did not answer"):
        ringwal.connect(directory, timeout=0.05)
    running.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_an_engine_that_is_gone_is_not_named(how: str, directory: Path, start: Callable[..., Engine]) -> None:
    """Not even where another process has its pid by now."""
    running = start()
    if how == "killed":
        running.kill()
    else:
        assert running.terminate() == 0
    lines = (directory / "lock").read_text().splitlines()
    (directory / "lock").write_text("\n".join([str(os.getpid()), *lines[1:], ""]))
    with pytest.raises(ringwal.NotRunning, match="no engine runs on"):
        ringwal.connect(directory)
    start()
    with ringwal.connect(directory) as client:
        assert client.status()["state"] == "running"


def test_a_copy_of_hard_links_is_the_same_log_and_is_locked_with_it(directory: Path, start: Callable[..., Engine]) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        assert client.stream("s").append(b"0").result(WAIT).offset == 0
        linked = directory.with_name("linked")
        shutil.copytree(directory, linked, copy_function=os.link)
        refused = command("run", linked)
        assert refused.returncode == os.EX_TEMPFAIL
        assert f"process {running.process.pid}" in refused.stderr
        assert client.stream("s").append(b"1").result(WAIT).offset == 1


# ------------------------------------------------------------------------------------------ what is left in the files


def last_status(directory: Path) -> dict[str, object]:
    found = json.loads((directory / "last-status.json").read_text())
    assert isinstance(found, dict)
    return found


def test_the_last_status_tells_of_an_orderly_end(directory: Path, start: Callable[..., Engine]) -> None:
    running = start()
    assert not (directory / "last-status.json").exists()
    with ringwal.connect(directory) as client:
        for _ in range(3):
            client.stream("s").append(b"x").result(WAIT)
    assert running.terminate() == 0
    found = last_status(directory)
    assert (found["exit_code"], found["reason"], found["state"]) == (0, None, "stopped")
    assert (found["pid"], found["epoch"], found["home"]) == (running.process.pid, 1, running.facts["home"])


def test_the_last_status_tells_why_an_engine_gave_up(directory: Path, start: Callable[..., Engine]) -> None:
    running = start(max_restarts=0)
    running.kill()
    assert not (directory / "last-status.json").exists()  # nobody was left to write it
    running = start(max_restarts=0)
    with ringwal.connect(directory) as client:
        client.stream("s").append(b"x").result(WAIT)
        os.kill(running.facts["drain_pid"], signal.SIGKILL)
        assert running.wait() == os.EX_SOFTWARE
    found = last_status(directory)
    assert (found["exit_code"], found["state"], found["epoch"]) == (os.EX_SOFTWARE, "failed", 2)
    assert str(found["reason"]) in running.said()
    running = start()
    assert running.terminate() == 0
    found = last_status(directory)
    assert (found["exit_code"], found["reason"], found["epoch"]) == (0, None, 3)


def test_a_moved_directory_keeps_its_home_and_a_copy_gets_one(directory: Path, start: Callable[..., Engine]) -> None:
    running = start()
    home = running.facts["home"]
    assert running.status()["home"] == home
    assert running.terminate() == 0
    copied, moved = directory.with_name("copied"), directory.with_name("moved")
    copy(directory, copied)
    directory.rename(moved)
    with serving(moved) as engine:
        assert engine.facts["home"] == home
        assert "is a copy" not in engine.said()
        assert engine.terminate() == 0
    with serving(copied) as engine:
        fresh = engine.facts["home"]
        assert fresh != home
        assert engine.facts["uuid"] == running.facts["uuid"]  # it is the same log, and another directory
        assert f"{copied} is a copy of the directory {home}" in engine.said()
        assert engine.terminate() == 0
        before = len(engine.said())
    with serving(copied) as engine:
        assert engine.facts["home"] == fresh
        assert "is a copy" not in engine.said()[before:]


def test_an_engine_that_stops_in_order_does_not_say_so_of_a_directory_that_is_gone(
    directory: Path, start: Callable[..., Engine]
) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        assert client.stream("s").append(b"x").result(WAIT).offset == 0
    directory.rename(directory.with_name("elsewhere"))
    assert running.terminate() == os.EX_OSFILE  # whether it has looked in between or not
    assert not (directory.with_name("elsewhere") / "last-status.json").exists()
