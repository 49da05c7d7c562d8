"""Renders everything that repeats csrc/layout.h, from its structs and the comments behind their fields.

    python tests/support/shared_words.py        writes the files of `rendered()`

test_shared_words.py fails while one of them differs, and csrc/fingerprint.c does not compile while the structs do. It needs
no built extension, so that it can be run when nothing compiles.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOW = "python tests/support/shared_words.py"
SIZES = {"uint8_t": 1, "uint16_t": 2, "uint32_t": 4, "uint64_t": 8}
ROLES = {"S": "supervisor", "W": "WAL", "D": "drain", "P": "keeper", "C": "client", "K": "kernel", "all": "all"}
# What Python reads: struct, the view's name, and the fields that are no plain words.
VIEWS = {"rw_control": "engine", "rw_progress": "progress", "rw_slot": "slot", "rw_stream": "stream", "rw_lane": "lane"}
NOT_VIEWED = {("rw_control", "life"), ("rw_stream", "settings")}
# What a loop in Python reads by itself.
ALONE = {
    "rw_control": {"state", "membership", "next_number", "wal_error", "storage_full", "sealed_end", "released_end"}
    | {"confirmed_ns", "first_segment", "checkpointed", "side_end", "attic_end"},
    "rw_slot": {"state"},
    "rw_stream": {"number"},
}
# Words of one process by the next one's: who reads the later one first never sees it ahead of the one before.
VIEW_ORDER = ("supervisor", "keeper", "drain", "WAL", "client")


@dataclass(frozen=True)
class Field:
    """One field of a struct. `count` is None for a plain word; `unit` None for padding."""

    name: str
    ctype: str
    count: int | None
    at: int
    unit: str | None = None
    writers: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()
    help: str = ""

    @property
    def bytes(self) -> int:
        return SIZES[self.ctype] * (1 if self.count is None else self.count)

    @property
    def dimension(self) -> str:
        return "" if self.count is None else f"[{self.count}]"


@dataclass(frozen=True)
class Struct:
    name: str
    fields: tuple[Field, ...]
    bytes: int

    @property
    def words(self) -> tuple[Field, ...]:
        return tuple(field for field in self.fields if field.unit is not None)


@dataclass(frozen=True)
class Layout:
    structs: tuple[Struct, ...]
    constants: dict[str, int]


class LayoutError(Exception):
    """layout.h is not as its own head says."""


def constants_of(text: str) -> dict[str, int]:
    """Every `#define RW_NAME number` and every enumerator, by name."""
    found = {
        name: int(value, 0) for name, value in re.findall(r"^#define (RW_\w+)\s+(0x[0-9a-f]+|\d+)u?l*\b", text, re.MULTILINE)
    }
    for body in re.findall(r"^enum \w+ \{(.*?)\};", text, re.MULTILINE | re.DOTALL):
        found |= {name: int(value) for name, value in re.findall(r"(RW_\w+) = (\d+)", body)}
    return found


def roles(text: str, where: str) -> tuple[str, ...]:
    try:
        return tuple(ROLES[letter] for letter in text.split())
    except KeyError as error:
        raise LayoutError(f"{where}: {error} is no role") from None


def field_of(line: str, at: int, constants: dict[str, int], struct: str) -> Field:
    """The field that one line declares, at byte `at` or behind it."""
    if pad := re.match(r"RW_PAD\((\w+), (\d+), (\d+)\);$", line):
        return Field(pad[1], "uint8_t", int(pad[3]) - int(pad[2]), at)
    found = re.match(r"(u?int\d+_t) (\w+)(?:\[(\w+)\])?;(.*)$", line)
    if found is None:
        raise LayoutError(f"{struct}: one field a line, and not: {line}")
    ctype, name, count, comment = found.groups()
    at = (at + SIZES[ctype] - 1) // SIZES[ctype] * SIZES[ctype]
    length = None if count is None else constants[count] if count in constants else int(count)
    if name == "pad_":
        return Field(name, ctype, length, at)
    told = re.match(r"\s*/\* \[(.+?)\] ([\w ]+?) > ([\w ]+?): (.+?) \*/$", comment)
    if told is None:
        raise LayoutError(f"{struct}.{name}: say `/* [unit] writers > readers: meaning */` behind it")
    where = f"{struct}.{name}"
    return Field(name, ctype, length, at, told[1], roles(told[2], where), roles(told[3], where), told[4])


def parse(text: str) -> Layout:
    """Raises LayoutError."""
    constants = constants_of(text)
    structs = []
    for name, body in re.findall(r"^typedef struct (\w+) \{\n(.*?)^\} \1;", text, re.MULTILINE | re.DOTALL):
        if name == "rw_geometry":  # of one process: a call's arguments
            continue
        fields: list[Field] = []
        at = 0
        before = ""  # what is said of a field stands behind it, or in the line before
        for line in map(str.strip, body.splitlines()):
            if line.startswith("/*") or not line:
                before = line if line.startswith("/* [") else ""
                continue
            field = field_of(f"{line} {before}".rstrip(), at, constants, name)
            before = ""
            if field.at != at:
                raise LayoutError(f"{name}.{field.name}: {field.at - at} bytes before it belong to no field")
            fields.append(field)
            at += field.bytes
        if at % max(SIZES[field.ctype] for field in fields):
            raise LayoutError(f"{name}: its last bytes belong to no field")
        structs.append(Struct(name, tuple(fields), at))
    return Layout(tuple(structs), constants)


def fingerprint(layout: Layout) -> int:
    """64 bits of every name, type, place and size, and every constant. What the comments say does not count."""
    lines = [f"{name} = {value}" for name, value in sorted(layout.constants.items())]
    for struct in layout.structs:
        lines.append(f"{struct.name} {struct.bytes}")
        lines += [f"  {field.at} {field.ctype}{field.dimension} {field.name} {field.bytes}" for field in struct.fields]
    return int.from_bytes(hashlib.sha256("\n".join(lines).encode()).digest()[:8], "little")


# -------------------------------------------------------------------------------------------------------------- C


def fingerprint_c(layout: Layout) -> str:
    size = max(len(struct.name) for struct in layout.structs)
    out = [
        f"/* By what two builds know that they mean the same bytes. Rendered from layout.h:\n * {HOW} */",
        '#include "memory.h"',
        "",
        "#define SAME(what, fact) \\",
        f'    _Static_assert(fact, what ": layout.h has changed: {HOW}")',
        "#define CONSTANT(name, value) SAME(#name, (name) == (value))",
        "#define SIZE(type, bytes) SAME(#type, sizeof(type) == (bytes))",
        "#define FIELD(type, at, ctype, field) \\",
        '    SAME(#type "." #field, offsetof(type, field) == (at)); \\',
        '    SAME(#type "." #field, __builtin_types_compatible_p(__typeof__(((type *)0)->field), ctype))',
        "",
    ]
    out += [f"CONSTANT({name}, {value}u{'ll' if value >= 2**32 else ''});" for name, value in sorted(layout.constants.items())]
    for struct in layout.structs:
        out += ["", f"SIZE({struct.name}, {struct.bytes});"]
        out += [f"FIELD({struct.name:{size}}, {f.at}, {f.ctype}{f.dimension}, {f.name});" for f in struct.fields]
    out += ["", f"uint64_t rw_fingerprint(void) {{ return 0x{fingerprint(layout):016x}ull; }}", ""]
    return "\n".join(out)


def view_fields(struct: Struct) -> list[Field]:
    """In the order in which they are loaded."""
    kept = [field for field in struct.words if (struct.name, field.name) not in NOT_VIEWED]
    return sorted(kept, key=lambda field: VIEW_ORDER.index(field.writers[0]))


def viewed(layout: Layout) -> Iterator[tuple[Struct, str]]:
    return ((struct, VIEWS[struct.name]) for struct in layout.structs if struct.name in VIEWS)


def declared(fields: list[Field] | tuple[Field, ...]) -> list[str]:
    return [f"    {field.ctype} {field.name}{field.dimension};" for field in fields]


def view_struct(struct: Struct, view: str) -> list[str]:
    return [f"typedef struct rw_{view}_view {{", *declared(view_fields(struct)), f"}} rw_{view}_view;", ""]


def view_function(struct: Struct, view: str) -> str:
    return f"void rw_view_{view}(const {struct.name} *from, rw_{view}_view *out)"


def read_alone(layout: Layout) -> Iterator[tuple[Field, str]]:
    """Field, and the head of the function that loads it."""
    for struct, view in viewed(layout):
        for field in struct.words:
            if field.name in ALONE.get(struct.name, ()):
                yield field, f"{field.ctype} rw_{view}_{field.name}(const {struct.name} *from)"


def views_h(layout: Layout) -> str:
    out = [
        "/* How those outside C read shared words: all of a struct at once, each word loaded with acquire",
        " * (atomics.h), into a plain struct of their own. The supervisor's words come first, in the order",
        " * of layout.h, so that a `state` or `magic` that is seen vouches for what was stored before it;",
        " * then the drain's, then the WAL process's: a view never shows more released than sealed, or more",
        f" * confirmed than taken. Rendered from layout.h: {HOW} */",
        "#ifndef RW_VIEWS_H",
        "#define RW_VIEWS_H",
        "",
        '#include "layout.h"',
        "",
    ]
    for struct, view in viewed(layout):
        out += view_struct(struct, view)
    out += [view_function(struct, view) + ";" for struct, view in viewed(layout)]
    out += ["", "/* One word, for loops. */", *(head + ";" for _, head in read_alone(layout))]
    return "\n".join([*out, "", "#endif", ""])


def view_load(field: Field) -> list[str]:
    if field.ctype == "uint8_t":
        return [f"    memcpy(out->{field.name}, from->{field.name}, sizeof out->{field.name});"]
    bits = SIZES[field.ctype] * 8
    if field.count is None:
        return [f"    out->{field.name} = rw_load{bits}(&from->{field.name});"]
    return [
        f"    for (uint32_t i = 0; i < {field.count}; i++)",
        f"        out->{field.name}[i] = rw_load{bits}(&from->{field.name}[i]);",
    ]


def views_c(layout: Layout) -> str:
    out = [f"/* Rendered from layout.h: {HOW} */", '#include "views.h"', "", '#include "atomics.h"', "", "#include <string.h>"]
    for struct, view in viewed(layout):
        out += ["", view_function(struct, view), "{"]
        for field in view_fields(struct):
            out += view_load(field)
        out += ["}"]
    for field, head in read_alone(layout):
        out += ["", f"{head} {{ return rw_load{SIZES[field.ctype] * 8}(&from->{field.name}); }}"]
    return "\n".join([*out, ""])


def layout_cdef(layout: Layout) -> str:
    out = [f"/* The structs of layout.h and views.h, for cffi. Rendered from layout.h: {HOW} */", ""]
    for struct in layout.structs:
        padded = ["    ...;"] if struct.words != struct.fields else []
        out += ["typedef struct {", *declared(struct.words), *padded, f"}} {struct.name};", ""]
    for struct, view in viewed(layout):
        out += ["typedef struct {", *declared(view_fields(struct)), f"}} rw_{view}_view;", ""]
    out += [view_function(struct, view) + ";" for struct, view in viewed(layout)]
    out += [head + ";" for _, head in read_alone(layout)]
    return "\n".join([*out, ""])


# -------------------------------------------------------------------------------------------- Python and documents

WORDS_HEAD = f'''"""Every shared and every stored word, with its writers and readers. Rendered from csrc/layout.h: {HOW}"""

from typing import NamedTuple


class Word(NamedTuple):
    """One field. `at` is its byte in the struct; roles are supervisor, WAL, drain, client, kernel, all."""

    struct: str
    name: str
    ctype: str
    at: int
    unit: str
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    help: str


# fmt: off
WORDS = (
'''


def words_py(layout: Layout) -> str:
    rows = []
    for struct in layout.structs:
        for field in struct.words:
            facts = (field.name, field.ctype + field.dimension, field.at, field.unit, field.writers, field.readers, field.help)
            rows.append(f"    Word({', '.join(map(json_like, (struct.name, *facts)))}),\n")
    return WORDS_HEAD + "".join(rows) + ")\n# fmt: on\n"


def json_like(value: object) -> str:
    """As the formatter would write it."""
    if isinstance(value, tuple):
        return f"({', '.join(map(json_like, value))}{',' if len(value) == 1 else ''})"
    return f'"{value}"' if isinstance(value, str) else str(value)


def words_md(layout: Layout) -> str:
    out = [
        "# Shared words",
        "",
        f"Rendered from `csrc/layout.h` by `{HOW}`. Clients map everything but their own lane for reading only.",
        "`all`: every process that maps it.",
    ]
    for struct in layout.structs:
        out += ["", f"## {struct.name} ({struct.bytes} bytes)", ""]
        out += ["| at | word | type | unit | written by | read by | meaning |", "|---|---|---|---|---|---|---|"]
        for f in struct.words:
            told = (f.at, f"`{f.name}`", f.ctype + f.dimension, f.unit, ", ".join(f.writers), ", ".join(f.readers), f.help)
            out.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in told) + " |")
    return "\n".join([*out, ""])


def source() -> str:
    """layout.h, with what it includes of its own in its place."""
    folder = ROOT / "csrc"
    text = (folder / "layout.h").read_text()
    return re.sub(r'^#include "(layout_\w+\.h)"$', lambda found: (folder / found[1]).read_text(), text, flags=re.MULTILINE)


def rendered(text: str) -> dict[str, str]:
    """Text by path below the root, of all that is made from this text of layout.h."""
    layout = parse(text)
    return {
        "csrc/fingerprint.c": fingerprint_c(layout),
        "csrc/views.h": views_h(layout),
        "csrc/views.c": views_c(layout),
        "csrc/layout.cdef": layout_cdef(layout),
        "engine/ringwal/words.py": words_py(layout),
        "docs/shared-words.md": words_md(layout),
    }


if __name__ == "__main__":
    for name, wanted in rendered(source()).items():
        (ROOT / name).parent.mkdir(exist_ok=True)
        (ROOT / name).write_text(wanted)
