"""docs/format.md, with the room in it: an encoder and a decoder that share nothing but the document understand each other,
and the engine refuses in a sentence what it does not write itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from ringwal.errors import CorruptionError, VersionMismatch
from ringwal.log import settings
from ringwal.log.recovery import recover
from ringwal.log.settings import Settings
from tests.faults.decode import Content, DecodeError, Log, Record, contents
from tests.faults.oracle import joints
from tests.support import drafts
from tests.support.drafts import COMPRESSED, JOINED, KEYED, KEYS, LZ4, TIMED, ZSTD, Producer, Row
from tests.support.log_place import log_at
from tests.support.log_writer import CONFIG, PAGE, LogWriter, delete

LONG = b"abcdefgh" * 300 + bytes(range(256)) + b"abcdefgh" * 90 + b"the end of it all"

Draft = Callable[[Path], Path]
WIDE = dataclasses.replace(CONFIG, max_streams=80)


def log(directory: Path, *frames: drafts.Frame, features: int = 0, rows: tuple[Row, ...] = ()) -> Path:
    """Of one block behind the checkpoint, and an empty one that vouches for it."""
    made = drafts.Log(directory / "log", features)
    made.add(*frames)
    made.add()
    return made.write(*rows)


def joint(directory: Path, *parts: drafts.Frame | tuple[int, int, bytes], kind: int = 1) -> Path:
    """A joint append of streams that are defined in front of it, between batches that are none of its parts."""
    made = drafts.Log(directory / "log")
    made.add(*(drafts.define(n, f"s{n}") for n in range(1, 67)), drafts.batch(1, 0, b"alone"))
    made.add(*drafts.joint(*parts), kind=kind)
    made.add()
    return made.write()


def with_keys(directory: Path) -> Path:
    items = drafts.keyed(b"data", b"key"), drafts.keyed(b"", None, ("trace", b"\x01"), ("größe", b"")), drafts.keyed(b"d", b"")
    frames = drafts.define(1, "one"), drafts.batch(1, 0, *items, flags=KEYED), drafts.batch(1, 3, items[0], flags=KEYED)
    return log(directory, *frames, drafts.batch(1, 4, b"plain"), features=KEYS)


def compressed(directory: Path) -> Path:
    several = drafts.lengths([LONG, b"", b"short"])
    frames = (
        drafts.frame(drafts.BATCH, 1, 0, drafts.packed(several, drafts.lz4(several)), 3, flags=LZ4),
        drafts.frame(drafts.BATCH, 1, 3, drafts.packed(b"x", drafts.lz4(b"x")), 1, flags=LZ4),
    )
    return log(directory, drafts.define(1, "one"), *frames, features=COMPRESSED)


def with_times(directory: Path, *own: int) -> Path:
    frames = (
        drafts.define(1, "one"),
        drafts.frame(drafts.BATCH, 1, 0, drafts.timed(drafts.lengths([b"a", b"", b"ccc"]), *own), 3, flags=TIMED),
        drafts.frame(drafts.BATCH, 1, 3, drafts.timed(b"d", 0), 1, flags=TIMED),
        drafts.batch(1, 4, b"plain"),
    )
    return log(directory, *frames)


ROOM: dict[str, tuple[Draft, str]] = {
    "keys and headers": (with_keys, "keys and headers"),
    "compressed payloads": (compressed, "compressed payloads"),
}


def only(directory: Path, name: str = "one") -> Content:
    return contents(directory)[name]


def test_what_is_written_today_is_read(tmp_path: Path) -> None:
    frames = drafts.define(1, "one"), drafts.batch(1, 0, b"a", b"", b"ccc"), drafts.batch(1, 3, b"d")
    assert only(log(tmp_path, *frames)).records == [b"a", b"", b"ccc", b"d"]


def test_the_engine_reads_it_as_well(tmp_path: Path) -> None:
    frames = drafts.define(1, "one"), drafts.batch(1, 0, b"a", b"", b"ccc"), drafts.batch(1, 3, b"d")
    recovered = recover(log_at(log(tmp_path, *frames)), CONFIG)
    assert [(stream.name, stream.next_offset) for stream in recovered.streams] == [("one", 4)]
    assert only(tmp_path / "log").records == [b"a", b"", b"ccc", b"d"]


def test_parts_of_a_joint_append_are_records_like_others(tmp_path: Path) -> None:
    at = joint(tmp_path, (1, 1, b"a"), (7, 0, b""), drafts.batch(3, 0, b"b", b"bb"), drafts.batch(3, 2, b"alone"))
    found = contents(at)
    assert [found[name].records for name in ("s1", "s7", "s3")] == [[b"alone", b"a"], [b""], [b"b", b"bb", b"alone"]]
    assert [[part.stream for part in parts] for parts in Log(at).joints()] == [[1, 7, 3]]
    assert [*joints(at)] == [[("s1", 1, b"a"), ("s7", 0, b""), ("s3", 0, b"b"), ("s3", 1, b"bb")]]


def test_of_a_joint_append_what_is_deleted_is_left_out_and_what_lies_beyond_the_cut(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path / "log", recover(log_at(tmp_path / "log"), CONFIG))
    writer.put((0, b"a"), (1, b"b"), joined=True)
    writer.put((2, b"lost"), state="torn")
    writer.put((0, b"c"), (3, b"d"), joined=True, watermark=PAGE)
    writer.put((0, b"e"), (2, b"f"), joined=True, watermark=PAGE)
    assert [*joints(tmp_path / "log")] == [[("s0", 0, b"a"), ("s1", 0, b"b")]]
    writer = LogWriter(tmp_path / "log", recover(log_at(tmp_path / "log"), CONFIG))
    writer.put(delete(1))
    assert [*joints(tmp_path / "log")] == [[("s0", 0, b"a")], [("s0", 1, b"c"), ("s3", 0, b"d")]]


def test_keys_and_headers_come_back(tmp_path: Path) -> None:
    found = only(with_keys(tmp_path))
    assert found.records == [b"data", b"", b"d", b"data", b"plain"]
    assert found.extras == {
        0: Record(b"data", b"key"),
        1: Record(b"", None, (("trace", b"\x01"), ("größe", b""))),
        2: Record(b"d", b""),
        3: Record(b"data", b"key"),
    }


def test_times_of_records_come_back(tmp_path: Path) -> None:
    found = only(with_times(tmp_path, 5, 2**63 - 1, 4))
    assert found.records == [b"a", b"", b"ccc", b"d", b"plain"]
    assert {offset: record.own_ns for offset, record in found.extras.items()} == {0: 5, 1: 2**63 - 1, 2: 4, 3: 0}
    recovered = recover(log_at(tmp_path / "log"), CONFIG)
    assert [(stream.name, stream.next_offset) for stream in recovered.streams] == [("one", 5)]
    assert only(tmp_path / "log") == found


def test_times_are_part_of_what_is_compressed_and_stand_behind_keys(tmp_path: Path) -> None:
    payload = drafts.timed(drafts.keyed(b"data", b"key"), 77)
    frames = drafts.define(1, "one"), drafts.frame(
        drafts.BATCH, 1, 0, drafts.packed(payload, drafts.lz4(payload)), 1, flags=LZ4 | KEYED | TIMED
    )
    found = only(log(tmp_path, *frames, features=KEYS | COMPRESSED))
    assert found.extras == {0: Record(b"data", b"key", own_ns=77)}


def test_compressed_payloads_come_back(tmp_path: Path) -> None:
    assert len(drafts.lz4(LONG)) < len(LONG) // 4
    assert only(compressed(tmp_path)).records == [LONG, b"", b"short", b"x"]


def test_another_codec_is_seen_and_said(tmp_path: Path) -> None:
    packed = drafts.packed(b"data", drafts.zstd(b"data"))
    frames = drafts.define(1, "one"), drafts.frame(drafts.BATCH, 1, 0, packed, 1, flags=ZSTD)
    with pytest.raises(DecodeError, match="Zstandard"):
        contents(log(tmp_path, *frames, features=COMPRESSED))


def test_trims_drops_verdicts_and_ends_are_followed(tmp_path: Path) -> None:
    made = drafts.Log(tmp_path / "log")
    made.add(drafts.define(1, "one"), drafts.batch(1, 0, b"a", b"b", b"c"), drafts.define(2, "two"), drafts.batch(2, 0, b"x"))
    made.add(drafts.trim(1, 3, 2), drafts.trim(1, 3, 1), drafts.delete(2, 1), drafts.verdict(2))
    at = made.position
    made.add(drafts.define(3, "two"), drafts.batch(3, 0, b"new"), drafts.drop((1, 3)))
    found = contents(made.write(Row(1, "one", 3, 2, 15, 1), at=at, next_stream=3))
    assert {name: of.kept for name, of in found.items()} == {"one": (3, []), "two": (0, [b"new"])}


@pytest.mark.parametrize("name", ROOM)
def test_the_engine_refuses_what_it_does_not_know_in_a_sentence(name: str, tmp_path: Path) -> None:
    draft, said = ROOM[name]
    at = draft(tmp_path)
    before = {path.name: path.read_bytes() for path in at.rglob("*") if path.is_file()}
    with pytest.raises(VersionMismatch, match=f"{said}.*use a newer one"):
        recover(log_at(at), CONFIG)
    assert {path.name: path.read_bytes() for path in at.rglob("*") if path.is_file() and path.name in before} == before


@pytest.mark.parametrize(("where", "bits"), [("the checkpoint", {"features": COMPRESSED}), ("segment 0", {"of_segment": KEYS})])
def test_bits_of_a_part_are_refused_as_those_of_the_whole(where: str, bits: dict[str, int], tmp_path: Path) -> None:
    made = drafts.Log(tmp_path / "log")
    made.add(drafts.define(1, "one"), drafts.batch(1, 0, b"a"))
    at = made.write(**bits)  # type: ignore[arg-type]
    with pytest.raises(VersionMismatch, match=where):
        recover(log_at(at), CONFIG)
    with pytest.raises(DecodeError, match=where):
        contents(at)


def test_the_bit_without_a_meaning_is_refused(tmp_path: Path) -> None:
    at = log(tmp_path, drafts.define(1, "one"), features=1)
    with pytest.raises(VersionMismatch, match=r"features 0x1.*use a newer one"):
        recover(log_at(at), CONFIG)
    with pytest.raises(DecodeError, match="0x1"):
        contents(at)


BAD: dict[str, tuple[drafts.Frame, int]] = {
    "a trim beyond the end": (drafts.trim(1, 1, 2), 0),
    "a trim without its stream's offset": (drafts.trim(1, 0, 0), 0),
    "a batch behind a gap": (drafts.batch(1, 2, b"x"), 0),
    "times without room for them": (drafts.frame(drafts.BATCH, 1, 1, bytes(7), 1, flags=TIMED), 0),
    "a time that there is not": (drafts.frame(drafts.BATCH, 1, 1, drafts.timed(b"x", 1 << 63), 1, flags=TIMED), 0),
    "a trim with times": (drafts.frame(drafts.TRIM, 1, 1, bytes(8), flags=TIMED), 0),
    "a kind that nobody knows": (drafts.frame(10, 1, 1), 0),
    "settings without a version": (drafts.settings(1, 1, drafts.own(version=0)), 0),
    "settings that say what there is not": (drafts.settings(1, 1, drafts.own(said=8)), 0),
    "a limit that is not said": (drafts.settings(1, 1, drafts.own(said=6, limits=(5, 5, 5))), 0),
    "a limit that is too large": (drafts.settings(1, 1, drafts.own(said=1, limits=(1 << 63, 0, 0))), 0),
    "settings with half a name": (drafts.settings(1, 1, drafts.own(b"name")[:-1]), 0),
    "settings with a name that is longer than they are": (drafts.settings(1, 1, drafts.own(b"name")[:32] + b"\x05name"), 0),
    "settings with a name of nothing": (drafts.settings(1, 1, drafts.own(b"")), 0),
    "settings with a name that is no text": (drafts.settings(1, 1, drafts.own(b"\xff")), 0),
    "settings with more text than there is room": (drafts.settings(1, 1, drafts.own(b"n" * 88)), 0),
    "settings with another length of their text": (drafts.settings(1, 1, drafts.own(b"name", text=4)), 0),
    "settings that are too short": (drafts.settings(1, 1, bytes(31)), 0),
    "settings without their stream's offset": (drafts.settings(1, 0, drafts.own()), 0),
    "a key that the manifest does not name": (drafts.batch(1, 1, drafts.keyed(b"x", b"k"), flags=KEYED), 0),
    "a key that is longer than its record": (drafts.batch(1, 1, drafts.keyed(b"x", b"kkk")[:9], flags=KEYED), KEYS),
    "a codec that nobody knows": (drafts.batch(1, 1, b"x", flags=3), COMPRESSED),
    "a payload that is not what was compressed": (
        drafts.frame(1, 1, 1, drafts.packed(b"x", drafts.lz4(b"y")), 1, flags=LZ4), COMPRESSED,
    ),
    "a frame of kind 7, which there is not": (drafts.frame(7, 1, 1), 0),
    "a trim that is joined": (drafts.frame(drafts.TRIM, 1, 1, bytes(8), flags=JOINED), 0),
    "a drop without rows": (drafts.drop(), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_the_format_does_not_allow_is_seen(name: str, tmp_path: Path) -> None:
    last, features = BAD[name]
    with pytest.raises(DecodeError):
        contents(log(tmp_path, drafts.define(1, "one"), drafts.batch(1, 0, b"a"), last, features=features))
    if features == 0:
        with pytest.raises(CorruptionError):
            recover(log_at(tmp_path / "log"), CONFIG)


JOINTS: dict[str, tuple[drafts.Frame | tuple[int, int, bytes], ...]] = {
    "one that ends with its block": ((1, 1, b"a"), drafts.batch(2, 0, b"b", flags=JOINED)),
    "one with a part of a stream that has one": ((1, 1, b"a"), (2, 0, b"b"), (1, 2, b"c")),
    "one with a definition in it": ((1, 1, b"a"), drafts.define(80, "s80"), (80, 0, b"b")),
    "one with a trim in it": ((1, 1, b"a"), drafts.trim(2, 0, 0)),
    "one with a producer at its head": (drafts.batch(1, 1, b"a", flags=JOINED, by=Producer(6, 1, 0)), (2, 0, b"b")),
    "one with a producer at its end": ((1, 1, b"a"), drafts.batch(2, 0, b"b", by=Producer(6, 1, 0))),
    "one with too many parts": ((1, 1, b"a"), *((n, 0, b"b") for n in range(2, 66))),
}


@pytest.mark.parametrize("name", JOINTS)
def test_a_joint_append_that_breaks_the_rule_is_seen_by_both(name: str, tmp_path: Path) -> None:
    at = joint(tmp_path, *JOINTS[name])
    with pytest.raises(DecodeError, match="joint append"):
        contents(at)
    with pytest.raises(CorruptionError):
        recover(log_at(at), WIDE)


def test_as_many_parts_as_there_may_be_are_read_by_both(tmp_path: Path) -> None:
    at = joint(tmp_path, (1, 1, b"a"), *((n, 0, b"b") for n in range(2, 65)))
    assert [len(parts) for parts in Log(at).joints()] == [64]
    recovered = recover(log_at(at), WIDE)
    assert {stream.name: stream.next_offset for stream in recovered.streams if stream.next_offset} == {
        "s1": 2, **{f"s{n}": 1 for n in range(2, 65)}
    }  # fmt: skip


ROWS: dict[str, tuple[tuple[Row, ...], int]] = {
    "another next offset": ((Row(1, "one", 3, 1, 10, 1),), 100),
    "a start offset below a trim": ((Row(1, "one", 2, 0, 10, 1),), 100),
    "another name": ((Row(1, "two", 2, 1, 10, 1),), 100),
    "other payload bytes": ((Row(1, "one", 2, 1, 9, 1),), 100),
    "another timestamp": ((Row(1, "one", 2, 1, 10, 2),), 100),
    "settings that nobody set": ((Row(1, "one", 2, 1, 10, 1, drafts.own(version=2)),), 100),
    "settings that make no sense": ((Row(1, "one", 2, 1, 10, 1, drafts.own(b"x")[:33]),), 100),
    "no row": ((), 100),
    "a row of a stream that has ended": ((Row(1, "one", 2, 1, 10, 1), Row(2, "two", 1, 1, 1, 1)), 100),
    "a number that has not been given out": ((Row(1, "one", 2, 1, 10, 1),), 2),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_checkpoint_that_says_otherwise_than_the_log_is_seen(name: str, tmp_path: Path) -> None:
    def made(directory: Path, rows: tuple[Row, ...], next_stream: int) -> Path:
        log = drafts.Log(directory)
        log.add(drafts.define(1, "one"), drafts.batch(1, 0, b"a", b"b"), drafts.trim(1, 2, 1))
        log.add(drafts.define(2, "two"), drafts.batch(2, 0, b"x"), drafts.delete(2, 1))
        return log.write(*rows, at=log.position, next_stream=next_stream)

    good = made(tmp_path / "good", (Row(1, "one", 2, 1, 10, 1),), 3)
    assert {stream: of.kept for stream, of in contents(good).items()} == {"one": (1, [b"b"])}
    with pytest.raises(DecodeError):
        contents(made(tmp_path / "bad", *ROWS[name]))


LIMITS = drafts.own(b"ship", version=4, said=5, limits=(77, 0, 9))
OTHERS = {
    "none of them": b"",
    "older ones": drafts.own(version=3, said=5, limits=(77, 0, 8)),
    "another limit": drafts.own(b"ship", version=4, said=5, limits=(77, 0, 8)),
    "another name": drafts.own(b"shop", version=4, said=5, limits=(77, 0, 9)),
    "newer ones": drafts.own(b"ship", version=5, said=5, limits=(77, 0, 9)),
}


@pytest.mark.parametrize("whose", OTHERS)
def test_settings_are_those_of_the_last_frame_and_of_the_checkpoint(whose: str, tmp_path: Path) -> None:
    def made(directory: Path, row: bytes, *before: bytes) -> Path:
        log = drafts.Log(directory)
        log.add(drafts.define(1, "one"), *(drafts.settings(1, 0, own) for own in before), drafts.batch(1, 0, b"a", b"b"))
        log.add(drafts.settings(1, 2, LIMITS))
        return log.write(Row(1, "one", 2, 0, 10, 1, row), at=log.position, next_stream=2)

    older = drafts.own(version=2)
    at = made(tmp_path / "good", LIMITS, older)
    assert contents(at)["one"].settings == (4, 5, 77, 0, 9, ("ship",))
    (stream,) = recover(log_at(at), CONFIG).streams
    assert settings.decode(stream.settings) == Settings(version=4, age_ns=77, records=9, retain_until=("ship",))
    with pytest.raises(DecodeError, match="another one in the log"):
        contents(made(tmp_path / "other", OTHERS[whose], older))
    with pytest.raises(DecodeError, match="settings 4 follow 4"):
        contents(made(tmp_path / "again", LIMITS, LIMITS))


def test_settings_outlive_the_segment_with_their_frame(tmp_path: Path) -> None:
    made = drafts.Log(tmp_path / "log")
    made.add(drafts.batch(1, 7, b"x"))
    at = made.write(Row(1, "one", 8, 7, 99, 1, LIMITS), at=made.position, next_stream=2)
    assert contents(at)["one"].settings.version == 4


def test_records_of_a_stream_without_a_definition_are_those_of_one_that_has_ended(tmp_path: Path) -> None:
    """Where the definition was, and where the end was, segments have been freed."""
    made = drafts.Log(tmp_path / "log")
    made.add(drafts.batch(5, 7, b"x"), drafts.batch(6, 4, b"y"))
    at = made.write(Row(6, "six", 5, 4, 99, 1), at=made.position, next_stream=7)
    assert {stream: of.kept for stream, of in contents(at).items()} == {"six": (4, [b"y"])}
