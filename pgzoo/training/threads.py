"""The number of CPU threads that a run computes with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits

__all__ = ["limit_threads"]


@contextmanager
def limit_threads(count: int) -> Iterator[None]:
    """Let torch and numpy use `count` threads in the body, and afterwards as many as before.

    numpy's linear algebra would use every core: for the small matrices of a policy that is no faster, and threads that
    wait for each other keep the cores from other processes.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)
