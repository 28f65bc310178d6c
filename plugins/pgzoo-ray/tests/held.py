"""A plugin that pauses a run after a checkpoint while a test prepares a fault or waits until the fault is noticed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pgzoo


@pgzoo.hookimpl
def pgzoo_checkpoint_saved(event: Any, control: Any) -> None:
    """Wait while there is a file `hold` in the working directory."""
    while Path("hold").exists():
        time.sleep(0.05)
