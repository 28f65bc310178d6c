"""Functions compiled by numba are saved as libraries, which later processes call without importing numba."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not find_spec("numba") or platform.system() != "Linux" or not shutil.which(os.environ.get("CXX", "g++")),
    reason="needs numba, Linux and a C++ compiler",
)

PROGRAM = """
import sys
import numpy as np
from pgzoo.errors import raised_at
from pgzoo.ops import jit

def shifted(x, out, by, negative):
    if by > 100:
        raise OverflowError("shifted", "too far")
    for i in range(len(x)):
        for j in range(x.shape[1]):
            out[i, j] = np.exp(x[i, j]) * (-by if negative else by) + np.sin(x[i, j])
    return len(x), by

def filled(x):
    x[:] = 3.0

def scaled(x, by):
    x *= by

shift, fill, scale = (jit.specialize(function, {}) for function in (shifted, filled, scaled))
"""

CALLS = """
x, out = np.linspace(-1, 1, 12).reshape(3, 4), np.zeros((3, 4))
print([shift(x, out, 2, True), out.tobytes().hex(), fill(x), x.sum()])
"""

FAILURE = """
imported = "numba" in sys.modules
try:
    shift(np.ones((3, 4)), np.ones((3, 4)), 101, False)
except OverflowError as error:
    print(repr(error), imported, raised_at(error).rpartition("/")[2])
"""


def ran(folder: Path, calls: str, *, compiler: str = "") -> list[str]:
    """Return the lines that a process prints: the output of `calls`, then whether numba was imported."""
    program = folder / "program.py"
    program.write_text(PROGRAM + calls + "print('numba' in sys.modules)")
    env = os.environ | {"NUMBA_CACHE_DIR": str(folder)} | ({"CXX": compiler} if compiler else {})
    done = subprocess.run([sys.executable, str(program)], env=env, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def test_the_second_process_gets_the_same_bits_and_exceptions_without_numba(tmp_path: Path) -> None:
    said, failure, imported = ran(tmp_path, CALLS + FAILURE)
    assert imported == "True" and said.startswith("[(3, 2), '") and said.endswith("None, np.float64(36.0)]")
    assert failure == "OverflowError('shifted', 'too far') True program.py, line 9)"
    assert ran(tmp_path, CALLS) == [said, "False"]
    assert ran(tmp_path, FAILURE)[0] == "OverflowError('shifted', 'too far') False program.py, line 9)"
    assert len(list(tmp_path.glob("*.so"))) == 2


def test_arrays_of_other_layouts_are_handled_by_numba_and_read_only_ones_raise(tmp_path: Path) -> None:
    calls = """
out = np.zeros((2, 3))
shift(np.asarray(np.arange(6.0).reshape(2, 3), order="{}"), out, 0, False)
print(np.array_equal(out, np.sin(np.arange(6.0).reshape(2, 3))))
"""
    read_only = """
x, frozen = np.ones(3), np.ones(3)
fill(x)
frozen.flags.writeable = False
try:
    fill(frozen)
except Exception as error:
    print(type(error).__module__.split(".")[0], frozen.sum())
"""
    for order in "F", "C", "F":
        assert ran(tmp_path, calls.format(order) + read_only) == ["True", "numba 3.0", "True"]


def test_code_with_addresses_of_its_process_is_not_saved_as_a_library(tmp_path: Path) -> None:
    calls = """
table = np.arange(300_000.0)
def looked_up(out):
    for i in range(len(out)):
        out[i] = table[1000 * i]
out = np.zeros(3)
jit.specialize(looked_up, {})(out)
print(out.tolist())
"""
    for _ in range(2):
        assert ran(tmp_path, calls) == ["[0.0, 1000.0, 2000.0]", "True"]
    assert not list(tmp_path.glob("*.so"))


def test_functions_are_compiled_separately_for_each_argument_type(tmp_path: Path) -> None:
    calls = """
for x in np.ones((2, 2)), np.ones((2, 2), np.float32), np.ones((4, 4))[::2, ::2], np.ones((2, 2)).T, np.ones((2, 2)):
    out = np.zeros((2, 2), x.dtype)
    print(shift(x, out, 1, False), out.dtype, round(float(out.sum()), 4))
"""
    *first, imported = ran(tmp_path, calls)
    assert first == [f"(2, 1) {kind} 14.239" for kind in ("float64", "float32", "float64", "float64", "float64")]
    assert imported == "True"
    *second, imported = ran(tmp_path, calls)
    assert second == first and imported == "True"  # numba is imported for the view that isn't contiguous


def test_numbers_other_than_integers_are_handled_by_numba(tmp_path: Path) -> None:
    calls = """
x = np.ones(3)
for by in 1.5, 2, np.float32(2.0), np.int32(2), True:
    scale(x, by)
print(x.tolist())
"""
    assert ran(tmp_path, calls) == ["[12.0, 12.0, 12.0]", "True"]
    assert ran(tmp_path, calls) == ["[12.0, 12.0, 12.0]", "True"]


def test_without_a_cpp_compiler_functions_are_kept_in_the_numba_cache(tmp_path: Path) -> None:
    said, _ = ran(tmp_path, CALLS, compiler="/nonexistent")
    assert not list(tmp_path.glob("*.so")) and list(tmp_path.rglob("*.nbc"))
    assert ran(tmp_path, CALLS, compiler="/nonexistent") == [said, "True"]


def test_a_damaged_library_is_not_used(tmp_path: Path) -> None:
    said, _ = ran(tmp_path, CALLS)
    for file in tmp_path.glob("*.so"):
        file.write_bytes(file.read_bytes()[:100])
    assert ran(tmp_path, CALLS) == [said, "True"]
