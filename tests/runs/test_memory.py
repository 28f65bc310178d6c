"""How much memory a run needs: estimated before it starts, and measured for images."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from pgzoo.envs.spec import make_spec
from pgzoo.errors import UsageError
from pgzoo.runs import memory
from pgzoo.types import Episodes, Steps

ATARI = make_spec(Box(0, 255, (4, 84, 84), np.uint8), Discrete(6))


def test_observations_are_counted_once_as_collected_and_once_in_batches(configure: Callable[..., Any]) -> None:
    config = configure("ppo", num_envs=8)
    assert memory.rollout_bytes(config, ATARI, Steps(127), members=3) == 2 * 3 * 8 * 128 * 28_224
    category = make_spec(Discrete(5), Discrete(2))
    assert memory.rollout_bytes(config, category, Steps(127), members=1) == 2 * 8 * 128 * 8
    assert memory.rollout_bytes(config, ATARI, Episodes(1), members=1) == 0  # their lengths aren't known


def test_rollouts_that_cannot_fit_are_refused_with_their_size(
    configure: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = configure("ppo", num_envs=8)
    monkeypatch.setattr(memory, "_machine_memory", lambda: 8 * 2**30)
    memory.check_memory(config, ATARI, Steps(128), members=32)
    memory.note_memory(config, ATARI, Steps(128), members=8)
    assert not caplog.records
    memory.note_memory(config, ATARI, Steps(128), members=32)
    assert "128 steps in 8 environments for 32 seeds, with observations of 28,224 bytes" in caplog.text
    assert "need 1.7 GiB of memory" in caplog.text
    said = r"Rollouts of 128 steps in 8 environments for 320 seeds, .* need 17 GiB, and this machine has 8\.0 GiB"
    with pytest.raises(UsageError, match=said):
        memory.check_memory(config, ATARI, Steps(128), members=320)


SCRIPT = """
import resource
import gymnasium as gym, numpy as np
from gymnasium.spaces import Box, Discrete

class Frames(gym.Env):
    observation_space, action_space = Box(0, 255, (4, 84, 84), np.uint8), Discrete(6)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.frames(), {}
    def step(self, action):
        return self.frames(), 1.0, False, False, {}
    def frames(self):
        return self.np_random.integers(0, 256, (4, 84, 84), np.uint8)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

import pgzoo
from pgzoo.training.loop import train
gym.register("test/Frames-v0", Frames, max_episode_steps=100)
settings = {"env": "test/Frames-v0", "policy": "cnn", "num_envs": 8, "total_steps": 2048, "eval_episodes": 1}
plan = pgzoo.plan("ppo", rollout_steps=128, epochs=1, minibatches=4, **settings)
before = peak()
*_, ended = train(plan)
print(ended.statuses[0], peak() - before)
"""


def test_training_on_128_steps_of_8_atari_games_adds_less_than_270_mib() -> None:
    """The rollout takes 28 MiB; the rest are the activations of 256 rows, and the parameters in several copies."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    status, added = done.stdout.split()
    assert status == "finished"
    assert float(added) < 270
