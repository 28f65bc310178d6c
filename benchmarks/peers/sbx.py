"""SBX: Stable-Baselines3's interface, PPO in JAX. What it compiles is compiled before the clock starts.

This folder comes last when modules are looked for, since the library has this file's name.
"""

from __future__ import annotations

import sys

sys.path.append(sys.path.pop(0))

from argparse import Namespace
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import watched
import work
from sb3 import TUNED, WORK
from sbx import PPO
from stable_baselines3.common.env_util import make_vec_env


def prepare(options: Namespace, seed: int, returns: work.Returns) -> Callable[[], object]:
    envs = make_vec_env(lambda: watched.make(options.env, returns), n_envs=work.NUM_ENVS, seed=seed)
    network = {"net_arch": [work.HIDDEN, work.HIDDEN], "activation_fn": nn.tanh}
    settings = (WORK if options.settings == "work" else TUNED) | {"policy_kwargs": network}
    others = make_vec_env(options.env, n_envs=work.NUM_ENVS)
    PPO("MlpPolicy", others, seed=seed, **settings).learn(settings["n_steps"] * work.NUM_ENVS)
    return partial(PPO("MlpPolicy", envs, seed=seed, **settings).learn, options.total_steps)


if __name__ == "__main__":
    work.measure(prepare, work.parse(__doc__), ("sbx-rl", "stable-baselines3", "jax", "gymnasium"))
