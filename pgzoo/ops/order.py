"""Whether numbers may be added in whatever order is fastest, or must be the same however much padding there is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["any_order", "sums_in_any_order"]

_any_order = ContextVar("_any_order", default=False)


@contextmanager
def sums_in_any_order(allowed: bool = True) -> Iterator[None]:
    """Within this, if `allowed`, sums may depend in their last bit on how much padding there is, and are faster."""
    token = _any_order.set(allowed)
    try:
        yield
    finally:
        _any_order.reset(token)


def any_order() -> bool:
    """Whether that is so here."""
    return _any_order.get()
