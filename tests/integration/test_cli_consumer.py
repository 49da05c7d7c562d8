"""The verbs `consumer ls`, `info`, `seek` and `rm`, and what `stat` and `status` say of consumers."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ringwal as library
from tests.support.cli_rig import freeze, ringwal, serving
from tests.support.rig import WAIT

RECORDS = {"orders": 10, "refunds": 4}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Path]:
    """An engine with two streams and a consumer that has committed 3 of one of them."""
    with serving(tmp_path / "d"):
        fill(tmp_path / "d")
        yield tmp_path / "d"


def fill(directory: Path) -> None:
    with library.connect(directory) as client:
        for name, count in RECORDS.items():
            client.stream(name).append_many([b"%d" % n for n in range(count)]).result(WAIT)
        with client.consumer("billing", ["orders", "refunds"]) as consumer:
            for _ in range(3):
                consumer.commit(consumer.poll(1)[0])


def asked(*arguments: str | Path) -> list[dict[str, Any]]:
    done = ringwal(*arguments, "--json")
    assert (done.returncode, done.stderr) == (0, b""), done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def committed(directory: Path) -> dict[str, int]:
    return {row["stream"]: row["committed"] for row in asked("consumer", "ls", directory)}


def test_consumers_are_listed_and_shown(served: Path) -> None:
    rows = asked("consumer", "ls", served)
    assert [{key: row[key] for key in ("name", "stream", "committed", "lag", "claimed")} for row in rows] == [
        {"name": "billing", "stream": "orders", "committed": 3, "lag": 7, "claimed": 1},
        {"name": "billing", "stream": "refunds", "committed": 0, "lag": 4, "claimed": 1},
    ]
    assert [line.split() for line in ringwal("consumer", "ls", served).stdout.decode().splitlines()] == [
        ["CONSUMER", "STREAM", "COMMITTED", "LAG"], ["billing", "orders", "3", "7"], ["billing", "refunds", "0", "4"],
    ]  # fmt: skip
    [found] = asked("consumer", "info", served, "billing")
    assert (found["name"], found["lag"]) == ("billing", 11)
    assert found["streams"] == [{key: value for key, value in row.items() if key != "name"} for row in rows]
    shown = ringwal("consumer", "info", served, "billing").stdout.decode().splitlines()
    assert [line.split()[:4] for line in shown] == [
        ["STREAM", "COMMITTED", "LAG", "CLAIMED"], ["orders", "3", "7", "1"], ["refunds", "0", "4", "1"],
    ]  # fmt: skip


def test_nothing_is_listed_where_there_is_none(tmp_path: Path) -> None:
    with serving(tmp_path / "d"):
        assert asked("consumer", "ls", tmp_path / "d") == []
        assert ringwal("consumer", "ls", tmp_path / "d").stdout == b""


def test_a_name_is_shown_as_a_terminal_may_have_it(served: Path) -> None:
    with library.connect(served) as client:
        client.consumer("\u202ebad", ["orders"]).close()
    for arguments in (("ls", served), ("info", served, "\u202ebad"), ("rm", served, "\u202ebad", "--dry-run")):
        done = ringwal("consumer", *arguments)
        assert done.returncode == 0
        assert "\u202e" not in done.stdout.decode()
    assert "\u202e" not in ringwal("stat", served, "orders").stdout.decode()


@pytest.mark.parametrize(
    ("position", "offset"), [("5", 5), ("1", 1), ("earliest", 0), ("latest", 10), ("10", 10), ("1h", 0), ("2100-01-01", 10)]
)
def test_a_position_is_moved_and_whoever_had_it_is_fenced(served: Path, position: str, offset: int) -> None:
    with library.connect(served) as client:
        consumer = client.consumer("billing", ["orders", "refunds"])
        record = next(one for one in consumer.poll(20, WAIT) if one.stream == "refunds")
        done = ringwal("consumer", "seek", served, "billing", "orders", position)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.decode().startswith(f"billing: goes on at {offset} in orders, before at 3; whoever had it is fenced")
        with pytest.raises(library.ConsumerFenced):  # also in its other stream
            consumer.commit(record)
        assert committed(served) == {"orders": offset, "refunds": 0}
        with client.consumer("billing", ["orders"]) as newer:
            assert [one.offset for one in newer.poll(20)] == list(range(offset, 10))
    [said] = asked("consumer", "seek", served, "billing", "orders", "2")
    assert said == {"name": "billing", "stream": "orders", "committed": 2, "before": offset}


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_moved_position_is_there_in_the_next_engines(tmp_path: Path, end: signal.Signals) -> None:
    with serving(tmp_path / "d") as host:
        fill(tmp_path / "d")
        asked("consumer", "seek", tmp_path / "d", "billing", "orders", "1")
        asked("consumer", "seek", tmp_path / "d", "billing", "refunds", "latest")
        host.send_signal(end)
        host.wait(WAIT)
    for _ in range(2):  # which find it in the log, and in a checkpoint
        with serving(tmp_path / "d"):
            assert committed(tmp_path / "d") == {"orders": 1, "refunds": 4}
        assert ringwal("verify", tmp_path / "d", "--deep").returncode == 0


def test_a_consumer_is_removed_and_fenced(served: Path) -> None:
    ringwal("configure", served, "orders", "--retain-until", "billing")
    with library.connect(served) as client:
        consumer = client.consumer("billing", ["orders"])
        record = consumer.poll(1)[0]
        before = committed(served)
        [said] = asked("consumer", "rm", served, "billing", "--dry-run")
        assert said == {"name": "billing", "streams": ["orders", "refunds"], "holds": ["orders"], "dry_run": True}
        text = ringwal("consumer", "rm", served, "billing", "--dry-run").stdout.decode()
        assert text == "billing: would be removed, with its positions in 2 streams; kept whole for it: orders\n"
        assert committed(served) == before
        consumer.commit(record)  # nobody was fenced by a dry run
        [said] = asked("consumer", "rm", served, "billing")
        assert said == {"name": "billing", "streams": ["orders", "refunds"], "holds": ["orders"], "dry_run": False}
        assert committed(served) == {}
        with pytest.raises(library.ConsumerFenced, match="deleted"):
            consumer.commit(consumer.poll(1)[0])


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("info", "nobody"), os.EX_NOINPUT, b"no consumer named 'nobody'; `ringwal consumer ls`"),
        (("seek", "nobody", "orders", "0"), os.EX_NOINPUT, b"no consumer named 'nobody'"),
        (("rm", "nobody"), os.EX_NOINPUT, b"no consumer named 'nobody'"),
        (("rm", "nobody", "--dry-run"), os.EX_NOINPUT, b"no consumer named 'nobody'"),
        (("seek", "billing", "other", "0"), os.EX_NOINPUT, b"no position in stream 'other'; it reads 'orders', 'refunds'"),
        (("seek", "billing", "absent", "0"), os.EX_NOINPUT, b"no position in stream 'absent'"),
        (("seek", "billing", "orders", "11"), os.EX_NOINPUT, b"the next record gets 10"),
        (("seek", "billing", "orders", "1"), os.EX_NOINPUT, b"the oldest record that is kept has 2"),
        (("seek", "billing", "orders", "soon"), 2, b"or an offset, earliest, or latest"),
        (("seek", "billing", "orders"), 2, b"POSITION"),
        (("start", "billing"), 2, b"There are: info, ls, rm, seek"),
    ],
)
def test_what_is_wrong_is_said_and_fences_nobody(served: Path, arguments: tuple[str, ...], code: int, says: bytes) -> None:
    with library.connect(served) as client:
        client.stream("other").append(b"x").result(WAIT)
        client.stream("orders").trim(2)
    done = ringwal("consumer", arguments[0], served, *arguments[1:])
    assert (done.returncode, done.stdout) == (code, b"")
    assert says in b" ".join(done.stderr.split())
    assert {row["claimed"] for row in asked("consumer", "ls", served)} == {1}


@pytest.mark.parametrize("arguments", [("ls",), ("info", "billing"), ("seek", "billing", "orders", "0"), ("rm", "billing")])
def test_without_an_engine_69(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = ringwal("consumer", arguments[0], tmp_path, *arguments[1:], "--json")
    assert (done.returncode, done.stdout) == (os.EX_UNAVAILABLE, b"")
    assert json.loads(done.stderr)["error"] == "NotRunning"


@pytest.mark.parametrize("verb", ["ls", "info", "seek", "rm"])
def test_every_verb_has_json_and_help(verb: str) -> None:
    done = ringwal("consumer", verb, "--help")
    assert done.returncode == 0
    assert b"--json" in done.stdout
    assert (b"fences" in done.stdout) == (verb in ("seek", "rm"))


# ------------------------------------------------------------------------------------------------- stat and status


def test_stat_shows_the_consumers_of_a_stream(served: Path) -> None:
    with library.connect(served) as client:
        client.consumer("audit", ["refunds"]).close()
    [found] = asked("stat", served, "refunds")
    assert found["consumers"] == [
        {"name": "audit", "committed": 0, "lag": 4}, {"name": "billing", "committed": 0, "lag": 4},
    ]  # fmt: skip
    shown = dict(line.split(maxsplit=1) for line in ringwal("stat", served, "orders").stdout.decode().splitlines())
    assert shown["consumers"] == "billing at 3 (lag 7)"
    [offline] = asked("stat", served, "orders", "--offline")
    assert offline["consumers"] is None
    assert b"consumers" not in ringwal("stat", served, "orders", "--offline").stdout


def test_status_counts_consumers_and_names_who_holds_what(served: Path) -> None:
    [facts] = asked("status", served)
    assert (facts["consumers"], facts["space"]["held_by"]) == ({"count": 1, "largest_lag": 7}, [])
    with library.connect(served) as client:
        client.stream("orders").configure(retain_until=["billing", "audit"])
        held = {"stream": "orders", "start_offset": 0, "consumers": ["billing", "audit"]}
        [facts] = asked("status", served)
        assert facts["space"]["held_by"] == [{**held, "held_from": 0, "slowest": ["audit"], "missing": ["audit"]}]
        with client.consumer("audit", ["orders"]) as audit:
            audit.commit(audit.poll(8)[-1])
        [facts] = asked("status", served)
        assert facts["space"]["held_by"] == [{**held, "held_from": 3, "slowest": ["billing"], "missing": []}]
        assert facts["consumers"] == {"count": 2, "largest_lag": 7}
        client.stream("orders").trim(5)
        [facts] = asked("status", served)
        assert [row["held_from"] for row in facts["space"]["held_by"]] == [5]
        assert facts["consumers"]["largest_lag"] == 5
    shown = dict(line.split(maxsplit=1) for line in ringwal("status", served).stdout.decode().splitlines())
    assert (shown["consumers.count"], shown["space.held_by.0.slowest"]) == ("2", '["billing"]')


def test_consumers_of_an_engine_that_does_not_answer_are_counted(tmp_path: Path) -> None:
    with serving(tmp_path / "d") as host:
        fill(tmp_path / "d")
        freeze(host.pid)
        try:
            done = ringwal("status", tmp_path / "d", "--json", "--timeout", "0.5")
        finally:
            os.kill(host.pid, signal.SIGCONT)
        assert done.returncode == os.EX_TEMPFAIL
        assert json.loads(done.stdout)["consumers"] == {"count": 1, "largest_lag": 7}


# ------------------------------------------------------------------------------------------------------------ dump


def test_dump_shows_claims_and_commits(served: Path) -> None:
    ringwal("consumer", "rm", served, "billing")
    assert ringwal("stop", served).returncode == 0
    frames = [frame for block in asked("dump", served) for frame in block.get("frames", ()) if "consumer" in frame]
    mine = [frame for frame in frames if frame["stream"] == "orders"]
    assert {frame["consumer"]["name"] for frame in mine} == {"billing"}
    assert [(one["kind"], one["consumer"]["epoch"], one["consumer"]["position"], one.get("commits", -1)) for one in mine] == [
        ("claim", 1, 0, -1), ("commit", 1, 0, 1), ("commit", 1, 1, 2), ("commit", 1, 2, 3),
        ("claim", 2, 3, -1), ("commit", 2, 3, None),
    ]  # fmt: skip
    shown = ringwal("dump", served).stdout.decode()
    number = mine[0]["consumer"]["number"]
    assert f"commit orders (0): at 10, consumer billing ({number}), epoch 1, from 2 to 3, 8 bytes" in shown
    assert f"commit orders (0): at 10, consumer billing ({number}), epoch 2, from 3, forgotten, 8 bytes" in shown
