"""Pools of processes, by hand and of the standard library: with a client from before, one of their own, or one passed on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import ringwal
from tests.support import rig
from tests.support.programs import Program, script
from tests.support.rig import Engine

PREFORK = """
import os, signal, sys, ringwal

client = ringwal.connect(sys.argv[1], timeout=30.0)
orders = client.stream("orders")
orders.append(b"by the master")
pending = orders.append(b"by the master, too")
tasks, done = os.pipe(), os.pipe()

def work():
    try:
        assert pending.result().offset == 1, "confirmed before the fork"
    except ringwal.ForkError as error:
        assert error.outcome == "unknown"
    n = 0
    while task := os.read(tasks[0], 1):
        mine = b"%d %d" % (os.getpid(), n)
        ack = orders.append(mine).result()
        assert [record.data for record in orders.read(ack.offset, 1)] == [mine]
        os.write(done[1], task)
        n += 1

def begin():
    pid = os.fork()
    if pid == 0:
        os.close(tasks[1])
        code = 1
        try:
            work()
            code = 0
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    return pid

def confirm(count):
    left = count
    os.write(tasks[1], b"t" * count)
    while left:
        left -= len(os.read(done[0], left))

workers = [begin() for _ in range(4)]
confirm(100)
killed = workers.pop()
os.kill(killed, signal.SIGKILL)
os.waitpid(killed, 0)
workers.append(begin())
confirm(100)
assert pending.result().offset == 1, "its own the master has"
orders.append(b"by the master, at last").result()
os.close(tasks[1])
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in workers]
assert codes == [0] * 4, codes
client.close()
"""


def test_a_pool_that_is_forked_by_hand(directory: Path, tmp_path: Path, start: Callable[..., Engine]) -> None:
    start()
    with Program(script(tmp_path, "prefork.py", PREFORK), directory, place=tmp_path) as program:
        program.check()
    with ringwal.connect(directory) as client:
        records = [record.data.decode() for record in client.stream("orders").records()]
        assert records[:2] == ["by the master", "by the master, too"]
        assert records.pop() == "by the master, at last"
        assert len(records) == 202
        rows = [record.split() for record in records[2:]]
        for pid in {row[0] for row in rows}:
            numbers = [int(n) for worker, n in rows if worker == pid]
            assert numbers == list(range(len(numbers)))
        rig.until(lambda: client.status()["clients_attached"] == 0, "nothing of the pool is attached any more")


POOL = """
import concurrent.futures, multiprocessing, os, sys, ringwal

directory, method = sys.argv[1:]
TASKS = 200

def by_initializer(directory):
    global mine
    mine = ringwal.connect(directory, timeout=30.0).stream("orders")

def with_mine(n):
    return mine.append(b"initializer %d" % n).result(30.0)

def with_client(client, n):
    return client.stream("orders").append(b"client %d" % n).result(30.0)

def with_stream(stream, n):
    return stream.append(b"stream %d" % n).result(30.0)

def batch(stream, n):
    return stream.append_many([b"batch %d" % n, b"of two"]).result(30.0)

def refused(stream):
    return stream.append(bytes(1 << 20))

def process(client, n):
    with client:
        client.stream("orders").append(b"process %d" % n).result(30.0)

def check(acks, count=1):
    assert len({ack.offset for ack in acks}) == TASKS
    assert {ack.count for ack in acks} == {count}

if __name__ == "__main__":
    context = multiprocessing.get_context(method)
    with ringwal.connect(directory, timeout=30.0) as client:
        orders = client.stream("orders")
        orders.append(b"first").result(30.0)

        with context.Pool(3, by_initializer, (directory,), maxtasksperchild=40) as pool:
            check(pool.map(with_mine, range(TASKS), chunksize=4))
            check(pool.starmap(with_stream, [(orders, n) for n in range(TASKS)], chunksize=4))
            pool.close()
            pool.join()

        with concurrent.futures.ProcessPoolExecutor(3, context, by_initializer, (directory,)) as pool:
            check(list(pool.map(with_mine, range(TASKS))))
            check([f.result() for f in [pool.submit(with_client, client, n) for n in range(TASKS)]])
            check([f.result() for f in [pool.submit(batch, orders, n) for n in range(TASKS)]], 2)
            try:
                pool.submit(refused, orders).result()
            except ringwal.RecordTooLarge as error:
                assert (error.outcome, error.limit) == ("not_appended", 32 << 10), error
            else:
                raise AssertionError("a megabyte is too large here")

        processes = [context.Process(target=process, args=(client, n)) for n in range(TASKS // 50)]
        for each in processes:
            each.start()
        for each in processes:
            each.join()
            assert each.exitcode == 0
        assert orders.append(b"last").result(30.0).offset == 1 + 6 * TASKS + TASKS // 50
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_pools_of_the_standard_library(
    directory: Path, tmp_path: Path, start: Callable[..., Engine], method: str
) -> None:
    start()
    with Program(script(tmp_path, "pool.py", POOL), directory, method, place=tmp_path) as program:
        program.check()
        assert program.said() == ""
    with ringwal.connect(directory) as client:
        records = [record.data.decode() for record in client.stream("orders").records()]
        wanted = {"first": 1, "last": 1, "of two": 200}
        wanted |= {f"{how} {n}": 1 for how in ("initializer", "client", "stream", "batch") for n in range(200)}
        wanted |= {f"initializer {n}": 2 for n in range(200)} | {f"process {n}": 1 for n in range(4)}
        assert {record: records.count(record) for record in records} == wanted
        rig.until(lambda: client.status()["clients_attached"] == 0, "nothing of the pools is attached any more")
