"""Settings of an engine: frozen, and checked against each other the moment they are made.

The table of fields is the only place that knows a setting's name, default, unit and help text; the command line makes
its flags from it (`settings()`).
"""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Literal, TypeAlias, cast

from ringwal._native import ffi, lib
from ringwal.errors import ConfigError
from ringwal.limits import SECONDS_MAX, shown, whole
from ringwal.times import duration_ns

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
PAGE = 4096

LANE_BYTES_MIN = 64 * KIB
LANE_BYTES_MAX = GIB
# What one stream's definition takes in the log: a record header and the longest name, rounded up.
STREAM_DEFINITION_BYTES = 88 + 128
# Block headers and padding of carried records, over and above their content.
CARRY_SLACK_BYTES = MIB
BLOCK_LIMIT_MAX = ((lib.RW_PENDING_MAX - 1) * ffi.sizeof("rw_frame") - PAGE) // PAGE * PAGE
"""As csrc/log_ring.c reckons: a block of `n` bytes has at most 1 + (n + PAGE) / sizeof(rw_frame) requests."""

Kind: TypeAlias = Literal["bytes", "seconds", "count", "choice", "duration"]
_SECOND_NS = 1_000_000_000


class Unsaid(int):
    """A default that gives way to what a log was made with (`fitted`), where the same number, said, would contradict it."""


def _setting(default: Any, kind: Kind, help_text: str, choices: tuple[str, ...] = ()) -> Any:
    return dataclasses.field(default=default, metadata={"kind": kind, "help": help_text, "choices": choices})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of one engine. Sizes in bytes, times in seconds.

    Raises:
        ConfigError: a value is outside its limits or contradicts another; the message says what to change.
    """

    ring_bytes: int = _setting(
        Unsaid(32 * MIB), "bytes", "Log ring: bounds what is in flight, and what is read without the disk. Power of two."
    )
    lane_bytes: int = _setting(
        2 * MIB, "bytes", "Lane of a client that asks for no other size; a record may take half. Power of two."
    )
    max_clients: int = _setting(128, "count", "Clients attached at the same time.")
    max_outstanding: int = _setting(2048, "count", "Unconfirmed appends of one client. Power of two.")
    max_streams: int = _setting(Unsaid(16384), "count", "Streams this engine can hold.")
    max_producers: int = _setting(1024, "count", "Producers, and positions of consumers, this engine remembers.")
    producer_age: float = _setting(
        7 * 86400.0, "seconds", "A producer that was silent for so long may be forgotten, if another one needs its place."
    )
    segment_bytes: int = _setting(
        Unsaid(64 * MIB), "bytes", "Size of a segment file, fixed with the first start. Multiple of 1 MiB."
    )
    segments_ahead: int = _setting(
        1, "count", "Segments filled with zeros before they are needed: a burst that fits into them goes into written space."
    )
    max_log_bytes: int | None = _setting(
        None, "bytes", "The segments never take more than this."
    )
    on_full: str = _setting(
        "refuse", "choice", "With no room for a segment appends wait, or the oldest records go.",
        ("refuse", "drop_oldest"),
    )
    min_free_bytes: int = _setting(0, "bytes", "No segment is made that would leave less on the file system.")
    retention_age: str | float | None = _setting(
        None, "duration", "Of streams that say nothing else: older records go."
    )
    retention_bytes: int | None = _setting(
        None, "bytes", "Of streams that say nothing else: payload beyond the newest so many bytes goes."
    )
    retention_records: int | None = _setting(
        None, "count", "Of streams that say nothing else: records beyond the newest so many go."
    )
    block_bytes: int = _setting(MIB, "bytes", "A block is written at this size, or a quarter of the ring, at the latest.")
    blocks_in_flight: int = _setting(8, "count", "Blocks written at the same time.")
    lane_quota_bytes: int = _setting(64 * KIB, "bytes", "What one lane may add before the next lane's turn.")
    pipeline_bytes: int = _setting(
        64 * KIB, "bytes", "While a block is being written, another one is opened only for this much."
    )
    linger_us: int = _setting(
        0, "count", "Microseconds that a small block may wait for more, as a block takes whole pages; 0: not at all."
    )
    confirm_order: str = _setting(
        "stream", "choice", "Confirm in order within each stream, or in order of the whole log.", ("stream", "log")
    )
    direct_io: str = _setting(
        "auto", "choice", "Write past the page cache: where possible, always, never.", ("auto", "on", "off")
    )
    wal_spin: float = _setting(60e-6, "seconds", "How long the WAL process watches for work before it sleeps.")
    max_restarts: int = _setting(10, "count", "Replacements within the restart window before the engine gives up.")
    restart_window: float = _setting(60.0, "seconds", "Length of the restart window.")
    stop_timeout: float = _setting(30.0, "seconds", "How long an orderly stop may take before the engine is killed.")

    def __post_init__(self) -> None:
        self._check_types()
        self._check_limits()
        self._check_relations()

    def _check_types(self) -> None:
        for setting in settings():
            value = getattr(self, setting.name)
            if setting.kind == "choice":
                if value not in setting.choices:
                    raise ConfigError(f"{setting.name} is {shown(value)}; choose one of {', '.join(setting.choices)}")
            elif setting.kind == "seconds":
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise ConfigError(f"{setting.name} is {shown(value)}; it must be a number of seconds")
            elif value is None and setting.default is None:
                continue
            elif setting.kind == "duration":
                # as a number, however it was said: settings are told to clients, and compared
                object.__setattr__(self, setting.name, age_ns(value, setting.name) / _SECOND_NS)
            elif isinstance(value, bool) or not isinstance(value, int):
                raise ConfigError(f"{setting.name} is {shown(value)}; it must be a whole number")

    def _check_limits(self) -> None:
        self._power_of_two("ring_bytes", MIB, 2 * GIB)
        self._power_of_two("lane_bytes", LANE_BYTES_MIN, LANE_BYTES_MAX)
        self._power_of_two("max_outstanding", 16, 1 << 20)
        self._within("max_clients", 1, 4096)
        self._within("max_streams", 1, 1 << 24)
        self._within("max_producers", 0, 1 << 20)
        self._within("producer_age", 0, 1e9)
        self._within("segments_ahead", 1, 64)
        self._within("blocks_in_flight", 1, lib.RW_WAL_THREADS_MAX)
        self._within("lane_quota_bytes", PAGE, GIB)
        self._within("pipeline_bytes", 1, GIB)
        self._within("linger_us", 0, 100_000)
        self._within("wal_spin", 0, 1)
        self._within("max_restarts", 0, 1000)
        self._within("restart_window", 1, 86400)
        self._within("stop_timeout", 0.1, 86400)
        self._multiple("segment_bytes", MIB, TIB)
        self._multiple("block_bytes", PAGE, GIB)
        self._within("min_free_bytes", 0, 1 << 60)
        if self.max_log_bytes is not None:
            self._within("max_log_bytes", MIB, 1 << 60)
        for name in ("retention_bytes", "retention_records"):
            if getattr(self, name) is not None:
                self._within(name, 1, 1 << 60)

    def _check_relations(self) -> None:
        if wrong := list(self._contradictions()):
            raise ConfigError("; ".join(wrong))

    def _contradictions(self) -> Iterator[str]:
        """Every one, so that nobody finds out about them one by one."""
        unsaid = (
            "; of a log that was made with smaller ones, say its segment_bytes, ring_bytes and max_streams"
            if isinstance(self.segment_bytes, Unsaid) else ""
        )
        if self.lane_quota_bytes > self.block_bytes:
            yield (
                f"lane_quota_bytes ({format_size(self.lane_quota_bytes)}) is more than block_bytes"
                f" ({format_size(self.block_bytes)}); lower the quota or raise block_bytes"
            )
        # A block of nothing but the smallest records must not have more of them than may be pending at all.
        if self.block_limit > BLOCK_LIMIT_MAX:
            yield (
                f"block_bytes ({format_size(self.block_bytes)}) is more than {format_size(BLOCK_LIMIT_MAX)}, which is as much"
                f" as the engine can keep account of, and a quarter of ring_bytes ({format_size(self.ring_bytes)}) is, too;"
                f" lower block_bytes to {BLOCK_LIMIT_MAX // MIB}MiB"
            )
        if self.max_log_bytes is not None and self.max_log_bytes < (least := self.log_bytes_min):
            yield (
                f"max_log_bytes ({format_size(self.max_log_bytes)}) is less than {self._segments_min} segments take: raise it"
                f" to {format_size(_round_up(least, MIB))}, or lower segment_bytes ({format_size(self.segment_bytes)}){unsaid}"
            )
        if self.on_full != "refuse" and self.max_log_bytes is None and not self.min_free_bytes:
            yield f"on_full is {self.on_full!r}, and there is no limit: set max_log_bytes or min_free_bytes"
        # Recovery may carry over a whole ring, and the definitions of streams that are new in it.
        needed = self.ring_bytes + self.max_streams * STREAM_DEFINITION_BYTES + CARRY_SLACK_BYTES
        if self.segment_bytes < needed:
            yield (
                f"segment_bytes ({format_size(self.segment_bytes)}) cannot hold what recovery may write at once:"
                f" ring_bytes ({format_size(self.ring_bytes)}) and the names of max_streams ({self.max_streams});"
                f" raise segment_bytes to {format_size(_round_up(needed, MIB))}, or lower ring_bytes or max_streams"
            )

    @property
    def retention_age_ns(self) -> int | None:
        """`retention_age` in nanoseconds."""
        return None if self.retention_age is None else age_ns(self.retention_age, "retention_age")

    @property
    def block_limit(self) -> int:
        """Bytes at which a block is closed: `block_bytes`, but several blocks have to fit into the ring."""
        return min(self.block_bytes, self.ring_bytes // 4)

    @property
    def _segments_min(self) -> int:
        return max(4, self.segments_ahead + 3)

    @property
    def log_bytes_min(self) -> int:
        """The least that `max_log_bytes` may be: the segment in use, those ahead, and two to be freed while it is written."""
        return self._segments_min * (self.segment_bytes + PAGE)

    def fitted(self, segment_bytes: int, ring_bytes: int) -> Config:
        """For a log with segments of that size, whose latest engine had a ring of that size: what was not said gives way.

        Raises:
            ConfigError: what was said contradicts that.
        """
        said = {setting.name: value for setting in settings() if not isinstance(value := getattr(self, setting.name), Unsaid)}
        return dataclasses.replace(self, **_fitting(said, segment_bytes, ring_bytes))

    def _within(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if not low <= value <= high:
            raise ConfigError(f"{name} is {shown(value)}; it must be between {low} and {high}")

    def _power_of_two(self, name: str, low: int, high: int) -> None:
        value = getattr(self, name)
        if value & (value - 1) or not low <= value <= high:
            best = min(max(next_power_of_two(value), low), high)
            raise ConfigError(f"{name} is {shown(value)}; it must be a power of two from {low} to {high}, for example {best}")

    def _multiple(self, name: str, unit: int, high: int) -> None:
        value = getattr(self, name)
        if not unit <= value <= high or value % unit:
            best = min(max(_round_up(value, unit), unit), high)
            raise ConfigError(f"{name} is {shown(value)}; at most {high}, it must be a multiple of {unit}, for example {best}")


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """One field of Config, as the command line needs it."""

    name: str
    kind: Kind
    default: int | float | str | None
    help: str
    choices: tuple[str, ...]

    @property
    def flag(self) -> str:
        """`--ring-bytes` for ring_bytes."""
        return "--" + self.name.replace("_", "-")

    def parse(self, text: str) -> int | float | str | None:
        """The value that `text` stands for: sizes as `64MiB`, times in seconds, `none` for no limit. Raises ConfigError."""
        if self.default is None and text == "none":
            return None
        if self.kind == "choice":
            return text
        if self.kind == "bytes":
            return parse_size(text)
        if self.kind == "duration":
            return age_ns(text, self.name) / _SECOND_NS
        try:
            return float(text) if self.kind == "seconds" else int(text)
        except ValueError:
            raise ConfigError(f"{self.name} is {shown(text)}; it must be a number") from None

    def format(self) -> str:
        """The default as a person writes it."""
        if self.default is None:
            return "none"
        return format_size(int(self.default)) if self.kind == "bytes" else str(self.default)


def settings() -> tuple[Setting, ...]:
    """Every setting of Config, in the order of their declaration."""
    return tuple(
        Setting(name=field.name, default=cast(Any, field.default), **field.metadata) for field in dataclasses.fields(Config)
    )


def from_text(values: Mapping[str, str | None], log: tuple[int, int] | None = None) -> Config:
    """A Config from texts by setting name; None stands for the default, or for what fits the log that is there: `log` is its
    segment size and the ring of its latest engine, as for `Config.fitted`. Raises ConfigError, also for unknown names."""
    known = {setting.name: setting for setting in settings()}
    unknown = sorted(values.keys() - known.keys())
    if unknown:
        raise ConfigError(f"no such setting: {', '.join(unknown)}")
    parsed: dict[str, Any] = {name: known[name].parse(text) for name, text in values.items() if text is not None}
    return Config(**(parsed if log is None else _fitting(parsed, *log) | parsed))


def _fitting(said: Mapping[str, Any], segment_bytes: int, ring_bytes: int) -> dict[str, Any]:
    """Settings beside those that were said that fit a log with segments of that size and a latest ring of that size."""
    usual = Config()
    if "segment_bytes" in said or segment_bytes == usual.segment_bytes:
        return {}
    ring = said.get("ring_bytes", min(usual.ring_bytes, ring_bytes))
    left = (segment_bytes - ring - CARRY_SLACK_BYTES) // STREAM_DEFINITION_BYTES
    streams = min(usual.max_streams, left) if left > 0 else usual.max_streams
    fit = {"segment_bytes": Unsaid(segment_bytes), "ring_bytes": Unsaid(ring), "max_streams": Unsaid(streams)}
    return {name: value for name, value in fit.items() if name not in said}


def age_ns(value: str | datetime.timedelta | float, name: str) -> int:
    """Nanoseconds of how old a record may become: ``30d``, a timedelta, or a number of seconds. Raises ConfigError."""
    if isinstance(value, str | datetime.timedelta):
        length = duration_ns(value, name, error=ConfigError)
    else:
        number = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= SECONDS_MAX * 10
        length = round(value * _SECOND_NS) if number else 0
    if not 0 < length < 1 << 63:
        raise ConfigError(f"{name} is {shown(value)}; it must be more than nothing, and 292 years at the most")
    return length


def lane_size(value: int | None, *, error: type[ValueError] = ValueError) -> int | None:
    """The lane that a client asks for, in bytes; None: as the engine says. Raises ``error``."""
    return None if value is None else whole(value, "lane_bytes", LANE_BYTES_MIN, LANE_BYTES_MAX, error=error)


_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?b)?|b)?\s*", re.IGNORECASE)
_UNITS = {"": 1, "k": KIB, "m": MIB, "g": GIB, "t": TIB}


def parse_size(text: str) -> int:
    """Bytes meant by `text`: `4096`, `64KiB`, `1.5GiB`; K, M, G and T alone are powers of 1024 too. Raises ConfigError."""
    match = _SIZE.fullmatch(text)
    if match is None or (match[3] or "").lower() == "b":  # MB would be 10**6 to some and 2**20 to others
        raise ConfigError(f"{shown(text)} is not a size; write for example 4096, 64KiB, 64MiB or 1GiB")
    size = Decimal(match[1]) * _UNITS[(match[2] or "").lower()]
    if size != int(size):
        raise ConfigError(f"{shown(text)} is not a whole number of bytes")
    return int(size)


def format_size(size: int) -> str:
    """`size` bytes in the largest unit that leaves no fraction: 67108864 is `64MiB`."""
    for unit, name in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size and size % unit == 0:
            return f"{size // unit}{name}"
    return f"{size}B"


def next_power_of_two(value: int) -> int:
    """The smallest power of two that is not below `value`."""
    return 1 << max(value - 1, 0).bit_length()


def _round_up(value: int, unit: int) -> int:
    return (value + unit - 1) // unit * unit
