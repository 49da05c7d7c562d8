"""What a consumer may commit: what was given out, and nothing beyond a stream's end, which would cost the lane."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import ringwal
from tests.support.rig import WAIT, Engine


@pytest.fixture
def client(tmp_path: Path) -> Iterator[ringwal.Client]:
    engine = Engine(tmp_path / "d")
    try:
        with ringwal.connect(tmp_path / "d", timeout=WAIT) as client:
            client.stream("in").append_many([b"%d" % n for n in range(5)]).result(WAIT)
            yield client
    finally:
        engine.close()


def forged(offset: int) -> ringwal.StreamRecord:
    return ringwal.StreamRecord(offset, b"", 0, None, "in")


@pytest.mark.parametrize("offset", [3, 4, 77, 1 << 62, -7])
def test_a_record_that_was_not_given_out_is_not_committed(client: ringwal.Client, offset: int) -> None:
    consumer = client.consumer("c", ["in"])
    seen = consumer.poll(3)
    consumer.commit(seen[0], wait=False)
    pending = client.stream("in").append(b"x")
    for wait in (True, False):
        with pytest.raises(ValueError, match="has not given out"):
            consumer.commit(forged(offset), wait=wait)
    with pytest.raises(ValueError, match="has not given out"), client.batch() as batch:
        batch.commit(consumer, forged(offset))
    assert pending.result(WAIT).offset == 5  # its lane is as it was
    consumer.commit()
    assert consumer.committed == {"in": 3}


def test_nothing_beyond_the_end_is_sought(client: ringwal.Client) -> None:
    consumer = client.consumer("c", ["in"])
    with pytest.raises(ValueError, match="the next record gets 5"):
        consumer.seek("in", 6)
    consumer.seek("in", 5)
    consumer.commit()
    assert client.consumers()[0].committed == 5


def test_what_was_given_out_before_a_seek_may_be_committed(client: ringwal.Client) -> None:
    consumer = client.consumer("c", ["in"])
    seen = consumer.poll(4)
    consumer.seek("in", 1)
    consumer.commit(seen[3])
    assert consumer.committed == {"in": 4}


def test_a_commit_in_a_batch_is_behind_what_was_sent_before(client: ringwal.Client) -> None:
    consumer = client.consumer("c", ["in"])
    seen = consumer.poll(5)
    consumer.commit(seen[0], wait=False)
    with client.batch() as batch:
        batch.append("out", b"x")
        batch.commit(consumer, seen[3])
    assert consumer.committed == {"in": 4}
    assert client.consumers()[0].committed == 4
