"""Tianshou's PPO, with its procedural interface and no test episodes.

This folder comes last when modules are looked for, since the library has this file's name.
"""

from __future__ import annotations

import sys

sys.path.append(sys.path.pop(0))

from argparse import Namespace
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import watched
import work
from tianshou.algorithm.modelfree.ppo import PPO
from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory, LRSchedulerFactoryLinear
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OnPolicyTrainerParams
from tianshou.utils.net.common import Net
from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic


def prepare(options: Namespace, seed: int, returns: work.Returns) -> Callable[[], object]:
    np.random.seed(seed)
    torch.manual_seed(seed)
    envs = DummyVectorEnv([lambda: watched.make(options.env, returns)] * work.NUM_ENVS)
    envs.seed(seed)
    space, actions = envs.observation_space[0], envs.action_space[0]
    rows = work.ROLLOUT_STEPS * work.NUM_ENVS
    total = -(-options.total_steps // rows) * rows

    def network() -> Net:
        return Net(state_shape=space.shape, hidden_sizes=[work.HIDDEN, work.HIDDEN], activation=torch.nn.Tanh)

    algorithm = PPO(
        policy=ProbabilisticActorPolicy(
            actor=DiscreteActor(preprocess_net=network(), action_shape=actions.n, softmax_output=False),
            dist_fn=lambda logits: torch.distributions.Categorical(logits=logits),
            action_space=actions,
            observation_space=space,
            action_scaling=False,
        ),
        critic=DiscreteCritic(preprocess_net=network()),
        optim=AdamOptimizerFactory(lr=work.LEARNING_RATE, eps=1e-5).with_lr_scheduler_factory(
            LRSchedulerFactoryLinear(max_epochs=1, epoch_num_steps=total, collection_step_num_env_steps=rows)
        ),
        eps_clip=work.CLIP_RANGE,
        value_clip=True,
        vf_coef=work.VALUE / 2,  # its loss is the whole squared error
        ent_coef=work.ENTROPY,
        max_grad_norm=work.MAX_GRAD_NORM,
        gae_lambda=work.LAMBDA,
        gamma=work.GAMMA,
    )
    plan = OnPolicyTrainerParams(
        training_collector=Collector(algorithm, envs, VectorReplayBuffer(rows, work.NUM_ENVS)),
        max_epochs=1,
        epoch_num_steps=total,
        collection_step_num_env_steps=rows,
        update_step_num_repetitions=work.EPOCHS,
        batch_size=work.MINIBATCH,
        verbose=False,
        show_progress=False,
    )
    return partial(algorithm.run_training, plan)


if __name__ == "__main__":
    torch.set_num_threads(1)
    work.measure(prepare, work.parse(__doc__), ("tianshou", "torch", "gymnasium"))
