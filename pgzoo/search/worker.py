"""A worker process of `pgzoo sweep --jobs N`, which trains trials of a study. Started by `search.jobs`."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

__all__ = ["main", "train_trials"]


def main() -> None:
    """Train trials of the study that the first line of standard input names, until there are enough."""
    from pgzoo.errors import PgzooError

    commands = os.fdopen(os.dup(0), "rb", buffering=0)  # unbuffered: a thread may block in it at exit
    first = commands.readline()
    if not first:
        return
    threading.Thread(target=_interrupt_at_end, args=(commands,), name="pgzoo-parent", daemon=True).start()
    try:
        interrupted = train_trials(**json.loads(first))
    except KeyboardInterrupt:  # not while a trial was trained
        interrupted = True
    except PgzooError as error:
        sys.exit(str(error))
    sys.exit(130 if interrupted else 0)


def train_trials(
    study: str,
    storage: str | None,
    tracking_uri: str | None,
    max_hours: float | None,
    imports: Sequence[str],
    blocked: Sequence[str],
    command: str,
    home: Sequence[str],
) -> bool:
    """Train trials of a study until it has enough of them; return whether that was interrupted. See `join_study`."""
    from pgzoo.registry import discover
    from pgzoo.search.runner import join_study
    from pgzoo.tracking import Home

    result = join_study(
        study,
        discover(blocked=blocked, imports=imports),
        storage=storage,
        tracking_uri=tracking_uri,
        max_hours=max_hours,
        command=command,
        home=Home(*map(Path, home)),
    )
    return result.interrupted


def _interrupt_at_end(commands: IO[bytes]) -> None:
    """Send SIGINT to this process when its standard input ends."""
    while commands.read(1024):
        pass
    os.kill(os.getpid(), signal.SIGINT)
