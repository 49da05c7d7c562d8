"""Every row of the table of exit codes is met by what the command line does, not by what it says of itself."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash

from ringwal._native import lib
from ringwal.exit_codes import EXIT_CODES
from tests.support.cli_rig import DEADLINE, SMALL, end, freeze, line_of, ringwal, serving, start
from tests.support.rig import AS_NOBODY, NOBODY, until

PAGE = 4096

def done(directory: Path) -> int:
    with serving(directory):
        return ringwal("ls", directory).returncode


def too_large(directory: Path) -> int:
    with serving(directory):
        return ringwal("append", directory, "s", stdin=bytes(4 << 20)).returncode


def mistyped(_: Path) -> int:
    return ringwal("nonsense").returncode


def damaged(directory: Path) -> int:
    with serving(directory):
        pass
    (directory / "manifest").write_bytes(bytes((directory / "manifest").stat().st_size))
    return ringwal("run", directory).returncode


def no_such_stream(directory: Path) -> int:
    with serving(directory):
        return ringwal("read", directory, "nowhere").returncode


def no_engine(directory: Path) -> int:
    directory.mkdir()
    return ringwal("ls", directory).returncode


def gives_up(directory: Path) -> int:
    with serving(directory, "--json", "--max-restarts", "0") as host:
        os.kill(json.loads(ringwal("status", directory, "--json").stdout)["wal_pid"], signal.SIGKILL)
        return host.wait(DEADLINE)


def no_other_process(directory: Path) -> int:
    directory.mkdir()
    if os.getuid() == 0:
        make_way(directory)
        os.chown(directory, NOBODY, NOBODY)
    host = subprocess.Popen(as_nobody("run", directory, "--json", *SMALL), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        wal = json.loads(line_of(host))["wal_pid"]
        host.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + DEADLINE
        while not re.search(r"^Max processes +0 ", Path(f"/proc/{host.pid}/limits").read_text(), re.MULTILINE):
            assert time.monotonic() < deadline
        os.kill(wal, signal.SIGKILL)
        return host.wait(DEADLINE)
    finally:
        host.kill()
        host.communicate()


def directory_moved(directory: Path) -> int:
    with serving(directory) as host:
        directory.rename(directory.with_name("elsewhere"))
        return host.wait(DEADLINE)


def no_place(directory: Path) -> int:
    with serving(directory, "--max-clients", "1"):
        feeder = start("append", directory, "--lines", "s")
        assert feeder.stdin is not None
        feeder.stdin.write(b"line\n")
        feeder.stdin.flush()
        deadline = time.monotonic() + DEADLINE
        while b'"clients_attached": 1' not in ringwal("status", directory, "--json").stdout:
            assert time.monotonic() < deadline
        code = ringwal("append", directory, "s", "--timeout", "0.5", stdin=b"x").returncode
        feeder.communicate(timeout=DEADLINE)
        return code


def output_full(directory: Path) -> int:
    with serving(directory), Path("/dev/full").open("wb") as full:
        return start("status", directory, stdin=None, stdout=full, stderr=None).wait(DEADLINE)


def held(directory: Path) -> int:
    with serving(directory):
        return ringwal("run", directory).returncode


def other_format(directory: Path) -> int:
    with serving(directory):
        pass
    file = directory / "manifest"
    slots = [bytearray(file.read_bytes()[at : at + PAGE]) for at in (0, PAGE)]
    for slot in slots:
        slot[8:12] = (lib.RW_FORMAT_VERSION + 1).to_bytes(4, "little")
        slot[88:96] = xxhash.xxh3_64_intdigest(slot[:88]).to_bytes(8, "little")
    file.write_bytes(b"".join(slots))
    return ringwal("run", directory).returncode


def somebody_elses(directory: Path) -> int:
    directory.mkdir(mode=0)
    make_way(directory)
    return subprocess.run(as_nobody("run", directory), capture_output=True, timeout=DEADLINE, check=False).returncode


def make_way(directory: Path) -> None:
    """Whoever runs as nobody gets as far as the directory."""
    for parent in directory.parents:
        if parent.owner() == "root" and len(parent.parts) > 2:
            parent.chmod(parent.stat().st_mode | 0o011)


def as_nobody(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-c", AS_NOBODY, *map(str, arguments)]


def bad_setting(directory: Path) -> int:
    return ringwal("run", directory, "--ring-bytes", "3MiB").returncode


def signalled(directory: Path, number: int) -> int:
    with serving(directory):
        feeder = start("append", directory, "--lines", "s")
        assert feeder.stdin is not None
        feeder.stdin.write(b"line\n")
        feeder.stdin.flush()
        follower = start("tail", "-F", directory, "s", "--start", "0")
        assert line_of(follower) == b"line\n"  # so the verb is at work
        end(follower)
        return end(feeder, number)[0]


PROVOKED: dict[int, Callable[[Path], int]] = {
    os.EX_OK: done,
    1: too_large,
    2: mistyped,
    os.EX_DATAERR: damaged,
    os.EX_NOINPUT: no_such_stream,
    os.EX_UNAVAILABLE: no_engine,
    os.EX_SOFTWARE: gives_up,
    os.EX_OSERR: no_other_process,
    os.EX_OSFILE: directory_moved,
    os.EX_CANTCREAT: no_place,
    os.EX_IOERR: output_full,
    os.EX_TEMPFAIL: held,
    os.EX_PROTOCOL: other_format,
    os.EX_NOPERM: somebody_elses,
    os.EX_CONFIG: bad_setting,
    129: lambda directory: signalled(directory, signal.SIGHUP),
    130: lambda directory: signalled(directory, signal.SIGINT),
    143: lambda directory: signalled(directory, signal.SIGTERM),
}


def test_every_row_is_provoked() -> None:
    assert [row.code for row in EXIT_CODES] == sorted(PROVOKED)


@pytest.mark.parametrize("code", sorted(PROVOKED))
def test_a_code_of_the_table_is_what_the_command_line_ends_with(tmp_path: Path, code: int) -> None:
    assert PROVOKED[code](tmp_path / "d") == code


@pytest.mark.parametrize("verb", ["ls", "status", "stop", "read", "tail", "append"])
def test_another_users_directory_is_77_for_every_verb(tmp_path: Path, verb: str) -> None:
    (tmp_path / "d").mkdir(mode=0)
    make_way(tmp_path / "d")
    stream = ["s"] if verb in ("read", "tail", "append") else []
    line = as_nobody(verb, tmp_path / "d", *stream)
    done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE, check=False)
    assert (done.returncode, done.stdout) == (os.EX_NOPERM, b"")
    assert b"Permission denied" in done.stderr


def is_connected(pid: int) -> bool:
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it has just closed it
            found.append(os.readlink(entry))
    return any(name.startswith("socket:") for name in found)


def test_a_verb_that_meets_a_stopping_engine_may_try_again_and_a_second_stop_waits_for_the_end(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    with serving(directory):
        wal = json.loads(ringwal("status", directory, "--json").stdout)["wal_pid"]
        freeze(wal)
        stops = [start("stop", directory)]
        late = ringwal("ls", directory)
        while late.returncode == os.EX_OK:  # the first one has not been heard yet
            late = ringwal("ls", directory)
        assert (late.returncode, b"is stopping" in late.stderr) == (os.EX_TEMPFAIL, True)
        stops.append(start("stop", directory))
        until(lambda: is_connected(stops[-1].pid), "the second one has found the engine")
        too_soon = ringwal("stop", directory, "--timeout", "0.2")
        assert (too_soon.returncode, b"still stopping" in too_soon.stderr) == (os.EX_TEMPFAIL, True)
        os.kill(wal, signal.SIGCONT)
        for each in stops:
            out, _ = each.communicate(timeout=DEADLINE)
            assert (each.returncode, out) == (os.EX_OK, b"stopped\n")


@pytest.mark.parametrize("name", ["manifest", "checkpoint-0", "checkpoint-1", "segments/00000000000000000000.seg"])
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_something_else_in_place_of_a_file_of_the_log_is_damage(
    tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    directory = tmp_path / "d"
    with serving(directory) as host:
        assert ringwal("append", directory, "s", stdin=b"x").returncode == 0
        end(host, signal.SIGKILL)
    (directory / name).unlink()
    make(directory / name)
    done = ringwal("run", directory, "--json")
    told = json.loads(done.stderr.splitlines()[-1])
    assert (done.returncode, told["error"]) == (os.EX_DATAERR, "CorruptionError"), told
    assert "is not a file of the log" in told["message"]
