"""What tests of readers stand on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.log_maker import LogMaker


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LogMaker]:
    """A log that a test makes block by block."""
    maker = LogMaker(tmp_path)
    maker.begin_epoch()
    yield maker
    maker.close()
