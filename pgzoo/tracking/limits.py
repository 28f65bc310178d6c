"""How many files a process may have open: checked before a run, since each journal needs some of them until it ends."""

from __future__ import annotations

import os
import sys

from pgzoo.errors import StoreError

__all__ = ["reserve_descriptors"]

PER_JOURNAL = 2
"""The journal itself and its lock."""
RESERVE = 32
"""Open files that a run needs for a while besides its journals: for checkpoints, the uploader, environments."""


def reserve_descriptors(journals: int) -> None:
    """Make sure that this process can have this many journals open; raise its soft limit if that is too low.

    Raises StoreError if the hard limit doesn't allow it.
    """
    if sys.platform == "win32":
        return
    import resource

    needed = len(os.listdir("/dev/fd")) + PER_JOURNAL * journals + RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise StoreError(
            f"{journals} runs need {needed} open files, and the system's limit for this process is {hard}. Raise it "
            f"(ulimit -n {needed}, or by an administrator), train fewer seeds at once, or distribute them "
            "among processes: --launcher processes."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
