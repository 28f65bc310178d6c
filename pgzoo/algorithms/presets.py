"""Presets of the built-in algorithms: arguments of `registry.preset` by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "notebook": {
        "algorithm": "reinforce",
        "summary": "one episode per update, as teaching notebooks do: 4-64-2 network, Adam 1e-3, 1000 episodes",
        "settings": {
            "num_envs": 1,
            "total_episodes": 1000,
            "max_episode_steps": 500,
            "gamma": 0.99,
            "estimator": "notebook",
            "policy": {"name": "mlp", "hidden": (64,), "activation": "leaky_relu", "init": "default"},
            "learning_rate": 1e-3,
            "learning_rate_schedule": "constant",
            "optimizer": "adam",
            "baseline": "none",
            "normalize_returns": False,
            "average": "episodes",
            "entropy_coef": 0.0,
            "eval_episodes": 1000,
        },
    },
    "ppo-cartpole": {
        "algorithm": "ppo",
        "env": "CartPole-v1",
        "auto": True,
        "summary": "fewer epochs at a larger step size: solved in fewer gradient steps",
        "settings": {"learning_rate": 7e-3, "epochs": 3},
    },
    "ppo-pendulum": {
        "algorithm": "ppo",
        "env": "Pendulum-v1",
        "auto": True,
        "summary": "a short horizon; rescaled actions, normalized observations and rewards",
        "settings": {
            "total_steps": 200_000,
            "num_envs": 4,
            "rollout_steps": 512,
            "gamma": 0.9,
            "minibatches": 8,
            "policy": {"rescale": True},
            "normalize_obs": True,
            "normalize_reward": True,
        },
    },
    "ppo-acrobot": {
        "algorithm": "ppo",
        "env": "Acrobot-v1",
        "auto": True,
        "summary": "16 environments, fewer epochs; normalized observations and rewards",
        "settings": {
            "total_steps": 300_000,
            "num_envs": 16,
            "gamma": 0.99,
            "estimator": {"lam": 0.94},
            "epochs": 4,
            "minibatches": 8,
            "normalize_obs": True,
            "normalize_reward": True,
        },
    },
    "ppo-pong": {
        "algorithm": "ppo",
        "env": "ALE/Pong-v5",
        "auto": True,
        "summary": "cnn on four gray frames of 84 x 84 pixels, with the usual settings for Atari",
        "settings": {
            "policy": "cnn",
            "env_kwargs": {"frameskip": 1},
            "wrappers": ("gymnasium.wrappers:AtariPreprocessing",),
            "frame_stack": 4,
            "total_steps": 10_000_000,
            "gamma": 0.99,
            "learning_rate": 2.5e-4,
            "epochs": 4,
            "clip_range": 0.1,
            "entropy_coef": 0.01,
            "eval_episodes": 10,
        },
    },
}
