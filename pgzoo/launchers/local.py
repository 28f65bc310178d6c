"""Train all seeds in this process, as one batched computation."""

from __future__ import annotations

from pgzoo.errors import ConfigError
from pgzoo.types import LaunchRequest

__all__ = ["launch"]


def launch(request: LaunchRequest) -> None:
    """Start no worker.

    Raises:
        ConfigError: the run sets `workers`, or another setting of the launchers that start workers.
    """
    if request.config.workers is not None:
        raise ConfigError("--workers: this launcher trains all seeds in one process. Add: --launcher processes")
    if request.config.verify:
        raise ConfigError("--verify: this launcher starts no workers to compare. Add: --launcher processes")
    if request.config.cpus_per_shard is not None or request.config.gpus_per_shard is not None:
        raise ConfigError(
            "--cpus-per-shard, --gpus-per-shard: only the launcher of a cluster reserves them. Add: --launcher ray"
        )
