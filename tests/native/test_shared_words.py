"""What is made from layout.h is what is committed and what was compiled, and no change of it goes unseen."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringwal._native import ffi, lib
from ringwal.words import WORDS
from tests.support import shared_words

ROOT = Path(__file__).resolve().parents[2]
TEXT = shared_words.source()
LAYOUT = shared_words.parse(TEXT)
COMPILER = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")

# Each alone changes what two processes have to agree on: (what it is, text of layout.h, other text).
CHANGES = [
    ("another name", "uint64_t sealed_end; ", "uint64_t sealed_stop;"),
    ("another type of the same size", "uint32_t wal_error; ", "int32_t wal_error; "),
    ("two words change places", "uint32_t callers; ", "uint32_t fleet;   "),
    ("a word in what was padding", "RW_PAD(pad4, 32, 64);", "uint64_t more; /* [bits] W > C: m */\n    RW_PAD(pad4, 40, 64);"),
    ("a word less", "    uint32_t starved;", "    uint32_t pad_; //"),
    ("a longer table", "#define RW_TAIL_INTERESTS  8u", "#define RW_TAIL_INTERESTS  7u"),
    ("more places", "#define RW_BLOCK_ENTRIES   1024u", "#define RW_BLOCK_ENTRIES   2048u"),
    ("another state's number", "RW_STOPPED = 3,", "RW_STOPPED = 7,"),
    ("another meaning", "#define RW_LAYOUT_VERSION 5u", "#define RW_LAYOUT_VERSION 6u"),
]  # fmt: skip
NAMES = [name for name, _, _ in CHANGES]


def changed(old: str, new: str) -> str:
    assert TEXT.count(old) == 1, old
    text = TEXT.replace(old, new)
    if "fleet;   " in new:
        text = text.replace("uint32_t fleet;        /*", "uint32_t callers;      /*")
    return text


@pytest.mark.parametrize("name", sorted(shared_words.rendered(TEXT)))
def test_what_is_rendered_from_layout_h_is_committed(name: str) -> None:
    assert (ROOT / name).read_text() == shared_words.rendered(TEXT)[name], f"run: {shared_words.HOW}"


def test_the_fingerprint_that_was_compiled_is_that_of_layout_h() -> None:
    assert lib.rw_fingerprint() == shared_words.fingerprint(LAYOUT)


@pytest.mark.parametrize("struct", LAYOUT.structs, ids=lambda struct: struct.name)
def test_every_field_lies_where_the_compiler_has_put_it(struct: shared_words.Struct) -> None:
    assert ffi.sizeof(struct.name) == struct.bytes
    seen = {name: (field.offset, ffi.sizeof(field.type)) for name, field in ffi.typeof(struct.name).fields}
    assert seen == {field.name: (field.at, field.bytes) for field in struct.words}


def test_the_table_of_words_has_every_word() -> None:
    assert [(word.struct, word.name) for word in WORDS] == [(s.name, f.name) for s in LAYOUT.structs for f in s.words]
    assert all(word.unit and word.writers and word.readers and word.help for word in WORDS)


@pytest.mark.parametrize(("old", "new"), [change[1:] for change in CHANGES], ids=NAMES)
def test_a_change_of_the_layout_has_another_fingerprint(old: str, new: str) -> None:
    try:
        layout = shared_words.parse(changed(old, new))
    except (shared_words.LayoutError, KeyError):
        return  # a change that cannot be read cannot be rendered
    assert shared_words.fingerprint(layout) != shared_words.fingerprint(LAYOUT)


@pytest.mark.parametrize(("old", "new"), [change[1:] for change in CHANGES], ids=NAMES)
def test_a_change_of_the_layout_does_not_compile_with_the_old_fingerprint(tmp_path: Path, old: str, new: str) -> None:
    if shutil.which(COMPILER[0]) is None:
        pytest.skip("no C compiler")

    def compiles() -> subprocess.CompletedProcess[str]:
        command = [*COMPILER, "-std=gnu11", "-fsyntax-only", "-I.", "fingerprint.c"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    for name in ("fingerprint.c", "memory.h", "atomics.h", "status.h", "layout.h", "layout_log.h", "places.h"):
        shutil.copy(ROOT / "csrc" / name, tmp_path)
    assert compiles().returncode == 0
    (tmp_path / "layout.h").write_text(changed(old, new))
    found = compiles()
    assert found.returncode != 0
    assert "layout.h has changed" in found.stderr or "no member named" in found.stderr or "negative" in found.stderr


def test_what_the_comments_say_leaves_the_fingerprint_alone() -> None:
    text = changed("/* [errno] W > S D: of a failed write; the epoch ends */", "/* [number] W > S: some other words */")
    assert shared_words.fingerprint(shared_words.parse(text)) == shared_words.fingerprint(LAYOUT)
    assert shared_words.rendered(text)["engine/ringwal/words.py"] != shared_words.rendered(TEXT)["engine/ringwal/words.py"]


def bad() -> Iterator[tuple[str, str, str]]:
    yield "nothing is said of it", "uint64_t more;", "say"
    yield "no such role", "uint64_t more; /* [bits] X > all: more */", "no role"
    yield (
        "bytes of no field",
        "uint16_t few; /* [bits] W > all: few */\n    uint64_t more; /* [bits] W > all: more */",
        "belong to no field",
    )
    yield "two a line", "uint64_t more, still_more; /* [bits] W > all: more */", "one field a line"


@pytest.mark.parametrize(("field", "said"), [case[1:] for case in bad()], ids=[case[0] for case in bad()])
def test_a_field_that_is_not_described_is_refused(field: str, said: str) -> None:
    with pytest.raises(shared_words.LayoutError, match=said):
        shared_words.parse(f"typedef struct rw_made_up {{\n    {field}\n}} rw_made_up;\n")
