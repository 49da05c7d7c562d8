"""A copy of a directory is a log of its own: its engine and that of the original do not know each other."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import ringwal
from tests.support.meddling import append_to_successor, command, copy, serving
from tests.support.rig import WAIT, Engine, until

MOMENTS = ["the engine is stopped", "the engine serves", "the engine was killed"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_original_and_copy_are_served_beside_each_other(moment: str, directory: Path, start: Callable[..., Engine]) -> None:
    copied = directory.with_name("copied")
    running = start()
    client = ringwal.connect(directory)
    stream = client.stream("s")
    assert stream.append(b"both").result(WAIT).offset == 0
    if moment == "the engine is stopped":
        assert running.terminate() == 0
    elif moment == "the engine was killed":
        running.kill()
    copy(directory, copied)
    with pytest.raises(ringwal.NotRunning, match="no engine runs on"):  # the lock file that came along vouches for nobody
        ringwal.connect(copied)
    if moment != "the engine serves":
        running = start()
    assert append_to_successor(stream, b"original").offset == 1

    with serving(copied) as second:
        with ringwal.connect(copied) as other, ringwal.connect(directory) as late:
            assert other.stream("s").append(b"copy").result(WAIT).offset == 1
            assert stream.append(b"original, still").result(WAIT).offset == 2
            assert late.stream("s").append(b"original, a new client").result(WAIT).offset == 3
            assert other.stream("s").append_many([b"copy", b"copy"]).result(WAIT).offset == 2
            for each, others in ((running, second), (second, running)):
                found = json.loads(command("status", "--json", each.directory).stdout)
                assert found["answers"] is True
                assert (found["pid"], found["directory"]) == (each.process.pid, str(each.directory))
                assert found["uuid"] == others.facts["uuid"]
                assert found["home"] != others.facts["home"]
        for each in (running, second):  # the death of a WAL process is nobody else's business
            before = each.status()["wal_pid"]
            os.kill(before, 9)
            until(lambda each=each, before=before: each.status()["wal_pid"] not in (before, None), "replaced")  # type: ignore[misc]
        assert stream.append(b"original, at last").result(WAIT).offset == 4
        assert command("stop", copied).returncode == 0
        assert second.wait() == 0
        assert command("status", copied).returncode == os.EX_UNAVAILABLE
        assert stream.append(b"original, alone").result(WAIT).offset == 5
        assert running.process.poll() is None
    client.close()
    assert command("stop", directory).returncode == 0
    assert running.wait() == 0

    with serving(copied), ringwal.connect(copied) as other:
        assert [record.data for record in other.stream("s").read(0)] == [b"both", b"copy", b"copy", b"copy"]
    start()
    with ringwal.connect(directory) as client:
        assert [record.data for record in client.stream("s").read(0)] == [
            b"both",
            b"original",
            b"original, still",
            b"original, a new client",
            b"original, at last",
            b"original, alone",
        ]


def test_a_copy_that_is_killed_takes_nothing_of_its_original_with_it(directory: Path, start: Callable[..., Engine]) -> None:
    copied = directory.with_name("copied")
    running = start()
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        assert stream.append(b"0").result(WAIT).offset == 0
        copy(directory, copied)
        for n in range(1, 4):
            with serving(copied) as second, ringwal.connect(copied) as other:
                assert other.stream("s").append(b"copy").result(WAIT).offset == n
                second.kill()
            assert stream.append(b"%d" % n).result(WAIT).offset == n
        assert client.status()["restarts"] == 0
    assert running.terminate() == 0


SMALL_LOG = {"segment_bytes": "4MiB", "ring_bytes": "1MiB", "max_streams": 256}


def fill(stream: ringwal.Stream, first: int, count: int) -> None:
    receipts = [stream.append(b"%06d" % n + b"." * 4090) for n in range(first, first + count)]
    assert [receipt.result(WAIT).offset for receipt in receipts] == list(range(first, first + count))


@pytest.mark.parametrize("ends", ["in order", "killed"])
def test_a_copy_made_of_hard_links_never_writes_what_is_the_originals(
    ends: str, directory: Path, start: Callable[..., Engine]
) -> None:
    """Manifest, segments filled ahead and the segment in use are the same files until an engine starts on one of them."""
    linked = directory.with_name("linked")
    running = start(**SMALL_LOG)
    with ringwal.connect(directory) as client:
        fill(client.stream("s"), 0, 1500)
    if ends == "in order":
        assert running.terminate() == 0
    else:
        running.kill()
    shutil.copytree(directory, linked, copy_function=os.link, ignore=shutil.ignore_patterns("engine.sock"))
    with serving(linked, **SMALL_LOG), ringwal.connect(linked) as other:
        fill(other.stream("s"), 1500, 1500)
    start(**SMALL_LOG)
    with ringwal.connect(directory) as client:
        fill(client.stream("s"), 1500, 10)
        assert [record.data[:6] for record in client.stream("s").read(0, 5000)] == [b"%06d" % n for n in range(1510)]
    with serving(linked, **SMALL_LOG), ringwal.connect(linked) as other:
        assert [record.data[:6] for record in other.stream("s").read(0, 5000)] == [b"%06d" % n for n in range(3000)]


@pytest.mark.parametrize("without", ["", "lock"])
def test_a_copy_made_of_hard_links_is_refused_while_the_original_runs(
    without: str, directory: Path, start: Callable[..., Engine]
) -> None:
    start()
    with ringwal.connect(directory) as client:
        assert client.stream("s").append(b"0").result(WAIT).offset == 0
        linked = directory.with_name("linked")
        shutil.copytree(directory, linked, copy_function=os.link, ignore=shutil.ignore_patterns("engine.sock", without))
        refused = command("run", linked)
        assert refused.returncode == os.EX_TEMPFAIL
        assert "hard links" in refused.stderr if without else "in use by the engine of process" in refused.stderr
        assert client.stream("s").append(b"1").result(WAIT).offset == 1


@pytest.mark.parametrize("moment", MOMENTS[:2])
def test_a_copy_whose_segments_are_the_originals_is_refused(
    moment: str, directory: Path, start: Callable[..., Engine]
) -> None:
    elsewhere, copied = directory.with_name("big-disk"), directory.with_name("copied")
    elsewhere.mkdir()
    directory.mkdir()
    (directory / "segments").symlink_to(elsewhere)
    running = start()
    with ringwal.connect(directory) as client:
        assert client.stream("s").append(b"0").result(WAIT).offset == 0
    if moment == "the engine is stopped":
        assert running.terminate() == 0
    copy(directory, copied)
    refused = command("run", copied)
    assert refused.returncode == (os.EX_CONFIG if moment == "the engine is stopped" else os.EX_TEMPFAIL)
    assert "segments" in refused.stderr
    if moment == "the engine is stopped":
        start()
    with ringwal.connect(directory) as client:
        assert client.stream("s").append(b"1").result(WAIT).offset == 1


def test_a_manifest_that_is_older_than_the_log_deletes_nothing(directory: Path, start: Callable[..., Engine]) -> None:
    running = start(**SMALL_LOG)
    with ringwal.connect(directory) as client:
        fill(client.stream("s"), 0, 1)
        kept = (directory / "manifest").read_bytes()
        fill(client.stream("s"), 1, 3000)
    assert running.terminate() == 0
    newer = (directory / "manifest").read_bytes()
    segments = sorted(path.name for path in (directory / "segments").glob("*.seg"))
    (directory / "manifest").write_bytes(kept)
    refused = command("run", directory, *(f"--{name.replace('_', '-')}={value}" for name, value in SMALL_LOG.items()))
    assert refused.returncode == os.EX_DATAERR
    assert "manifest is older than the log" in refused.stderr
    assert sorted(path.name for path in (directory / "segments").glob("*.seg")) == segments
    (directory / "manifest").write_bytes(newer)
    start(**SMALL_LOG)
    with ringwal.connect(directory) as client:
        assert client.stream("s").stat().confirmed_offset == 3001


@pytest.mark.parametrize("what", ["a segment is missing", "a block is another's"])
def test_a_copy_that_is_not_whole_is_refused_until_it_is_taken_for_the_original(
    what: str, directory: Path, start: Callable[..., Engine]
) -> None:
    """As a copy that was made under load may be: below its checkpoint, where a start would not look."""
    running = start(**SMALL_LOG)
    with ringwal.connect(directory) as client:
        fill(client.stream("s"), 0, 2500)
    assert running.terminate() == 0
    copied = directory.with_name("copied")
    copy(directory, copied)
    oldest = copied / "segments" / f"{0:020d}.seg"
    if what == "a segment is missing":
        oldest.unlink()
    else:
        with oldest.open("r+b") as file:
            file.seek(1 << 20)
            file.write(bytes(1 << 20))
    before = (copied / "manifest").read_bytes()
    for _ in range(2):  # refusing it does not make it this directory's
        refused = command("run", copied)
        assert refused.returncode == os.EX_DATAERR
        assert "is a copy of another directory, and not whole" in refused.stderr and "`ringwal backup`" in refused.stderr
        assert (copied / "manifest").read_bytes() == before
    (copied / "home").unlink()
    with serving(copied), ringwal.connect(copied) as other:
        assert other.stream("s").read(2400)[0].data[:6] == b"002400"
        with pytest.raises(ringwal.CorruptionError):
            other.stream("s").read(400)


def test_a_copy_is_read_whole_once(directory: Path, start: Callable[..., Engine]) -> None:
    running = start(**SMALL_LOG)
    with ringwal.connect(directory) as client:
        fill(client.stream("s"), 0, 2500)
    assert running.terminate() == 0
    copied = directory.with_name("copied")
    copy(directory, copied)
    with serving(copied) as first:
        assert first.terminate() == 0
    (copied / "segments" / f"{0:020d}.seg").unlink()
    with serving(copied), ringwal.connect(copied) as other:
        assert other.stream("s").read(2400)[0].data[:6] == b"002400"


@pytest.mark.parametrize("content", ["none", "the home alone"])
def test_a_copy_that_was_cut_short_is_no_new_log(content: str, directory: Path, start: Callable[..., Engine]) -> None:
    assert start().terminate() == 0
    copied = directory.with_name("copied")
    copied.mkdir()
    if content == "the home alone":
        shutil.copy2(directory / "home", copied)
        refused = command("run", copied)
        assert refused.returncode == os.EX_DATAERR
        assert "has no manifest" in refused.stderr
    else:
        with serving(copied) as fresh:
            assert fresh.facts["epoch"] == 1


ODD = [b"", b"[" * 4096, b"{}", b'{"home": 7}', None]


@pytest.mark.parametrize("content", ODD, ids=["empty", "deep", "no home", "a number", "a pipe"])
def test_a_home_that_makes_no_sense_is_made_anew(
    content: bytes | None, directory: Path, start: Callable[..., Engine]
) -> None:
    home = start().facts["home"]
    running = start
    (directory / "home").unlink()
    if content is None:
        os.mkfifo(directory / "home")
    else:
        (directory / "home").write_bytes(content)
    assert command("stop", directory).returncode == 0
    assert running().facts["home"] != home
    assert json.loads((directory / "home").read_text())["home"] != home


def test_who_looks_at_a_directory_never_waits_for_a_pipe_in_it(directory: Path) -> None:
    directory.mkdir()
    for name in ("lock", "last-status.json"):
        os.mkfifo(directory / name)
    assert command("status", directory).returncode == os.EX_UNAVAILABLE
    with pytest.raises(ringwal.NotRunning, match="no engine runs on"):
        ringwal.connect(directory)
