"""Compile a file of C to a shared library, with the C++ compiler that `--compile on` needs."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

__all__ = ["OPTIONS", "compile_c"]

OPTIONS = ("-O2", "-shared", "-fPIC")


def compile_c(source: Path, library: Path, *options: str, check: Callable[[Path], None] = lambda made: None) -> None:
    """Compile `source` to `library`, whose folder exists. Another process never sees a part of the file.

    Args:
        source: a file of C.
        library: the file to make or to replace.
        options: what follows the source in the compiler's command.
        check: called with the finished library in another place; if it raises, `library` is left as it was.

    Raises:
        OSError: there is no compiler, or a file can't be written.
        SubprocessError: the compiler failed, or took longer than a minute.
    """
    with tempfile.TemporaryDirectory(dir=library.parent) as workshop:
        made = Path(workshop, library.name)
        command = [os.environ.get("CXX", "g++"), *OPTIONS, "-x", "c", str(source), *options, "-o", str(made)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        check(made)
        made.replace(library)
