"""skrl's PPO, with its sequential trainer.

This folder comes last when modules are looked for, since the library has this file's name.
"""

from __future__ import annotations

import sys

sys.path.append(sys.path.pop(0))

import logging
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import torch
import watched
import work
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from skrl.agents.torch.ppo import PPO, PPO_CFG
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.models.torch import CategoricalMixin, DeterministicMixin, Model
from skrl.trainers.torch import SequentialTrainer
from skrl.utils import set_seed
from torch import nn


def network(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, work.HIDDEN),
        nn.Tanh(),
        nn.Linear(work.HIDDEN, work.HIDDEN),
        nn.Tanh(),
        nn.Linear(work.HIDDEN, outputs),
    )


class Policy(CategoricalMixin, Model):
    def __init__(self, **spaces: Any) -> None:
        Model.__init__(self, **spaces)
        CategoricalMixin.__init__(self)
        self.net = network(self.num_observations, self.num_actions)

    def compute(self, inputs: dict[str, Any], role: str) -> tuple[torch.Tensor, dict[str, Any]]:
        return self.net(inputs["observations"]), {}


class Value(DeterministicMixin, Model):
    def __init__(self, **spaces: Any) -> None:
        Model.__init__(self, **spaces)
        DeterministicMixin.__init__(self)
        self.net = network(self.num_observations, 1)

    def compute(self, inputs: dict[str, Any], role: str) -> tuple[torch.Tensor, dict[str, Any]]:
        return self.net(inputs["observations"]), {}


def prepare(options: Namespace, seed: int, returns: work.Returns) -> Callable[[], object]:
    set_seed(seed)
    make = [lambda: watched.make(options.env, returns)] * work.NUM_ENVS
    env = wrap_env(SyncVectorEnv(make, autoreset_mode=AutoresetMode.SAME_STEP))
    spaces = {"observation_space": env.observation_space, "action_space": env.action_space, "device": env.device}
    updates = -(-options.total_steps // (work.ROLLOUT_STEPS * work.NUM_ENVS))
    settings = PPO_CFG(
        rollouts=work.ROLLOUT_STEPS,
        learning_epochs=work.EPOCHS,
        mini_batches=work.ROLLOUT_STEPS * work.NUM_ENVS // work.MINIBATCH,
        learning_rate=work.LEARNING_RATE,
        learning_rate_scheduler=torch.optim.lr_scheduler.LinearLR,  # a step each epoch
        learning_rate_scheduler_kwargs={
            "start_factor": 1.0,
            "end_factor": 0.0,
            "total_iters": updates * work.EPOCHS,
        },
        discount_factor=work.GAMMA,
        gae_lambda=work.LAMBDA,
        ratio_clip=work.CLIP_RANGE,
        value_clip=work.CLIP_RANGE,
        entropy_loss_scale=work.ENTROPY,
        value_loss_scale=work.VALUE / 2,  # its loss is the whole squared error
        grad_norm_clip=work.MAX_GRAD_NORM,
        experiment={"write_interval": 0, "checkpoint_interval": 0},
    )
    agent = PPO(
        models={"policy": Policy(**spaces), "value": Value(**spaces)},
        memory=RandomMemory(memory_size=work.ROLLOUT_STEPS, num_envs=env.num_envs, device=env.device),
        cfg=settings,
        **spaces,
    )
    steps = updates * work.ROLLOUT_STEPS
    plan = {"timesteps": steps, "headless": True, "disable_progressbar": True}
    return SequentialTrainer(cfg=plan, env=env, agents=agent).train


if __name__ == "__main__":
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    work.measure(prepare, work.parse(__doc__), ("skrl", "torch", "gymnasium"))
