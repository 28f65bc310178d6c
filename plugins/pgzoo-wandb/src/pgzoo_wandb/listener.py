"""Starts a process that copies the journals of a command's runs to Weights & Biases.

The trainer never imports wandb and never waits for that process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from pgzoo.errors import UsageError
from pgzoo.registry import hookimpl

if TYPE_CHECKING:
    from pgzoo.runs.context import RunContext

__all__ = ["WeightsAndBiases", "create"]

MODES = ("offline", "online")


def create(context: RunContext) -> WeightsAndBiases | None:
    """Return the listener of a run; None unless PGZOO_WANDB is set.

    Raises UsageError if PGZOO_WANDB has another value than "offline" or "online".
    """
    mode = os.environ.get("PGZOO_WANDB", "").strip().lower()
    if mode and mode not in MODES:
        raise UsageError(f"PGZOO_WANDB is {mode!r}; set it to offline or online, or unset it.")
    return WeightsAndBiases(context, mode) if mode else None


class WeightsAndBiases:
    """Starts the process when the run starts, and closes its input when the run ends; see `pgzoo_wandb.follower`."""

    def __init__(self, context: RunContext, mode: str) -> None:
        self._context, self._mode = context, mode
        self._log = context.session.home.root / "wandb.log"
        self._follower: subprocess.Popen[bytes] | None = None

    @hookimpl(trylast=True)
    def pgzoo_run_started(self) -> None:
        """Start the process. The kernel closes its input even if this process is killed."""
        plan, runs = self._context.plan, self._context.session.home.runs
        journals = [str((runs / key).resolve()) for key in plan.run_keys]
        with self._log.open("ab") as log:
            self._follower = subprocess.Popen(
                [sys.executable, "-m", "pgzoo_wandb.follower", self._mode, *journals],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C ends the run, whose last records are still to be copied
                env={**os.environ, "PYTHONSAFEPATH": "1"},  # ./wandb is wandb's folder, not the module
            )

    @hookimpl(trylast=True)
    def pgzoo_update_done(self) -> None:
        """Raise if the process has failed, so that pgzoo prints a warning and detaches this listener."""
        if self._follower and self._follower.poll():
            raise RuntimeError(f"the process that writes to Weights & Biases has failed, see {self._log}")

    @hookimpl(trylast=True)
    def pgzoo_run_ended(self) -> None:
        """Let the process copy the rest and exit, without waiting for it."""
        if self._follower and self._follower.stdin:
            self._follower.stdin.close()
            if self._follower.poll() is None:
                self._follower.returncode = 0  # it outlives this process on purpose; Popen would warn about that
