"""Stable-Baselines3's PPO with its defaults on eight environments; run by physics.py in build/peers/sb3."""

from __future__ import annotations

import argparse
import json
import time
import warnings

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

warnings.simplefilter("ignore")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--normalize", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    envs = make_vec_env(options.env, n_envs=8, seed=options.seed)
    judge = make_vec_env(options.env, n_envs=8, seed=options.seed + 1000)
    if options.normalize:
        envs, judge = VecNormalize(envs), VecNormalize(judge, training=False, norm_reward=False)
    model = PPO("MlpPolicy", envs, n_steps=256, batch_size=64, n_epochs=10, seed=options.seed, device="cpu")
    start = time.perf_counter()
    model.learn(options.steps)
    wall = time.perf_counter() - start
    if isinstance(judge, VecNormalize):
        judge.obs_rms = envs.obs_rms
    mean, _ = evaluate_policy(model, judge, n_eval_episodes=20, deterministic=False)
    result = {"env_steps": model.num_timesteps, "wall_seconds": wall, "return_mean": float(mean)}
    print(json.dumps(result | {"steps_per_second": model.num_timesteps / wall}))


if __name__ == "__main__":
    main()
