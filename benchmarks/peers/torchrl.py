"""TorchRL's PPO: its collector, loss, estimator and replay buffer, in the loop that its own examples write.

This folder comes last when modules are looked for, since the library has this file's name.
"""

from __future__ import annotations

import sys

sys.path.append(sys.path.pop(0))

from argparse import Namespace
from collections.abc import Callable

import torch
import watched
import work
from tensordict.nn import TensorDictModule
from torch import nn
from torch.distributions import Categorical
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.data.replay_buffers.samplers import SamplerWithoutReplacement
from torchrl.envs import GymWrapper, SerialEnv
from torchrl.modules import MLP, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE


def network(inputs: int, outputs: int) -> MLP:
    cells = [work.HIDDEN, work.HIDDEN]
    return MLP(in_features=inputs, out_features=outputs, num_cells=cells, activation_class=nn.Tanh)


def prepare(options: Namespace, seed: int, returns: work.Returns) -> Callable[[], object]:
    torch.manual_seed(seed)
    rows = work.ROLLOUT_STEPS * work.NUM_ENVS
    updates = -(-options.total_steps // rows)
    envs = SerialEnv(
        work.NUM_ENVS, lambda: GymWrapper(watched.make(options.env, returns), categorical_action_encoding=True)
    )
    envs.set_seed(seed)
    inputs, actions = envs.observation_spec["observation"].shape[-1], int(envs.action_spec.space.n)
    actor = ProbabilisticActor(
        TensorDictModule(network(inputs, actions), in_keys=["observation"], out_keys=["logits"]),
        in_keys=["logits"],
        spec=envs.action_spec,
        distribution_class=Categorical,
        return_log_prob=True,
    )
    critic = ValueOperator(network(inputs, 1), in_keys=["observation"])
    estimator = GAE(gamma=work.GAMMA, lmbda=work.LAMBDA, value_network=critic, average_gae=False)
    loss = ClipPPOLoss(
        actor,
        critic,
        clip_epsilon=work.CLIP_RANGE,
        clip_value=work.CLIP_RANGE,
        entropy_coeff=work.ENTROPY,
        critic_coeff=work.VALUE / 2,  # its loss is the whole squared error
        loss_critic_type="l2",
        normalize_advantage=True,
    )
    optimizer = torch.optim.Adam(loss.parameters(), lr=work.LEARNING_RATE, eps=1e-5)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=updates)
    collector = Collector(
        envs, actor, frames_per_batch=rows, total_frames=updates * rows, auto_register_policy_transforms=False
    )
    memory = TensorDictReplayBuffer(
        storage=LazyTensorStorage(rows), sampler=SamplerWithoutReplacement(), batch_size=work.MINIBATCH
    )

    def train() -> None:
        for data in collector:
            for _ in range(work.EPOCHS):
                with torch.no_grad():
                    estimator(data)  # anew in each epoch, as its example has it
                memory.extend(data.reshape(-1))
                for _ in range(rows // work.MINIBATCH):
                    terms = loss(memory.sample())
                    (terms["loss_objective"] + terms["loss_critic"] + terms["loss_entropy"]).backward()
                    nn.utils.clip_grad_norm_(loss.parameters(), work.MAX_GRAD_NORM)
                    optimizer.step()
                    optimizer.zero_grad()
            schedule.step()

    return train


if __name__ == "__main__":
    torch.set_num_threads(1)
    work.measure(prepare, work.parse(__doc__), ("torchrl", "tensordict", "torch", "gymnasium"))
