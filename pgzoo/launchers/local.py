"""All seeds in this process, as one batched computation."""

from __future__ import annotations

from pgzoo.errors import ConfigError
from pgzoo.protocols import Job

__all__ = ["launch"]


def launch(job: Job) -> None:
    """Start nothing. Raises ConfigError for a number of processes to start."""
    if job.config.workers is not None:
        raise ConfigError("--workers: this launcher trains all seeds in one process. Add: --launcher processes")
