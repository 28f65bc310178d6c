"""Policies with random parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from pgzoo.envs.spec import make_spec
from pgzoo.export.bundle import LoadedPolicy
from pgzoo.registry import PluginCatalog
from pgzoo.registry.components import resolve_component
from pgzoo.training.plan import make_policy

Make = Callable[..., LoadedPolicy]
MLP = {"name": "mlp", "hidden": [5], "init": "default"}


@pytest.fixture
def make(catalog: PluginCatalog) -> Make:
    """Return `make(observation space, action space)`: a policy with random parameters."""

    def loaded(
        observation: gym.Space[Any],
        action: gym.Space[Any],
        policy: Mapping[str, Any] = MLP,
        *,
        masked: bool = False,
        normalize_obs: bool = False,
    ) -> LoadedPolicy:
        component, factory = resolve_component("policy", policy, catalog)
        spec, rng = make_spec(observation, action, masked=masked), np.random.default_rng(3)
        needs = frozenset() if component.name == "uniform" else frozenset({"value"})
        made = make_policy(factory, component.settings, spec, needs, normalize_obs)
        params = {
            name: torch.from_numpy(0.7 * rng.standard_normal(v.shape)).float() for name, v in made.init(rng).items()
        }
        kept = {
            name: 1 + torch.from_numpy(np.asarray(rng.random(v.shape)))
            for name, v in getattr(made, "buffers", dict)().items()
        }
        params = {name: value[None] for name, value in (params | kept).items()}
        return LoadedPolicy(component, spec, made, params)

    return loaded
