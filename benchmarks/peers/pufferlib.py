"""PufferLib's PPO on gymnasium's environment, wrapped by its emulation, in one process.

Rows are taken by segments of 128 steps, as it takes them. Written by the source of 3.0 and not yet run: building that
version fetches a graphics library, which failed where these benchmarks were made. This folder comes last when modules
are looked for, since the library has this file's name.
"""

from __future__ import annotations

import sys

sys.path.append(sys.path.pop(0))

from argparse import Namespace
from collections.abc import Callable
from typing import Any

import pufferlib
import pufferlib.emulation
import pufferlib.vector
import torch
import watched
import work
from pufferlib.pufferl import PuffeRL
from torch import nn


class Policy(nn.Module):
    def __init__(self, inputs: int, actions: int) -> None:
        super().__init__()
        self.actor, self.critic = self.network(inputs, actions), self.network(inputs, 1)

    @staticmethod
    def network(inputs: int, outputs: int) -> nn.Sequential:
        hidden = work.HIDDEN
        return nn.Sequential(
            nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, outputs)
        )

    def forward(self, obs: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        return self.actor(obs), self.critic(obs)

    forward_eval = forward


def prepare(options: Namespace, seed: int, returns: work.Returns) -> Callable[[], object]:
    torch.manual_seed(seed)

    def make(buf: Any = None, seed: int = 0) -> Any:
        return pufferlib.emulation.GymnasiumPufferEnv(watched.make(options.env, returns), buf=buf, seed=seed)

    envs = pufferlib.vector.make(make, backend=pufferlib.vector.Serial, num_envs=work.NUM_ENVS, seed=seed)
    rows = work.ROLLOUT_STEPS * work.NUM_ENVS
    total = -(-options.total_steps // rows) * rows
    settings = {
        "name": "benchmark",
        "project": "benchmark",
        "env": options.env,
        "seed": seed,
        "torch_deterministic": True,
        "cpu_offload": False,
        "device": "cpu",
        "optimizer": "adam",
        "anneal_lr": True,
        "precision": "float32",
        "total_timesteps": total,
        "learning_rate": work.LEARNING_RATE,
        "gamma": work.GAMMA,
        "gae_lambda": work.LAMBDA,
        "update_epochs": work.EPOCHS,
        "clip_coef": work.CLIP_RANGE,
        "vf_coef": work.VALUE,
        "vf_clip_coef": work.CLIP_RANGE,
        "max_grad_norm": work.MAX_GRAD_NORM,
        "ent_coef": work.ENTROPY,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_eps": 1e-5,
        "data_dir": "puffer",
        "checkpoint_interval": total,
        "batch_size": rows,
        "minibatch_size": work.MINIBATCH,
        "max_minibatch_size": work.MINIBATCH,
        "bptt_horizon": work.ROLLOUT_STEPS,
        "compile": False,
        "compile_mode": "default",
        "compile_fullgraph": True,
        "use_rnn": False,
        "vtrace_rho_clip": 1.0,
        "vtrace_c_clip": 1.0,
        "prio_alpha": 0.0,
        "prio_beta0": 0.2,
    }
    inputs, actions = int(envs.single_observation_space.shape[0]), int(envs.single_action_space.n)
    trainer = PuffeRL(settings, envs, Policy(inputs, actions))

    def train() -> None:
        while trainer.global_step < total:
            trainer.evaluate()
            trainer.train()

    return train


if __name__ == "__main__":
    torch.set_num_threads(1)
    work.measure(prepare, work.parse(__doc__), ("pufferlib", "torch", "gymnasium"))
