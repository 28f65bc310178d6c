"""Evaluate a run that is over: its policy and config come from its artifacts, the code from installed plugins."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pgzoo.bundle import load_policy
from pgzoo.config import Layer, read_yaml, resolve
from pgzoo.engine import Engine
from pgzoo.errors import UsageError
from pgzoo.plan import named
from pgzoo.runner import make_plan

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pgzoo.registry import Catalog
    from pgzoo.tracking import Found

__all__ = ["evaluate_run"]


def evaluate_run(
    found: Found, catalog: Catalog, *, episodes: int, mode: Literal["sampled", "greedy"]
) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Return the returns and lengths of `episodes` episodes, `[episodes]` each.

    With as many episodes as the run's own final evaluation had, these are the same episodes.

    Raises:
        StoreError: the run has no policy, or the store can't be reached.
        UsageError: a component of the run isn't installed, or its environment can't be made here.
    """
    file = found.artifact("config.yaml")
    folder = found.artifact("policy/policy.json").parent
    found.artifact("policy/policy.safetensors")
    layer = read_yaml(file)
    module, colon, _ = str(layer.values.get("env")).partition(":")
    if colon and module not in sys.modules:
        raise UsageError(f'The run\'s environment is in module "{module}". Runs load no code: add --import {module}.')
    over = Layer({"seeds": (found.seed,), "eval_episodes": episodes}, ".".join)
    plan = make_plan(resolve([layer, over], catalog), catalog)
    loaded = load_policy(folder, catalog)
    engine = Engine(replace(plan, policy=loaded.policy))
    state = engine.state._replace(params=named(loaded.params), buffers={})
    try:
        played = engine.evaluate(state, np.ones(1, np.bool_), mode)
    finally:
        engine.close()
    return played.returns[0], played.lengths[0]
