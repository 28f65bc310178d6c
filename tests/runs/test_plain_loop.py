"""Evaluation by a loop over a gymnasium environment, without pgzoo's evaluator, gives the same returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import pgzoo
from pgzoo.training.seeding import EVALUATION_ROOT, reset_seeds

EPISODES = 5

CASES: dict[str, dict[str, Any]] = {
    "Pendulum-v1": {
        "algorithm": "ppo",
        "preset": "none",
        "normalize_obs": True,
        "policy": {"name": "mlp", "rescale": True},
        "max_episode_steps": 60,
    },
    "CartPole-v1": {"algorithm": "ppo", "preset": "none", "policy": {"name": "gru", "hidden": [8], "memory": 8}},
}


@pytest.mark.parametrize("env", CASES)
def test_a_plain_loop_gives_the_same_greedy_returns(env: str, tmp_path: Path) -> None:
    result = pgzoo.run(
        **CASES[env],
        env=env,
        seeds=2,
        num_envs=2,
        rollout_steps=32,
        total_steps=256,
        eval_episodes=EPISODES,
        backend="sync",
        tracking_uri="none",
    )
    starts = reset_seeds(EVALUATION_ROOT, "evaluate", EPISODES)
    for run in result.runs:
        policy = pgzoo.load_policy(result.policy(run.seed).save(tmp_path / str(run.seed)))
        plain = gym.make(env, max_episode_steps=CASES[env].get("max_episode_steps"))
        returns = []
        for start in starts:
            observation, _ = plain.reset(seed=int(start))
            policy.reset()
            total, done = 0.0, False
            while not done:
                action = policy.act(observation, deterministic=True)
                observation, reward, terminated, truncated, _ = plain.step(action)
                total, done = total + float(reward), terminated or truncated
            returns.append(total)
        assert sorted(run.greedy_returns) == pytest.approx(sorted(returns), rel=1e-6)  # pgzoo's order is by end time
        assert len(set(returns)) > 1  # otherwise the comparison would show little
