"""Stable-Baselines3's PPO and A2C."""

from __future__ import annotations

import time
from argparse import Namespace

import torch
import work
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

WORK = {
    "n_steps": work.ROLLOUT_STEPS,
    "n_epochs": work.EPOCHS,
    "batch_size": work.MINIBATCH,
    "learning_rate": lambda left: work.LEARNING_RATE * left,
    "gamma": work.GAMMA,
    "gae_lambda": work.LAMBDA,
    "clip_range": work.CLIP_RANGE,
    "ent_coef": work.ENTROPY,
    "vf_coef": work.VALUE,
    "max_grad_norm": work.MAX_GRAD_NORM,
    "policy_kwargs": {"net_arch": [work.HIDDEN, work.HIDDEN]},
}
TUNED = {
    "n_steps": 32,
    "n_epochs": 20,
    "batch_size": 256,
    "gae_lambda": 0.8,
    "gamma": 0.98,
    "ent_coef": 0.0,
    "learning_rate": lambda left: 1e-3 * left,
    "clip_range": lambda left: 0.2 * left,
}
"""RL Zoo's settings of PPO for CartPole-v1."""


class Watch(BaseCallback):
    def __init__(self, returns: work.Returns) -> None:
        super().__init__()
        self.returns = returns

    def _on_step(self) -> bool:
        ended = [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        return not self.returns.add(ended, self.num_timesteps)


def make(algorithm: str, settings: str, env: str, seed: int) -> BaseAlgorithm:
    envs = make_vec_env(env, n_envs=work.NUM_ENVS, seed=seed)
    if algorithm == "a2c":
        return A2C("MlpPolicy", envs, seed=seed, device="cpu")
    return PPO("MlpPolicy", envs, seed=seed, device="cpu", **(WORK if settings == "work" else TUNED))


def train(options: Namespace, seed: int, returns: work.Returns) -> tuple[int, float]:
    model = make(options.algorithm, options.settings, options.env, seed)
    started = time.perf_counter()
    model.learn(options.total_steps, callback=Watch(returns))
    return model.num_timesteps, time.perf_counter() - started


if __name__ == "__main__":
    torch.set_num_threads(1)
    work.measure(train, work.parse(__doc__, ("ppo", "a2c")), ("stable-baselines3", "torch", "gymnasium"))
