"""Durable, ordered appends to many streams by many processes of one host."""

from ringwal import interrupts  # noqa: F401  first: for a verb, signals have a meaning from here on
from ringwal.client.api import Client, connect
from ringwal.client.batch import Batch, BatchReceipt
from ringwal.client.consumer import Consumer
from ringwal.client.producer import Producer, ProducerReceipt
from ringwal.client.receipt import Receipt
from ringwal.client.stream import Stream
from ringwal.config import Config
from ringwal.errors import (
    AckTimeout,
    BackpressureTimeout,
    ClosedError,
    ConfigError,
    ConsumerFenced,
    CorruptionError,
    EngineFailed,
    Error,
    FileError,
    ForkError,
    Locked,
    NoSuchStream,
    NotRunning,
    NotWritable,
    OffsetMismatch,
    OffsetTrimmed,
    ProducerFenced,
    RecordTooLarge,
    SequenceGap,
    ShmUnavailable,
    StorageFull,
    StreamDeleted,
    StreamExists,
    VersionMismatch,
)
from ringwal.model import EARLIEST, LATEST, Ack, ConsumerInfo, Last, Record, StreamInfo, StreamRecord
from ringwal.retention import UNCHANGED
from ringwal.times import At
from ringwal.version import __version__

TYPE_CHECKING = False  # type checkers know better
if TYPE_CHECKING:
    from ringwal.backups import Backup, Restored, backup, restore
    from ringwal.offline import ReadOnlyLog, ReadOnlyStream, open_readonly
    from ringwal.processes.supervisor import Supervisor

__all__ = [
    "EARLIEST",
    "LATEST",
    "UNCHANGED",
    "Ack",
    "AckTimeout",
    "At",
    "BackpressureTimeout",
    "Backup",
    "Batch",
    "BatchReceipt",
    "Client",
    "ClosedError",
    "Config",
    "ConfigError",
    "Consumer",
    "ConsumerFenced",
    "ConsumerInfo",
    "CorruptionError",
    "EngineFailed",
    "Error",
    "FileError",
    "ForkError",
    "Last",
    "Locked",
    "NoSuchStream",
    "NotRunning",
    "NotWritable",
    "OffsetMismatch",
    "OffsetTrimmed",
    "Producer",
    "ProducerFenced",
    "ProducerReceipt",
    "ReadOnlyLog",
    "ReadOnlyStream",
    "Receipt",
    "Record",
    "RecordTooLarge",
    "Restored",
    "SequenceGap",
    "ShmUnavailable",
    "StorageFull",
    "Stream",
    "StreamDeleted",
    "StreamExists",
    "StreamInfo",
    "StreamRecord",
    "Supervisor",
    "VersionMismatch",
    "__version__",
    "backup",
    "connect",
    "open_readonly",
    "restore",
]


def __dir__() -> list[str]:
    return sorted({*__all__, *({"aio", "logging"} & globals().keys())})  # these two, where they are imported


def __getattr__(name: str) -> object:
    # The supervisor's machinery is of no use to a client, and clients are many; nor is what recovers a log to read it.
    if name == "Supervisor":
        from ringwal.processes.supervisor import Supervisor

        return Supervisor
    if name in ("Backup", "Restored", "backup", "restore"):
        from ringwal import backups

        return getattr(backups, name)
    if name in ("ReadOnlyLog", "ReadOnlyStream", "open_readonly"):
        from ringwal import offline

        return getattr(offline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
