"""Print every hook call to standard error if the environment variable PGZOO_TRACE_PLUGINS is 1."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pgzoo.errors import visible

__all__ = ["TRACE_VARIABLE", "traced"]

TRACE_VARIABLE = "PGZOO_TRACE_PLUGINS"


@contextmanager
def traced(hook: str, who: str) -> Iterator[None]:
    """Print the call of a hook by the body, the plugin or listener `who`, the time it takes and what it raises."""
    if os.environ.get(TRACE_VARIABLE, "0") in ("", "0"):
        yield
        return
    start, outcome = time.perf_counter(), ""
    try:
        yield
    except BaseException as error:
        outcome = f", raised {type(error).__name__}"
        raise
    finally:
        line = f"[hook] {hook} -> {who}: {1000 * (time.perf_counter() - start):.2f} ms{outcome}"
        print(visible(line), file=sys.stderr, flush=True)
