"""Train all seeds in this process, as one batched computation."""

from __future__ import annotations

from pgzoo.errors import ConfigError
from pgzoo.types import LaunchRequest

__all__ = ["launch"]


def launch(request: LaunchRequest) -> None:
    """Start no worker.

    Raises:
        ConfigError: the run sets `workers`.
    """
    if request.config.workers is not None:
        raise ConfigError("--workers: this launcher trains all seeds in one process. Add: --launcher processes")
