"""Limits on the responses of an HTTP tracking server: the size and duration of a response, and the number of pages.

Importing this module applies the first two to every request of MLflow's client in this process. `limited` adds limits
on all responses within a block. `transports` replaces the network for some addresses.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mlflow.utils import request_utils as _request_utils
from requests.adapters import BaseAdapter

from pgzoo.errors import StoreError

__all__ = ["limited"]

transports: dict[str, BaseAdapter] = {}
"""What sends the requests to the addresses that begin with a prefix, in place of the network; for simulations."""
request_utils: Any = _request_utils  # the function that is replaced below isn't part of its interface
MAX_BYTES, MAX_SECONDS = 64 * 2**20, 60.0
"""Bounds on one answer."""
MAX_VALUES = 2_000_000
"""Bound on the number of commas and brackets in one answer: lists of empty lists take 25 times their size in memory."""
MAX_ARTIFACT_BYTES, MAX_ARTIFACT_SECONDS = 512 * 2**20, 600.0
"""Bounds on the download of one artifact."""
MAX_PAGES, MAX_TOTAL_BYTES = 2000, 2**30
"""Bounds on all answers to one question."""
CHUNK = 2**16
PAGE_STARTS = (b"<!doctype html", b"<html")


@dataclass
class Budget:
    """Pages and bytes received in the current `limited` block, and the limit that was exceeded, in words."""

    pages: int = 0
    size: int = 0
    exceeded: str = ""


budgets: list[Budget] = []
"""The budget of the current block, shared by its threads."""


@contextmanager
def limited() -> Iterator[None]:
    """Bound the number of pages and bytes that the server may answer within the block. Raises StoreError in it."""
    budget = Budget()
    budgets.append(budget)
    try:
        yield
    except Exception as error:
        if budget.exceeded:  # MLflow replaces the errors of a download
            raise StoreError(budget.exceeded) from error
        raise
    finally:
        budgets.pop()


def read_bounded(response: Any, *_: Any, **options: Any) -> None:
    """Read a response as `requests` would, but give up on one that is too long or takes too long."""
    read = response.iter_content
    if options.get("stream"):  # an artifact, which the client writes to a file piece by piece
        response.iter_content = lambda *sizes, **how: bounded(
            response, read(*sizes, **how), "file", MAX_ARTIFACT_BYTES, MAX_ARTIFACT_SECONDS
        )
        return
    content = b"".join(bounded(response, read(CHUNK), "response", MAX_BYTES, MAX_SECONDS))
    if response.ok and content[:200].lstrip().lower().startswith(PAGE_STARTS):
        # MLflow's client doesn't read the answer to an upload: a file would count as uploaded
        raise StoreError("a web page answers in place of the MLflow server: a sign-in page, or another server?")
    if sum(map(content.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise StoreError(f"the server's response has more than {MAX_VALUES:,} values. Is it an MLflow server?")
    response._content, response._content_consumed = content, True
    if budgets:
        budget = budgets[-1]
        budget.size += len(content)
        budget.pages += has_next_page(content)
        if budget.pages > MAX_PAGES or budget.size > MAX_TOTAL_BYTES:
            raise StoreError(
                f"the server's list is too long: stopped reading after {budget.pages:,} pages and "
                f"{budget.size >> 20} MiB. Is it an MLflow server?"
            )


def has_next_page(content: bytes) -> bool:
    """Return whether an answer says that there is another page."""
    if b'"next_page_token"' in content:
        return True
    if b"\\u" not in content:
        return False
    try:
        answer = json.loads(content)  # the name may be written with escapes
    except (ValueError, RecursionError):
        return False
    return isinstance(answer, dict) and "next_page_token" in answer


def bounded(response: Any, parts: Iterable[bytes], what: str, size: int, seconds: float) -> Iterator[bytes]:
    """Yield the parts of a response. Raises StoreError if they have more than `size` bytes or take too long."""
    received, deadline = 0, time.monotonic() + seconds
    for part in parts:
        received += len(part)
        if received > size or time.monotonic() > deadline:
            response.close()
            limit = f"{size >> 20} MiB" if received > size else f"{seconds:.0f} s"
            message = f"the server's {what} is too long: stopped reading after {limit}. Is it an MLflow server?"
            if budgets:
                budgets[-1].exceeded = message
            raise StoreError(message)
        yield part


def install() -> None:
    """Add `read_bounded` and the `transports` to the sessions that MLflow's client makes."""
    make_session = request_utils._cached_get_request_session

    def make_bounded_session(*args: Any, **kwargs: Any) -> Any:
        session = make_session(*args, **kwargs)
        if read_bounded not in session.hooks["response"]:
            session.hooks["response"].append(read_bounded)
        for prefix, transport in transports.items():
            session.mount(prefix, transport)
        return session

    request_utils._cached_get_request_session = make_bounded_session


install()
