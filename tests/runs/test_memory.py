"""How much memory a run needs: estimated before it starts, and measured for images."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from pgzoo.envs.spec import make_spec
from pgzoo.errors import UsageError
from pgzoo.policies.cnn import cnn
from pgzoo.runs import memory
from pgzoo.types import Episodes, Steps

ATARI = make_spec(Box(0, 255, (4, 84, 84), np.uint8), Discrete(6))


def test_the_memory_of_rollouts_agrees_with_a_hand_calculation(configure: Callable[..., Any]) -> None:
    config = configure("ppo", num_envs=8, minibatches=4)
    needed = memory.needed_memory(config, ATARI, Steps(128), 3)
    assert needed.rollouts == 3 * 28_224 * (8 * 129 + 256)  # with the last observations; a batch has 8 * 128 / 4 rows
    assert needed.policy == 0 and needed.process > memory.LIBRARIES
    category = make_spec(Discrete(5), Discrete(2))
    assert memory.needed_memory(config, category, Steps(128), 1).rollouts == 8 * (8 * 129 + 256)
    assert memory.needed_memory(config, ATARI, Episodes(1), 1).rollouts == 0  # the lengths of episodes aren't known


def test_the_footprint_of_a_cnn_policy_agrees_with_a_hand_calculation(configure: Callable[..., Any]) -> None:
    config = configure("ppo", num_envs=8, minibatches=4, policy="cnn")
    policy = cnn(config.policy.settings, ATARI, frozenset({"value"}))
    parameters = 32 * 4 * 64 + 64 * 32 * 16 + 64 * 64 * 9 + 3136 * 512
    exact = sum(value.numel() for value in policy.init(np.random.default_rng(0)).values())
    kept = 32 * 20**2 + 64 * 9**2 + 64 * 7**2 + 3136 + 512
    assert policy.footprint == (parameters, kept)
    assert parameters == pytest.approx(exact, rel=0.01)
    needed = memory.needed_memory(config, ATARI, Steps(128), 20, policy)
    assert needed.policy == 4 * (11 * 20 * parameters + 16 * 256 * kept)  # 16 members are differentiated at once


def test_a_run_that_does_not_fit_in_memory_is_refused_with_its_estimated_size(
    configure: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = configure("ppo", num_envs=8, minibatches=4, policy="cnn")
    policy = cnn(config.policy.settings, ATARI, frozenset({"value"}))
    monkeypatch.setattr(memory, "_machine_memory", lambda: 8 * 2**30)
    monkeypatch.setattr(memory, "_resident", lambda: 280 * 2**20)
    memory.check_memory(config, ATARI, Steps(128), 32, policy)
    memory.note_memory(config, ATARI, Steps(128), 4, policy)
    with monkeypatch.context() as large:  # in a notebook, for example
        large.setattr(memory, "_resident", lambda: 5 * 2**30)
        memory.note_memory(config, ATARI, Steps(128), 4, policy)
    assert not caplog.records
    memory.note_memory(config, ATARI, Steps(128), 32, policy)
    assert "This run needs about 4.0 GiB of memory: 1.1 GiB for rollouts of 128 steps in 8 environments" in caplog.text
    assert "for 32 seeds, with observations of 28,224 bytes, 2.6 GiB for the policy and its optimizer" in caplog.text
    said = r"would need 34 GiB of memory: .* for 320 seeds, .*\. This machine has 8\.0 GiB\. Use fewer seeds"
    with pytest.raises(UsageError, match=said):
        memory.check_memory(config, ATARI, Steps(128), 320, policy)


def test_malloc_is_tuned_only_for_images_and_not_if_the_user_has_set_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda *given: calls.append(given))
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(memory.sys, "platform", "linux")
    for name in [name for name in os.environ if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"]:
        monkeypatch.delenv(name)
    memory.return_freed_images(make_spec(Box(-1, 1, (8,), np.float32), Discrete(2)))
    assert not calls
    memory.return_freed_images(ATARI)
    assert calls == [(-3, 3 * 2**20), (-1, 64 * 2**20)]
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    memory.return_freed_images(ATARI)
    assert len(calls) == 2


SCRIPT = """
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
    # not ru_maxrss, which begins with the size of the process that started this one
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024

import sys
import pgzoo
from pgzoo.runs import memory
from pgzoo.training.loop import train
seeds = int(sys.argv[1])
gym.register("test/Frames-v0", Frames, max_episode_steps=100)
settings = {"env": "test/Frames-v0", "policy": "cnn", "num_envs": 8, "total_steps": 2048, "eval_episodes": 1}
plan = pgzoo.plan("ppo", rollout_steps=128, epochs=1, minibatches=4, seeds=seeds, **settings)
before, needed = peak(), memory.needed_memory(plan.config, plan.spec, plan.collection, seeds, plan.policy)
memory.return_freed_images(plan.spec)
*_, ended = train(plan)
print(ended.statuses[0], peak() - before, peak(), sum(needed) / 2**20)
"""


def measure(seeds: int) -> tuple[float, float, float]:
    """Return the MiB that training adds to the process, its peak, and the estimate of the peak."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(seeds)], capture_output=True, text=True, check=True)
    status, *numbers = done.stdout.split()
    assert status == "finished"
    added, peak, estimate = map(float, numbers)
    return added, peak, estimate


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_training_on_128_steps_of_8_atari_sized_envs_adds_less_than_210_mib() -> None:
    """The rollout takes 28 MiB; the rest are the activations of 256 rows, and the parameters in several copies."""
    added, peak, estimate = measure(1)
    assert added < 210
    assert estimate == pytest.approx(peak, rel=0.15)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_the_memory_of_four_seeds_is_estimated_within_15_percent() -> None:
    _, peak, estimate = measure(4)
    assert estimate == pytest.approx(peak, rel=0.15)
