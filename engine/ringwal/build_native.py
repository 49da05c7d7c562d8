"""Builds `ringwal._native` (cffi, API mode) out of csrc/. Run by setup.py; nothing imports it at run time.

RINGWAL_WERROR=1 turns warnings into errors. RINGWAL_SANITIZE takes what -fsanitize takes ("address,undefined",
"thread") and builds for that instead of for speed. RINGWAL_POINTS=1 builds in the named points at which a test kills,
stops or delays a process (csrc/points.h); no other build has them. Both have the slow assertions (csrc/invariant.h).
"""

from __future__ import annotations

import os
from pathlib import Path

import cffi

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
CDEFS = (CSRC / "layout.cdef", CSRC / "engine.cdef")
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-pthread", "-fvisibility=hidden")
# The code that cffi generates names parameters it has no use for. It follows the headers, so they keep the warning.
GENERATED = '#pragma GCC diagnostic ignored "-Wunused-parameter"\n'


def relative(paths: list[Path]) -> list[str]:
    """setuptools wants paths relative to setup.py, in a stable order."""
    return [str(path.relative_to(ROOT)) for path in sorted(paths)]


def flags() -> tuple[list[str], list[str]]:
    """Returns the compiler's and the linker's extra flags."""
    compile_flags, link_flags = list(FLAGS), ["-pthread"]
    if os.environ.get("RINGWAL_WERROR") == "1":
        compile_flags.append("-Werror")
    if with_points():
        compile_flags.append("-DRINGWAL_POINTS")
    if with_points() or os.environ.get("RINGWAL_SANITIZE"):
        compile_flags.append("-DRW_SLOW_ASSERTS")
    sanitizers = os.environ.get("RINGWAL_SANITIZE")
    if sanitizers:
        extra = [f"-fsanitize={sanitizers}", "-fno-omit-frame-pointer", "-g", "-O1"]
        compile_flags += extra
        link_flags += extra[:1]
    return compile_flags, link_flags


def with_points() -> bool:
    """Is this a build for tests that stop processes at named points?"""
    return os.environ.get("RINGWAL_POINTS") == "1"


def builder() -> cffi.FFI:
    """Declares what Python may see and how to compile it."""
    headers = sorted(CSRC.glob("*.h"))
    compile_flags, link_flags = flags()
    ffi = cffi.FFI()
    for cdef in CDEFS:
        ffi.cdef(cdef.read_text())
    if with_points():
        ffi.cdef("int rw_point(const char *name);")
    ffi.set_source(
        "ringwal._native",
        "".join(f'#include "{header.name}"\n' for header in headers) + GENERATED,
        sources=relative(list(CSRC.glob("*.c"))),
        depends=relative([*headers, *CDEFS, Path(__file__).resolve()]),
        include_dirs=["csrc"],
        extra_compile_args=compile_flags,
        extra_link_args=link_flags,
    )
    return ffi


ffibuilder = builder()
