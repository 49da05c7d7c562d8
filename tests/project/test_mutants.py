"""The campaign's mutants fit the code as it is now: each finds its one place, still compiles, and names evidence there is.

Whether the evidence goes red is for the campaign itself: `python -m tests.faults --only mutants --tier release`.
"""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.faults import build
from tests.faults.__main__ import GROUPS
from tests.faults.mutants import MUTANTS
from tests.faults.mutation import Mutant
from tests.support.host import ROOT

COMPILER = shutil.which("cc") or shutil.which("gcc")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_fits_and_compiles(mutant: Mutant, tmp_path: Path) -> None:
    changed = mutant.applied((ROOT / mutant.file).read_text())
    if mutant.file.endswith(".py"):
        compile(changed, mutant.file, "exec")
        return
    if COMPILER is None:
        pytest.skip("needs a C compiler")
    source = tmp_path / Path(mutant.file).name
    source.write_text(changed)
    command = [COMPILER, "-fsyntax-only", "-std=gnu11", "-Werror=implicit-function-declaration", "-I", str(ROOT / "csrc")]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_names_are_told_apart() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names)


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a mutant is put into."""
    return build.copy(tmp_path_factory.mktemp("copy"))


@pytest.mark.parametrize("evidence", sorted({mutant.caught_by for mutant in MUTANTS}), ids=lambda words: words[-1])
def test_what_has_to_notice_exists(evidence: tuple[str, ...], copied: Path) -> None:
    if evidence[1] == "pytest":
        path, _, test = evidence[-1].partition("::")
        assert (copied / path).exists(), path
        assert not test or re.search(rf"^def {test}\(", (copied / path).read_text(), re.MULTILINE), test
        return
    said = dict(zip(evidence[2::2], evidence[3::2], strict=True))
    rows = importlib.import_module(f"tests.faults.{GROUPS[said['--only']]}").faults(said["--tier"])
    assert sum(said["--row"] in row.name for row in rows) == 1, said
