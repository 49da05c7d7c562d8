"""The verbs that need no engine: what a user sees of a log that is stopped, killed, damaged, or served by somebody."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

import ringwal as ringwal_package
from ringwal.log import backup_note
from ringwal.log.backup_note import Note
from ringwal.log.directory import Directory
from ringwal.log.recovery import recover
from tests.support import drafts
from tests.support.cli_rig import freeze, ringwal, serving
from tests.support.host import until
from tests.support.log_place import log_at, path_of
from tests.support.log_writer import CONFIG, LogWriter, claim

PAGE = 4096


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A log of two lives, each stopped in order: `s` with the lines 0 to 5, and `quiet` with one."""
    at = tmp_path / "d"
    for life in range(2):
        with serving(at):
            for number in range(3):
                assert ringwal("append", at, "s", stdin=b"line %d" % (3 * life + number)).returncode == 0
            if life == 0:
                assert ringwal("append", at, "quiet", stdin=b"alone").returncode == 0
    return at


def block_with(at: Path, data: bytes) -> int:
    """Byte of the first segment's file at which the block with it begins."""
    return path_of(at, 0).read_bytes().index(data) // PAGE * PAGE


def flip(at: Path, byte: int) -> None:
    with path_of(at, 0).open("r+b") as file:
        old = os.pread(file.fileno(), 1, byte)[0]
        os.pwrite(file.fileno(), bytes([old ^ 4]), byte)


def verified(at: Path, *options: str) -> tuple[int, dict[str, Any]]:
    done = ringwal("verify", at, "--json", *options)
    return done.returncode, json.loads(done.stdout)


def test_verify_of_a_log_that_is_whole(stopped: Path) -> None:
    code, found = verified(stopped, "--deep")
    assert (code, found["clean"], found["places"], found["holes"]) == (0, True, [], [])
    assert (found["records"], found["streams"], found["running"]) == (7, 2, False)
    done = ringwal("verify", stopped)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"clean: 2 segments, ")


def test_verify_names_place_and_records(stopped: Path) -> None:
    byte = block_with(stopped, b"line 1")
    flip(stopped, byte + 40)
    code, found = verified(stopped)
    (place,) = found["places"]
    assert (code, found["clean"]) == (65, False)
    assert (place["file"], place["offset"]) == ("segments/00000000000000000000.seg", byte)
    assert place["losses"] == [{"stream": "s", "number": 0, "first_offset": 1, "next_offset": 2}]
    done = ringwal("verify", stopped)
    assert done.returncode == 65
    assert b"segments/00000000000000000000.seg byte %d" % byte in done.stdout
    assert b"takes s: offset 1" in done.stdout


def test_verify_beside_an_engine(stopped: Path) -> None:
    with serving(stopped):
        assert ringwal("append", stopped, "s", stdin=b"line 6").returncode == 0
        code, found = verified(stopped, "--deep")
        assert (code, found["running"], found["clean"]) == (0, True, True)
        flip(stopped, block_with(stopped, b"line 4"))
        code, found = verified(stopped)
        assert (code, [place["losses"][0]["first_offset"] for place in found["places"]]) == (65, [4])
        assert ringwal("append", stopped, "s", stdin=b"line 7").returncode == 0


def test_a_start_that_is_refused_points_to_verify(stopped: Path) -> None:
    for number in (0, 1):
        (stopped / f"checkpoint-{number}").write_bytes(b"nothing")
    done = ringwal("run", stopped)
    assert done.returncode == 65
    assert b"`ringwal verify DIR`" in done.stderr and b"`ringwal salvage DIR DEST`" in done.stderr
    code, found = verified(stopped)
    assert code == 65
    assert [place["file"][:-1] for place in found["places"]] == ["checkpoint-"]


def test_verify_where_there_is_no_log(tmp_path: Path) -> None:
    assert ringwal("verify", tmp_path / "nowhere").returncode == 66
    assert ringwal("verify", tmp_path).returncode == 66


def dumped(at: Path, *options: str) -> list[dict[str, Any]]:
    done = ringwal("dump", at, "--json", *options)
    assert (done.returncode, done.stderr) == (0, b"")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_dump_shows_every_block_and_frame(stopped: Path) -> None:
    assert ringwal("run", stopped, "--max-streams", "1").returncode == 78, "which changes nothing"
    head, *blocks = dumped(stopped)
    assert (head["what"], len(head["epochs"]), head["faults"]) == ("log", 2, [])
    assert {block["what"] for block in blocks} == {"block"}
    assert [block["kind"] for block in blocks].count("epoch") == 2
    frames = [frame for block in blocks for frame in block["frames"]]
    assert [(f["first_offset"], f["records"]) for f in frames if (f["kind"], f["stream"]) == ("batch", "s")] == [
        (offset, 1) for offset in range(6)
    ]
    assert [f["stream"] for f in frames if f["kind"] == "definition"] == ["s", "quiet"]
    (only,) = [block for block in dumped(stopped, "--stream", "quiet") if block["what"] == "block"]
    assert [frame["stream"] for frame in only["frames"]] == ["quiet", "quiet"]
    later = dumped(stopped, "--from", str(only["position"] + PAGE))[1:]
    assert later == [block for block in blocks if block["position"] > only["position"]]
    assert dumped(stopped, "--from", "0.seg")[1:] == blocks
    assert dumped(stopped, "--from", "1.seg")[1:] == []


def test_dump_shows_damage_and_goes_on(stopped: Path) -> None:
    whole = dumped(stopped)
    header, payload = block_with(stopped, b"line 1"), block_with(stopped, b"line 4")
    flip(stopped, header + 40)
    flip(stopped, path_of(stopped, 0).read_bytes().index(b"line 4") + 2)
    found = dumped(stopped)
    assert [item["offset"] for item in found if item["what"] == "bad"] == [header]
    (bad,) = [item for item in found if item["what"] == "block" and item["offset"] == payload]
    assert bad["frames"][-1]["wrong"] == "its payload is damaged"
    assert [item for item in found if item["offset" if "offset" in item else "what"] not in (header, payload)] == [
        item for item in whole if item["offset" if "offset" in item else "what"] not in (header, payload)
    ]
    text = ringwal("dump", stopped).stdout.decode()
    assert f"bad: no block of epoch 1 at {header - PAGE}, to {header}" in text
    assert "; bad: its payload is damaged" in text


def test_dump_shows_whose_a_batch_is(tmp_path: Path) -> None:
    at = tmp_path / "d"
    with serving(at), ringwal_package.connect(at) as client:
        first = client.producer("s", "till 1")
        first.append_many([b"a", b"b"]).result(timeout=30)
        client.stream("s").append(b"nobody's").result(timeout=30)
        again = client.producer("s", "till 1")
        again.append(b"c").result(timeout=30)
        with pytest.raises(ringwal_package.ProducerFenced):
            first.append(b"late").result(timeout=30)
    shown = [frame for block in dumped(at)[1:] for frame in block["frames"] if frame["kind"] != "definition"]
    whose = [frame.get("producer") for frame in shown]
    one = {"name": "till 1", "number": 1}
    assert [(frame["kind"], frame.get("forgets"), frame.get("reason")) for frame in shown] == [
        ("claim", 0, None), ("batch", None, None), ("batch", None, None), ("claim", 0, None), ("batch", None, None),
        ("verdict", None, 5),
    ]  # fmt: skip
    assert shown[-1]["value"] == 2
    assert whose == [
        {**one, "epoch": 1, "sequence": 0}, {**one, "epoch": 1, "sequence": 0}, None, {**one, "epoch": 2, "sequence": 2},
        {**one, "epoch": 2, "sequence": 2}, {**one, "epoch": 1, "sequence": 2},
    ]  # fmt: skip
    lines = ringwal("dump", at).stdout.decode().splitlines()
    assert [line.split(": ", 1)[1].split(", ", 1)[1] for line in lines if "producer" in line][:2] == [
        "producer till 1 (1), epoch 1, sequence 0, 22 bytes", "producer till 1 (1), epoch 1, sequence 0, 10 bytes",
    ]  # fmt: skip


def test_dump_shows_whom_a_claim_forgets(tmp_path: Path) -> None:
    log = LogWriter(tmp_path / "d", recover(log_at(tmp_path / "d"), CONFIG))
    log.put(claim(0, b"old"), owner=(1, 1, 0))
    log.put(claim(0, b"new", forgets=1), owner=(2, 1, 0))
    shown = [frame for block in dumped(tmp_path / "d")[1:] for frame in block["frames"] if frame["kind"] == "claim"]
    assert [(frame["producer"]["name"], frame["forgets"]) for frame in shown] == [("old", 0), ("new", 1)]
    assert b"producer new (2), epoch 1, sequence 0, forgets producer (1), 19 bytes" in ringwal("dump", tmp_path / "d").stdout


def test_dump_shows_the_parts_of_joint_appends(tmp_path: Path) -> None:
    log = LogWriter(tmp_path / "d", recover(log_at(tmp_path / "d"), CONFIG))
    log.put((0, b"a"), (1, b"b"), (2, b"c"), joined=True)
    log.put((0, b"alone"))
    frames = [frame for block in dumped(tmp_path / "d")[1:] for frame in block["frames"] if frame["kind"] == "batch"]
    assert [frame.get("joint") for frame in frames] == [*({"part": n, "parts": 3} for n in (1, 2, 3)), None]
    (only,) = [frame for block in dumped(tmp_path / "d", "--stream", "s1")[0:] for frame in block["frames"][1:]]
    assert only["joint"] == {"part": 2, "parts": 3}
    assert b"batch s2 (2): offsets 0 to 0, part 3 of 3 of a joint append, 1 bytes\n" in ringwal("dump", tmp_path / "d").stdout


@pytest.mark.parametrize("name", drafts.wrong_joints())
def test_a_joint_append_that_is_none_is_shown_verified_and_saved(name: str, tmp_path: Path) -> None:
    at, position = drafts.with_wrong_joint(tmp_path / "d", name)
    (bad,) = [block for block in dumped(at)[1:] if block["wrong"]]
    said = f"the frame at {position} may not stand in a joint append"
    if name == "it ends with its block":
        said = "a joint append goes on behind its last frame"
    assert bad["wrong"] == said and f"\n  bad: {said}\n".encode() in ringwal("dump", at).stdout
    code, found = verified(at)
    assert (code, [(place["position"], place["losses"]) for place in found["places"]]) == (65, [(position, [])])
    done = ringwal("salvage", at, tmp_path / "saved")
    assert (done.returncode, done.stdout.endswith(b"; 0 lost\n")) == (0, True)
    assert verified(tmp_path / "saved", "--deep")[0] == 0
    assert [block["wrong"] for block in dumped(tmp_path / "saved")[1:]] == [None] * 4, "of a hole nothing is asked"


def test_dump_refuses_a_place_that_is_none(stopped: Path) -> None:
    assert ringwal("dump", stopped, "--from", "here").returncode == 2


def test_dump_beside_an_engine_ends_at_its_checkpoint(stopped: Path) -> None:
    with serving(stopped):
        assert ringwal("append", stopped, "s", stdin=b"line 6").returncode == 0
        head, *blocks = dumped(stopped)
        assert all(block["position"] < head["checkpoint"] for block in blocks)


def test_read_and_ls_of_a_log_that_is_stopped(stopped: Path) -> None:
    asked = (("ls", stopped, "--json"), ("read", stopped, "s", "--json"))
    with serving(stopped):
        served = [ringwal(*words).stdout for words in asked]
        assert [ringwal(*words, "--offline").stdout for words in asked] == served
    assert [ringwal(*words).stdout for words in asked] == served
    assert ringwal("read", stopped, "s", "--start", "-2").stdout == b"line 4\nline 5\n"
    assert ringwal("read", stopped, "nobody").returncode == 66


def test_read_of_a_log_whose_engine_was_killed(tmp_path: Path) -> None:
    at = tmp_path / "d"
    with serving(at) as engine:
        assert ringwal("append", at, "s", stdin=b"first").returncode == 0
        engine.kill()
        engine.wait()
    assert ringwal("read", at, "s").stdout == b"first\n"
    assert json.loads(ringwal("ls", at, "--json").stdout)["confirmed_offset"] == 1


def test_beside_an_engine_only_what_is_confirmed_is_shown(tmp_path: Path) -> None:
    at = tmp_path / "d"
    with serving(at), ringwal_package.connect(at) as client:
        client.stream("s").append(b"confirmed").result(timeout=30)
        drain = client.status()["drain_pid"]
        freeze(drain)
        try:
            pending = client.stream("s").append(b"on the disk, and not confirmed")
            until(lambda: b"not confirmed" in path_of(at, 0).read_bytes(), "the block to be written")
            with ringwal_package.open_readonly(at) as found:
                assert found.live
                assert [record.data for record in found.stream("s").read()] == [b"confirmed"]
                assert ringwal("read", at, "s", "--offline").stdout == b"confirmed\n"
                os.kill(drain, signal.SIGCONT)
                pending.result(timeout=30)
                assert len(found.stream("s").read()) == 2
        finally:
            os.kill(drain, signal.SIGCONT)


def test_an_engine_that_cannot_be_seen_refuses(stopped: Path) -> None:
    with serving(stopped):
        words = (stopped / "lock").read_text().splitlines()
        (stopped / "lock").write_text("\n".join(words[:1]) + "\n")
        with pytest.raises(ringwal_package.NotRunning, match="cannot be seen"):
            ringwal_package.open_readonly(stopped)
        assert ringwal("read", stopped, "s", "--offline").returncode == 75


def test_salvage_makes_a_log_that_goes_on(stopped: Path, tmp_path: Path) -> None:
    byte = path_of(stopped, 0).read_bytes().index(b"line 1")
    flip(stopped, byte)
    dest = tmp_path / "saved"
    done = ringwal("salvage", stopped, dest, "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["clean"], found["records"]) == (65, True, 6)
    assert [place["offset"] for place in found["places"]] == [byte]
    lost = [{"stream": "s", "number": 0, "first_offset": 1, "next_offset": 2}]
    assert [place["losses"] for place in found["holes"]] == [lost]
    code, seen = verified(dest, "--deep")
    assert (code, [place["losses"] for place in seen["holes"]]) == (0, [lost])
    assert ringwal("read", dest, "s", "--start", "2").stdout == b"line 2\nline 3\nline 4\nline 5\n"
    with serving(dest):
        assert ringwal("append", dest, "s", stdin=b"line 6").returncode == 0
        done = ringwal("read", dest, "s")
        assert (done.returncode, done.stdout) == (65, b"line 0\n")
        assert b"stream 's'" in done.stderr
        assert ringwal("read", dest, "s", "--start", "2").stdout.endswith(b"line 6\n")
        assert ringwal("backup", dest, tmp_path / "backup").returncode == 0
    assert verified(dest)[0] == verified(tmp_path / "backup", "--deep")[0] == 0
    assert ringwal("read", tmp_path / "backup", "s", "--start", "5").stdout == b"line 5\nline 6\n"
    done = ringwal("salvage", stopped, dest)
    assert done.returncode == 78 and b"not empty" in done.stderr


def test_salvage_of_a_log_that_is_whole_loses_nothing(stopped: Path, tmp_path: Path) -> None:
    done = ringwal("salvage", stopped, tmp_path / "saved")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.endswith(b"; 0 lost\n")
    for stream in ("s", "quiet"):
        assert ringwal("read", tmp_path / "saved", stream).stdout == ringwal("read", stopped, stream).stdout


def test_salvage_beside_an_engine_is_refused(stopped: Path, tmp_path: Path) -> None:
    with serving(stopped):
        done = ringwal("salvage", stopped, tmp_path / "saved")
    assert done.returncode == 75 and b"stop it first" in done.stderr
    assert not (tmp_path / "saved").exists()


def test_no_engine_runs_where_a_salvage_was_cut_short(stopped: Path) -> None:
    with Directory(stopped) as log:
        backup_note.store(log, Note("salvage"))
    done = ringwal("run", stopped)
    assert done.returncode == 78 and b"salvage was cut short" in done.stderr


def test_a_stream_that_dump_does_not_meet_is_told(tmp_path: Path) -> None:
    with serving(tmp_path / "d"):
        assert ringwal("append", tmp_path / "d", "s", stdin=b"x").returncode == 0
    assert ringwal("dump", tmp_path / "d", "--stream", "s").returncode == 0
    done = ringwal("dump", tmp_path / "d", "--stream", "t")
    assert (done.returncode, b"no segment has a frame of a stream 't'" in done.stderr) == (os.EX_NOINPUT, True)


def test_a_log_without_its_manifest_is_no_directory_without_a_log(tmp_path: Path) -> None:
    with serving(tmp_path / "d"):
        assert ringwal("append", tmp_path / "d", "s", stdin=b"x").returncode == 0
    (tmp_path / "d" / "manifest").unlink()
    done = ringwal("read", tmp_path / "d", "s")
    assert (done.returncode, b"ringwal salvage" in done.stderr) == (os.EX_DATAERR, True)
    with pytest.raises(ringwal_package.CorruptionError, match=r"has segments and no manifest.*ringwal salvage"):
        ringwal_package.open_readonly(tmp_path / "d")


def test_stat_of_files_does_not_know_an_engines_defaults(tmp_path: Path) -> None:
    with serving(tmp_path / "d", "--retention-age", "90d"):
        assert ringwal("append", tmp_path / "d", "s", stdin=b"x").returncode == 0
        assert b"90d (the engine's default)" in ringwal("stat", tmp_path / "d", "s").stdout
    assert b"the default of the engine that starts next" in ringwal("stat", tmp_path / "d", "s").stdout
