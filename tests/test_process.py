"""Freed memory is reused in pgzoo's processes, and given back in programs that import pgzoo."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

UPDATES = """
import resource
import numpy as np
{first}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def update():
    return [np.ones(2**20) for _ in range(5)]  # 8 MiB each
update()
before = faults()
for _ in range(20):
    update()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such thresholds")
def test_large_arrays_get_the_memory_of_those_of_before() -> None:
    page, size = 4096, 20 * 5 * 2**23

    def new_pages(first: str) -> int:
        code = UPDATES.format(first=first)
        return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)

    assert new_pages("import pgzoo") > size / page / 10
    assert new_pages("from pgzoo.process import keep_freed_memory; keep_freed_memory()") < size / page / 50
