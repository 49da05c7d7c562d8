"""What the README shows is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from ringwal import errors
from ringwal.config import settings

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()


def test_the_example_runs_and_finds_every_record(tmp_path: Path) -> None:
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert example is not None
    assert len([line for line in example[1].splitlines() if line.strip()]) <= 12
    program = tmp_path / "example.py"
    program.write_text(example[1])
    done = subprocess.run(
        [sys.executable, program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Ack(stream='orders'") == 4  # the processes' prints may mix within a line
    assert done.stdout.endswith("4000 records, in order\n")


def test_every_setting_stands_in_the_table_with_its_default() -> None:
    for setting in settings():
        row = rf"^\| `{setting.flag}` \| {re.escape(setting.format())} \|"
        assert re.search(row, README, re.MULTILINE), setting.name


def test_every_error_stands_in_the_table_with_its_standard_exception_and_outcome() -> None:
    for name, cls in vars(errors).items():
        if not (isinstance(cls, type) and issubclass(cls, errors.Error)) or cls is errors.Error:
            continue
        row = re.search(rf"^\| `{name}` \|(.*)$", README, re.MULTILINE)
        assert row is not None, name
        standard, outcome, retriable, _ = (cell.strip() for cell in row[1].strip("|").split("|"))
        bases = [base.__name__ for base in cls.__bases__ if base is not errors.Error]
        assert standard == "".join(f"`{base}`" for base in bases)
        assert retriable.startswith("yes" if cls.retriable else "no")
        said = (cls.outcome or "").replace("_", " ")
        assert outcome.startswith(said) if said else not outcome, name
