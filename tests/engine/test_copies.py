"""A copy of a directory is a log of its own: its engine and that of the original do not know each other."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from meddling import append_to_successor, command, copy, serving
from rig import WAIT, Engine, until

import ringwal

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
            until(lambda each=each, before=before: each.status()["wal_pid"] not in (before, None), "it is replaced")
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
