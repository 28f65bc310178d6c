"""Settings of pgzoo's processes: freed memory is reused, and the uploader has a low priority."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

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
def test_large_arrays_reuse_freed_memory_only_with_keep_freed_memory() -> None:
    page, size = 4096, 20 * 5 * 2**23

    def new_pages(first: str) -> int:
        code = UPDATES.format(first=first)
        return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)

    assert new_pages("import pgzoo") > size / page / 10
    assert new_pages("from pgzoo.process import keep_freed_memory; keep_freed_memory()") < size / page / 50


def grouped() -> bool:
    """Return whether the kernel divides a core among sessions (autogroups)."""
    setting = Path("/proc/sys/kernel/sched_autogroup_enabled")
    return setting.exists() and setting.read_text().strip() == "1"


@pytest.mark.skipif(not grouped(), reason="needs Linux with autogroups")
@pytest.mark.parametrize("new_session", [True, False])
def test_lower_priority_lowers_its_own_session_but_not_an_inherited_one(new_session: bool) -> None:
    group = Path("/proc/self/autogroup")  # empty in the system's first session
    program = (
        "import os, pgzoo.process as p; p.lower_priority(); print(os.nice(0), open('/proc/self/autogroup').read())"
    )
    command, before = [sys.executable, "-c", program], group.read_text().split()[1:]
    done = subprocess.run(command, start_new_session=new_session, capture_output=True, text=True, check=True)
    mine, *session = done.stdout.split()
    assert int(mine) == min(os.nice(0) + 10, 19)
    assert session[1:] == (["nice", "10"] if new_session else before)
