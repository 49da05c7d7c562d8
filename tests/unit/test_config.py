"""Settings are checked when they are made, and the message says what to change."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ringwal._native import ffi, lib
from ringwal.config import (
    BLOCK_LIMIT_MAX,
    GIB,
    KIB,
    MIB,
    PAGE,
    STREAM_DEFINITION_BYTES,
    Config,
    format_size,
    from_text,
    next_power_of_two,
    parse_size,
    settings,
)
from ringwal.errors import ConfigError

SMALL: dict[str, Any] = {"ring_bytes": MIB, "segment_bytes": 4 * MIB, "max_streams": 256}


def test_defaults_and_the_smallest_sizes_are_legal() -> None:
    assert Config().confirm_order == "stream"
    Config(**SMALL)


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().ring_bytes = MIB  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"ring_bytes": 3 * MIB}, "power of two .* 4194304"),
        ({"ring_bytes": MIB // 2}, "power of two"),
        ({"ring_bytes": 0}, "power of two"),
        ({"ring_bytes": -MIB}, "power of two"),
        ({"ring_bytes": 4 * GIB}, "power of two"),
        ({"lane_bytes": 65 * KIB}, "131072"),
        ({"lane_bytes": 2 * GIB}, "1073741824"),
        ({"max_outstanding": 1000}, "1024"),
        ({"max_clients": 0}, "max_clients is 0"),
        ({"max_streams": 0}, "max_streams is 0"),
        ({"segment_bytes": 64 * MIB + 1}, "multiple of 1048576, for example 68157440"),
        ({"segments_ahead": 0}, "segments_ahead"),
        ({"block_bytes": 5000}, "multiple of 4096, for example 8192"),
        ({"blocks_in_flight": 0}, "blocks_in_flight"),
        ({"blocks_in_flight": 65}, "blocks_in_flight"),
        ({"confirm_order": "lane"}, "stream, log"),
        ({"direct_io": "maybe"}, "auto, on, off"),
        ({"wal_spin": -1.0}, "wal_spin"),
        ({"stop_timeout": 0}, "stop_timeout"),
        ({"min_free_bytes": -1}, "min_free_bytes"),
        ({"max_log_bytes": 1.5}, "whole number"),
        ({"on_full": "burn"}, "refuse, drop_oldest"),
        ({"max_restarts": -1}, "max_restarts"),
        ({"max_clients": True}, "whole number"),
        ({"max_clients": 1.5}, "whole number"),
        ({"wal_spin": "fast"}, "number of seconds"),
    ],
)
def test_a_value_outside_its_limits_is_refused_by_name(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(values))}.*{says}|{says}"):
        Config(**values)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"max_log_bytes": 256 * MIB}, "max_log_bytes .*less than 4 segments .*257MiB, or lower segment_bytes"),
        ({"max_log_bytes": 60 * MIB}, "of a log that was made with smaller ones, say its segment_bytes"),
        ({"max_log_bytes": GIB, "segments_ahead": 16}, "less than 19 segments"),
        ({"on_full": "drop_oldest"}, "no limit: set max_log_bytes or min_free_bytes"),
        ({"lane_quota_bytes": 2 * MIB}, r"lane_quota_bytes .*2MiB.* block_bytes .*1MiB"),
        ({"ring_bytes": 64 * MIB}, "raise segment_bytes to 69MiB, or lower ring_bytes or max_streams"),
        ({**SMALL, "max_streams": 16384}, "raise segment_bytes to 6MiB"),
        ({"ring_bytes": 128 * MIB, "segment_bytes": GIB, "block_bytes": 32 * MIB}, r"block_bytes \(32MiB\) .* lower .* to 10M"),
        ({"ring_bytes": 64 * MIB, "lane_quota_bytes": 2 * MIB}, "lane_quota_bytes .*; raise segment_bytes to 69MiB"),
    ],
)
def test_settings_that_contradict_each_other_say_what_to_change(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Config(**values)


def test_blocks_may_be_as_large_as_their_requests_can_be_counted() -> None:
    most = 1 + (BLOCK_LIMIT_MAX + PAGE) // ffi.sizeof("rw_frame")
    assert most <= lib.RW_PENDING_MAX < most + PAGE
    large: dict[str, Any] = {"ring_bytes": 128 * MIB, "segment_bytes": GIB}
    assert Config(**large, block_bytes=BLOCK_LIMIT_MAX).block_limit == BLOCK_LIMIT_MAX
    with pytest.raises(ConfigError, match="block_bytes"):
        Config(**large, block_bytes=BLOCK_LIMIT_MAX + PAGE)
    assert Config(block_bytes=GIB).block_limit == 8 * MIB  # the ring makes them smaller


def test_the_advised_segment_size_is_the_smallest_that_is_legal() -> None:
    Config(ring_bytes=64 * MIB, segment_bytes=69 * MIB)
    with pytest.raises(ConfigError):
        Config(ring_bytes=64 * MIB, segment_bytes=68 * MIB)


def test_what_was_not_said_gives_way_to_what_the_log_was_made_with() -> None:
    assert Config().fitted(64 * MIB, 32 * MIB) == Config()
    small = Config().fitted(4 * MIB, MIB)
    assert (small.segment_bytes, small.ring_bytes) == (4 * MIB, MIB)
    assert small.max_streams == (4 - 1 - 1) * MIB // STREAM_DEFINITION_BYTES
    assert Config().fitted(128 * MIB, 64 * MIB) == Config(segment_bytes=128 * MIB)
    assert Config(max_streams=100).fitted(4 * MIB, MIB) == Config(ring_bytes=MIB, segment_bytes=4 * MIB, max_streams=100)


def test_a_text_is_held_against_the_log_that_is_there() -> None:
    assert from_text({"max_log_bytes": "17MiB"}, (4 * MIB, MIB)) == dataclasses.replace(
        Config().fitted(4 * MIB, MIB), max_log_bytes=17 * MIB
    )
    assert from_text({"ring_bytes": "128MiB"}, (256 * MIB, MIB)).segment_bytes == 256 * MIB
    with pytest.raises(ConfigError, match="less than 4 segments take: raise it to 17MiB"):
        from_text({"max_log_bytes": "16MiB"}, (4 * MIB, MIB))
    with pytest.raises(ConfigError, match="raise it to 257MiB"):
        from_text({"max_log_bytes": "17MiB", "segment_bytes": "64MiB"}, (4 * MIB, MIB))


def test_what_was_said_does_not_give_way() -> None:
    assert Config(segment_bytes=64 * MIB).fitted(4 * MIB, MIB).segment_bytes == 64 * MIB  # for recovery to refuse
    with pytest.raises(ConfigError, match=r"segment_bytes \(4MiB\) .*lower ring_bytes"):
        Config(ring_bytes=32 * MIB).fitted(4 * MIB, MIB)
    with pytest.raises(ConfigError, match=r"lower ring_bytes or max_streams"):
        Config(max_streams=16384).fitted(4 * MIB, MIB)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096), ("0", 0), ("64KiB", 64 * KIB), ("64 MiB", 64 * MIB), ("1GiB", GIB), ("1.5k", 1536), ("2m", 2 * MIB),
        ("7B", 7), (" 1g ", GIB), ("2TiB", 2 << 40), ("1t", 1 << 40),
    ],
)  # fmt: skip
def test_sizes_are_written_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "64MB", "64kb", "-1", "1e6", "0.3", "1PiB", "64MiB64", "nan"])
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_size(text)


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 64 * KIB, 3 * MIB, 5 * GIB, GIB + 1, 3 << 40])
def test_a_formatted_size_parses_back(size: int) -> None:
    assert parse_size(format_size(size)) == size


def test_every_setting_has_a_flag_a_help_text_and_a_default_that_parses() -> None:
    for setting in settings():
        assert setting.help.endswith(".")
        assert setting.flag == "--" + setting.name.replace("_", "-")
        assert setting.parse(setting.format()) == setting.default
    assert [setting.name for setting in settings()] == [field.name for field in dataclasses.fields(Config)]


def test_a_config_from_texts() -> None:
    sizes = {"ring_bytes": "1MiB", "segment_bytes": "4MiB", "max_streams": "256"}
    config = from_text({**sizes, "wal_spin": "1e-5", "direct_io": None})
    assert config == Config(**SMALL, wal_spin=1e-5)
    with pytest.raises(ConfigError, match="no such setting: colour"):
        from_text({"colour": "red"})
    with pytest.raises(ConfigError, match="max_clients is 'many'"):
        from_text({"max_clients": "many"})


@pytest.mark.parametrize(("value", "power"), [(0, 1), (1, 1), (2, 2), (3, 4), (4096, 4096), (4097, 8192)])
def test_next_power_of_two(value: int, power: int) -> None:
    assert next_power_of_two(value) == power


def test_a_small_ring_makes_blocks_smaller() -> None:
    assert Config().block_limit == MIB
    assert Config(**SMALL).block_limit == SMALL["ring_bytes"] // 4
