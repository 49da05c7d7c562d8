"""Streams that are created, and what is set for them, over deaths of the engine."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ringwal
from ringwal.log import settings
from ringwal.steps import park
from tests.faults import decode
from tests.support.faces import FACES, Face
from tests.support.host import SMALL, Engine

DAY = 86400.0


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(tmp_path / "e", *SMALL) as running:
        yield running


def connected(engine: Engine) -> ringwal.Client:
    return ringwal.connect(engine.directory, timeout=30.0)


def limits(stream: ringwal.Stream) -> tuple[Any, ...]:
    info = stream.stat()
    return info.retention_age, info.retention_bytes, info.retention_records, info.retain_until


def test_a_stream_that_was_created_is_there_after_everything_was_killed(engine: Engine) -> None:
    with connected(engine) as client:
        client.create_stream("plain")
        kept = client.create_stream("kept", retention_age="30d", retention_bytes="10GiB", retain_until=["ship", "bill"])
        kept.configure(retention_records=5)
        before = client.streams()
    engine.kill()
    assert decode.contents(engine.directory)["kept"].settings.retain_until == ("ship", "bill")
    with Engine(engine.directory, *SMALL) as again, connected(again) as client:
        assert client.streams() == before
        assert limits(client.stream("kept")) == (30 * DAY, 10 << 30, 5, ("ship", "bill"))
        assert client.stream("kept").append(b"x").result(30.0).offset == 0


@pytest.mark.parametrize("role", ["wal", "drain"])
def test_settings_outlive_the_processes(engine: Engine, role: str) -> None:
    with connected(engine) as client:
        stream = client.create_stream("s", retention_records=1)
        for records in range(2, 12):
            if records % 4 == 0:
                engine.strike(role)
            stream.configure(retention_records=records)
            assert limits(stream)[2] == records
        engine.strike(role)
        stream.append(b"x").result(30.0)
        assert limits(stream)[2] == 11
    assert engine.stop() == 0
    assert decode.contents(engine.directory)["s"].settings.records == 11


def test_only_what_is_given_changes(engine: Engine) -> None:
    with connected(engine) as client:
        s = client.create_stream("s", retention_age=datetime.timedelta(hours=1), retention_bytes=4096, retain_until=["a"])
        assert s.stat().own_settings == ("retention_age", "retention_bytes")
        s.configure(retention_records=9)
        assert limits(s) == (3600.0, 4096, 9, ("a",))
        s.configure(retention_age=90, retain_until=())
        assert limits(s) == (90.0, 4096, 9, ())
        s.configure(retention_age=None, retention_bytes="none")
        assert limits(s) == (None, None, 9, ())
        assert s.stat().own_settings == ("retention_bytes", "retention_records")
        s.configure()
        assert limits(s) == (None, None, 9, ())


def test_what_a_stream_does_not_say_the_engine_does(tmp_path: Path) -> None:
    flags = (*SMALL, "--retention-age", "2h", "--retention-bytes", "1MiB", "--retention-records", "50")
    with Engine(tmp_path / "e", *flags) as engine, connected(engine) as client:
        s = client.create_stream("s", retention_age="none", retention_records=7)
        assert limits(s) == (None, 1 << 20, 7, ())
        s.configure(retention_age=None)
        assert limits(s) == (7200.0, 1 << 20, 7, ())
        made = client.stream("made by an append")
        made.append(b"x").result(30.0)
        assert limits(made) == (7200.0, 1 << 20, 50, ()) and made.stat().own_settings == ()


def test_a_stream_is_created_once(engine: Engine) -> None:
    with connected(engine) as client, connected(engine) as other:
        client.create_stream("s", retention_age="1h", retain_until=["a", "b"])
        number = client.stream("s").stat().number
        assert other.create_stream("s", retention_age="60m", retain_until=["a", "b"]).stat().number == number
        others: list[dict[str, Any]] = [
            {},
            {"retention_age": "2h", "retain_until": ["a", "b"]},
            {"retention_age": "1h", "retain_until": ["b", "a"]},
        ]
        for wanted in others:
            with pytest.raises(ringwal.StreamExists, match="configure"):
                other.create_stream("s", **wanted)
        assert limits(client.stream("s")) == (3600.0, None, None, ("a", "b"))


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.name)
def test_a_refusal_names_what_differs_and_exist_ok_takes_the_stream_as_it_is(engine: Engine, face: Face) -> None:
    with face.connect(engine.directory) as client:
        client.create("s", retention_age="30d", retention_bytes="1GiB", retention_records="none", retain_until=["a"])
        before = client.stat("s")
        other: dict[str, Any] = {"retention_age": "90m", "retention_bytes": "1GiB", "retain_until": ["a", "b"]}
        with pytest.raises(ringwal.StreamExists, match="exist_ok") as caught:
            client.create("s", **other)
        said = str(caught.value)
        assert "retention_age is 30d, not 1h30m" in said
        assert "retention_records is none, not the engine's default" in said
        assert "retain_until is ['a'], not ['a', 'b']" in said
        assert "retention_bytes" not in said
        client.create("s", exist_ok=True, **other)
        client.create("s", exist_ok=True)
        assert client.stat("s") == before
        client.create("new", exist_ok=True, **other)
        assert client.stat("new").retention_age == 5400.0
        client.append("appended", b"x")  # nobody has said anything of it
        client.create("appended", exist_ok=True, retention_records=7)
        assert client.stat("appended").retention_records == 7


def test_of_a_stream_that_an_append_made_the_first_to_say_anything_is_heard(engine: Engine) -> None:
    with connected(engine) as client:
        client.stream("s").append(b"x").result(30.0)
        assert limits(client.create_stream("s", retention_records=3))[2] == 3
        with pytest.raises(ringwal.StreamExists):
            client.create_stream("s", retention_records=4)


def test_many_create_and_change_at_once_and_all_of_it_counts(engine: Engine) -> None:
    """Of each setting the last one asked for is in force, and nobody is told before it is on the disk."""
    errors: list[BaseException] = []
    with connected(engine) as client:
        client.create_stream("shared")

    def work(which: int) -> None:
        try:
            with connected(engine) as client:
                s = client.stream("shared")
                for n in range(1, 30):
                    wanted: list[dict[str, Any]] = [{"retention_age": n}, {"retention_bytes": n}, {"retention_records": n}]
                    s.configure(**wanted[which])
                    assert limits(s)[which] == n
                    client.create_stream(f"own-{which}-{n}")
        except BaseException as error:  # noqa: BLE001  told by the thread that waits
            errors.append(error)

    threads = [threading.Thread(target=work, args=(which,)) for which in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    engine.kill()
    found = decode.contents(engine.directory)
    assert found["shared"].settings[2:5] == (29 * 10**9, 29, 29)
    assert len(found) == 1 + 3 * 29


def test_settings_of_a_deleted_stream_are_not_those_of_its_successor(engine: Engine) -> None:
    with connected(engine) as client:
        first = client.create_stream("s", retention_records=3).stat()
        client.delete_stream("s")
        with pytest.raises(ringwal.NoSuchStream):
            client.stream("s").configure(retention_records=4)
        client.stream("s").append(b"x").result(30.0)
        later = client.stream("s").stat()
        assert (later.retention_records, later.own_settings) == (None, ()) and later.number > first.number
        client.delete_stream("s")
        assert client.create_stream("s", retention_records=5).stat().number > later.number
    engine.kill()
    assert decode.contents(engine.directory)["s"].settings.records == 5


def test_what_nobody_can_mean_is_refused(engine: Engine) -> None:
    bad: list[dict[str, Any]] = [
        {"retention_age": "soon"}, {"retention_age": 0}, {"retention_age": -1}, {"retention_age": float("nan")},
        {"retention_age": "0s"}, {"retention_age": True}, {"retention_age": "400y"}, {"retention_bytes": 0},
        {"retention_bytes": "1MB"}, {"retention_bytes": 1.5}, {"retention_records": 0}, {"retention_records": "many"},
        {"retention_records": 1 << 63}, {"retain_until": "name"}, {"retain_until": [""]}, {"retain_until": ["a", "a"]},
        {"retain_until": ["a\nb"]}, {"retain_until": ["n" * 88]}, {"retain_until": [f"c{n}" for n in range(30)]},
        {"retain_until": [7]}, {"retain_until": ["\ud800"]}, {"retain_until": 7},
    ]  # fmt: skip
    with connected(engine) as client:
        s = client.create_stream("s", retention_records=3)
        for wanted in bad:
            with pytest.raises(ringwal.ConfigError):
                client.create_stream("t", **wanted)
            with pytest.raises(ringwal.ConfigError):
                s.configure(**wanted)
        assert limits(s) == (None, None, 3, ())
        assert [info.name for info in client.streams()] == ["s"]
        for refused in (client.create_stream, lambda name: client.stream(name).configure(retention_records=3)):
            with pytest.raises(ringwal.ConfigError, match="engine's own"):
                refused("_own")
        with pytest.raises(ringwal.NoSuchStream):
            client.stream("nobody").configure(retention_age="1h")
        assert settings.text_of(["n" * 87])  # as long as it may be
        client.create_stream("long", retain_until=["n" * 87])


def test_a_request_that_no_client_makes_is_refused_alone(engine: Engine) -> None:
    with connected(engine) as client:
        number = client.create_stream("s").stat().number
        registration = client._attachment().registration

        def ask(message: dict[str, Any]) -> None:
            park(registration.change_steps(message))

        for wanted in ({"age": "x"}, {"age": -2}, {"bytes": 1 << 63}, {"records": True}, {"retain": 5}, {"retain": "a\n\nb"}):
            with pytest.raises(ringwal.ConfigError):
                ask({"op": "configure", "name": "s", "number": number, **wanted})
            with pytest.raises(ringwal.ConfigError):
                ask({"op": "create", "name": "t", **wanted})
        with pytest.raises(ringwal.NoSuchStream):
            ask({"op": "configure", "name": "s", "number": number + 1})
        assert [info.name for info in client.streams()] == ["s"]
