"""Producers of a log that is killed, looked at, backed up, restored, salvaged: where they go on, where they begin anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ringwal
from tests.faults.decode import Log
from tests.support.meddling import command, serving
from tests.support.rig import WAIT, Engine

SMALL_LOG = {"segment_bytes": "4MiB", "ring_bytes": "1MiB", "max_streams": 256}
DATA = [b"record %d" % number for number in range(8)]


def begin(directory: Path) -> None:
    """A producer with records 0 to 3, two claims; another one without any; and one whose stream is deleted."""
    with ringwal.connect(directory) as client:
        till = client.producer("s", "till")
        till.append_many(DATA[:2]).result(WAIT)
        client.stream("s").append(b"nobody's").result(WAIT)
        till = client.producer("s", "till")
        assert till.next == 2
        till.append_many(DATA[2:4]).result(WAIT)
        client.producer("s", "silent")
        client.producer("gone", "till").append(b"gone").result(WAIT)
        client.delete_stream("gone")


def goes_on(directory: Path, at: int) -> None:
    """The producer goes on at that sequence, a repeat is known as one, and both are so after a kill."""
    with serving(directory) as engine:
        with ringwal.connect(directory) as client:
            till = client.producer("s", "till")
            assert till.next == at
            again = till.append(DATA[1], seq=1).result(WAIT)
            assert (again.duplicate, again.offset, till.next) == (True, 1, at)
            till.append(DATA[at]).result(WAIT)
            assert client.producer("s", "silent").next == 0
        engine.kill()
    with serving(directory), ringwal.connect(directory) as client:
        till = client.producer("s", "till")
        assert till.next == at + 1
        assert till.append(DATA[at], seq=at).result(WAIT).duplicate
        of = client.stream("s")
        assert [record.data for record in of.read() if record.data != b"nobody's"] == DATA[: at + 1]


def test_producers_outlive_kills_and_backups_and_begin_anew_in_what_is_salvaged(
    directory: Path, start: Callable[..., Engine], tmp_path: Path
) -> None:
    running = start(**SMALL_LOG)
    begin(directory)
    running.kill()
    assert {number: (one.name, one.epoch, one.next) for number, one in Log(directory).owners().items()} == {
        1: ("till", 2, 4), 2: ("silent", 1, 0),
    }  # fmt: skip
    assert command("verify", "--deep", directory).returncode == 0
    with ringwal.open_readonly(directory) as found:
        assert [record.data for record in found.stream("s").read()] == [*DATA[:2], b"nobody's", *DATA[2:4]]
    ringwal.backup(directory, tmp_path / "of the killed")
    assert command("salvage", directory, tmp_path / "saved").returncode == 0

    running = start(**SMALL_LOG)
    with ringwal.connect(directory) as client:
        till = client.producer("s", "till")
        assert till.next == 4
        till.append(DATA[4]).result(WAIT)
        ringwal.backup(directory, tmp_path / "of the running")
    running.kill()
    assert command("verify", "--deep", directory).returncode == 0

    for name, sequence in (("of the killed", 4), ("of the running", 5)):
        backup, restored = tmp_path / name, tmp_path / f"restored {name}"
        assert command("verify", "--deep", backup).returncode == 0
        with ringwal.open_readonly(backup) as found:
            assert found.stream("s").stat().confirmed_offset == sequence + 1
        ringwal.restore(backup, restored)
        assert Log(restored).owners()[1].next == sequence
        goes_on(restored, sequence)
        assert command("verify", "--deep", restored).returncode == 0
    goes_on(directory, 5)

    saved = tmp_path / "saved"
    assert Log(saved).owners() == {}
    with serving(saved) as engine:
        with ringwal.connect(saved) as client:
            till = client.producer("s", "till")
            assert till.next == 0
            assert till.append(b"anew").result(WAIT).offset == 5
        engine.kill()
    assert min(Log(saved).owners()) > 1 << 20
    with serving(saved), ringwal.connect(saved) as client:
        assert client.producer("s", "till").next == 1
        assert client.producer("s", "silent").next == 0
    assert command("verify", "--deep", saved).returncode == 0
