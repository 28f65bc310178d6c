"""A run on images is resumed exactly, and its policy acts on the environment's own observations."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict

from pgzoo.registry import PluginCatalog
from pgzoo.runs.result import Result
from pgzoo.runs.resume import resume
from pgzoo.tracking import Home, find
from pgzoo.training import checkpoint

POLICY = {"name": "cnn", "filters": (2, 2), "hidden": (4,)}


class Drawn(gym.ObservationWrapper[Any, Any, Any]):
    """CartPole whose observation is a picture of the cart and the pole, and the two speeds."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = Dict({"picture": Box(0, 255, (16, 16, 1), np.uint8), "speeds": Box(-9.0, 9.0, (2,))})

    def observation(self, observation: Any) -> Any:
        picture = np.zeros((16, 16, 1), np.uint8)
        picture[:8, int(8 + 7 * np.clip(observation[0] / 2.4, -1, 1))] = 255
        picture[8:, int(8 + 7 * np.clip(observation[2] / 0.21, -1, 1))] = 128
        return {"picture": picture, "speeds": observation[[1, 3]]}


def test_a_run_on_images_is_resumed_exactly(
    trained: Callable[..., Result], home: Home, catalog: PluginCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("drawn_wrappers")
    module.Drawn = Drawn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "drawn_wrappers", module)
    whole = trained(policy=POLICY, wrappers=("drawn_wrappers:Drawn",), normalize_obs=True)
    kept = checkpoint.paths(home.runs / whole.runs[0].run_key / checkpoint.FOLDER_NAME)
    state = checkpoint.load(kept[0]).state
    assert state.environments is not None and state.collector is not None
    assert (state.collector.obs.dtype, state.collector.obs.shape) == (np.uint8, (1, 2, 256 + 8))
    for path in kept[1:]:
        shutil.rmtree(path)
    again = resume(find(whole.group, home), catalog)
    first, second = whole.ended.state, again.ended.state
    assert first.env_steps == second.env_steps
    for name, value in (first.params | first.buffers).items():
        assert value.numpy().tobytes() == (second.params | second.buffers)[name].numpy().tobytes(), name
    env = Drawn(gym.make("CartPole-v1"))
    policy, (obs, _) = whole.policy(0), env.reset(seed=0)
    assert policy.act(obs, deterministic=True) in (0, 1)
