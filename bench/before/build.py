"""Builds the before/after model (cffi, API mode) into bench/before/build when it is asked for and its sources changed."""

from __future__ import annotations

import importlib.util
import shutil
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import cffi

HERE = Path(__file__).resolve().parent
ATOMICS = HERE.parent.parent / "csrc" / "atomics.h"
SOURCES = (ATOMICS, HERE / "confirm.c", HERE / "model.c", HERE / "model.h", Path(__file__).resolve())
MODULE = f"_before_after{sysconfig.get_config_var('EXT_SUFFIX')}"
"""One file per interpreter: the name holds its version."""
CDEF = """
enum { MODEL_STREAMS, MODEL_INFLIGHT, MODEL_COMPLETERS, MODEL_BUCKETS, ... };
enum model_way { MODEL_BEFORE, MODEL_AFTER, ... };
enum model_times { MODEL_EVEN, MODEL_EXPONENTIAL, MODEL_HEAVY, ... };
typedef struct {
    uint32_t way, times, streams, inflight, completers, locks;
    uint64_t mean_ns, window_ns, seed;
} model_options;
typedef struct {
    uint64_t confirmed, holds, empty_holds, contended, wait_ns, hold_ns, longest_run, wakes, completed;
    uint64_t latency[...], delay[...];
    ...;
} model_worker;
typedef struct { uint64_t head; ...; } model_stream;
typedef struct { model_worker workers[...]; model_stream streams[...]; ...; } model;
uint64_t model_bytes(void);
void model_init(model *m, const model_options *o);
int model_work(model *m, uint32_t completer);
void model_complete(model *m, model_worker *w, uint32_t stream, uint64_t sequence);
uint64_t model_bucket_floor(uint32_t bucket);
"""


def load() -> Any:
    """The built module, with `ffi` and `lib`."""
    target = HERE / "build"
    stamp = target / f"{MODULE}.stamp"
    newest = max(path.stat().st_mtime_ns for path in SOURCES)
    if not (target / MODULE).exists() or not stamp.exists() or stamp.read_text() != str(newest):
        _compile(target)
        stamp.write_text(str(newest))
    spec = importlib.util.spec_from_file_location("_before_after", target / MODULE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _compile(target: Path) -> None:
    ffi = cffi.FFI()
    ffi.cdef(CDEF)
    ffi.set_source(
        "_before_after",
        '#include "model.h"\n',
        sources=[str(path) for path in SOURCES if path.suffix == ".c"],
        include_dirs=[str(HERE), str(ATOMICS.parent)],
        libraries=["m"],
        extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Wno-unused-parameter", "-pthread"],
        extra_link_args=["-pthread"],
    )
    with tempfile.TemporaryDirectory() as scratch:
        built = ffi.compile(tmpdir=scratch)
        target.mkdir(exist_ok=True)
        part = target / "part"
        shutil.copy(built, part)
        part.replace(target / MODULE)
