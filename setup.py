"""The native build. Everything that is not about compiling stands in pyproject.toml."""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig
import tempfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def missing_for_build() -> str | None:
    """Returns one sentence about what the native build lacks on this machine, or None."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    include = sysconfig.get_path("include")
    version = sysconfig.get_python_version()
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "probe.c")
        for header, lacking in (
            ("stdint.h", "a working C compiler with the C library's headers (Debian: apt install gcc libc6-dev)"),
            ("Python.h", f"the headers of Python {version} (Debian: apt install python3-dev)"),
        ):
            source.write_text(f"#include <{header}>\nint main(void) {{ return 0; }}\n")
            command = [*compiler, f"-I{include}", "-c", str(source), "-o", str(source.with_suffix(".o"))]
            try:
                done = subprocess.run(command, capture_output=True, check=False)
            except OSError:
                return f"{lacking}; `{compiler[0]}` cannot be run"
            if done.returncode != 0:
                return f"{lacking}; `{compiler[0]}` cannot compile `#include <{header}>`"
    return None


class BuildNative(build_ext):
    """Looks before it compiles, so that a bare machine gets a sentence and not a page of compiler output."""

    def run(self) -> None:
        lacking = missing_for_build()
        if lacking is not None:
            raise SystemExit(f"ringwal cannot be built: it needs {lacking}.")
        super().run()


setup(
    package_dir={"": "engine"},
    cffi_modules=["engine/ringwal/build_native.py:ffibuilder"],
    cmdclass={"build_ext": BuildNative},
    # cffi names the file abi3 by itself; the wheel's tag has to be told. A free-threaded build has no stable ABI.
    options={} if FREE_THREADED else {"bdist_wheel": {"py_limited_api": "cp311"}},
)
