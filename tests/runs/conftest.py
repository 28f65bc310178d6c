"""Fixtures for short runs with checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pgzoo.config import Layer
from pgzoo.registry import PluginCatalog
from pgzoo.runs.resolve import compose
from pgzoo.runs.result import Result
from pgzoo.runs.runner import run_config
from pgzoo.tracking import Home


@pytest.fixture
def short() -> dict[str, Any]:
    """Return the settings of a short run that keeps three checkpoints."""
    a2c = {"algorithm": "a2c", "env": "CartPole-v1", "backend": "sync", "num_envs": 2, "eval_episodes": 2}
    return a2c | {"total_steps": 600, "checkpoint_every": 200}


@pytest.fixture
def trained(home: Home, catalog: PluginCatalog, short: dict[str, Any]) -> Callable[..., Result]:
    """Return `trained(**settings)`, which trains a short run; `settings` override those of `short`."""

    def train(**settings: Any) -> Result:
        result = run_config(compose(Layer(short | settings, ".".join), catalog), catalog)
        if result.error:
            raise result.error
        if result.status == "interrupted":  # by a signal that was meant for pytest, such as that of `timeout`
            raise KeyboardInterrupt("a signal has interrupted the run of a test")
        return result

    return train
