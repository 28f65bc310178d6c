"""Compile plain functions of numbers and arrays with numba, if it is installed, and keep the result on disk.

Without numba the functions run as they are, in Python: with the same results, many times slower.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, cast

import numpy as np

from pgzoo.extras import present
from pgzoo.ops import jit_library

__all__ = ["available", "compiled_anew", "specialize"]

Function = Callable[..., Any]


def available() -> bool:
    """Return whether functions are compiled: numba is installed, and NUMBA_DISABLE_JIT isn't set."""
    return _installed() and os.environ.get("NUMBA_DISABLE_JIT", "0") == "0"


@cache
def _installed() -> bool:
    return present("compiled")


def specialize(template: Function, parts: Mapping[str, Function], *, interpreted: bool = False) -> Function:
    """Return `template` with the functions `parts` in place of its global names, compiled if numba is there.

    It and everything that it calls must be functions of numbers and arrays that numba can compile. It is compiled on
    its first call, or loaded from the folder where numba keeps compiled functions (`__pycache__`, or NUMBA_CACHE_DIR).
    There its name contains a digest of the modules and the code of all these functions and of their constants.
    If `interpreted`, it is not compiled. Functions that numba compiles already are treated as if they were plain ones.
    """
    whole = _with_globals(template, {name: _plain(part) for name, part in parts.items()})
    if interpreted:
        return _interpreted(whole, {})
    if not available():
        return cast(Function, whole)
    described = repr([*_describe(whole, set()), *_own_sources()])
    digest = hashlib.sha256(described.encode()).hexdigest()[:20]
    if digest not in _compiled:
        _compiled[digest] = _Compiled(whole, digest)
    return _compiled[digest]


@cache
def _own_sources() -> list[str]:
    """Return the code that makes libraries. Where it changes, numba compiles anew, and a new library can be made."""
    return [source.read_text(encoding="utf-8") for source in jit_library.SOURCES]


_compiled: dict[str, Function] = {}
_made: list[Any] = []


def compiled_anew() -> int:
    """Return how many functions this process has compiled instead of loading them."""
    return sum(sum(function.stats.cache_misses.values()) for function in _made)


class _Compiled:
    """A function that is compiled when it is first called, or loaded from the cache.

    Code that makes no arrays is compiled without counting references to them: for views of arrays, which the loops over
    rows take at every step, counting takes as long as stepping CartPole and choosing an action. Such code is kept as a
    library, too (`ops.jit_library`), so that the next process doesn't import numba.
    """

    def __init__(self, function: Function, digest: str) -> None:
        self._function, self._digest = function, digest
        self._name = f"{function.__qualname__}_{digest}"
        self._home = Path(cast(FunctionType, function).__code__.co_filename)
        self._library: jit_library.Library | None = None
        self._lean: Any = None
        self._counting: Function | None = None

    def __call__(self, *arguments: Any) -> Any:
        results = self._library(arguments) if self._library else None
        return self._other_types(arguments) if results is None else results or None

    def _other_types(self, arguments: tuple[Any, ...]) -> Any:
        """Return the result for arguments of types for which no library is loaded."""
        file = None if self._lean else jit_library.library_path(self._name, self._home, arguments)
        if file and (library := jit_library.load(file)):
            self._library = library
            if (results := library(arguments)) is not None:
                return results or None
        result = self._by_numba(arguments)
        if file and self._counting is None and _compiled_anew(self._lean):
            jit_library.keep(self._lean, arguments, file)
        return result

    def _by_numba(self, arguments: tuple[Any, ...]) -> Any:
        if self._lean is None:
            self._lean = _dispatcher(self._function, f"{self._digest}_uncounted", _nrt=False)
            folder = self._lean.stats.cache_path
            if folder and any(Path(folder).glob(f"*_{self._digest}_counted*.nbi")):
                self._count_references()  # an earlier process has found that it makes some
        if self._counting is not None:
            return self._counting(*arguments)
        from numba.core.errors import NumbaError

        before = len(self._lean.overloads)
        try:
            result = self._lean(*arguments)
        except Exception as error:
            if len(self._lean.overloads) > before or (before and not isinstance(error, NumbaError)):
                raise  # it has been compiled: the error is its own
            return self._count_references()(*arguments)
        if len(self._lean.overloads) > before and _allocates(self._lean):
            self._count_references()
        return result

    def _count_references(self) -> Function:
        """Return the function that counts references, for this call and all later ones."""
        if self._counting is None:
            self._counting = _dispatcher(self._function, f"{self._digest}_counted")
            _made.remove(self._lean)
        return self._counting


def _compiled_anew(dispatcher: Any) -> bool:
    """Return whether this process has compiled code, which it otherwise has loaded from numba's cache."""
    return bool(sum(dispatcher.stats.cache_misses.values()))


def _allocates(dispatcher: Any) -> bool:
    """Return whether code that this process has compiled makes arrays, which it never frees; numba refuses most."""
    if not _compiled_anew(dispatcher):
        return False
    return any("NRT_MemInfo_alloc" in code or "NRT_Allocate" in code for code in dispatcher.inspect_llvm().values())


def _dispatcher(function: Function, label: str, **options: Any) -> Any:
    """Return numba's version of a function and of all that it calls. Numba names its file after the label."""
    import numba

    done: dict[Function, Function] = {}
    options |= {"error_model": "numpy"}
    parts = {name: _jit(part, done, options) for name, part in _calls(function).items()}
    whole = _with_globals(function, parts)
    whole.__qualname__ = f"{function.__qualname__}_{label}"
    try:
        made = numba.njit(cache=True, nogil=True, **options)(whole)
    except RuntimeError:  # no folder can be written to
        made = numba.njit(nogil=True, **options)(whole)
    _made.append(made)
    return made


def _jit(function: Function, done: dict[Function, Function], options: Mapping[str, Any]) -> Function:
    """Return a function that a compiled one can call; the functions of its module that it calls are treated alike."""
    import numba

    if function not in done:
        parts = {name: _jit(part, done, options) for name, part in _calls(function).items()}
        done[function] = cast(Function, numba.njit(**options)(_with_globals(function, parts)))
    return done[function]


def _interpreted(function: Function, done: dict[Function, Function]) -> Function:
    """Return a function that calls only plain functions, also where it names one that numba compiles."""
    if function not in done:
        done[function] = function  # for one that calls itself
        parts = {name: _interpreted(part, done) for name, part in _calls(function).items()}
        done[function] = _with_globals(function, parts)
    return done[function]


def _plain(value: Any) -> Any:
    """Return the Python function behind one that numba compiles, and any other value as it is."""
    original = None if isinstance(value, FunctionType) else getattr(value, "py_func", None)
    return original if isinstance(original, FunctionType) else value


def _with_globals(function: Function, names: Mapping[str, Any]) -> Any:
    """Return a copy of a function that sees other values for some global names."""
    plain = cast(FunctionType, function)
    copy = FunctionType(
        plain.__code__, plain.__globals__ | dict(names), plain.__name__, plain.__defaults__, plain.__closure__
    )
    copy.__qualname__, copy.__module__ = plain.__qualname__, plain.__module__
    return copy


def _calls(function: Function) -> dict[str, Function]:
    """Return the functions among the global names that a function uses."""
    plain = cast(FunctionType, function)
    used = {name: _plain(plain.__globals__.get(name)) for name in plain.__code__.co_names}
    return {name: value for name, value in used.items() if isinstance(value, FunctionType)}


def _describe(function: Function, seen: set[CodeType]) -> Iterator[Any]:
    """Yield everything that a compiled function depends on: code, constants, and the same of what it calls."""
    plain = cast(FunctionType, function)
    if plain.__code__ in seen:
        return
    seen.add(plain.__code__)
    yield plain.__module__  # numba imports the modules of a compiled function when it loads it
    yield from _code(plain.__code__)
    yield plain.__defaults__
    closure = [cell.cell_contents for cell in plain.__closure__ or ()]
    values = [plain.__globals__.get(name) for name in plain.__code__.co_names]
    for value in map(_plain, (*closure, *values)):
        if isinstance(value, FunctionType):
            yield from _describe(value, seen)
        elif isinstance(value, bool | int | float | str | tuple | np.generic):
            yield repr(value)
        elif isinstance(value, np.ndarray):
            yield value.dtype.str, value.shape, value.tobytes()


def _code(code: CodeType) -> Iterator[Any]:
    yield code.co_code, code.co_names, code.co_varnames
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant)
        else:
            yield repr(constant)
