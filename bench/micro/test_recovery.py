"""The recovery scan of a log that a killed engine left."""

from __future__ import annotations

import itertools
import shutil
import signal
from pathlib import Path
from typing import Any

import ringwal
from bench import subject
from ringwal.log.directory import Directory
from ringwal.log.recovery import Recovered, recover

RECORDS = 16_000


def test_recovery_scan(benchmark: Any, tmp_path: Path) -> None:
    """One round recovers 16,000 records of 1 KiB out of a copy of the same log."""
    server = subject.start(tmp_path / "engine", {}, tmp_path / "log")
    try:
        with ringwal.connect(tmp_path / "engine") as client:
            stream = client.stream("log")
            for _ in range(RECORDS):
                stream.append(bytes(1024))
            stream.flush()
    finally:
        server.stop(signal.SIGKILL)
    copies = (tmp_path / f"copy-{i}" for i in itertools.count())

    def setup() -> tuple[tuple[Directory, ringwal.Config], dict[str, Any]]:
        copy = next(copies)
        copy.mkdir()
        for name in ("manifest", "checkpoint-0", "checkpoint-1"):
            shutil.copy(tmp_path / "engine" / name, copy)
        shutil.copytree(tmp_path / "engine" / "segments", copy / "segments")
        return (Directory(copy), ringwal.Config()), {}

    def drop(copy: Directory, _config: ringwal.Config) -> None:
        shutil.rmtree(copy.path)
        copy.close()

    recovered: Recovered = benchmark.pedantic(recover, setup=setup, teardown=drop, rounds=5)
    assert [s.next_offset for s in recovered.streams] == [RECORDS]
