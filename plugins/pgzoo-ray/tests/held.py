"""A plugin that holds a run after a checkpoint, as long as a fault is prepared or hasn't been noticed yet."""

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
