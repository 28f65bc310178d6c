"""Stable-Baselines3's PPO and A2C."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from functools import partial

import torch
import watched
import work
from stable_baselines3 import A2C, PPO
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
    "vf_coef": work.VALUE / 2,  # its loss is the whole squared error
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


def prepare(options: Namespace, seed: int, returns: work.Returns) -> Callable[[], object]:
    envs = make_vec_env(lambda: watched.make(options.env, returns), n_envs=work.NUM_ENVS, seed=seed)
    if options.algorithm == "a2c":
        return partial(A2C("MlpPolicy", envs, seed=seed, device="cpu").learn, options.total_steps)
    settings = WORK if options.settings == "work" else TUNED
    return partial(PPO("MlpPolicy", envs, seed=seed, device="cpu", **settings).learn, options.total_steps)


if __name__ == "__main__":
    torch.set_num_threads(1)
    work.measure(prepare, work.parse(__doc__, ("ppo", "a2c")), ("stable-baselines3", "torch", "gymnasium"))
