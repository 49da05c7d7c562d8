"""Renders engine/ringwal/_native.pyi from the built extension and csrc/*.cdef.

    python tests/support/native_stub.py > engine/ringwal/_native.pyi

test_layout.py fails while the two differ, so the type checker never sees a C function that is not there.
"""

from __future__ import annotations

import keyword
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HEAD = '''"""The C core as Python sees it. Rendered by tests/support/native_stub.py from csrc/*.cdef; contracts: csrc/*.h."""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

CData: TypeAlias = Any

class FFI:
    NULL: Final[CData]
    errno: int
    def new(self, cdecl: str, init: object = ...) -> CData: ...
    def cast(self, cdecl: str, source: object) -> CData: ...
    def new_allocator(self, *, should_clear_after_alloc: bool = True) -> Callable[[str, int], CData]: ...
    def gc(self, cdata: CData, destructor: Callable[[CData], object] | None, size: int = 0) -> CData: ...
    def from_buffer(self, cdecl: object, python_buffer: object = ..., require_writable: bool = False) -> CData: ...
    def buffer(self, cdata: CData, size: int = -1) -> Any: ...
    def release(self, cdata: CData) -> None: ...
    def memmove(self, dest: object, src: object, n: int) -> None: ...
    def string(self, cdata: CData, maxlen: int = -1) -> Any: ...
    def unpack(self, cdata: CData, length: int) -> Any: ...
    def sizeof(self, cdecl: object) -> int: ...
    def offsetof(self, cdecl: object, *fields: str | int) -> int: ...
    def addressof(self, cdata: CData, *fields: str | int) -> CData: ...
    def typeof(self, cdecl: object) -> Any: ...
    def new_handle(self, x: object) -> CData: ...
    def from_handle(self, handle: CData) -> Any: ...
    def list_types(self) -> tuple[list[str], list[str], list[str]]: ...

class Lib:
'''
TAIL = "\nffi: Final[FFI]\nlib: Final[Lib]\n"


def declarations() -> str:
    """All that is declared to cffi."""
    return "".join(path.read_text() for path in sorted((ROOT / "csrc").glob("*.cdef")))


def parameters(cdef: str, function: str) -> list[str]:
    """Returns the parameter names that the cdef gives `function`."""
    found = re.search(rf"\b{function}\(([^)]*)\)", cdef)
    if found is None:
        raise LookupError(f"{function} is not declared in csrc/*.cdef")
    text = found.group(1).strip()
    names = [] if text == "void" else [piece.split()[-1].lstrip("*") for piece in text.split(",")]
    return [name + "_" if keyword.iskeyword(name) else name for name in names]


def python_type(ctype: Any) -> str:
    if ctype.kind == "void":
        return "None"
    return "int" if ctype.kind in {"primitive", "enum"} else "CData"


def render(ffi: Any, lib: Any, cdef: str) -> str:
    """Returns the text of the stub. `ffi` and `lib` are those of the built extension, `cdef` what `declarations` gives."""
    lines = []
    for name in sorted(dir(lib)):
        value = getattr(lib, name)
        if isinstance(value, int):
            lines.append(f"    {name}: Final[int]\n")
            continue
        ctype = ffi.typeof(value)
        typed = zip(parameters(cdef, name), ctype.args, strict=True)
        listed = ", ".join(["self", *(f"{word}: {python_type(kind)}" for word, kind in typed), "/"])
        lines.append(f"    def {name}({listed}) -> {python_type(ctype.result)}: ...\n")
    return HEAD + "".join(lines) + TAIL


if __name__ == "__main__":
    from ringwal._native import ffi, lib

    sys.stdout.write(render(ffi, lib, declarations()))
