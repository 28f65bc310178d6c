"""Keep a function that numba has compiled as a shared library, which a later process calls without importing numba.

To import numba and load a function from its cache takes 0.4 s and 120 MiB of memory. A library is the machine code of
the same LLVM instructions, so its results are the same, bit for bit. `jit_library.c` passes the arguments; it needs a
C++ compiler, as `--compile on` does. Without one, there is numba's cache only.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import re
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from traceback import FrameSummary
from typing import Any, cast

import numpy as np

from pgzoo.ops.c_compiler import compile_c

__all__ = ["keep", "library_path", "load"]

_log = logging.getLogger("pgzoo")

SOURCE = Path(__file__).with_suffix(".c")

SOURCES = SOURCE, Path(__file__), *(Path(__file__).with_name(name) for name in ("jit.py", "c_compiler.py"))
"""What the machine code of a library depends on, besides the function; `label` in `library_path` has a digest of it."""

Library = Callable[[tuple[Any, ...]], tuple[int, ...] | None]
"""A function of the tuple of its arguments, which returns a tuple of integers. It returns None if it was compiled for
arguments of other types."""


def library_path(label: str, home: Path, arguments: Sequence[Any]) -> Path | None:
    """Return the file of the function `label` compiled for such arguments; None if it can't be kept.

    It is in the folder in which numba keeps compiled functions: NUMBA_CACHE_DIR, or `__pycache__` beside the module
    `home`. Its name depends on everything that its machine code depends on.
    """
    machine, kinds = _machine(), [_kind(argument) for argument in arguments]
    if not machine or "" in kinds:
        return None
    content = repr((label, kinds, machine))
    folder = Path(os.environ.get("NUMBA_CACHE_DIR") or home.parent / "__pycache__")
    return folder / f"{label}.{hashlib.sha256(content.encode()).hexdigest()[:20]}.so"


@cache
def _machine() -> tuple[Any, ...]:
    """Return the processor, and the versions and settings of numba; nothing if one of them is unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        versions = version("numba"), version("llvmlite")
    except (OSError, PackageNotFoundError):
        return ()
    processor = sorted(
        line for line in lines if re.match(r"(vendor|model|cpu family|stepping|flags|Features|CPU )", line)
    )
    settings = sorted(f"{k}={v}" for k, v in os.environ.items() if k.startswith("NUMBA_") and k != "NUMBA_CACHE_DIR")
    return platform.machine(), processor, versions, settings


def _kind(argument: Any) -> str:
    """Return the type of an argument, as `jit_library.c` names it; empty for one that it can't pass."""
    if isinstance(argument, np.ndarray):
        plain = argument.flags.carray and argument.dtype.isnative
        return f"{argument.dtype.char}{argument.ndim}" if plain else ""
    return {bool: "b", int: "i", np.int64: "i"}.get(type(argument), "")


def load(file: Path) -> Library | None:
    """Return the function in a library; None if there is none, or this process can't load it."""
    try:
        function = ctypes.PyDLL(str(file)).pgzoo_call
    except (OSError, AttributeError):
        return None
    function.argtypes, function.restype = [ctypes.py_object], ctypes.py_object

    def call(arguments: tuple[Any, ...]) -> tuple[int, ...] | None:
        results: tuple[int, ...] | bytes | None = function(arguments)
        if isinstance(results, bytes):
            raise _exception(results)
        return results

    return call


def _exception(content: bytes) -> Exception:
    """Return the exception that compiled code has raised, from numba's description of it."""
    try:
        from numba.core import serialize

        read: Any = serialize._numba_unpickle
        kind, arguments, place = read(0, content, content)
        error: Any = kind(*arguments or ())
        if place:
            function, file, line = place
            error.compiled_line = FrameSummary(file, line, function, lookup_line=False)
        return cast(Exception, error)
    except Exception:  # another version of numba
        return RuntimeError("compiled code failed")


def keep(dispatcher: Any, arguments: Sequence[Any], file: Path) -> None:
    """Write the function that numba has compiled for such arguments to a library, if that is possible."""
    try:
        kinds = [_kind(argument) for argument in arguments]
        _link(*_object_code(dispatcher, kinds), kinds, file)
    except Exception as error:  # whatever numba and its compilers raise: its cache has the function, too
        said = getattr(error, "stderr", None) or b""
        _log.debug("%s is kept by numba only: %r %s", file.name, error, said.decode(errors="replace"))


def _object_code(dispatcher: Any, kinds: Sequence[str]) -> tuple[bytes, int]:
    """Return the machine code of a function whose symbol is `pgzoo_entry`, and how many integers it returns.

    Raises:
        ValueError: `jit_library.c` can't call it with arguments of these kinds, or it works in this process only.
    """
    from llvmlite import binding
    from numba import types

    (compiled,) = dispatcher.overloads.values()
    integers = isinstance(returned := compiled.signature.return_type, types.UniTuple) and returned.dtype == types.int64
    if not integers and returned != types.none:
        raise ValueError(f"it returns {returned}")
    for kind, given in zip(kinds, compiled.signature.args, strict=True):
        array = isinstance(given, types.Array) and given.layout == "C" and given.mutable and given.aligned
        if not (array if kind[1:] else given == {"b": types.boolean, "i": types.int64}[kind]):
            raise ValueError(f"it takes {given}")
    if compiled.library.has_dynamic_globals:
        raise ValueError("it has addresses of this process")
    module = binding.parse_assembly(compiled.library.get_llvm_str())
    for function in module.functions:
        if function.name == compiled.fndesc.llvm_func_name:
            function.name = "pgzoo_entry"
        elif function.name in (compiled.fndesc.llvm_cpython_wrapper_name, compiled.fndesc.llvm_cfunc_wrapper_name):
            function.linkage = "available_externally"  # no code for it
    triple, cpu, features = compiled.library.codegen.magic_tuple()
    target = binding.Target.from_triple(triple)
    machine = target.create_target_machine(cpu=cpu, features=features, opt=3, reloc="pic", codemodel="small")
    return machine.emit_object(module), returned.count if integers else 0


def _link(code: bytes, results: int, kinds: Sequence[str], file: Path) -> None:
    """Link machine code and `jit_library.c`. Raises OSError (also for what can't be loaded), SubprocessError."""
    of_array = [kind[1:] for kind in kinds]  # the number of dimensions, empty for a number
    number = {"b": "uint8_t", "i": "int64_t"}
    macros = {
        "KINDS": (f'"{kind}"' for kind in kinds),
        "PARAMETERS": (f"TYPES_{ndim}" if ndim else number[kind] for kind, ndim in zip(kinds, of_array, strict=True)),
        "ARGUMENTS": (f"VALUES_{ndim}({i})" if ndim else f"NUMBER({i})" for i, ndim in enumerate(of_array)),
        "RESULTS": [str(results)],
    }

    def check(made: Path) -> None:
        if not load(made):
            raise OSError("it calls functions of numba")

    define = chain.from_iterable(("-D", f"{name}={','.join(values)}") for name, values in macros.items())
    with tempfile.TemporaryDirectory(dir=file.parent) as workshop:
        (object_file := Path(workshop, "code.o")).write_bytes(code)
        compile_c(SOURCE, file, *define, "-x", "none", str(object_file), "-lm", check=check)
