"""Choose between fast sums and sums that are bit-identical for any amount of padding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["any_order", "sums_in_any_order"]

_any_order = ContextVar("_any_order", default=False)


@contextmanager
def sums_in_any_order(allowed: bool = True) -> Iterator[None]:
    """In this context, if `allowed`, sums are faster, and their last bits may depend on the amount of padding."""
    token = _any_order.set(allowed)
    try:
        yield
    finally:
        _any_order.reset(token)


def any_order() -> bool:
    """Return whether the current context allows sums in any order."""
    return _any_order.get()
